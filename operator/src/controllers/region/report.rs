//! The status of a Region from its plan (pure).

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use reef_crds::{
    Region, RegionStatus,
    condition::{ConditionType, Decided, Reason, merge, of_this_spec, true_since},
    meta::RECONCILE_REQUESTED_AT,
    region::{CertificateStatus, NetworkStatus},
};

use super::{
    certificate::Certificate,
    plan::{Plan, Verdict},
};
use crate::controller::Policy;

/// What is wrong, if anything.
struct Trouble {
    reason: Reason,
    message: String,
    /// Whether only a human can help.
    stalled: bool,
}

/// The next status.
pub fn report(region: &Region, plan: &Plan, policy: &Policy, now: Timestamp) -> RegionStatus {
    let generation = region.metadata.generation.unwrap_or(0);
    let old = region.status.clone().unwrap_or_default();
    let trouble = trouble(plan);
    let was_ready = old.observed_generation == Some(generation)
        && true_since(&old.conditions, ConditionType::Ready).is_some();
    // A good Region stays good while we cannot look: not knowing is no news (invariant 3).
    if was_ready && matches!(plan.certificate, Verdict::Unknown(_)) && plan.addresses.is_ok() {
        return RegionStatus { last_handled_reconcile_at: handled(region), ..old };
    }
    let mut decided = ready(trouble.as_ref());
    decided.push(certificate_ready(&plan.certificate));
    let before = of_this_spec(&old.conditions, generation);
    if let Some(trouble) = &trouble {
        let since = true_since(&before, ConditionType::Reconciling);
        let late = since.is_some_and(|since| is_over(since, policy, now));
        let already = true_since(&before, ConditionType::Stalled).is_some();
        decided.insert(1, progress(trouble, trouble.stalled || late || already));
    }
    RegionStatus {
        observed_generation: Some(generation),
        conditions: merge(&before, &decided, generation, now),
        last_handled_reconcile_at: handled(region),
        network: plan.addresses.as_ref().ok().map(|addresses| NetworkStatus {
            max_reefs: addresses.reefs(),
            subnets_per_reef: addresses.subnets_per_reef(),
        }),
        certificate: certificate(&plan.certificate),
    }
}

fn handled(region: &Region) -> Option<String> {
    region.annotations().get(RECONCILE_REQUESTED_AT).cloned()
}

fn is_over(since: Timestamp, policy: &Policy, now: Timestamp) -> bool {
    now.duration_since(since).unsigned_abs() >= policy.progress_deadline && now > since
}

fn trouble(plan: &Plan) -> Option<Trouble> {
    if let Err(error) = &plan.addresses {
        return Some(Trouble { reason: Reason::SpecInvalid, message: error.to_string(), stalled: true });
    }
    match &plan.certificate {
        Verdict::Good(_) => None,
        Verdict::Bad { reason, message, waiting, .. } => {
            Some(Trouble { reason: *reason, message: message.clone(), stalled: !waiting })
        }
        Verdict::Unknown(message) => {
            Some(Trouble { reason: Reason::ApiServerUnavailable, message: message.clone(), stalled: false })
        }
    }
}

fn ready(trouble: Option<&Trouble>) -> Vec<Decided> {
    let (status, reason, message) = match trouble {
        None => (true, Reason::ReconcileSucceeded, "address plan and certificate are in order".to_owned()),
        Some(trouble) => (false, trouble.reason, trouble.message.clone()),
    };
    vec![Decided { type_: ConditionType::Ready, status: Some(status), reason, message }]
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

fn certificate_ready(verdict: &Verdict) -> Decided {
    let (status, reason, message) = match verdict {
        Verdict::Good(found) => {
            let names = found.dns_names.join(", ");
            (Some(true), Reason::ReconcileSucceeded, format!("for {names} until {}", found.not_after))
        }
        Verdict::Bad { reason, message, .. } => (Some(false), *reason, message.clone()),
        Verdict::Unknown(message) => (None, Reason::ApiServerUnavailable, message.clone()),
    };
    Decided { type_: ConditionType::CertificateReady, status, reason, message }
}

fn certificate(verdict: &Verdict) -> Option<CertificateStatus> {
    let found: &Certificate = match verdict {
        Verdict::Good(found) => found,
        Verdict::Bad { certificate, .. } => certificate.as_ref()?,
        Verdict::Unknown(_) => return None,
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
    let ready = after.status == "True";
    Some(Transition { ready, reason, message: after.message })
}
