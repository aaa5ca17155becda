//! Revisions of classes (pure).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::ControllerRevision,
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use kube::ResourceExt;
use reef_crds::{
    ReefClass,
    meta::{LABEL_CLASS, LABEL_FLEET, OPERATOR},
};

use crate::controller::hash;

/// So many revisions are kept although no reef was made from them.
pub const KEPT: usize = 10;

/// The revision for the spec that a class has now. Its name follows from class and spec: the same manifest in a
/// new management cluster gives the same revision.
pub fn of(class: &ReefClass, namespace: &str, fleet: &str) -> ControllerRevision {
    // By way of a value, whose members are sorted.
    let spec = serde_json::to_value(&class.spec).unwrap_or_default();
    let name = class.name_any();
    let labels = [
        (LABEL_CLASS, name.as_str()),
        (LABEL_FLEET, fleet),
        ("app.kubernetes.io/managed-by", OPERATOR),
        ("app.kubernetes.io/part-of", OPERATOR),
    ];
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", hash::hex(&[&spec.to_string()], 10))),
            namespace: Some(namespace.to_owned()),
            // No owner: reefs outlive the class that they were made from.
            labels: Some(
                labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>(),
            ),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(spec)),
        revision: class.metadata.generation.unwrap_or(0),
    }
}

/// Those of the revisions that can go: not the newest, not used, and older than the ten newest of the others.
pub fn superfluous(mut all: Vec<(String, Timestamp)>, newest: &str, used: &BTreeSet<String>) -> Vec<String> {
    all.retain(|(name, _)| name != newest && !used.contains(name));
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.into_iter().skip(KEPT).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(capacity: u16) -> ReefClass {
        serde_json::from_value(json!({
            "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "ReefClass",
            "metadata": { "name": "standard", "generation": 3, "uid": capacity.to_string() },
            "spec": {
                "cluster": { "kubernetesVersion": "1.36", "nodePools": [{ "name": "system", "mode": "System", "vmSize": "v", "minCount": 1, "maxCount": 3 }] },
                "sql": { "pool": { "sku": "StandardPool", "capacity": capacity, "perDatabase": { "min": 0, "max": "50" } } },
                "storage": { "sku": "Standard_ZRS", "softDeleteDays": 14 },
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_revision_follows_from_class_and_spec_alone() {
        let one = of(&class(50), "ns", "f");
        assert_eq!(one.name_any(), of(&ReefClass { status: None, ..class(50) }, "ns", "f").name_any());
        assert_ne!(one.name_any(), of(&class(100), "ns", "f").name_any());
        assert!(one.name_any().starts_with("standard-") && one.name_any().len() == "standard-".len() + 10);
        let back: reef_crds::ReefClassSpec = serde_json::from_value(one.data.unwrap().0).unwrap();
        assert_eq!(back, class(50).spec);
        assert!(one.metadata.owner_references.is_none(), "it outlives the class");
    }

    #[test]
    fn what_reefs_were_made_from_stays() {
        let at = |n: i64| Timestamp::from_second(n).unwrap();
        let all: Vec<_> = (0..15).map(|n| (format!("r{n:02}"), at(n))).collect();
        let used = BTreeSet::from(["r00".to_owned(), "r03".to_owned()]);
        // Of 15 go the newest and two that are used; of the other 12 the ten newest stay.
        assert_eq!(superfluous(all, "r14", &used), ["r02", "r01"]);
        assert!(superfluous(vec![("a".to_owned(), at(1))], "b", &BTreeSet::new()).is_empty());
    }
}
