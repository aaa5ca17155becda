//! All there is of an object, flat, for comparing what came of one run with what came of another.

use std::collections::BTreeMap;

use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, ListParams},
    discovery::{Discovery, verbs},
};
use serde_json::Value;

use crate::{
    harness::{Sandbox, eventually},
    install::NAMESPACE,
};

/// Path of each value, and the value.
pub type Flat = BTreeMap<String, String>;

/// Kinds that others than the operator make, or that say how something came and not what is there.
const OTHERS: [&str; 9] = [
    "ControllerRevision",
    "EndpointSlice",
    "Endpoints",
    "Event",
    "Job",
    "Lease",
    "Pod",
    "PodMetrics",
    "ReplicaSet",
];

/// Members that tell when or how often, and who said it.
const PASSING: [&str; 16] = [
    "clusterIP",
    "clusterIPs",
    "creationTimestamp",
    "currentRevision",
    "etag",
    "generation",
    "lastHandledRestartAt",
    "lastTransitionTime",
    "managedFields",
    "message",
    "nodeName",
    "observedGeneration",
    "resourceVersion",
    "uid",
    "updateRevision",
    "volumeName",
];

/// A cluster that is looked at.
pub struct Place<'a> {
    /// What it is called in what is compared.
    pub name: &'a str,
    /// Its administrator.
    pub client: &'a Client,
    /// Whether all that the operator keeps there is meant, and not only what has one of the words in its name.
    pub whole: bool,
}

/// Whether the operator keeps an object.
fn is_kept(object: &DynamicObject) -> bool {
    object.labels().get("app.kubernetes.io/managed-by").is_some_and(|by| by == "reef-operator")
}

/// What there is of whatever has one of these words in its name, in Azure and in the clusters.
pub async fn snapshot(sandbox: &Sandbox, clusters: &[Place<'_>], words: &[&str], names: &[String]) -> Flat {
    let mut flat = Flat::new();
    let is_meant = |text: &str| words.iter().any(|word| text.contains(word));
    for id in sandbox.azure_ids().into_iter().filter(|id| is_meant(id)) {
        let (status, body) = sandbox.arm("GET", &id, None);
        // It may have gone since.
        assert!([200, 404].contains(&status), "{id}: {status} {body}");
        flatten(&format!("Azure {}", plain(&id, names)), &body, names, &mut flat);
    }
    for Place { name: cluster, client, whole } in clusters {
        let discovery = Discovery::new((*client).clone()).run().await.expect("discovery");
        for (resource, capabilities) in
            discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources)
        {
            if OTHERS.contains(&resource.kind.as_str()) || !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            let api = Api::<DynamicObject>::all_with((*client).clone(), &resource);
            // A kind that is new or was just taken away is refused for a moment.
            let what = format!("list of {} in {cluster}", resource.kind);
            let all = eventually(&what, || async {
                match api.list(&ListParams::default()).await {
                    Ok(list) => Some(list.items),
                    Err(kube::Error::Api(status)) if status.code == 404 => Some(Vec::new()),
                    Err(_) => None,
                }
            })
            .await;
            let meant = all.into_iter().filter(|object| {
                let namespace = object.namespace().unwrap_or_default();
                (*whole && is_kept(object))
                    || is_meant(&object.name_any())
                    || (namespace != NAMESPACE && is_meant(&namespace))
            });
            for object in meant {
                let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
                let mut value = serde_json::to_value(&object).expect("JSON");
                if resource.kind == "Secret" {
                    // What is in it is random; which there are is not.
                    let data = value["data"].as_object_mut().into_iter().flatten();
                    data.for_each(|(_, value)| *value = "secret".into());
                }
                flatten(
                    &format!("{cluster} {} {}", resource.kind, plain(&name, names)),
                    &value,
                    names,
                    &mut flat,
                );
            }
        }
    }
    flat
}

/// How the operator came to know where an instance is: after a crash it finds what it reserved before.
const HOW: &str = " .placement .reason";

fn flatten(at: &str, value: &Value, names: &[String], flat: &mut Flat) {
    if at.ends_with(HOW) {
        return;
    }
    match value {
        Value::Object(members) => {
            flat.insert(at.to_owned(), "{}".to_owned());
            for (name, value) in members.iter().filter(|(name, _)| !PASSING.contains(&name.as_str())) {
                flatten(&format!("{at} .{}", plain(name, names)), value, names, flat);
            }
        }
        Value::Array(items) => {
            flat.insert(at.to_owned(), format!("[{}]", items.len()));
            for (n, item) in items.iter().enumerate() {
                // Conditions and their like go by name.
                let which = ["type", "name"].into_iter().find_map(|key| item[key].as_str());
                flatten(
                    &format!("{at} [{}]", which.map_or_else(|| n.to_string(), |w| plain(w, names))),
                    item,
                    names,
                    flat,
                );
            }
        }
        Value::String(text) => drop(flat.insert(at.to_owned(), plain(text, names))),
        other => drop(flat.insert(at.to_owned(), other.to_string())),
    }
}

/// A text without what differs from run to run: these names, and the hashes of inputs (ten hexadecimal digits).
pub fn plain(text: &str, names: &[String]) -> String {
    let text = names.iter().fold(text.to_owned(), |text, name| text.replace(name.as_str(), "*"));
    let is_hash =
        |word: &str| word.len() == 10 && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut plain = String::new();
    for part in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        plain.push_str(if is_hash(word) { "*" } else { word });
        plain.push_str(&part[word.len()..]);
    }
    plain
}

/// What is the same in two runs: the values that say something about a third.
pub fn common(one: &Flat, other: &Flat) -> Flat {
    one.iter()
        .filter(|(at, value)| other.get(*at) == Some(*value))
        .map(|(a, v)| (a.clone(), v.clone()))
        .collect()
}

/// How a run differs from what is common to others: what it lacks, has otherwise, and has besides.
pub fn differences(common: &Flat, known: [&Flat; 2], run: &Flat) -> Vec<String> {
    let mut all = Vec::new();
    for (at, value) in common {
        match run.get(at) {
            None => all.push(format!("lacks {at} = {value}")),
            Some(other) if other != value => all.push(format!("{at} = {other} and not {value}")),
            Some(_) => {}
        }
    }
    let is_known = |at: &String| known.iter().any(|flat| flat.contains_key(at));
    all.extend(run.iter().filter(|(at, _)| !is_known(at)).map(|(at, value)| format!("has {at} = {value}")));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_compared_by_what_is_the_same_in_two_of_them() {
        let flat = |value: Value| {
            let mut flat = Flat::new();
            flatten("it", &value, &["abc".to_owned()], &mut flat);
            flat
        };
        let one = flat(
            serde_json::json!({ "a": "x-abc", "at": 1, "uid": "u", "list": [{ "type": "Ready", "status": "True" }] }),
        );
        let other = flat(
            serde_json::json!({ "a": "x-abc", "at": 2, "list": [{ "type": "Ready", "status": "True" }] }),
        );
        let same = common(&one, &other);
        assert_eq!(same["it .a"], "x-*");
        assert!(!same.contains_key("it .at") && !same.contains_key("it .uid"));
        let run =
            flat(serde_json::json!({ "at": 3, "b": 1, "list": [{ "type": "Ready", "status": "False" }] }));
        assert_eq!(
            differences(&same, [&one, &other], &run),
            ["lacks it .a = x-*", "it .list [Ready] .status = False and not True", "has it .b = 1"]
        );
    }
}
