//! What stands in the way, in the words of conditions and Events (pure).

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use reef_crds::condition::{ConditionType, Decided, Reason, true_since};

use super::Policy;
use crate::azure::{ArmError, Class};

/// A reason with its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Why.
    pub reason: Reason,
    /// In words, one line, with what to do.
    pub message: String,
}

impl Trouble {
    /// A reason with its words.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// What a failure of Azure means for something.
    pub fn azure(what: &str, error: &ArmError) -> Self {
        Self::new(reason(error), format!("{what}: {error}"))
    }
}

/// The reason that a failure of Azure is shown with.
pub fn reason(error: &ArmError) -> Reason {
    if let ArmError::Forbidden(trouble) = error {
        return trouble.reason;
    }
    let unauthenticated =
        matches!(error, ArmError::NoToken { refused: true, .. } | ArmError::Answer { status: 401, .. });
    match error.class() {
        Class::Auth if unauthenticated => Reason::CredentialInvalid,
        Class::Auth => Reason::Unauthorized,
        Class::Throttled => Reason::AzureThrottled,
        Class::Conflict | Class::NotRegistered => Reason::AzureConflict,
        Class::Capacity => Reason::QuotaExceeded,
        Class::Invalid => Reason::AzureRejected,
        // On a write: something that it refers to is not there yet.
        Class::Missing if error.is_absence() => Reason::WaitingForDependency,
        Class::NameTaken => Reason::NameTaken,
        Class::Locked => Reason::DeletionBlocked,
        Class::Transient if matches!(error, ArmError::Failed { .. }) => Reason::AzureOperationFailed,
        Class::Missing | Class::Transient => Reason::AzureUnavailable,
    }
}

/// `Stalled`, or `Reconciling` while there is hope; never both.
pub fn progress(trouble: &Trouble, stalled: bool) -> Decided {
    let (type_, reason) = match (stalled, trouble.reason) {
        (true, reason) => (ConditionType::Stalled, reason),
        // Work that goes on says what it is; anything else is being tried again.
        (false, Reason::Provisioning | Reason::Deleting) => (ConditionType::Reconciling, trouble.reason),
        (false, _) => (ConditionType::Reconciling, Reason::ProgressingWithRetry),
    };
    Decided { type_, status: Some(true), reason, message: trouble.message.clone() }
}

/// Whether an object that is not Ready has made no progress for too long. Progress is a condition that
/// flipped.
pub fn is_late(conditions: &[Condition], policy: &Policy, now: Timestamp) -> bool {
    let working = true_since(conditions, ConditionType::Reconciling).is_some();
    let last = conditions.iter().map(|c| c.last_transition_time.0).max();
    working
        && last.is_some_and(|last| {
            now > last && now.duration_since(last).unsigned_abs() >= policy.progress_deadline
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

impl Transition {
    /// Whether nobody has to be warned.
    pub fn is_calm(&self) -> bool {
        self.ready
            || matches!(self.reason, Reason::Provisioning | Reason::WaitingForDependency | Reason::Deleting)
    }
}

/// The change of Ready or its reason between two lists of conditions.
pub fn transition(old: &[Condition], next: &[Condition]) -> Option<Transition> {
    transition_of(ConditionType::Ready, old, next)
}

/// The same for a condition of any type; `ready` says whether it is true.
pub fn transition_of(type_: ConditionType, old: &[Condition], next: &[Condition]) -> Option<Transition> {
    let find = |list: &[Condition]| list.iter().find(|c| c.type_ == type_.as_str()).cloned();
    let (before, after) = (find(old), find(next)?);
    if before.as_ref().is_some_and(|b| b.status == after.status && b.reason == after.reason) {
        return None;
    }
    let reason = Reason::ALL.iter().copied().find(|r| r.as_str() == after.reason)?;
    Some(Transition { ready: after.status == "True", reason, message: after.message })
}
