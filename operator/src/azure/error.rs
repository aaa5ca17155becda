//! What ARM's refusals mean (pure).

use std::time::Duration;

use serde_json::Value;

use super::text::stable;
use crate::{controller::trouble::Trouble, leader::NotLeader};

/// How to go on after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Passes by itself.
    Transient,
    /// Another operation runs on this or a dependent resource.
    Conflict,
    /// Too many requests.
    Throttled,
    /// There is no room: another place has to be tried.
    Capacity,
    /// The caller is not who it has to be, or may not do this.
    Auth,
    /// The request is wrong and stays wrong.
    Invalid,
    /// What is asked for does not exist.
    Missing,
    /// Somebody in Azure has this name.
    NameTaken,
    /// A lock of Azure forbids it.
    Locked,
    /// The subscription has not used this resource provider yet.
    NotRegistered,
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArmError {
    /// Entra gave no token, and why.
    #[error("no token from Entra for client {client}: {message}")]
    NoToken {
        /// Client id.
        client: String,
        /// What Entra said, one line.
        message: String,
        /// Whether Entra refused; otherwise it could not be asked.
        refused: bool,
    },
    /// No answer.
    #[error("ARM did not answer: {0}")]
    NoAnswer(String),
    /// Not asked, because it has not answered before for what this belongs to.
    #[error("calls to {provider} for {of} are held back, because it does not answer")]
    HeldBack {
        /// The resource provider.
        provider: String,
        /// The Reef, or `region/<name>`.
        of: String,
    },
    /// Not asked, because Azure's rates leave no room now.
    #[error("calls to ARM for {of} wait for their turn, to keep to Azure's limits: {place}")]
    Queued {
        /// The Reef, or `region/<name>`.
        of: String,
        /// The place in the queue, and for what.
        place: String,
        /// How long it would have been.
        wait: Duration,
    },
    /// An action was accepted, and its answer is to come.
    #[error("the answer is not there yet")]
    NotYet {
        /// When to ask for it, if ARM said so.
        wait: Option<Duration>,
    },
    /// An answer that is an error.
    #[error("ARM answered {status} {code}: {message}")]
    Answer {
        /// HTTP status.
        status: u16,
        /// ARM's code; the HTTP status as text where there is none.
        code: String,
        /// ARM's text, one line, without what differs from time to time.
        message: String,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// An operation that was accepted and ended in a failure.
    #[error("the operation failed with {code}: {message}")]
    Failed {
        /// ARM's code, or the word with which it ended.
        code: String,
        /// ARM's text, one line.
        message: String,
    },
    /// Nothing was called: an emergency stop or a pause forbids it.
    #[error("{}", .0.message)]
    Forbidden(Trouble),
    /// Not called: another replica may lead by now.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
}

impl ArmError {
    /// From an answer with an error status.
    pub fn from_answer(status: u16, retry_after: Option<&str>, body: &[u8]) -> Self {
        let (code, message) = Self::parse(body).unwrap_or_default();
        Self::Answer {
            status,
            code: if code.is_empty() { status.to_string() } else { code },
            message,
            retry_after: super::operation::wait(retry_after),
        }
    }

    /// Code and message in any of the envelopes that are seen: `{"error":{code,message}}`, `{code,message}`,
    /// `{Code,Message}`; a code may be a number. The message says what its first detail adds.
    pub(super) fn parse(body: &[u8]) -> Option<(String, String)> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let inner = value.get("error").filter(|e| e.is_object()).unwrap_or(&value);
        let (code, mut message) = (text(inner, ["code", "Code"]), text(inner, ["message", "Message"]));
        // Null, an object and text were seen as well.
        let details = ["details", "Details"].iter().find_map(|name| inner.get(name)?.as_array());
        if let Some(detail) = details.and_then(|details| details.first()) {
            let (why, more) = (text(detail, ["code", "Code"]), text(detail, ["message", "Message"]));
            if !more.is_empty() && !message.contains(&more) {
                let why = if why.is_empty() || why == code { String::new() } else { format!("{why}: ") };
                message = format!("{message} ({why}{more})");
            }
        }
        Some((code, stable(&message)))
    }

    /// How to go on. Unknown codes are transient: most refusals pass by waiting.
    pub fn class(&self) -> Class {
        match self {
            Self::NoToken { refused: true, .. } => Class::Auth,
            Self::NoToken { .. }
            | Self::NoAnswer(_)
            | Self::HeldBack { .. }
            | Self::NotYet { .. }
            | Self::Forbidden(_)
            | Self::NotLeader(_) => Class::Transient,
            Self::Queued { .. } => Class::Throttled,
            Self::Answer { status, code, .. } => classify(*status, code),
            // What was accepted and failed often works the next time.
            Self::Failed { code, .. } => classify(0, code),
        }
    }

    /// Whether this says for certain that something does not exist. A 404 with any other code, or without one,
    /// is an answer about something else: a subscription, a proxy, a provider that has trouble.
    pub fn is_absence(&self) -> bool {
        const CODES: [&str; 7] = [
            "ResourceNotFound",
            "ResourceGroupNotFound",
            "ParentResourceNotFound",
            "NotFound",
            "RoleAssignmentNotFound",
            "LockNotFound",
            "ShareNotFound",
        ];
        matches!(self, Self::Answer { status: 404, code, .. } if CODES.contains(&code.as_str()))
    }

    /// Whether this says for certain that a write had no effect, or that what it began has ended in failure.
    pub fn is_refusal(&self) -> bool {
        let by_class = matches!(
            self.class(),
            Class::Invalid
                | Class::Capacity
                | Class::NameTaken
                | Class::Locked
                | Class::Auth
                | Class::NotRegistered
                | Class::Missing
        );
        by_class || matches!(self, Self::Failed { .. } | Self::Forbidden(_) | Self::NotLeader(_))
    }

    /// Whether what was asked for may yet come about, although this was the answer: it was sent, and nobody said no.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::NoAnswer(_) | Self::Answer { status: 408 | 500..=599, .. })
    }

    /// ARM's code; empty where there was no answer.
    pub fn code(&self) -> &str {
        match self {
            Self::Answer { code, .. } | Self::Failed { code, .. } => code,
            Self::NoToken { .. }
            | Self::NoAnswer(_)
            | Self::HeldBack { .. }
            | Self::NotYet { .. }
            | Self::Queued { .. }
            | Self::Forbidden(_)
            | Self::NotLeader(_) => "",
        }
    }

    /// When ARM wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answer { retry_after, .. } => *retry_after,
            Self::Queued { wait, .. } => Some(*wait),
            Self::NotYet { wait } => *wait,
            _ => None,
        }
    }
}

/// A member as text, by either of its names.
fn text(value: &Value, names: [&str; 2]) -> String {
    match names.iter().find_map(|name| value.get(name)) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn classify(status: u16, code: &str) -> Class {
    match code {
        "AuthorizationFailed" | "LinkedAuthorizationFailed" | "RequestDisallowedByPolicy" => Class::Auth,
        "ResourceQuotaExceeded"
        | "QuotaExceeded"
        | "AllocationFailed"
        | "ServerQuotaExceeded"
        | "MaxStorageAccountsCountPerSubscriptionExceeded"
        | "SkuNotAvailable"
        | "LocationNotAvailableForResourceType"
        | "ProvisioningDisabled"
        | "RegionDoesNotAllowProvisioning"
        | "ResourceCountExceedsLimit"
        | "ManagedClusterCountExceedsQuotaLimit"
        | "RoleAssignmentLimitExceeded"
        | "40881"
        | "40873"
        | "40889"
        | "1132" => Class::Capacity,
        "RoleAssignmentUpdateNotPermitted"
        | "InvalidRequestContent"
        | "K8sVersionNotSupported"
        | "InvalidParameter"
        | "InvalidResourceName"
        | "InvalidResourceType"
        | "LocationRequired"
        | "MissingApiVersionParameter"
        | "LocationNotAvailableForResourceGroup"
        | "InvalidValuesForRequestParameters"
        | "AccountNameInvalid"
        | "InvalidPrincipalId"
        | "PropertyChangeNotAllowed"
        | "InvalidResourceGroupLocation"
        | "InvalidResourceLocation" => Class::Invalid,
        // Names that are the same in all of Azure.
        "NameAlreadyExists" | "StorageAccountAlreadyTaken" => Class::NameTaken,
        "ScopeLocked" => Class::Locked,
        "MissingSubscriptionRegistration" => Class::NotRegistered,
        // `RetryableError` is the network provider's word for a lock, with the status of throttling;
        // `OperationNotAllowed` is AKS's word for an operation that runs.
        "RetryableError"
        | "OperationNotAllowed"
        | "ConflictingServerOperation"
        | "ConflictingDatabaseOperation"
        | "CreateDatabaseAttemptedWithRotationInProgress"
        | "InUseSubnetCannotBeDeleted"
        | "InUseNetworkSecurityGroupCannotBeDeleted"
        | "InUseNatGatewayCannotBeDeleted"
        | "PublicIPAddressCannotBeDeleted" => Class::Conflict,
        _ => match status {
            401 | 403 => Class::Auth,
            404 | 410 => Class::Missing,
            409 | 412 => Class::Conflict,
            429 => Class::Throttled,
            _ => Class::Transient,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(status: u16, body: &str) -> ArmError {
        ArmError::from_answer(status, Some("15"), body.as_bytes())
    }

    fn code(error: &ArmError) -> &str {
        match error {
            ArmError::Answer { code, .. } => code,
            _ => "",
        }
    }

    #[test]
    fn every_envelope_is_read() {
        for (body, expect) in [
            (r#"{"error":{"code":"ResourceNotFound","message":"m"}}"#, "ResourceNotFound"),
            (r#"{"code":"NotFound","message":"m","details":[],"subcode":"x"}"#, "NotFound"),
            (r#"{"Code":"BadRequest","Message":"m"}"#, "BadRequest"),
            (r#"{"error":{"code":404002,"message":"m"}}"#, "404002"),
            (r#"{"error":"not an object","code":"C"}"#, "C"),
            ("<html>Our services aren't available right now</html>", "404"),
            ("", "404"),
        ] {
            assert_eq!(code(&answer(404, body)), expect, "{body}");
        }
    }

    #[test]
    fn classes() {
        for (status, code, class) in [
            (404, "ResourceNotFound", Class::Missing),
            (403, "AuthorizationFailed", Class::Auth),
            (401, "ExpiredAuthenticationToken", Class::Auth),
            (409, "AnotherOperationInProgress", Class::Conflict),
            (429, "RetryableError", Class::Conflict),
            (429, "SubscriptionRequestsThrottled", Class::Throttled),
            (429, "429", Class::Throttled),
            (409, "QuotaExceeded", Class::Capacity),
            (400, "ProvisioningDisabled", Class::Capacity),
            (400, "InvalidRequestContent", Class::Invalid),
            (409, "StorageAccountAlreadyTaken", Class::NameTaken),
            (409, "ScopeLocked", Class::Locked),
            (409, "MissingSubscriptionRegistration", Class::NotRegistered),
            (400, "K8sVersionNotSupported", Class::Invalid),
            (409, "OperationNotAllowed", Class::Conflict),
            (400, "PrincipalNotFound", Class::Transient),
            (400, "NeverHeardOf", Class::Transient),
            (503, "", Class::Transient),
        ] {
            let body = format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#);
            assert_eq!(answer(status, &body).class(), class, "{status} {code}");
        }
    }

    #[test]
    fn only_certain_answers_are_an_absence() {
        for (status, code, expect) in [
            (404, "ResourceNotFound", true),
            (404, "ResourceGroupNotFound", true),
            (404, "NotFound", true),
            (404, "ShareNotFound", true),
            (404, "SubscriptionNotFound", false),
            (404, "", false),
            (410, "ResourceNotFound", false),
            (403, "ResourceNotFound", false),
        ] {
            let body = format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#);
            assert_eq!(answer(status, &body).is_absence(), expect, "{status} {code}");
        }
        assert!(!answer(404, "<html>not found</html>").is_absence());
    }

    #[test]
    fn texts_are_one_line_without_what_changes() {
        let body =
            r#"{"error":{"code":"C","message":"busy,\n see 'https://management.azure.com/x?s=signature'."}}"#;
        let ArmError::Answer { message, retry_after, .. } = answer(409, body) else { panic!("an answer") };
        assert_eq!(message, "busy, see <url>");
        assert_eq!(retry_after, Some(Duration::from_secs(15)));
    }

    proptest! {
        #[test]
        fn no_answer_panics(status in 0u16.., retry in prop::option::of(".*"), body: Vec<u8>) {
            let error = ArmError::from_answer(status, retry.as_deref(), &body);
            prop_assert!(error.to_string().lines().count() <= 1);
            let _ = error.class();
        }
    }
}
