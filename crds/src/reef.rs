//! Reef: a cell in a region.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the platform team wants of a reef. Reefs share nothing.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cloud.octopus.com",
    version = "v1alpha1",
    kind = "Reef",
    plural = "reefs",
    singular = "reef",
    shortname = "rf",
    category = "reef-operator",
    doc = "A cell in a region: a resource group with its own network, AKS cluster, Azure SQL server with elastic pools, storage accounts and identities. Reefs share nothing.",
    status = "ReefStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must begin with a lower-case letter, hold only lower-case letters, digits and inner dashes, and have at most 40 characters, because names of Azure resources and a DNS label are made from it"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.regionRef.name"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.classRef.name"),
    printcolumn(name = "Kubernetes", type_ = "string", json_path = ".status.cluster.version"),
    printcolumn(name = "Scheduling", type_ = "string", json_path = ".spec.scheduling"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Paused", type_ = "string", json_path = ".status.conditions[?(@.type=='Paused')].status", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1),
    printcolumn(name = "Resource-Group", type_ = "string", json_path = ".status.resourceGroup", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.subscriptionId) == has(oldSelf.subscriptionId)").message("subscriptionId is immutable: create another Reef"),
    validation = Rule::new("has(self.addressSpace) == has(oldSelf.addressSpace)").message("addressSpace is immutable: create another Reef")
)]
pub struct ReefSpec {
    /// The Region that the reef is in. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("regionRef is immutable: create another Reef"))]
    pub region_ref: ObjectName,

    /// The ReefClass that the reef is made from. The reef keeps the revision of the class that it was made from.
    /// Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("classRef is immutable: create another Reef"))]
    pub class_ref: ObjectName,

    /// Azure subscription of the reef if it is not the region's, a UUID in lower case. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 36, max = 36), regex(pattern = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("subscriptionId is immutable: create another Reef"))]
    pub subscription_id: Option<String>,

    /// The reef's IPv4 network in CIDR notation, for example `10.7.0.0/16`: a range of the region's address plan
    /// that no other reef has. Without it the first free one is taken. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 18), regex(pattern = r"^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("addressSpace is immutable: create another Reef"))]
    pub address_space: Option<String>,

    /// Whether instances are placed here: `Cordoned` takes no new ones, and those that are there stay.
    #[serde(default)]
    pub scheduling: Scheduling,

    /// The only namespaces whose instances are placed here, for example for one customer. Without it, any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedicated_to: Option<DedicatedTo>,

    /// What becomes of the Azure resources when this object is deleted: `Retain` leaves them as they are,
    /// `Delete` removes them all.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// While true, deletion needs the annotation `confirmation.cloud.octopus.com/deletion=true`.
    #[serde(default = "protected")]
    pub deletion_protection: bool,
}

pub(crate) fn protected() -> bool {
    true
}

/// Whether instances are placed on a reef.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduling {
    /// New ones are.
    #[default]
    Active,
    /// New ones are not.
    Cordoned,
}

/// Whose instances a reef takes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DedicatedTo {
    /// Names of namespaces of CloudInstances, at most 100. By name, because whoever owns a namespace could label it.
    #[schemars(length(min = 1, max = 100))]
    pub namespaces: Vec<NamespaceName>,
}

/// Name of a namespace.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(transparent)]
pub struct NamespaceName(
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))] pub String,
);

/// What becomes of what an object stands for when the object is deleted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It goes.
    Delete,
}

/// Names a cluster-scoped object of our kinds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectName {
    /// Name of the object.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// What the operator knows of a reef. Names stand here before anything is made under them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReefStatus {
    /// Generation of the spec that this status is about; -1 before the operator has looked at the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Current state: `Ready`, one for each part of the reef, and `Reconciling` or `Stalled` while true.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 32))]
    pub conditions: Vec<Condition>,

    /// Value of the annotation `cloud.octopus.com/reconcile-requested-at` that was last served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// Name of the revision of the class that the reef is made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_revision: Option<String>,

    /// Azure location, for example `westeurope`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,

    /// Azure subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<String>,

    /// Name of the resource group that holds all of the reef.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_group: Option<String>,

    /// The reef's IPv4 network, CIDR notation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address_space: Option<String>,

    /// The static address from which the reef calls the Internet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_address: Option<String>,

    /// The Azure SQL server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql_server: Option<SqlServerStatus>,

    /// The elastic pools of the server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 100))]
    pub pools: Vec<PartStatus>,

    /// The storage accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 100))]
    pub storage_accounts: Vec<PartStatus>,

    /// Placements that are decided and do not stand in the instances' own statuses yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uid".into()]))]
    #[schemars(length(max = 32))]
    pub reservations: Vec<ReservationStatus>,

    /// The identity with which the reef's agent works in Azure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_identity: Option<IdentityStatus>,

    /// The AKS cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterStatus>,

    /// How the reef is reached from the Internet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayStatus>,
}

/// A place that is kept for an instance.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReservationStatus {
    /// UID of the CloudInstance, which is the claim.
    #[schemars(length(min = 36, max = 36))]
    pub uid: String,

    /// Namespace of the CloudInstance.
    pub namespace: String,

    /// Name of the CloudInstance.
    pub name: String,

    /// `metadata.generation` of the CloudInstance that it was made for. It is worth nothing to a later one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,

    /// The placement that it is, counted from 1.
    pub generation: i64,

    /// Elastic pool of its database; none if the database has compute of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,

    /// Storage account of its file share.
    pub storage_account: String,

    /// What is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ask: Option<ReservedStatus>,

    /// When it was made.
    pub at: Time,
}

/// What a reservation keeps for an instance.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReservedStatus {
    /// Number of pods.
    pub pods: u64,

    /// CPU that the pods request, millicores.
    pub cpu_millicores: u64,

    /// Memory that the pods request, bytes.
    pub memory_bytes: u64,

    /// Most that the database holds, bytes.
    pub database_bytes: u64,

    /// Most that the file share holds, bytes.
    pub share_bytes: u64,

    /// Whether it is to be on a reef that is dedicated to its namespace.
    pub dedicated_reef: bool,

    /// Whether its database has compute of its own.
    pub dedicated_database: bool,

    /// Its anti-affinity group, within its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anti_affinity_group: Option<String>,
}

/// An Azure SQL server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SqlServerStatus {
    /// Its name, unique in all of Azure.
    pub name: String,

    /// Its host name, once it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// A pool or storage account of a reef.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PartStatus {
    /// Its name in Azure.
    pub name: String,

    /// Whether it has been as wanted at least once. What was ready and is gone is not made again by itself.
    pub ready: bool,
}

/// A managed identity.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IdentityStatus {
    /// Its client id, a UUID.
    pub client_id: String,

    /// Its object id in Entra, a UUID.
    pub principal_id: String,
}

/// An AKS cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Its name in Azure.
    pub name: String,

    /// Host name of its API server, once it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,

    /// Issuer of the tokens of its ServiceAccounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,

    /// Kubernetes version that it runs, for example `1.36.3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// How a reef is reached.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Host name that instances' DNS records point to, for example `weu-1.sandbox.reefs.octopus.example`.
    pub host: String,

    /// Its public address, once the gateway has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}
