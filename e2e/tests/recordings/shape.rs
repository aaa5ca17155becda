//! What two answers have in common: names of headers, keys and types of bodies.

use std::collections::BTreeSet;

use serde_json::Value;

/// Each key of a body with its type, as `properties.state string`. Items of a list count as one, `[]`, and names that users
/// choose as `*`.
pub fn shape(body: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    walk(body, "", &mut all);
    all
}

fn walk(value: &Value, at: &str, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if !at.is_empty() {
                all.insert(format!("{at} object"));
            }
            let chosen = ["tags", "metadata", "userAssignedIdentities", "nodeLabels"];
            let is_chosen = chosen.contains(&at.rsplit('.').next().unwrap_or_default());
            for (name, value) in map {
                let name = if is_chosen { "*" } else { name };
                let below = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
                walk(value, &below, all);
            }
        }
        Value::Array(items) => {
            all.insert(format!("{at} array"));
            for item in items {
                walk(item, &format!("{at}[]"), all);
            }
        }
        Value::String(_) => drop(all.insert(format!("{at} string"))),
        Value::Number(_) => drop(all.insert(format!("{at} number"))),
        Value::Bool(_) => drop(all.insert(format!("{at} bool"))),
        Value::Null => drop(all.insert(format!("{at} null"))),
    }
}
