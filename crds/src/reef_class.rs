//! ReefClass: the blueprint of a reef.

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Condition};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What reefs of a class are made of.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cloud.octopus.com",
    version = "v1alpha1",
    kind = "ReefClass",
    plural = "reefclasses",
    singular = "reefclass",
    shortname = "rfc",
    category = "reef-operator",
    doc = "The blueprint of reefs: cluster, SQL pools and storage. Each edit is a revision; a reef keeps the revision that it was made from, so an edit reaches new reefs only.",
    status = "ReefClassStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name must have at most 40 characters, because names of revisions are made from it"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Kubernetes", type_ = "string", json_path = ".spec.cluster.kubernetesVersion"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.sql.pool.sku"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct ReefClassSpec {
    /// The AKS cluster of a reef.
    pub cluster: ClusterClass,

    /// The Azure SQL server of a reef and its elastic pools.
    pub sql: SqlClass,

    /// The storage accounts of a reef.
    pub storage: StorageClass,

    /// How many instances a reef takes.
    #[serde(default)]
    pub capacity: Capacity,
}

/// How many instances a reef takes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Most instances on a reef. Each has an identity in the reef's resource group, which holds 800 resources of a
    /// type.
    #[serde(default = "max_instances")]
    #[schemars(range(min = 1, max = 780))]
    pub max_instances: u16,

    /// Percent of each limit that is kept free while another reef has room.
    #[serde(default = "reserve_percent")]
    #[schemars(range(min = 0, max = 50))]
    pub reserve_percent: u8,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { max_instances: max_instances(), reserve_percent: reserve_percent() }
    }
}

fn max_instances() -> u16 {
    300
}

fn reserve_percent() -> u8 {
    10
}

/// The AKS cluster of a reef.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.nodePools.exists_one(p, p.mode == 'System')").message("nodePools must hold exactly one pool with mode System"),
    validation = Rule::new("self.nodePools.all(p, self.nodePools.exists_one(q, q.name == p.name))").message("nodePools must have different names")
)]
pub struct ClusterClass {
    /// Kubernetes version of control plane and nodes, for example `1.36`: AKS chooses the newest patch.
    #[schemars(length(min = 4, max = 12), regex(pattern = r"^1\.[0-9]{2}(\.[0-9]{1,2})?$"))]
    pub kubernetes_version: String,

    /// Tier of the control plane. `Free` has no service level agreement and is for trials.
    #[serde(default)]
    pub tier: ClusterTier,

    /// Node pools: one with mode `System`, and up to nine others.
    #[schemars(length(min = 1, max = 10))]
    pub node_pools: Vec<NodePool>,

    /// Class of the reef's Gateway. AKS's managed one is `approuting-istio`.
    #[serde(default = "default_gateway_class")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub gateway_class_name: String,
}

fn default_gateway_class() -> String {
    "approuting-istio".to_owned()
}

/// Tier of an AKS control plane.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterTier {
    /// No service level agreement.
    Free,
    /// With a service level agreement.
    #[default]
    Standard,
    /// With long-term support of versions.
    Premium,
}

/// A group of equal nodes that grows and shrinks by itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minCount <= self.maxCount").message("minCount must not be greater than maxCount"))]
pub struct NodePool {
    /// Name of the pool in Azure, for example `system`: at most 12 lower-case letters and digits.
    #[schemars(length(min = 1, max = 12), regex(pattern = r"^[a-z][a-z0-9]*$"))]
    pub name: String,

    /// Whether the cluster's own workloads run here (`System`) or instances (`User`).
    pub mode: NodePoolMode,

    /// Size of the nodes as Azure spells it, for example `Standard_D4s_v5`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_]+$"))]
    pub vm_size: String,

    /// Smallest number of nodes.
    #[schemars(range(min = 1, max = 1000))]
    pub min_count: u16,

    /// Largest number of nodes.
    #[schemars(range(min = 1, max = 1000))]
    pub max_count: u16,
}

/// What a node pool is for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePoolMode {
    /// The cluster's own workloads.
    System,
    /// Instances.
    User,
}

/// The Azure SQL server of a reef.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SqlClass {
    /// The elastic pools.
    pub pool: PoolClass,
}

/// An elastic pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolClass {
    /// Kind of pool: by DTU (`BasicPool`, `StandardPool`, `PremiumPool`) or by vCore (`GP_Gen5`, `BC_Gen5`).
    pub sku: PoolSku,

    /// Size of the pool: eDTU or vCores.
    #[schemars(range(min = 2, max = 4000))]
    pub capacity: u16,

    /// Storage of the pool, for example `100Gi`. Without it, what Azure gives a pool of this size.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('1Gi'))").message("maxSize must be a quantity of more than 1Gi such as 100Gi"))]
    pub max_size: Option<Quantity>,

    /// What one database gets of the pool.
    pub per_database: PerDatabase,

    /// Most databases in a pool. Azure's own limit is 500, and 100 for small pools.
    #[serde(default = "max_databases")]
    #[schemars(range(min = 1, max = 500))]
    pub max_databases: u16,
}

fn max_databases() -> u16 {
    100
}

/// What one database gets of a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!isQuantity(string(self.min)) || !isQuantity(string(self.max)) || quantity(string(self.min)).compareTo(quantity(string(self.max))) <= 0").message("perDatabase.min must not be greater than perDatabase.max"))]
pub struct PerDatabase {
    /// eDTU or vCores that each database always has, for example `0` or `250m`. With many databases only 0 fits.
    #[x_kube(validation = Rule::new("isQuantity(string(self))").message("min must be a quantity such as 0 or 250m"))]
    pub min: Quantity,

    /// eDTU or vCores that one database gets at most, for example `50`.
    #[x_kube(validation = Rule::new("isQuantity(string(self))").message("max must be a quantity such as 50 or 2"))]
    pub max: Quantity,
}

/// Kind of an elastic pool.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "Azure's spelling")]
pub enum PoolSku {
    /// By DTU, tier Basic.
    BasicPool,
    /// By DTU, tier Standard.
    StandardPool,
    /// By DTU, tier Premium.
    PremiumPool,
    /// By vCore, tier GeneralPurpose.
    GP_Gen5,
    /// By vCore, tier BusinessCritical.
    BC_Gen5,
}

impl PoolSku {
    /// Name and tier of the SKU as Azure spells them.
    pub const fn name_and_tier(self) -> (&'static str, &'static str) {
        match self {
            Self::BasicPool => ("BasicPool", "Basic"),
            Self::StandardPool => ("StandardPool", "Standard"),
            Self::PremiumPool => ("PremiumPool", "Premium"),
            Self::GP_Gen5 => ("GP_Gen5", "GeneralPurpose"),
            Self::BC_Gen5 => ("BC_Gen5", "BusinessCritical"),
        }
    }

    /// Hardware family, which SKUs by vCore have.
    pub const fn family(self) -> Option<&'static str> {
        match self {
            Self::GP_Gen5 | Self::BC_Gen5 => Some("Gen5"),
            _ => None,
        }
    }
}

/// The storage accounts of a reef.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StorageClass {
    /// Redundancy: within one zone (`Standard_LRS`) or over three (`Standard_ZRS`). Azure cannot change it in place.
    pub sku: StorageSku,

    /// Days for which a deleted file share can be undeleted.
    #[schemars(range(min = 1, max = 365))]
    pub soft_delete_days: u16,

    /// Most file shares in an account. They share its 20,000 input and output operations a second.
    #[serde(default = "shares_per_account")]
    #[schemars(range(min = 1, max = 1000))]
    pub shares_per_account: u16,
}

fn shares_per_account() -> u16 {
    200
}

/// Redundancy of a storage account.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "Azure's spelling")]
pub enum StorageSku {
    /// Three copies in one zone.
    Standard_LRS,
    /// A copy in each of three zones.
    Standard_ZRS,
}

impl StorageSku {
    /// As Azure spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard_LRS => "Standard_LRS",
            Self::Standard_ZRS => "Standard_ZRS",
        }
    }
}

/// What the operator knows of a class.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReefClassStatus {
    /// Generation of the spec that this status is about; -1 before the operator has looked at the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Current state: `Ready`, and `Reconciling` or `Stalled` while true.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 32))]
    pub conditions: Vec<Condition>,

    /// Value of the annotation `cloud.octopus.com/reconcile-requested-at` that was last served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// Name of the revision that new reefs are made from, for example `standard-4f1c9a07d2`: a ControllerRevision
    /// in the operator's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}
