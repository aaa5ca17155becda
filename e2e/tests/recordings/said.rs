//! What Azure made up and a caller says again later: moments, ids of what was deleted, names of links. The emulator makes
//! up others, and they are what it has to be told.

use std::collections::BTreeMap;

use jiff::Timestamp;
use reef_e2e::azure::Request;
use serde_json::Value;

/// Members with such values.
const MEMBERS: [&str; 7] =
    ["deletionDate", "earliestRestoreDate", "etag", "id", "name", "snapshotTime", "version"];

/// What the emulator said where Azure said something else.
#[derive(Default)]
pub struct Said(BTreeMap<String, String>);

impl Said {
    /// Takes in two answers to one request.
    pub fn learn(&mut self, theirs: &Value, ours: &Value) {
        match (theirs, ours) {
            (Value::Object(theirs), Value::Object(ours)) => {
                for (name, theirs) in theirs {
                    let Some(ours) = ours.get(name) else { continue };
                    match (theirs.as_str(), ours.as_str()) {
                        (Some(theirs), Some(ours))
                            if MEMBERS.contains(&name.as_str())
                                && theirs != ours
                                && is_made_up(name, theirs) =>
                        {
                            self.0.insert(same(theirs), ours.to_owned());
                        }
                        _ => self.learn(theirs, ours),
                    }
                }
            }
            // Lists have no order: which of ours is meant shows by what both say.
            (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
                let is_one = ours.len() == 1;
                let mut left: Vec<&Value> = ours.iter().collect();
                for theirs in theirs {
                    let Some(at) = most_alike(theirs, &left, is_one) else { continue };
                    self.learn(theirs, left.swap_remove(at));
                }
            }
            _ => {}
        }
    }

    /// Whether the emulator has said something else for this.
    pub fn knows(&self, text: &str) -> bool {
        self.0.contains_key(&same(text))
    }

    /// A recorded request in the emulator's words.
    pub fn put_into(&self, request: &mut Request) {
        let segment = |part: &str| self.0.get(&same(part)).cloned().unwrap_or_else(|| part.to_owned());
        request.path = request.path.split('/').map(segment).collect::<Vec<_>>().join("/");
        for header in [&mut request.if_match, &mut request.snapshot].into_iter().flatten() {
            *header = segment(header);
        }
        if let Some(body) = &mut request.body {
            self.put_into_value(body);
        }
    }

    fn put_into_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(ours) = self.0.get(&same(text)) {
                    text.clone_from(ours);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.put_into_value(item)),
            Value::Object(members) => members.values_mut().for_each(|member| self.put_into_value(member)),
            _ => {}
        }
    }
}

/// Which item has most in common with another; none if several have as much, or nothing unless there is but one.
fn most_alike(theirs: &Value, ours: &[&Value], is_one: bool) -> Option<usize> {
    let likeness: Vec<usize> = ours.iter().map(|item| in_common(theirs, item)).collect();
    let most = *likeness.iter().max()?;
    let mut best = (0..ours.len()).filter(|&at| likeness[at] == most);
    let first = best.next().filter(|_| best.next().is_none())?;
    (most > 0 || is_one).then_some(first)
}

/// How many values two bodies have in common.
fn in_common(one: &Value, other: &Value) -> usize {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.iter().filter_map(|(name, value)| Some(in_common(value, other.get(name)?))).sum()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.iter().zip(other).map(|(one, other)| in_common(one, other)).sum()
        }
        _ => usize::from(one == other),
    }
}

/// Ids and names are the caller's, but for those of links and of what was deleted.
pub fn is_made_up(member: &str, value: &str) -> bool {
    let last = value.rsplit('/').next().unwrap_or(value);
    !["id", "name"].contains(&member)
        || last.contains(',')
        || last.rsplit_once('_').is_some_and(|(_, version)| {
            version.len() == 16 && version.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
        || (last.len() == 36 && last.matches('-').count() == 4)
}

/// A moment is the same however it is written.
fn same(text: &str) -> String {
    text.parse::<Timestamp>().map_or_else(|_| text.to_owned(), |moment| moment.to_string())
}

#[test]
fn what_azure_made_up_is_said_in_the_emulators_words() {
    let mut said = Said::default();
    said.learn(
        &serde_json::json!({ "value": [{ "name": "11111111-2222-4333-8444-555555555555", "properties": { "deletionDate": "2023-02-25T01:06:00.62Z", "state": "x" } }] }),
        &serde_json::json!({ "value": [{ "name": "99999999-2222-4333-8444-555555555555", "properties": { "deletionDate": "2026-01-01T00:00:01Z", "state": "y" } }] }),
    );
    let body = serde_json::json!({ "at": "2023-02-25T01:06:00.620Z", "state": "x" });
    let mut request = super::sent::request(
        "PUT",
        "/subscriptions/s/replicationLinks/11111111-2222-4333-8444-555555555555",
        "v",
        Some(body),
    );
    said.put_into(&mut request);
    assert_eq!(request.path, "/subscriptions/s/replicationLinks/99999999-2222-4333-8444-555555555555");
    assert_eq!(request.body.unwrap(), serde_json::json!({ "at": "2026-01-01T00:00:01Z", "state": "x" }));
}

#[test]
fn an_item_of_a_list_is_known_by_what_it_says() {
    let [first, second, third, fourth] =
        ["1", "2", "3", "4"].map(|n| format!("{n}1111111-2222-4333-8444-555555555555"));
    let link =
        |name: &str, partner: &str| serde_json::json!({ "name": name, "properties": { "partner": partner } });
    let mut said = Said::default();
    said.learn(
        &serde_json::json!([link(&first, "a"), link(&second, "b")]),
        &serde_json::json!([link(&third, "b"), link(&fourth, "a")]),
    );
    let expect = [(first.clone(), fourth), (second, third)];
    assert_eq!(said.0, BTreeMap::from(expect));
    let mut said = Said::default();
    let alike = serde_json::json!([link("x", "c"), link("y", "c")]);
    said.learn(&serde_json::json!([link(&first, "c"), link("z", "d")]), &alike);
    assert_eq!(said.0, BTreeMap::new(), "one of two that say the same is not chosen");
}
