//! What the gateway says of Gateways and routes (pure).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    CONTROLLER,
    attach::Attachment,
    spec::{GROUP, Listener, Mode},
};

/// How a listener fares.
#[derive(Clone, Debug)]
pub struct Fares<'a> {
    /// The listener.
    pub listener: &'a Listener,
    /// Whether it has what it needs to serve.
    pub certified: bool,
    /// How many routes are attached to it.
    pub attached: usize,
}

/// A condition of an object in a generation; `reason` is that of an untrue one.
fn condition(type_: &str, outcome: Result<(), &str>, generation: Option<i64>) -> Value {
    let (status, reason) = match outcome {
        Ok(()) => ("True", type_),
        Err(reason) => ("False", reason),
    };
    json!({
        "type": type_, "status": status, "reason": reason, "message": "",
        "observedGeneration": generation, "lastTransitionTime": Timestamp::now().to_string(),
    })
}

/// The status of a Gateway that is reached at this address.
pub fn of_gateway(address: &str, listeners: &[Fares<'_>], generation: Option<i64>) -> Value {
    let well = |good: bool, reason| if good { Ok(()) } else { Err(reason) };
    let serves = |fares: &Fares<'_>| fares.listener.mode().is_some() && fares.certified;
    let all = listeners.iter().all(serves);
    let listeners: Vec<_> = listeners
        .iter()
        .map(|fares| {
            let mode = fares.listener.mode();
            let kind = match mode {
                Some(Mode::Https) => Some("HTTPRoute"),
                Some(Mode::Passthrough) => Some("TLSRoute"),
                None => None,
            };
            let kinds: Vec<_> = kind.iter().map(|kind| json!({ "group": GROUP, "kind": kind })).collect();
            json!({
                "name": fares.listener.name, "attachedRoutes": fares.attached, "supportedKinds": kinds,
                "conditions": [
                    condition("Accepted", well(mode.is_some(), "UnsupportedProtocol"), generation),
                    condition("ResolvedRefs", well(fares.certified, "InvalidCertificateRef"), generation),
                    condition("Programmed", well(serves(fares), "Invalid"), generation),
                ],
            })
        })
        .collect();
    json!({
        "addresses": [{ "type": "IPAddress", "value": address }],
        "conditions": [
            condition("Accepted", Ok(()), generation),
            condition("Programmed", well(all, "Invalid"), generation),
        ],
        "listeners": listeners,
    })
}

/// The status of a route: what other controllers say, and ours of each reference (as the spec has it).
pub fn of_route(old: &Value, ours: &[(Value, Attachment)], generation: Option<i64>) -> Value {
    let others = old["parents"].as_array().into_iter().flatten();
    let mut parents: Vec<_> = others.filter(|p| p["controllerName"] != CONTROLLER).cloned().collect();
    parents.extend(ours.iter().map(|(reference, attachment)| {
        json!({
            "parentRef": reference, "controllerName": CONTROLLER,
            "conditions": [
                condition("Accepted", attachment.accepted, generation),
                condition("ResolvedRefs", attachment.resolved, generation),
            ],
        })
    }));
    json!({ "parents": parents })
}

/// What is to be written: none if the old status says the same. Conditions that stay keep their time.
pub fn change(old: &Value, mut new: Value) -> Option<Value> {
    keep_times(old, &mut new);
    (!says(old, &new)).then_some(new)
}

fn keep_times(old: &Value, new: &mut Value) {
    const TIME: &str = "lastTransitionTime";
    match new {
        Value::Object(fields) => {
            if fields.contains_key(TIME)
                && fields.get("type") == old.get("type")
                && fields.get("status") == old.get("status")
                && let Some(time) = old.get(TIME)
            {
                fields.insert(TIME.to_owned(), time.clone());
            }
            for (name, value) in fields {
                keep_times(&old[name.as_str()], value);
            }
        }
        Value::Array(values) => {
            for (position, value) in values.iter_mut().enumerate() {
                keep_times(&old[position], value);
            }
        }
        _ => {}
    }
}

/// Whether all that `new` says is in `old`, which may have defaults besides.
fn says(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            new.iter().all(|(name, value)| old.get(name).is_some_and(|old| says(old, value)))
        }
        (Value::Array(old), Value::Array(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| says(old, new))
        }
        (old, new) => old == new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(accepted: Result<(), &'static str>) -> Attachment {
        Attachment { accepted, resolved: Ok(()), listeners: Vec::new() }
    }

    #[test]
    fn what_stays_is_not_written_and_what_changes_keeps_the_other_times() {
        let mut old = of_route(&Value::Null, &[(json!({ "name": "reef" }), attachment(Ok(())))], Some(1));
        for condition in old["parents"][0]["conditions"].as_array_mut().unwrap() {
            condition["lastTransitionTime"] = json!("2020-01-01T00:00:00Z");
        }
        old["parents"][0]["parentRef"]["kind"] = json!("Gateway");
        let again = |accepted, generation| {
            let ours = [(json!({ "name": "reef" }), attachment(accepted))];
            change(&old, of_route(&old, &ours, Some(generation)))
        };
        assert_eq!(again(Ok(()), 1), None);
        let newer = again(Ok(()), 2).unwrap();
        assert_eq!(newer["parents"][0]["conditions"][0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        let refused = again(Err("NoMatchingParent"), 1).unwrap();
        let conditions = &refused["parents"][0]["conditions"];
        assert_eq!(conditions[0]["reason"], "NoMatchingParent");
        assert_ne!(conditions[0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert_eq!(conditions[1]["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }

    #[test]
    fn what_other_controllers_say_stays() {
        let old = json!({ "parents": [
            { "controllerName": "other", "parentRef": { "name": "theirs" } },
            { "controllerName": CONTROLLER, "parentRef": { "name": "gone" } },
        ] });
        let new = change(&old, of_route(&old, &[], Some(1))).unwrap();
        assert_eq!(
            new,
            json!({ "parents": [{ "controllerName": "other", "parentRef": { "name": "theirs" } }] })
        );
    }

    #[test]
    fn a_gateway_is_programmed_when_all_its_listeners_are() {
        let listener = |protocol: &str, mode: &str| -> Listener {
            serde_json::from_value(json!({ "name": "l", "protocol": protocol, "tls": { "mode": mode } }))
                .unwrap()
        };
        let (https, polling, plain) =
            (listener("HTTPS", "Terminate"), listener("TLS", "Passthrough"), listener("HTTP", "Terminate"));
        for (listeners, expect) in [
            (vec![(&https, true), (&polling, true)], "True"),
            (vec![(&https, false), (&polling, true)], "False"),
            (vec![(&https, true), (&plain, true)], "False"),
        ] {
            let fares: Vec<_> = listeners
                .into_iter()
                .map(|(listener, certified)| Fares { listener, certified, attached: 3 })
                .collect();
            let status = of_gateway("203.0.113.101", &fares, Some(7));
            assert_eq!(status["conditions"][1]["status"], expect, "{status}");
            assert_eq!(status["conditions"][1]["observedGeneration"], 7);
            assert_eq!(status["listeners"][0]["attachedRoutes"], 3);
        }
    }
}
