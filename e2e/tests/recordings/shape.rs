//! What two answers have in common: keys and types of their bodies, ids of lists, and words of which there are few.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{said::is_made_up, sent::ours};

/// Members whose values are compared: the providers' own words.
const WORDS: [&str; 7] = [
    "/operation",
    "/sku/name",
    "/sku/tier",
    "/kind",
    "/properties/role",
    "/properties/linkType",
    "/properties/zoneType",
];

/// What differs between a recorded body and the emulator's; `sent` is that of the request.
pub fn compared(theirs: &Value, mine: &Value, sent: Option<&Value>) -> Vec<String> {
    let by_path = |body: &Value| {
        let mut types = BTreeMap::<String, BTreeSet<String>>::new();
        for part in shape(body) {
            let (path, of) = part.rsplit_once(' ').unwrap_or((&part, ""));
            types.entry(path.to_owned()).or_default().insert(of.to_owned());
        }
        types
    };
    let (expected, found, sent) = (by_path(theirs), by_path(mine), sent.map(by_path).unwrap_or_default());
    let text = |types: &BTreeSet<String>| types.iter().cloned().collect::<Vec<_>>().join("|");
    let mut all = Vec::new();
    for (path, types) in &expected {
        match found.get(path) {
            Some(of) if of.is_disjoint(types) => {
                all.push(format!("shows {path} as {} instead of {}", text(of), text(types)));
            }
            Some(of) => {
                all.extend(types.difference(of).map(|one| format!("lacks {path} {one}")));
                all.extend(of.difference(types).map(|one| format!("has {path} {one}")));
            }
            None if sent.contains_key(path) => all.push(format!("drops {path} {}", text(types))),
            None => all.push(format!("lacks {path} {}", text(types))),
        }
    }
    let new = found.iter().filter(|(path, _)| !expected.contains_key(*path));
    all.extend(new.map(|(path, of)| format!("has {path} {}", text(of))));
    for word in WORDS {
        if let (Some(theirs), Some(mine)) = (theirs.pointer(word), mine.pointer(word))
            && theirs.is_string()
            && theirs != mine
        {
            all.push(format!("says {word} {mine} instead of {theirs}"));
        }
    }
    let (expected, found) =
        (listed(&serde_json::from_str(&ours(&theirs.to_string())).unwrap_or_default()), listed(mine));
    all.extend(expected.difference(&found).map(|id| format!("lists no {id}")));
    all.extend(found.difference(&expected).map(|id| format!("lists {id}")));
    all
}

/// The ids of a list, in lower case, but for those that Azure makes up.
fn listed(body: &Value) -> BTreeSet<String> {
    let items = body["value"].as_array().into_iter().flatten();
    let ids = items.filter_map(|item| item["id"].as_str()).filter(|id| !is_made_up("id", id));
    ids.map(str::to_lowercase).collect()
}

/// Each key of a body with its type, as `properties.state string`. Items of a list count as one, `[]`, and names that users
/// choose as `*`.
fn shape(body: &Value) -> BTreeSet<String> {
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
