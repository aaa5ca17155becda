//! What was there before a recording began: what it finds, changes or names without having made it.

use std::collections::BTreeMap;

use reef_e2e::{
    azure::{is_known, kind_of},
    recordings::{Record, Recording},
};
use serde_json::{Value, json};

/// Id and body of each, what contains others first.
pub fn before(recording: &Recording) -> Vec<(String, Value)> {
    let records = &recording.records;
    let location = records.iter().find_map(|r| r.req.as_ref()?["location"].as_str()).unwrap_or("westeurope");
    let here = json!({ "location": if location == "global" { "westeurope" } else { location } });
    let mut first: BTreeMap<String, &Record> = BTreeMap::new();
    // What is moved comes to where it is moved.
    let moved: Vec<String> = records
        .iter()
        .filter(|record| record.resource().to_lowercase().ends_with("/move"))
        .filter_map(|record| Some(record.req.as_ref()?["id"].as_str()?.to_lowercase()))
        .collect();
    for record in records.iter().filter(|record| is_known(&record.kind())) {
        first.entry(resource(record).to_lowercase()).or_insert(record);
    }
    let mut all: BTreeMap<String, (String, Value)> = BTreeMap::new();
    for (path, record) in first.iter().filter(|(path, record)| was_there(record) && !moved.contains(path)) {
        let found = shown(records, path);
        all.insert(path.clone(), (resource(record), found.unwrap_or_else(|| here.clone())));
    }
    for record in records.iter().filter(|record| is_known(&record.kind())) {
        let mut named = Vec::new();
        if record.status < 300 && record.method == "PUT" {
            ids(record.req.as_ref().unwrap_or(&Value::Null), &mut named);
        }
        let code = record.code().unwrap_or_default();
        let is_alone = ["ResourceGroupNotFound", "ParentResourceNotFound"].contains(&code.as_str());
        named.extend((!is_alone).then(|| parent(&resource(record))));
        for mut path in named {
            // What has a first record of its own has been decided on.
            while is_known(&kind_of(&path)) && !first.contains_key(&path.to_lowercase()) {
                all.entry(path.to_lowercase()).or_insert_with(|| (path.clone(), parent_of(record, &here)));
                path = parent(&path);
            }
        }
    }
    let (backups, mut all): (Vec<_>, Vec<_>) = all.into_values().partition(|(path, _)| is_recoverable(path));
    all.extend(recoverable(records, &backups, &here));
    // By length of path: a group is shorter than what is in it.
    all.sort_by_key(|(path, _)| path.split('/').count());
    all
}

fn is_recoverable(path: &str) -> bool {
    path.to_lowercase().contains("/recoverabledatabases/")
}

/// The databases whose backups are shown, or `named`: they are what there is.
fn recoverable(records: &[Record], named: &[(String, Value)], here: &Value) -> Vec<(String, Value)> {
    let shown = records.iter().filter_map(|record| record.resp.as_ref());
    let shown = shown.flat_map(|body| body["value"].as_array().into_iter().flatten().chain([body]));
    let mut all = BTreeMap::new();
    for backup in shown {
        let Some((server, name)) = backup["id"].as_str().filter(|id| is_recoverable(id)).and_then(split)
        else {
            continue;
        };
        let mut body = here.clone();
        // An objective has had a name of its own for backups.
        let objective = backup["properties"]["serviceLevelObjective"].as_str().unwrap_or_default();
        body["sku"] = json!({ "name": objective.trim_start_matches("SQLDB_"), "tier": backup["properties"]["edition"] });
        let id = format!("{server}/databases/{name}");
        all.entry(id.to_lowercase()).or_insert((id, body));
    }
    for (server, name) in named.iter().filter_map(|(path, _)| split(path)) {
        let id = format!("{server}/databases/{name}");
        all.entry(id.to_lowercase()).or_insert((id, here.clone()));
    }
    all.into_values().collect()
}

/// Path of the server, and name, of a database whose backup this is.
fn split(id: &str) -> Option<(&str, &str)> {
    let (above, name) = id.rsplit_once('/')?;
    Some((above.rsplit_once('/')?.0, name))
}

/// A resource as it is first shown, unless it is written before.
fn shown(records: &[Record], path: &str) -> Option<Value> {
    let is_it = |record: &&Record| resource(record).eq_ignore_ascii_case(path);
    let before =
        records.iter().filter(is_it).take_while(|record| !["PUT", "PATCH"].contains(&record.method.as_str()));
    let mut first = records.iter().find(is_it).into_iter().chain(before);
    let shows = |record: &&Record| {
        record.status < 300
            && record.method != "POST"
            && record.resp.as_ref().is_some_and(|body| body["properties"].is_object())
    };
    first.find(shows).and_then(|record| record.resp.clone())
}

/// What is known of the resource that a recorded one is in: a service shows its account's size.
fn parent_of(record: &Record, here: &Value) -> Value {
    let mut body = here.clone();
    if record.kind().ends_with("/fileservices")
        && let Some(sku) = record.resp.as_ref().map(|shown| &shown["sku"]).filter(|sku| sku.is_object())
    {
        body["sku"] = sku.clone();
    }
    body
}

/// The path of the resource that a call is about: an action is about what it is called on, and a list about what it is in.
fn resource(record: &Record) -> String {
    let path = record.resource().trim_end_matches('/');
    let is_of_parent =
        record.method == "POST" || record.resp.as_ref().is_some_and(|body| body["value"].is_array());
    if is_of_parent { path.rsplit_once('/').map_or(path, |(of, _)| of).to_owned() } else { path.to_owned() }
}

/// Whether the first that is said of a resource shows that it existed.
fn was_there(record: &Record) -> bool {
    match record.method.as_str() {
        // A link comes with its secondary.
        "POST" | "DELETE" if resource(record).to_lowercase().contains("/replicationlinks/") => false,
        "GET" | "HEAD" | "POST" | "PATCH" => record.status < 300,
        "DELETE" => [200, 202].contains(&record.status),
        // Some providers answer so also to what is new.
        _ => record.status == 200 && !record.kind().ends_with("/fileservices"),
    }
}

/// The path of what contains this: a group for what is directly in it.
fn parent(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    let above = &parts[..parts.len().saturating_sub(2)];
    match above {
        [group @ .., "providers", _] => group.join("/"),
        above => above.join("/"),
    }
}

/// All ids in a body.
fn ids(body: &Value, found: &mut Vec<String>) {
    match body {
        Value::String(text) if text.to_lowercase().starts_with("/subscriptions/") => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| ids(item, found)),
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            ids(&json!(name), found);
            ids(value, found);
        }),
        _ => {}
    }
}
