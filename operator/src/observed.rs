//! What we know of something outside.

use std::fmt;

use reef_crds::condition::Reason;

use crate::azure::{ArmError, Class};

/// What a look at something outside gave. Nothing is ever deleted, moved or made again because of
/// `Unknown` (invariant 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed<T> {
    /// It certainly does not exist.
    Absent,
    /// We could not find out.
    Unknown(Why),
    /// It exists.
    Present(T),
}

/// Why we could not find out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// In words for a condition.
    pub text: String,
    /// The reason that it is shown with: that Azure asks to be called less often, or that it did not answer.
    pub reason: Reason,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<&ArmError> for Why {
    fn from(error: &ArmError) -> Self {
        let is_throttled = error.class() == Class::Throttled;
        let reason = if is_throttled { Reason::AzureThrottled } else { Reason::AzureUnavailable };
        Self { text: error.to_string(), reason }
    }
}

impl From<String> for Why {
    fn from(text: String) -> Self {
        Self { text, reason: Reason::AzureUnavailable }
    }
}

impl From<&str> for Why {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_to_call_less_says_so() {
        for (status, expect) in
            [(429, Reason::AzureThrottled), (503, Reason::AzureUnavailable), (403, Reason::AzureUnavailable)]
        {
            let error = ArmError::from_answer(status, None, b"");
            let why = Why::from(&error);
            assert_eq!((why.reason, why.text), (expect, error.to_string()), "{status}");
        }
    }
}
