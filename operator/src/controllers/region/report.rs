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
    plan::{Plan, Verdict},
};
use crate::controller::{
    Policy,
    trouble::{Trouble, is_late, progress},
};

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
        let late = is_late(&before, policy, now);
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

/// The status of a Region that is being deleted while Reefs refer to it.
pub fn deleting(region: &Region, users: &[String], now: Timestamp) -> RegionStatus {
    let some: Vec<_> = users.iter().take(5).cloned().collect();
    let message =
        format!("deletion waits for {} objects that refer to this Region: {}", users.len(), some.join(", "));
    going(region, &Trouble::new(Reason::DeletionBlocked, message), now)
}

/// The status of a Region that is being deleted and cannot go yet.
pub fn going(region: &Region, trouble: &Trouble, now: Timestamp) -> RegionStatus {
    let generation = region.metadata.generation.unwrap_or(0);
    let old = region.status.clone().unwrap_or_default();
    let ready = Decided {
        type_: ConditionType::Ready,
        status: Some(false),
        reason: trouble.reason,
        message: trouble.message.clone(),
    };
    let decided = [ready, progress(trouble, false)];
    RegionStatus {
        observed_generation: Some(generation),
        conditions: merge(&old.conditions, &decided, generation, now),
        last_handled_reconcile_at: region.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
        ..old
    }
}
