//! What the gateway says of a route (pure). A route that stands in the cluster leads nowhere before the gateway has
//! taken it.

use reef_crds::condition::Reason;
use serde_json::Value;

use crate::{controller::trouble::Trouble, resources::Verdict};

/// What a parent has to say of a route, for this very version of it.
const CONDITIONS: [&str; 2] = ["Accepted", "ResolvedRefs"];

/// Whether the gateway serves a route as it is now.
pub fn of_route(route: &Value) -> Verdict {
    let (kind, generation) = (route["kind"].as_str().unwrap_or("route"), &route["metadata"]["generation"]);
    let parents = route["status"]["parents"].as_array().map_or(&[][..], Vec::as_slice);
    let said = |parent: &Value, type_: &str| -> Option<Value> {
        let conditions = parent["conditions"].as_array()?;
        conditions.iter().find(|c| c["type"] == type_ && c["observedGeneration"] == *generation).cloned()
    };
    for type_ in CONDITIONS {
        let answers: Vec<Value> = parents.iter().filter_map(|parent| said(parent, type_)).collect();
        if answers.iter().any(|answer| answer["status"] == "True") {
            continue;
        }
        let Some(refusal) = answers.first() else {
            return Verdict::Working(format!("the gateway has not taken the {kind} yet"));
        };
        let text = |member: &str| refusal[member].as_str().unwrap_or_default();
        let message = format!("the gateway refuses the {kind}: {} {}", text("reason"), text("message"));
        return Verdict::Failed(Trouble::new(Reason::WorkloadFailing, message.trim()));
    }
    Verdict::Good
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_route_serves_when_the_gateway_says_so_of_this_version() {
        let route = |conditions: Value| {
            json!({ "kind": "HTTPRoute", "metadata": { "generation": 2 },
                "status": { "parents": [{ "conditions": conditions }] } })
        };
        let said = |type_: &str, status: &str, generation: i64| json!({ "type": type_, "status": status, "observedGeneration": generation, "reason": "NoMatchingParent" });
        let good = json!([said("Accepted", "True", 2), said("ResolvedRefs", "True", 2)]);
        assert_eq!(of_route(&route(good)), Verdict::Good);
        for early in [
            json!([]),
            json!([said("Accepted", "True", 1), said("ResolvedRefs", "True", 1)]),
            json!([said("Accepted", "True", 2)]),
        ] {
            assert!(matches!(of_route(&route(early)), Verdict::Working(_)));
        }
        assert!(
            matches!(of_route(&json!({ "kind": "HTTPRoute" })), Verdict::Working(_)),
            "nobody said anything"
        );
        let refused = json!([said("Accepted", "False", 2)]);
        assert!(
            matches!(of_route(&route(refused)), Verdict::Failed(t) if t.message.ends_with("HTTPRoute: NoMatchingParent"))
        );
    }
}
