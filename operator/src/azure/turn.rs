//! A call's turn: whether it may go to ARM now, and what its answer says to the calls after it.

use std::time::Duration;

use azure_core::http::Method;

use super::{Arm, ArmError, Class, operation::Answer, trace};
use crate::{
    bulkhead::{AzureCall, Limit, NoTurn, Outcome, Priority, Queued, Turn, Verb},
    metrics::{ByClass, ByReef},
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
        // What is listed is a look whether all is as it should be; what is read by itself is waited for.
        let is_list = method == Method::Get && is_list(path);
        let priority = if is_list { Priority::Routine } else { Priority::Visible };
        let call = AzureCall { verb: verb(method), path, location: &self.location };
        match self.cell.turn(&self.gate, provider, priority, &call).await {
            Ok(turn) => {
                let waited = self.metrics.azure_waited_seconds.get_or_create(&ByReef { reef: of });
                waited.observe(turn.waited.as_secs_f64());
                drop(waited);
                Ok(turn)
            }
            Err(NoTurn::HeldBack) => Err(ArmError::HeldBack { of, provider: provider.to_owned() }),
            Err(NoTurn::Queued(Queued { wait, place })) => Err(ArmError::Queued { of, place, wait }),
        }
    }

    /// Keeps to what ARM says about its limits. Only some refusals speak of the whole subscription; the others speak of
    /// a resource or its provider, and hold up no other reef.
    pub(super) fn heed(&self, limits: &[Limit], method: Method, answer: &Answer) {
        let class = verb(method);
        if let Some(left) = answer.remaining {
            let arm = limits.iter().find(|limit| limit.key.kind.is_arm());
            if let Some(limit) = arm {
                self.gate.left(limit, left);
            }
            self.metrics.azure_calls_left.get_or_create(&ByClass { class: word(class) }).set(left.into());
        }
        if answer.status != 429 {
            return;
        }
        let error = ArmError::from_answer(answer.status, answer.retry_after.as_deref(), &answer.body);
        if error.class() != Class::Throttled {
            return;
        }
        let is_whole = error.code() == "SubscriptionRequestsThrottled";
        // The narrowest of those that are the cell's own comes first.
        let closed = limits.iter().find(|limit| {
            let kind = limit.key.kind;
            if is_whole { kind.is_arm() } else { !kind.is_shared() }
        });
        if let Some(limit) = closed {
            self.gate.close(limit, error.retry_after().unwrap_or(PAUSE));
        }
    }
}

/// Puts what came of a call into its span, and what was refused into the log, with the id by which Microsoft's support
/// finds it. What is not there is no refusal.
pub fn tell(answer: &Answer, method: Method, id: &str) {
    let span = tracing::Span::current();
    span.record("code", answer.status).record("throttled", answer.status == 429);
    if let Some(left) = answer.remaining {
        span.record("left", left);
    }
    if answer.status >= 400 && answer.status != 404 {
        tracing::info!(
            azure_resource_id = id,
            method = method.as_ref(),
            code = answer.status,
            correlation_id = answer.correlation.as_deref().unwrap_or_default(),
            "Azure answered with an error"
        );
        let error = ArmError::from_answer(answer.status, answer.retry_after.as_deref(), &answer.body);
        trace::failed(&error, answer.correlation.as_deref());
    }
}

/// Whether a path names all resources of a type: types and names come in pairs after the provider.
fn is_list(path: &str) -> bool {
    let mut after = None;
    for part in path.split(['/', '?']) {
        after = if part.eq_ignore_ascii_case("providers") {
            Some(0)
        } else {
            after.map(|count: usize| count + 1)
        };
    }
    // The provider's own name, then pairs.
    after.is_some_and(|count| count.is_multiple_of(2))
}

/// The words of ARM's headers for its classes of calls.
pub fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Read => "reads",
        Verb::Write => "writes",
        Verb::Delete => "deletes",
    }
}

pub fn verb(method: Method) -> Verb {
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
    fn lists_are_told_from_resources() {
        let group = "/subscriptions/s/resourceGroups/g";
        for (path, expect) in [
            (format!("{group}/providers/Microsoft.Sql/servers"), true),
            (format!("{group}/providers/Microsoft.Sql/servers/s"), false),
            (format!("{group}/providers/Microsoft.Sql/servers/s/databases"), true),
            (
                format!(
                    "{group}/providers/Microsoft.Sql/servers/s/providers/Microsoft.Authorization/locks/l"
                ),
                false,
            ),
            (group.to_owned(), false),
        ] {
            assert_eq!(is_list(&path), expect, "{path}");
        }
    }
}
