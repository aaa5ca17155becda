//! CloudInstance: one Octopus Server with its own database, file share, identity and namespace.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{Condition, Time},
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reef::{DeletionPolicy, ObjectName, protected};

/// What is wanted of an Octopus Server.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cloud.octopus.com",
    version = "v1alpha1",
    kind = "CloudInstance",
    plural = "cloudinstances",
    singular = "cloudinstance",
    shortname = "ci",
    category = "reef-operator",
    namespaced,
    doc = "One Octopus Server with a database, a file share, an identity and a namespace of its own on one of the region's reefs. Its identity is the operator's fleet, its namespace and its name: the same manifest in a new management cluster means the same server.",
    status = "CloudInstanceStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must begin with a lower-case letter, hold only lower-case letters, digits and inner dashes, and have at most 40 characters, because names in Azure are made from it"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version.running"),
    printcolumn(name = "Reef", type_ = "string", json_path = ".status.placement.reef"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Paused", type_ = "string", json_path = ".status.conditions[?(@.type=='Paused')].status", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1),
    printcolumn(name = "Task-Cap", type_ = "integer", json_path = ".spec.taskCap", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.placement) == has(oldSelf.placement)").message("placement is immutable: an instance is placed once")
)]
pub struct CloudInstanceSpec {
    /// The Region that the instance is in. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("regionRef is immutable: create another CloudInstance"))]
    pub region_ref: ObjectName,

    /// First label of the instance's host name: `acme` is served as `acme.<zone of the Region>`. Unique in the
    /// zone. Immutable.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("subdomain is immutable: create another CloudInstance"))]
    pub subdomain: String,

    /// The release of Octopus Server that runs. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("release is immutable: create another CloudInstance"))]
    pub release: Release,

    /// How many tasks the server runs at once: 5, 10, 20, 40, 80 or 160. CPU and memory follow from it. A change reaches
    /// the running server, without a restart: more CPU and memory first, then more tasks. If its node cannot give them,
    /// the condition `Resized` says so and the server goes on with what it has; in `maintenanceWindow` it is moved to a
    /// node that can. Its limit of memory is lowered only when its pod is next made.
    #[x_kube(validation = Rule::new("self in [5, 10, 20, 40, 80, 160]").message("taskCap must be 5, 10, 20, 40, 80 or 160"))]
    pub task_cap: u8,

    /// How much of its reef the instance has for itself. Immutable.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("isolation is immutable: create another CloudInstance"))]
    pub isolation: Isolation,

    /// Which reefs will do. Without it any reef of the region. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("placement is immutable: an instance is placed once"))]
    pub placement: Option<Placement>,

    /// When the server may be started anew for what cannot be done while it runs. Without it the operator does not do
    /// such things by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance_window: Option<MaintenanceWindow>,

    /// Room for the instance's data.
    #[serde(default)]
    pub quota: Quota,

    /// What becomes of database and file share when this object is deleted: `Retain` keeps them, and a
    /// RetainedInstance says where; `Delete` deletes them.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// While true, deletion needs the annotation `confirmation.cloud.octopus.com/deletion=true`.
    #[serde(default = "protected")]
    pub deletion_protection: bool,
}

/// A time of the day, in UTC, at which a server may be out of service for a few minutes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceWindow {
    /// When it begins, UTC, for example `02:00`.
    #[schemars(length(min = 5, max = 5), regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub start: String,

    /// How long it is, seconds: from two hours to a day. It may end on the next day.
    #[serde(default = "shortest_window")]
    #[schemars(range(min = 7200, max = 86_400))]
    pub duration_seconds: u32,

    /// The days on which it begins, for example `[Saturday, Sunday]`. Without them every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 7))]
    pub days: Vec<Day>,
}

fn shortest_window() -> u32 {
    7200
}

/// A day of the week.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

/// A release of Octopus Server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Its version, for example `2026.2.4213`: the tag of the image.
    #[schemars(length(min = 8, max = 20), regex(pattern = r"^20[0-9]{2}\.[1-9]\.[1-9][0-9]{0,6}$"))]
    pub version: String,
}

/// How much an instance shares.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Isolation {
    /// The database of the instance.
    #[serde(default)]
    pub database: DatabaseIsolation,

    /// How much its reef is shared.
    #[serde(default)]
    pub reef: ReefIsolation,
}

/// How much a database shares.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.tier == 'Dedicated') == has(self.sku)").message("sku goes with tier Dedicated, and only with it"))]
pub struct DatabaseIsolation {
    /// `Shared`: in an elastic pool of the reef. `Dedicated`: with compute of its own.
    #[serde(default)]
    pub tier: Tier,

    /// The dedicated compute as Azure names it, for example `S3` or `GP_Gen5_2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 2, max = 16),
        regex(pattern = r"^(Basic|S([0-4679]|12)|P(1|2|4|6|11|15)|(GP|BC)_Gen5_[1-9][0-9]{0,2})$")
    )]
    pub sku: Option<String>,
}

/// How much a reef is shared.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReefIsolation {
    /// `Shared`: with other instances. `Dedicated`: only on a reef that is dedicated to this namespace.
    #[serde(default)]
    pub tier: Tier,
}

/// Shared or not.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    /// With others.
    #[default]
    Shared,
    /// For this instance alone.
    Dedicated,
}

/// Which reefs will do.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.reefRef) || has(self.reefSelector) || has(self.antiAffinityGroup)").message("placement must hold reefRef, reefSelector or antiAffinityGroup"))]
pub struct Placement {
    /// This reef and no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reef_ref: Option<ObjectName>,

    /// Reefs whose labels fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reef_selector: Option<ReefSelector>,

    /// Instances of one group are never on the same reef, for example `acme-production`. A group is one of this
    /// namespace: in another namespace the same name is another group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub anti_affinity_group: Option<String>,
}

/// Labels of reefs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReefSelector {
    /// Labels that a Reef has to have, all of them.
    #[x_kube(validation = Rule::new("self.size() >= 1 && self.size() <= 16").message("matchLabels must hold 1 to 16 labels"))]
    pub match_labels: BTreeMap<String, String>,
}

/// Room for data. It can grow and does not shrink; what somebody enlarged in Azure by hand stays as large.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Most that the file share holds, from `1Gi` to `1Ti`, in whole GiB.
    #[serde(default = "share_quota")]
    #[x_kube(
        validation = Rule::new("isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('1Gi')) >= 0 && quantity(string(self)).compareTo(quantity('1Ti')) <= 0").message("quota.share must be a quantity from 1Gi to 1Ti such as 100Gi"),
        validation = Rule::new("!isQuantity(string(self)) || !isQuantity(string(oldSelf)) || quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0").message("quota.share can only grow")
    )]
    pub share: Quantity,

    /// Most that the database holds, from `1Gi` to `100Gi`: a size that Azure SQL has.
    #[serde(default = "database_quota")]
    #[x_kube(
        validation = Rule::new("string(self) in ['1Gi', '2Gi', '5Gi', '10Gi', '20Gi', '30Gi', '40Gi', '50Gi', '100Gi']").message("quota.database must be 1Gi, 2Gi, 5Gi, 10Gi, 20Gi, 30Gi, 40Gi, 50Gi or 100Gi"),
        validation = Rule::new("!isQuantity(string(self)) || !isQuantity(string(oldSelf)) || quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0").message("quota.database can only grow")
    )]
    pub database: Quantity,
}

impl Default for Quota {
    fn default() -> Self {
        Self { share: share_quota(), database: database_quota() }
    }
}

fn share_quota() -> Quantity {
    Quantity("100Gi".to_owned())
}

fn database_quota() -> Quantity {
    Quantity("10Gi".to_owned())
}

/// What the operator knows of an instance. Names stand here before anything is made under them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CloudInstanceStatus {
    /// Generation of the spec that this status is about; -1 before the operator has looked at the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Current state: `Ready`, one for each part of the instance, and `Reconciling` or `Stalled` while true.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 32))]
    pub conditions: Vec<Condition>,

    /// Value of the annotation `cloud.octopus.com/reconcile-requested-at` that was last served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// Whether the annotation `confirmation.cloud.octopus.com/recreation` has been there while nothing was lost: then it
    /// confirms no later loss, until it is removed and set again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recreation_spent: bool,

    /// Where the instance is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementStatus>,

    /// Why the instance is being taken off its reef again before it ever served, for example `database: ARM answered 409
    /// 40881: the pool is full`. What was made for it there is removed first, then it is placed on another reef.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub leaving: Option<String>,

    /// Reefs on which Azure had no room for the instance, the last one last. For a while it is not placed there again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub refused_on: Vec<RefusedOnStatus>,

    /// Address of the server, for example `https://acme.octopus.example`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,

    /// The releases in play.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionStatus>,

    /// Namespace of the server in the reef's cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,

    /// The database of the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseStatus>,

    /// Its file share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<ShareStatus>,

    /// The managed identity with which the server works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<InstanceIdentityStatus>,
}

/// Where an instance is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlacementStatus {
    /// The Reef that it is on.
    pub reef: String,

    /// Elastic pool of its database; none if the database has compute of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,

    /// Storage account of its file share.
    pub storage_account: String,

    /// Grows with each move, from 1.
    pub generation: i64,

    /// Why this reef, in short.
    pub reason: String,
}

/// A reef on which Azure had no room for an instance.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RefusedOnStatus {
    /// The Reef, for example `weu-1`.
    pub reef: String,

    /// Number of the placement that was given up, for example `1`.
    pub generation: i64,

    /// When it was given up.
    pub at: Time,
}

/// The releases in play.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VersionStatus {
    /// What the server reported last, for example `2026.2.4213`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,

    /// What it is to run.
    pub target: String,
}

/// A database.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// Its Azure SQL server.
    pub server: String,

    /// Its name: `db-`, a hash of the instance's identity, and the number of the incarnation.
    pub name: String,

    /// Whether it has been there at least once. What was there and is gone is not made again by itself.
    pub ready: bool,

    /// When the last try to make it was begun. A deletion waits for what may still come of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begun_at: Option<Time>,
}

/// A file share.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ShareStatus {
    /// Its storage account.
    pub account: String,

    /// Its name: `fs-`, a hash of the instance's identity, and the number of the incarnation.
    pub name: String,

    /// Whether it has been there at least once. What was there and is gone is not made again by itself.
    pub ready: bool,

    /// When the last try to make it was begun. A deletion waits for what may still come of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begun_at: Option<Time>,
}

/// The identity of an instance.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InstanceIdentityStatus {
    /// Its name in the reef's resource group.
    pub name: String,

    /// Its client id, a UUID, once it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}
