//! A call's turn: whether it may go to ARM now, and what its answer says to the calls after it.

use std::time::Duration;

use azure_core::http::Method;

use super::{Arm, ArmError, Class, operation::Answer};
use crate::{
    bulkhead::{NoTurn, Outcome, Turn, Verb},
    metrics::ByReef,
};

/// The pause after an answer that says that there were too many requests, and not when to ask again.
const PAUSE: Duration = Duration::from_secs(10);

/// What this operator calls.
const PROVIDERS: [&str; 6] = [
    "Microsoft.Authorization",
    "Microsoft.ContainerService",
    "Microsoft.ManagedIdentity",
    "Microsoft.Network",
    "Microsoft.Sql",
    "Microsoft.Storage",
];

/// Resource groups, the registration of providers, and all else.
const OTHER: &str = "Microsoft.Resources";

/// What a status says of ARM; 0 is no answer.
pub fn outcome(status: u16) -> Outcome {
    match status {
        0 | 408 | 500 | 502 | 503 | 504 => Outcome::Failed,
        _ => Outcome::Answered,
    }
}

impl Arm {
    /// Waits for the turn of a call.
    pub(super) async fn turn(&self, path: &str, method: Method) -> Result<Turn<'_>, ArmError> {
        let (of, provider) = (self.cell.name().to_owned(), provider(path));
        match self.cell.turn(&self.gate, provider, (subscription(path), verb(method))).await {
            Ok(turn) => {
                let waited = self.metrics.azure_waited_seconds.get_or_create(&ByReef { reef: of });
                waited.observe(turn.waited.as_secs_f64());
                drop(waited);
                Ok(turn)
            }
            Err(NoTurn::HeldBack) => Err(ArmError::HeldBack { of, provider: provider.to_owned() }),
            Err(NoTurn::Queued(wait)) => Err(ArmError::Queued { of, wait }),
        }
    }

    /// Keeps to what ARM says about its limits. Only some answers speak of the whole subscription; the others speak of
    /// a resource or its provider, and hold up no other reef.
    pub(super) fn heed(&self, path: &str, method: Method, answer: &Answer) {
        if answer.status != 429 {
            return;
        }
        let error = ArmError::from_answer(answer.status, answer.retry_after.as_deref(), &answer.body);
        if error.class() != Class::Throttled {
            return;
        }
        let whole = error.code() == "SubscriptionRequestsThrottled";
        let until = self.cell.now() + error.retry_after().unwrap_or(PAUSE);
        self.gate.close(&self.cell.share, subscription(path), verb(method), whole, until);
    }
}

fn verb(method: Method) -> Verb {
    match method {
        Method::Get | Method::Head => Verb::Read,
        Method::Delete => Verb::Delete,
        _ => Verb::Write,
    }
}

/// The resource provider that a path belongs to: for breakers and metrics few values, and no names of resources.
pub fn provider(path: &str) -> &str {
    let mut name = "";
    for part in path.split('/').rev() {
        if part.eq_ignore_ascii_case("providers") && !name.is_empty() {
            return PROVIDERS.iter().find(|known| known.eq_ignore_ascii_case(name)).copied().unwrap_or(OTHER);
        }
        name = part;
    }
    OTHER
}

/// The subscription in a path; empty for calls to none.
fn subscription(path: &str) -> &str {
    let mut segments = path.split('/').skip_while(|segment| !segment.eq_ignore_ascii_case("subscriptions"));
    segments.nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_fail_and_are_counted_apart() {
        for (path, expect) in [
            ("/subscriptions/s", "Microsoft.Resources"),
            ("/subscriptions/s/resourceGroups/g", "Microsoft.Resources"),
            ("/subscriptions/s/resourceGroups/providers", "Microsoft.Resources"),
            ("/subscriptions/s/resourceGroups/g/providers/microsoft.network/dnsZones/z", "Microsoft.Network"),
            (
                "/g/providers/Microsoft.Sql/servers/s/providers/Microsoft.Authorization/locks/l",
                "Microsoft.Authorization",
            ),
            ("/subscriptions/s/providers/Microsoft.Unheard/of", "Microsoft.Resources"),
        ] {
            assert_eq!(provider(path), expect, "{path}");
        }
    }

    #[test]
    fn calls_are_counted_by_subscription() {
        for (path, expect) in [
            ("/subscriptions/s/resourceGroups/g", "s"),
            ("/Subscriptions/s", "s"),
            ("/providers/Microsoft.Sql/operations/x", ""),
            ("/subscriptions", ""),
        ] {
            assert_eq!(subscription(path), expect, "{path}");
        }
    }
}
