//! Whether a resource is as it is wanted, and what to send if it is not (pure).
//!
//! Azure answers with more than was sent, in other case and with other types of numbers. Only what is wanted
//! is compared; the rest is Azure's, or somebody else's, and is kept.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The first difference as a path, for example `properties.sku.capacity`; none if all that is wanted is there.
/// Azure's locations, ids and enumerations come back in other case, so case does not count.
pub fn difference(wanted: &Value, found: &Value) -> Option<String> {
    compare(wanted, found, str::eq_ignore_ascii_case)
}

/// The same for objects of Kubernetes, where case counts.
pub fn exact_difference(wanted: &Value, found: &Value) -> Option<String> {
    compare(wanted, found, |a, b| a == b)
}

type Same = fn(&str, &str) -> bool;

fn compare(wanted: &Value, found: &Value, same: Same) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().find_map(|(name, wanted)| {
            let found = member(found, name, same).unwrap_or(&Value::Null);
            let rest = compare(wanted, found, same)?;
            Some(if rest.is_empty() { name.clone() } else { format!("{name}.{rest}") })
        }),
        // What is left out when it is empty.
        (Value::Object(wanted), Value::Null) if wanted.is_empty() => None,
        (Value::Array(wanted), Value::Null) if wanted.is_empty() => None,
        (Value::Null | Value::Bool(false), Value::Null) => None,
        (Value::Array(wanted), Value::Array(found)) => lists(wanted, found, same),
        (Value::Number(a), Value::Number(b)) => differ(a.as_f64() == b.as_f64()),
        (Value::String(a), Value::String(b)) => differ(same(a, b)),
        (wanted, found) => differ(wanted == found),
    }
}

fn differ(equal: bool) -> Option<String> {
    (!equal).then(String::new)
}

/// Map keys such as ids of identities come back in other case.
fn member<'a>(map: &'a Map<String, Value>, name: &str, same: Same) -> Option<&'a Value> {
    map.get(name).or_else(|| map.iter().find(|(key, _)| same(key, name)).map(|(_, value)| value))
}

/// Lists of named things by name, whatever else is in them; others as sets of the same length.
fn lists(wanted: &[Value], found: &[Value], same: Same) -> Option<String> {
    if named(wanted) {
        return wanted.iter().find_map(|wanted| {
            let name = wanted["name"].as_str().unwrap_or_default();
            let alike = |f: &&Value| f["name"].as_str().is_some_and(|f| same(f, name));
            match found.iter().find(alike) {
                Some(found) => compare(wanted, found, same).map(|rest| format!("{name}.{rest}")),
                None => Some(name.to_owned()),
            }
        });
    }
    let has = |wanted: &Value| found.iter().any(|f| compare(wanted, f, same).is_none());
    differ(wanted.len() == found.len() && wanted.iter().all(has))
}

/// Whether names tell the items apart. Mounts of one volume at several places have one name.
fn named(list: &[Value]) -> bool {
    let names: BTreeSet<_> = list.iter().filter_map(|item| item["name"].as_str()).collect();
    !list.is_empty() && names.len() == list.len()
}

/// What was found with what is wanted put into it: for a PUT that replaces everything.
pub fn merged(wanted: &Value, found: &Value) -> Value {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            let mut all = found.clone();
            for (name, value) in wanted {
                let key = found.keys().find(|key| key.eq_ignore_ascii_case(name)).unwrap_or(name).clone();
                let merged = merged(value, found.get(&key).unwrap_or(&Value::Null));
                all.insert(key, merged);
            }
            Value::Object(all)
        }
        (Value::Array(wanted), Value::Array(found)) if named(wanted) && named(found) => {
            let mut all = found.clone();
            for item in wanted {
                let name = item["name"].as_str().unwrap_or_default();
                let at =
                    all.iter().position(|f| f["name"].as_str().is_some_and(|f| f.eq_ignore_ascii_case(name)));
                match at {
                    Some(at) => all[at] = merged(item, &all[at]),
                    None => all.push(item.clone()),
                }
            }
            Value::Array(all)
        }
        (wanted, _) => wanted.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn mounts_of_one_volume_are_told_apart() {
        let mounts = json!([{ "name": "data", "mountPath": "/a" }, { "name": "data", "mountPath": "/b" }]);
        assert_eq!(exact_difference(&mounts, &mounts), None);
        let other = json!([{ "name": "data", "mountPath": "/a" }, { "name": "data", "mountPath": "/c" }]);
        assert!(exact_difference(&mounts, &other).is_some());
    }

    #[test]
    fn what_azure_rewrites_is_no_difference() {
        for (wanted, found) in [
            (json!({ "location": "westeurope" }), json!({ "location": "WestEurope", "tags": {} })),
            (json!({ "p": { "max": 100 } }), json!({ "p": { "max": 100.0, "min": 0.0 } })),
            (json!({ "tags": {} }), json!({})),
            (json!({ "taints": [] }), json!({})),
            (json!({ "enabled": false }), json!({})),
            (
                json!({ "identity": { "userAssignedIdentities": { "/subscriptions/s/resourceGroups/g/i": {} } } }),
                json!({ "identity": { "userAssignedIdentities": { "/subscriptions/s/resourcegroups/g/i": { "clientId": "c" } } } }),
            ),
            (
                json!({ "rules": [{ "id": "/A" }] }),
                json!({ "rules": [{ "id": "/a", "state": "Succeeded" }] }),
            ),
            (
                json!({ "pools": [{ "name": "a" }] }),
                json!({ "pools": [{ "name": "b" }, { "name": "a", "count": 3 }] }),
            ),
            (json!({ "addresses": ["10.0.0.0/16"] }), json!({ "addresses": ["10.0.0.0/16"] })),
        ] {
            assert_eq!(difference(&wanted, &found), None, "{wanted} {found}");
        }
    }

    #[test]
    fn what_differs_is_named() {
        for (wanted, found, expect) in [
            (json!({ "sku": { "capacity": 100 } }), json!({ "sku": { "capacity": 50 } }), "sku.capacity"),
            (json!({ "p": { "tls": "1.2" } }), json!({ "p": {} }), "p.tls"),
            (json!({ "on": true }), json!({}), "on"),
            (
                json!({ "pools": [{ "name": "a", "max": 3 }] }),
                json!({ "pools": [{ "name": "a", "max": 2 }] }),
                "pools.a.max",
            ),
            (json!({ "pools": [{ "name": "a" }] }), json!({ "pools": [] }), "pools.a"),
            (json!({ "ips": [] }), json!({ "ips": [{ "value": "1.2.3.4" }] }), "ips"),
            (json!({ "rules": [{ "id": "/a" }] }), json!({ "rules": [{ "id": "/b" }] }), "rules"),
        ] {
            assert_eq!(difference(&wanted, &found).as_deref(), Some(expect), "{wanted} {found}");
        }
    }

    #[test]
    fn a_merge_keeps_what_is_not_ours() {
        let found = json!({ "location": "westeurope", "properties": { "theirs": 1, "max": 2, "pools": [{ "name": "x", "count": 3 }] } });
        let wanted =
            json!({ "properties": { "max": 5, "pools": [{ "name": "x", "max": 9 }, { "name": "y" }] } });
        let merged = merged(&wanted, &found);
        assert_eq!(
            merged,
            json!({ "location": "westeurope", "properties": { "theirs": 1, "max": 5, "pools": [{ "name": "x", "count": 3, "max": 9 }, { "name": "y" }] } })
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-zA-Z/]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-d]|name", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn after_a_merge_nothing_differs(wanted in value(), found in value()) {
            // Names that differ only in case, or come twice, are nothing that Azure has.
            let text = wanted.to_string();
            prop_assume!(text.matches("\"name\"").count() <= 1);
            prop_assert_eq!(difference(&wanted, &merged(&wanted, &found)), None);
        }

        #[test]
        fn a_value_does_not_differ_from_itself(wanted in value()) {
            let text = wanted.to_string();
            prop_assume!(text.matches("\"name\"").count() <= 1);
            prop_assert_eq!(difference(&wanted, &wanted), None);
        }
    }
}
