//! Condition types and reasons, and how conditions are put into a status.
//!
//! The contract with kstatus (Helm `--wait`, Flux, Argo CD): `Ready` is always there; `Reconciling` and
//! `Stalled` are there only while they are true and never both; while one of them is true, `Ready` is not.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a condition speaks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// The object serves the spec that `observedGeneration` names.
    Ready,
    /// Work towards the spec is going on or being retried. Present only while true.
    Reconciling,
    /// No progress without a human. Present only while true.
    Stalled,
    /// Region: Entra gives the operator tokens for the region's identity.
    CredentialsValid,
    /// Region: the DNS zone exists and the operator can read it.
    DnsZoneReady,
    /// Region: the wildcard certificate can be read, is well formed and valid now.
    CertificateReady,
}

impl ConditionType {
    /// Every type, for documentation and tests.
    pub const ALL: [Self; 6] = [
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::CredentialsValid,
        Self::DnsZoneReady,
        Self::CertificateReady,
    ];

    /// The `type` of the condition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::CredentialsValid => "CredentialsValid",
            Self::DnsZoneReady => "DNSZoneReady",
            Self::CertificateReady => "CertificateReady",
        }
    }

    /// One sentence for the reference.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ready => "The object serves the spec that `observedGeneration` names.",
            Self::Reconciling => {
                "Work towards the spec goes on or is being retried. Present only while true."
            }
            Self::Stalled => "Nothing will change without a human. Present only while true.",
            Self::CredentialsValid => "Region: Entra gives the operator tokens for the region's identity.",
            Self::DnsZoneReady => "Region: the DNS zone exists and the operator can read it.",
            Self::CertificateReady => {
                "Region: the wildcard certificate is readable, well formed, for the zone and valid now."
            }
        }
    }
}

/// Who has to act on a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Whoever wrote the manifest.
    User,
    /// The platform team that runs the operator.
    Platform,
    /// Nobody: all is well, or the operator is at work.
    Nobody,
}

/// Why a condition has its status. A closed list: alerts and runbooks are keyed on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// All is as the spec says.
    ReconcileSucceeded,
    /// Being retried; the other conditions say what is missing.
    ProgressingWithRetry,
    /// An object that the spec refers to does not exist.
    ReferenceNotFound,
    /// The operator's role does not allow it to read an object that the spec refers to.
    ReferenceForbidden,
    /// The Secret lacks a key, or what it holds is no certificate with its private key.
    CertificateInvalid,
    /// The certificate's time of validity is over or has not begun.
    CertificateExpired,
    /// Entra refused the operator's identity.
    CredentialInvalid,
    /// Azure refused the operator's identity an action.
    Unauthorized,
    /// Azure or Entra did not answer, or answered with an error that passes by itself.
    AzureUnavailable,
    /// Azure asks to be called less often.
    AzureThrottled,
    /// An Azure resource that the spec refers to does not exist.
    AzureResourceNotFound,
    /// The management API server did not answer or refused for a reason that may pass.
    ApiServerUnavailable,
    /// The spec passed the CRD's validation and yet cannot be served: older CRDs, or a defect of ours.
    SpecInvalid,
}

impl Reason {
    /// Every reason, for documentation and tests.
    pub const ALL: [Self; 13] = [
        Self::ReconcileSucceeded,
        Self::ProgressingWithRetry,
        Self::ReferenceNotFound,
        Self::ReferenceForbidden,
        Self::CertificateInvalid,
        Self::CertificateExpired,
        Self::CredentialInvalid,
        Self::Unauthorized,
        Self::AzureUnavailable,
        Self::AzureThrottled,
        Self::AzureResourceNotFound,
        Self::ApiServerUnavailable,
        Self::SpecInvalid,
    ];

    /// The `reason` of the condition and of Events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReconcileSucceeded => "ReconcileSucceeded",
            Self::ProgressingWithRetry => "ProgressingWithRetry",
            Self::ReferenceNotFound => "ReferenceNotFound",
            Self::ReferenceForbidden => "ReferenceForbidden",
            Self::CertificateInvalid => "CertificateInvalid",
            Self::CertificateExpired => "CertificateExpired",
            Self::CredentialInvalid => "CredentialInvalid",
            Self::Unauthorized => "Unauthorized",
            Self::AzureUnavailable => "AzureUnavailable",
            Self::AzureThrottled => "AzureThrottled",
            Self::AzureResourceNotFound => "AzureResourceNotFound",
            Self::ApiServerUnavailable => "ApiServerUnavailable",
            Self::SpecInvalid => "SpecInvalid",
        }
    }

    /// Who has to act.
    pub const fn owner(self) -> Owner {
        match self {
            Self::ReconcileSucceeded | Self::ProgressingWithRetry => Owner::Nobody,
            Self::ReferenceNotFound
            | Self::CertificateInvalid
            | Self::CertificateExpired
            | Self::AzureResourceNotFound
            | Self::SpecInvalid => Owner::User,
            Self::ReferenceForbidden
            | Self::CredentialInvalid
            | Self::Unauthorized
            | Self::AzureUnavailable
            | Self::AzureThrottled
            | Self::ApiServerUnavailable => Owner::Platform,
        }
    }

    /// One sentence for the reference: what it means and what to do.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::ReconcileSucceeded => "All is as the spec says.",
            Self::ProgressingWithRetry => "Being retried; the other conditions say what is missing.",
            Self::ReferenceNotFound => {
                "An object that the spec refers to does not exist. Create it or correct the reference."
            }
            Self::ReferenceForbidden => {
                "The operator may not read an object that the spec refers to. Add its namespace to the chart's `rbac.secretNamespaces`."
            }
            Self::CertificateInvalid => {
                "The Secret lacks `tls.crt` or `tls.key`, or they hold no certificate with its private key."
            }
            Self::CertificateExpired => {
                "The certificate's time of validity is over or has not begun. Renew it."
            }
            Self::CredentialInvalid => {
                "Entra refused the operator's identity. Check its federated credential: issuer, subject, audience."
            }
            Self::Unauthorized => {
                "Azure refused the operator's identity an action. Give it the role that the message asks for; a new role takes minutes to spread."
            }
            Self::AzureUnavailable => {
                "Azure or Entra did not answer or failed. The operator tries again by itself."
            }
            Self::AzureThrottled => "Azure asks to be called less often. The operator waits by itself.",
            Self::AzureResourceNotFound => {
                "An Azure resource that the spec refers to does not exist. Create it or correct the reference."
            }
            Self::ApiServerUnavailable => {
                "The management API server did not answer. The operator tries again by itself."
            }
            Self::SpecInvalid => {
                "The spec cannot be served although the API server took it. Install the CRD chart that belongs to the operator."
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A condition as a controller decides it: without times and generations, which [`merge`] adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// What it speaks about.
    pub type_: ConditionType,
    /// `Some(true)` is `True`, `Some(false)` is `False`, `None` is `Unknown`.
    pub status: Option<bool>,
    /// Why.
    pub reason: Reason,
    /// One line: what, where, what to do. Never a secret.
    pub message: String,
}

impl Decided {
    fn status_str(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// The new list of conditions: exactly those decided, in their order. `lastTransitionTime` is kept where
/// the status did not flip, so that an unchanged state gives an equal list (and no write).
pub fn merge(old: &[Condition], decided: &[Decided], generation: i64, now: Timestamp) -> Vec<Condition> {
    decided
        .iter()
        .map(|new| {
            let kept = old
                .iter()
                .find(|c| c.type_ == new.type_.as_str() && c.status == new.status_str())
                .map(|c| c.last_transition_time.clone());
            Condition {
                type_: new.type_.as_str().to_owned(),
                status: new.status_str().to_owned(),
                reason: new.reason.as_str().to_owned(),
                message: one_line(&new.message),
                observed_generation: Some(generation),
                last_transition_time: kept.unwrap_or_else(|| whole_seconds(now)),
            }
        })
        .collect()
}

/// Messages quote what others said, and that may have line ends and any length.
fn one_line(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(1024).collect()
}

/// Those of the conditions that are ours. Somebody else's stay in the object whatever we send.
pub fn ours(conditions: &[Condition]) -> Vec<Condition> {
    let known = |c: &&Condition| ConditionType::ALL.iter().any(|t| t.as_str() == c.type_);
    conditions.iter().filter(known).cloned().collect()
}

/// The conditions without what `Reconciling` and `Stalled` say of an older spec: a new spec gets its whole
/// progress deadline.
pub fn of_this_spec(conditions: &[Condition], generation: i64) -> Vec<Condition> {
    let progress = [ConditionType::Reconciling.as_str(), ConditionType::Stalled.as_str()];
    let stays =
        |c: &&Condition| !progress.contains(&c.type_.as_str()) || c.observed_generation == Some(generation);
    conditions.iter().filter(stays).cloned().collect()
}

/// Since when the condition of this type has been true; none if it is not.
pub fn true_since(conditions: &[Condition], type_: ConditionType) -> Option<Timestamp> {
    conditions
        .iter()
        .find(|c| c.type_ == type_.as_str() && c.status == "True")
        .map(|c| c.last_transition_time.0)
}

/// The API server keeps whole seconds; anything finer would never equal what is read back.
fn whole_seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(status: Option<bool>) -> Decided {
        Decided {
            type_: ConditionType::Ready,
            status,
            reason: Reason::ReconcileSucceeded,
            message: "ok".to_owned(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_only_when_the_status_flips() {
        let first = merge(&[], &[decided(Some(false))], 1, at(100));
        let same = merge(&first, &[decided(Some(false))], 2, at(200));
        assert_eq!(same[0].last_transition_time.0, at(100));
        assert_eq!(same[0].observed_generation, Some(2));
        let flipped = merge(&same, &[decided(Some(true))], 2, at(300));
        assert_eq!(flipped[0].last_transition_time.0, at(300));
        assert_eq!(true_since(&flipped, ConditionType::Ready), Some(at(300)));
        assert_eq!(true_since(&same, ConditionType::Ready), None);
    }

    #[test]
    fn times_are_whole_seconds() {
        let now = Timestamp::new(100, 999_999_999).unwrap();
        assert_eq!(merge(&[], &[decided(None)], 1, now)[0].last_transition_time.0, at(100));
    }

    #[test]
    fn names_are_pascal_case_and_unique() {
        let names: Vec<_> = Reason::ALL
            .iter()
            .map(|r| r.as_str())
            .chain(ConditionType::ALL.iter().map(|t| t.as_str()))
            .collect();
        for name in &names {
            assert!(
                name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(char::is_alphanumeric)
            );
            assert_eq!(names.iter().filter(|n| *n == name).count(), 1, "{name} twice");
        }
    }
}
