//! Who changed an object of ours, and where (pure). The API server keeps in `metadata.managedFields` who set which
//! field last.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::ObjectReference;
use reef_crds::meta::{FIELD_MANAGER, LABEL_INSTANCE, LABEL_REEF};
use serde_json::{Map, Value};

/// How many are kept for one object until they are told.
const MOST: usize = 20;

/// A change of somebody's that was put back.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    /// The object in the reef's cluster.
    pub object: ObjectReference,
    /// The field, as a path. Never a value.
    pub field: String,
    /// Who did it: the name that the API server keeps for whoever writes.
    pub who: String,
}

impl Drift {
    /// In words.
    pub fn note(&self) -> String {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let (kind, name) = (text(&self.object.kind), text(&self.object.name));
        format!("{kind} {name} in the reef's cluster was changed by {} at {}: put back", self.who, self.field)
    }
}

/// What was put back and has not been told yet: by the hash of an instance, or by the name of a reef for what is the
/// reef's own.
#[derive(Debug, Default)]
pub struct Drifts(Mutex<HashMap<String, Vec<Drift>>>);

impl Drifts {
    /// Notes that a field of an object was put back.
    pub fn note(&self, manifest: &Value, field: &str, who: &str) {
        let metadata = &manifest["metadata"];
        let label = |name: &str| metadata["labels"][name].as_str();
        let Some(whose) = label(LABEL_INSTANCE).or(label(LABEL_REEF)) else { return };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let object = ObjectReference {
            api_version: text(&manifest["apiVersion"]),
            kind: text(&manifest["kind"]),
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            field_path: Some(field.to_owned()),
            ..ObjectReference::default()
        };
        let drift = Drift { object, field: field.to_owned(), who: who.to_owned() };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = all.entry(whose.to_owned()).or_default();
        if list.len() < MOST {
            list.push(drift);
        }
    }

    /// Those of an instance or a reef, to be told now.
    pub fn take(&self, whose: &str) -> Vec<Drift> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(whose).unwrap_or_default()
    }
}

/// Who else set the field of a live object at which it differs from what we want. None if nobody else did: then what we
/// want has changed, or the object was not ours before.
pub fn who(live: &Value, field: &str) -> Option<String> {
    let entries = live["metadata"]["managedFields"].as_array()?;
    if !entries.iter().any(|entry| entry["manager"] == FIELD_MANAGER) {
        return None;
    }
    let others =
        entries.iter().filter(|entry| entry["manager"] != FIELD_MANAGER && entry["subresource"] != "status");
    let setters = others.filter(|entry| sets(&entry["fieldsV1"], field));
    let last = setters.max_by_key(|entry| entry["time"].as_str().unwrap_or_default().to_owned())?;
    Some(last["manager"].as_str().unwrap_or("somebody").to_owned())
}

/// Whether a set of fields holds this one, or something in it.
fn sets(fields: &Value, field: &str) -> bool {
    let Some(fields) = fields.as_object() else { return false };
    if field.is_empty() || fields.is_empty() {
        return true;
    }
    let by_name = fields.iter().find_map(|(key, inner)| {
        // Names of labels and of data have dots in them.
        let rest = field.strip_prefix(key.strip_prefix("f:")?)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| sets(inner, rest.trim_start_matches('.')))
    });
    by_name.unwrap_or_else(|| in_list(fields, field))
}

/// The items of a list stand under their keys; we name them by their names, where they have some.
fn in_list(fields: &Map<String, Value>, field: &str) -> bool {
    let mut items = fields.iter().filter_map(|(key, inner)| Some((key.strip_prefix("k:")?, inner)));
    let (name, rest) = field.split_once('.').unwrap_or((field, ""));
    items.any(|(key, inner)| {
        let key: Value = serde_json::from_str(key).unwrap_or_default();
        // Ports have their numbers as keys.
        key["name"].as_str().map_or_else(|| sets(inner, rest), |its| its == name && sets(inner, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn live(entries: &[Value]) -> Value {
        json!({ "metadata": { "managedFields": entries } })
    }

    fn entry(manager: &str, time: &str, fields: &Value) -> Value {
        json!({ "manager": manager, "operation": "Update", "time": time, "fieldsV1": fields })
    }

    #[test]
    fn who_set_the_field_last_is_named() {
        let ours = entry(FIELD_MANAGER, "2026-01-01T00:00:00Z", &json!({ "f:spec": { "f:replicas": {} } }));
        let replicas = json!({ "f:spec": { "f:replicas": {} } });
        let edit = entry("kubectl-edit", "2026-01-02T00:00:00Z", &replicas);
        let later = entry("k9s", "2026-01-03T00:00:00Z", &replicas);
        let mut status = entry("controller", "2026-01-04T00:00:00Z", &replicas);
        status["subresource"] = json!("status");
        let all = live(&[ours.clone(), later.clone(), edit.clone(), status]);
        assert_eq!(who(&all, "spec.replicas").as_deref(), Some("k9s"));
        assert_eq!(who(&all, "spec.template"), None, "nobody set that: we want something new");
        assert_eq!(who(&live(&[ours]), "spec.replicas"), None, "we ourselves had another wish");
        assert_eq!(who(&live(&[edit]), "spec.replicas"), None, "it was not ours");
        assert_eq!(who(&json!({}), "spec.replicas"), None);
    }

    #[test]
    fn fields_are_found_by_name_in_maps_and_lists() {
        let fields = json!({
            "f:metadata": { "f:labels": { "f:pod-security.kubernetes.io/enforce": {} } },
            "f:data": { "f:tls.key": {} },
            "f:spec": {
                "f:ports": { "k:{\"port\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:targetPort": {} } },
                "f:containers": { "k:{\"name\":\"octopus\"}": { "f:image": {} } },
                "f:hostnames": {},
            },
        });
        for (field, expect) in [
            ("metadata.labels.pod-security.kubernetes.io/enforce", true),
            ("metadata.labels.pod-security.kubernetes.io/warn", false),
            ("data.tls.key", true),
            ("data.tls.crt", false),
            ("spec.ports.web.targetPort", true),
            ("spec.containers.octopus.image", true),
            ("spec.containers.other.image", false),
            ("spec.hostnames", true),
            ("spec", true),
        ] {
            assert_eq!(sets(&fields, field), expect, "{field}");
        }
    }

    #[test]
    fn what_was_put_back_is_told_once_to_who_has_it() {
        let drifts = Drifts::default();
        let object = json!({ "kind": "Secret", "metadata": { "name": "octopus", "labels": { LABEL_INSTANCE: "h", LABEL_REEF: "r" } },
            "data": { "master-key": "c2VjcmV0" } });
        drifts.note(&object, "data.master-key", "kubectl-edit");
        assert!(drifts.take("r").is_empty());
        let told: Vec<_> = drifts.take("h").iter().map(Drift::note).collect();
        assert_eq!(
            told,
            ["Secret octopus in the reef's cluster was changed by kubectl-edit at data.master-key: put back"]
        );
        assert!(drifts.take("h").is_empty());
        (0..100).for_each(|_| drifts.note(&object, "data.master-key", "a"));
        assert_eq!(drifts.take("h").len(), MOST);
    }
}
