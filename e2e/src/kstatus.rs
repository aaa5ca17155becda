//! How an object stands by what it says of itself: the conditions `Ready` and `Stalled`, for the spec that it has now.

use serde_json::Value;

/// How an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is as its spec wants it.
    Ready,
    /// It does not get there by itself.
    Stalled,
    /// All else, also while only an older spec was looked at.
    Underway,
}

/// How an object stands, and reason and message of its condition `Ready`; none if it has none.
#[must_use]
pub fn state(object: &Value) -> (State, Option<String>) {
    let status = &object["status"];
    let none = Vec::new();
    let conditions = status["conditions"].as_array().unwrap_or(&none);
    let is = |type_: &str| conditions.iter().any(|c| c["type"] == type_ && c["status"] == "True");
    let ready = conditions.iter().find(|c| c["type"] == "Ready");
    let said = ready.map(|c| {
        let word = |name: &str| c[name].as_str().unwrap_or("-");
        format!("{}  {}", word("reason"), word("message"))
    });
    let is_current = status["observedGeneration"].is_i64()
        && status["observedGeneration"] == object["metadata"]["generation"];
    let state = match (is_current, is("Ready"), is("Stalled")) {
        (true, _, true) => State::Stalled,
        (true, true, false) => State::Ready,
        _ => State::Underway,
    };
    (state, said)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_said_of_the_present_spec_counts() {
        let object = |observed: i64, type_: &str| {
            json!({ "metadata": { "generation": 2 }, "status": { "observedGeneration": observed, "conditions": [
                { "type": type_, "status": "True", "reason": "R", "message": "m" },
            ] } })
        };
        for (observed, type_, expect) in [
            (2, "Ready", (State::Ready, Some("R  m"))),
            (1, "Ready", (State::Underway, Some("R  m"))),
            (2, "Stalled", (State::Stalled, None)),
            (1, "Stalled", (State::Underway, None)),
            (2, "Reconciling", (State::Underway, None)),
        ] {
            let (found, said) = state(&object(observed, type_));
            assert_eq!((found, said.as_deref()), expect, "{observed} {type_}");
        }
        assert_eq!(state(&json!({ "metadata": { "generation": 1 } })), (State::Underway, None));
        let bare = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        assert_eq!(state(&bare).0, State::Underway, "without generations nothing is known of the spec");
    }
}
