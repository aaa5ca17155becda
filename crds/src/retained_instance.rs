//! RetainedInstance: what is kept of a CloudInstance that is gone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{
    cloud_instance::{DatabaseIsolation, Quota},
    reef::{DeletionPolicy, ObjectName},
};

/// What is kept where. The operator makes this object when a CloudInstance with the deletion policy `Retain` goes;
/// nobody edits it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cloud.octopus.com",
    version = "v1alpha1",
    kind = "RetainedInstance",
    plural = "retainedinstances",
    singular = "retainedinstance",
    shortname = "ri",
    category = "reef-operator",
    doc = "What is kept of a CloudInstance that was deleted: its database, its file share and its keys. Deleting this object, confirmed, deletes them.",
    status = "RetainedInstanceStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.origin.namespace"),
    printcolumn(name = "Instance", type_ = "string", json_path = ".spec.origin.name"),
    printcolumn(name = "Reef", type_ = "string", json_path = ".spec.reefRef.name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Paused",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Paused')].status",
        priority = 1
    ),
    printcolumn(name = "Database", type_ = "string", json_path = ".spec.database.name", priority = 1),
    printcolumn(name = "Share", type_ = "string", json_path = ".spec.share.name", priority = 1)
)]
#[allow(clippy::duplicated_attributes, reason = "columns have the same type")]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a RetainedInstance says what was kept, and that does not change"))]
pub struct RetainedInstanceSpec {
    /// The CloudInstance that it was. What is kept can be used from its namespace only.
    pub origin: Origin,

    /// Region of the reef.
    pub region_ref: ObjectName,

    /// The Reef that holds what is kept.
    pub reef_ref: ObjectName,

    /// The database.
    pub database: RetainedDatabase,

    /// The file share.
    pub share: RetainedShare,

    /// Secret in the operator's namespace with master key and API key.
    pub keys_secret_ref: ObjectName,

    /// Release that last ran on the database, for example `2026.2.4213`.
    pub version: String,

    /// Subdomain that the instance had. It is free for others.
    pub subdomain: String,

    /// What is still to be removed, because the instance was deleted by force while its reef's cluster could not be
    /// reached. It is removed as soon as the cluster answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Tombstone>,
}

/// What is still to be removed of an instance.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// The instance's deletion policy: with `Retain` all but database and file share is removed, with `Delete` all of
    /// it, and then this object.
    pub deletion_policy: DeletionPolicy,
}

/// A CloudInstance that is gone.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,

    /// Name of the CloudInstance.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,

    /// Its UID, which stands as the claim in the tags of what is kept.
    #[schemars(length(min = 36, max = 36))]
    pub uid: String,
}

/// A database that is kept.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetainedDatabase {
    /// Azure resource id.
    #[schemars(length(min = 1, max = 512))]
    pub id: String,

    /// Name in Azure.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,

    /// How it is served.
    pub isolation: DatabaseIsolation,

    /// Elastic pool that it is in; none if it has compute of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// A file share that is kept.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetainedShare {
    /// Azure resource id.
    #[schemars(length(min = 1, max = 512))]
    pub id: String,

    /// Name in Azure.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// Room that it has.
    pub quota: Quota,
}

/// What the operator knows of what is kept.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetainedInstanceStatus {
    /// Generation of the spec that this status is about; -1 before the operator has looked at the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Current state: `Ready` while what is kept is there, and `Reconciling` or `Stalled` while true.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 32))]
    pub conditions: Vec<Condition>,

    /// Value of the annotation `cloud.octopus.com/reconcile-requested-at` that was last served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// Whether what the tombstone names is removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}
