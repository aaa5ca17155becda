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
            // What stands where in a longer list is not known.
            (Value::Array(theirs), Value::Array(ours)) if theirs.len() == 1 && ours.len() == 1 => {
                theirs.iter().zip(ours).for_each(|(theirs, ours)| self.learn(theirs, ours));
            }
            _ => {}
        }
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

/// Ids and names are the caller's, but for those of links and of what was deleted.
fn is_made_up(member: &str, value: &str) -> bool {
    let last = value.rsplit('/').next().unwrap_or(value);
    !["id", "name"].contains(&member)
        || last.contains(',')
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
    let mut request = super::emulator::request(
        "PUT",
        "/subscriptions/s/replicationLinks/11111111-2222-4333-8444-555555555555",
        "v",
        Some(body),
    );
    said.put_into(&mut request);
    assert_eq!(request.path, "/subscriptions/s/replicationLinks/99999999-2222-4333-8444-555555555555");
    assert_eq!(request.body.unwrap(), serde_json::json!({ "at": "2026-01-01T00:00:01Z", "state": "x" }));
}
