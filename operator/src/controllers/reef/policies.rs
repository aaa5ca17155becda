//! Admission policies of a reef's cluster (pure): what holds whoever may make objects in an instance's namespace, and
//! whether the operator runs or not.

use reef_crds::meta::LABEL_INSTANCE;
use serde_json::{Value, json};

use super::bodies::NAMESPACE;
use crate::cluster::keep::Manifest;

/// Kinds of volumes that cannot lead out of an instance: the share comes by its claim, which the operator makes.
const VOLUMES: [&str; 6] =
    ["configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"];

/// Both policies, each with its binding. `labels` are those of everything that the operator makes.
pub fn all(labels: &Value) -> Vec<Manifest> {
    let mut manifests = with_binding(labels, "instances.cloud.octopus.com", pods());
    manifests.extend(with_binding(labels, "volumes.cloud.octopus.com", volumes()));
    manifests
}

fn with_binding(labels: &Value, name: &str, spec: Value) -> Vec<Manifest> {
    let object = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": { "name": name, "labels": labels }, "spec": spec,
        })
    };
    let binding = json!({ "policyName": name, "validationActions": ["Deny"] });
    vec![
        Manifest { plural: "validatingadmissionpolicies", object: object("ValidatingAdmissionPolicy", spec) },
        Manifest {
            plural: "validatingadmissionpolicybindings",
            object: object("ValidatingAdmissionPolicyBinding", binding),
        },
    ]
}

fn rule(group: &str, resource: &str) -> Value {
    json!({ "apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": [resource] })
}

/// Pods of instances: a volume made on the spot could name any share of the account, or a file of the node.
fn pods() -> Value {
    let kinds = VOLUMES.map(|kind| format!("has(v.{kind})")).join(" || ");
    json!({
        "failurePolicy": "Fail",
        "matchConstraints": {
            "namespaceSelector": { "matchExpressions": [{ "key": LABEL_INSTANCE, "operator": "Exists" }] },
            "resourceRules": [rule("", "pods")],
        },
        "validations": [
            {
                "expression": format!("!has(object.spec.volumes) || object.spec.volumes.all(v, {kinds})"),
                "message": format!("pods of instances may have these volumes only: {}", VOLUMES.join(", ")),
                "reason": "Forbidden",
            },
            {
                "expression": "object.spec.serviceAccountName == 'octopus'",
                "message": "pods of instances run as ServiceAccount octopus",
                "reason": "Forbidden",
            },
        ],
    })
}

/// Volumes that are mounted with a key of `reef-system`: only for the one claim of an instance.
fn volumes() -> Value {
    let ours = format!(
        "has(object.spec.csi) && has(object.spec.csi.nodeStageSecretRef) && object.spec.csi.nodeStageSecretRef.?namespace.orValue('') == '{NAMESPACE}'"
    );
    json!({
        "failurePolicy": "Fail",
        "matchConstraints": { "resourceRules": [rule("", "persistentvolumes")] },
        "matchConditions": [{ "name": "with-our-key", "expression": ours }],
        "validations": [{
            "expression": "has(object.spec.claimRef) && object.spec.claimRef.?namespace.orValue('').startsWith('oct-') && object.spec.claimRef.?name.orValue('') == 'data'",
            "message": "a volume that is mounted with the key of a reef's storage account must name the claim data of an instance's namespace",
            "reason": "Forbidden",
        }],
    })
}
