//! The status of a Region from its plan (pure).

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use reef_crds::{
    Region, RegionStatus,
    condition::{ConditionType, Decided, Reason, merge, of_this_spec, true_since},
    meta::RECONCILE_REQUESTED_AT,
    region::{CertificateStatus, DnsStatus, NetworkStatus},
};

use super::{
    certificate::Certificate,
    plan::{Plan, Trouble, Verdict},
};
use crate::controller::Policy;

/// At most this many name servers are shown.
const NAME_SERVERS: usize = 8;

/// What keeps a Region from being Ready.
struct Obstacle {
    trouble: Trouble,
    /// Whether only a human can help.
    stalled: bool,
    /// Whether we only could not look.
    unknown: bool,
}

/// The next status.
pub fn report(region: &Region, plan: &Plan, policy: &Policy, now: Timestamp) -> RegionStatus {
    let generation = region.metadata.generation.unwrap_or(0);
    let old = region.status.clone().unwrap_or_default();
    let was_ready = old.observed_generation == Some(generation)
        && true_since(&old.conditions, ConditionType::Ready).is_some();
    // A good Region stays Ready while we cannot look: not knowing is no news (invariant 3).
    let obstacle = obstacle(plan).filter(|o| !(o.unknown && was_ready));
    let before = of_this_spec(&old.conditions, generation);
    let mut decided = vec![ready(obstacle.as_ref())];
    if let Some(obstacle) = &obstacle {
        let since = true_since(&before, ConditionType::Reconciling);
        let late = since.is_some_and(|since| is_over(since, policy, now));
        let already = true_since(&before, ConditionType::Stalled).is_some();
        decided.push(progress(&obstacle.trouble, obstacle.stalled || late || already));
    }
    decided.push(condition(ConditionType::CredentialsValid, &plan.credentials, |()| {
        "Entra gives tokens".to_owned()
    }));
    decided.push(condition(ConditionType::DnsZoneReady, &plan.zone, |_| "the zone exists".to_owned()));
    decided.push(condition(ConditionType::CertificateReady, &plan.certificate, |found| {
        format!("for {} until {}", found.dns_names.join(", "), found.not_after)
    }));
    RegionStatus {
        observed_generation: Some(generation),
        conditions: merge(&before, &decided, generation, now),
        last_handled_reconcile_at: region.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
        network: plan.addresses.as_ref().ok().map(|addresses| NetworkStatus {
            max_reefs: addresses.reefs(),
            subnets_per_reef: addresses.subnets_per_reef(),
        }),
        dns: dns(region, plan, old.dns),
        certificate: certificate(&plan.certificate, old.certificate),
    }
}

fn is_over(since: Timestamp, policy: &Policy, now: Timestamp) -> bool {
    now.duration_since(since).unsigned_abs() >= policy.progress_deadline && now > since
}

/// The first thing that is bad; else the first that is not known.
fn obstacle(plan: &Plan) -> Option<Obstacle> {
    if let Err(error) = &plan.addresses {
        let trouble = Trouble { reason: Reason::SpecInvalid, message: error.to_string() };
        return Some(Obstacle { trouble, stalled: true, unknown: false });
    }
    let all = [of(&plan.credentials), of(&plan.zone), of(&plan.certificate)];
    let (unknown, bad): (Vec<_>, Vec<_>) = all.into_iter().flatten().partition(|o| o.unknown);
    bad.into_iter().chain(unknown).next()
}

fn of<T>(verdict: &Verdict<T>) -> Option<Obstacle> {
    match verdict {
        Verdict::Good(_) => None,
        Verdict::Bad { trouble, waiting, .. } => {
            Some(Obstacle { trouble: trouble.clone(), stalled: !waiting, unknown: false })
        }
        Verdict::Unknown(trouble) => {
            Some(Obstacle { trouble: trouble.clone(), stalled: false, unknown: true })
        }
    }
}

fn ready(obstacle: Option<&Obstacle>) -> Decided {
    let (status, reason, message) = match obstacle {
        None => {
            let message = "subscription, DNS zone, address plan and certificate are in order";
            (true, Reason::ReconcileSucceeded, message.to_owned())
        }
        Some(Obstacle { trouble, .. }) => (false, trouble.reason, trouble.message.clone()),
    };
    Decided { type_: ConditionType::Ready, status: Some(status), reason, message }
}

/// `Stalled`, or `Reconciling` while there is hope; never both.
fn progress(trouble: &Trouble, stalled: bool) -> Decided {
    let (type_, reason) = if stalled {
        (ConditionType::Stalled, trouble.reason)
    } else {
        (ConditionType::Reconciling, Reason::ProgressingWithRetry)
    };
    Decided { type_, status: Some(true), reason, message: trouble.message.clone() }
}

fn condition<T>(type_: ConditionType, verdict: &Verdict<T>, good: impl FnOnce(&T) -> String) -> Decided {
    let (status, reason, message) = match verdict {
        Verdict::Good(found) => (Some(true), Reason::ReconcileSucceeded, good(found)),
        Verdict::Bad { trouble, .. } => (Some(false), trouble.reason, trouble.message.clone()),
        Verdict::Unknown(trouble) => (None, trouble.reason, trouble.message.clone()),
    };
    Decided { type_, status, reason, message }
}

/// What was read, or what was known before if we could not look.
fn dns(region: &Region, plan: &Plan, old: Option<DnsStatus>) -> Option<DnsStatus> {
    match &plan.zone {
        Verdict::Good(zone) => Some(DnsStatus {
            zone_name: region.spec.dns.zone_name().to_owned(),
            name_servers: zone.name_servers.iter().take(NAME_SERVERS).cloned().collect(),
        }),
        Verdict::Bad { .. } => None,
        Verdict::Unknown(_) => old,
    }
}

fn certificate(verdict: &Verdict<Certificate>, old: Option<CertificateStatus>) -> Option<CertificateStatus> {
    let found = match verdict {
        Verdict::Good(found) => found,
        Verdict::Bad { found, .. } => found.as_ref()?,
        Verdict::Unknown(_) => return old,
    };
    Some(CertificateStatus {
        dns_names: found.dns_names.clone(),
        not_before: Time(found.not_before),
        not_after: Time(found.not_after),
        sha256: found.sha256.clone(),
    })
}

/// A change that people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Whether the object is Ready now.
    pub ready: bool,
    /// Why it is, or is not.
    pub reason: Reason,
    /// In words.
    pub message: String,
}

/// The change of Ready or its reason between two statuses.
pub fn transition(old: Option<&RegionStatus>, next: &RegionStatus) -> Option<Transition> {
    let find = |status: &RegionStatus| {
        status.conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str()).cloned()
    };
    let (before, after) = (old.and_then(find), find(next)?);
    if before.as_ref().is_some_and(|b| b.status == after.status && b.reason == after.reason) {
        return None;
    }
    let reason = Reason::ALL.into_iter().find(|r| r.as_str() == after.reason)?;
    Some(Transition { ready: after.status == "True", reason, message: after.message })
}
