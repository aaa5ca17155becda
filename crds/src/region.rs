//! Region: an Azure region as a cell.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the platform team wants of a region. Regions share nothing but the DNS zone.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cloud.octopus.com",
    version = "v1alpha1",
    kind = "Region",
    plural = "regions",
    singular = "region",
    shortname = "rgn",
    category = "reef-operator",
    doc = "An Azure region as a cell: its subscription, DNS zone, address plan and certificate. Regions share nothing but the DNS zone.",
    status = "RegionStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name must have at most 40 characters, because names of Azure resources are made from it"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Location", type_ = "string", json_path = ".spec.location"),
    printcolumn(name = "Stopped", type_ = "string", json_path = ".status.conditions[?(@.type=='EmergencyStopped')].status"),
    printcolumn(name = "Max-Reefs", type_ = "integer", json_path = ".status.network.maxReefs"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Paused", type_ = "string", json_path = ".status.conditions[?(@.type=='Paused')].status", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct RegionSpec {
    /// Name of the Azure region as Azure spells it in resource ids, for example `westeurope`. Immutable.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z][a-z0-9]*$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("location is immutable: create another Region"))]
    pub location: String,

    /// Where in Azure the region is, and as whom the operator works there. Immutable but for `credential`.
    #[x_kube(validation = Rule::new("self.tenantId == oldSelf.tenantId && self.subscriptionId == oldSelf.subscriptionId && has(self.clientId) == has(oldSelf.clientId) && (!has(self.clientId) || self.clientId == oldSelf.clientId) && has(self.cloud) == has(oldSelf.cloud) && (!has(self.cloud) || self.cloud == oldSelf.cloud) && has(self.customCloud) == has(oldSelf.customCloud) && (!has(self.customCloud) || self.customCloud == oldSelf.customCloud)").message("azure is immutable but for its credential: create another Region"))]
    pub azure: AzureSpec,

    /// The DNS zone of the region's instances.
    pub dns: DnsSpec,

    /// The addresses of the region's reefs. Immutable.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("network is immutable: reefs have their ranges from it"))]
    pub network: NetworkSpec,

    /// The certificate that instances of this region serve.
    pub tls: TlsSpec,

    /// Until this time (RFC 3339, UTC), what exists in Azure for a reef of this region and belongs to an earlier
    /// object of the same name is taken over without being asked about: for a management cluster that was lost
    /// and made anew. For example `2026-12-01T00:00:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopt_until: Option<Time>,

    /// What the operator does not begin in this region for now, for example while Azure has an outage. At most 8
    /// entries, one for each verb. What already runs in Azure is followed to its end, and what serves goes on serving.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["verb".into()]))]
    #[schemars(length(max = 8))]
    pub emergency_stop: Vec<EmergencyStop>,
}

/// One thing that is stopped.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EmergencyStop {
    /// What is stopped, for example `Delete`. `Provision`: no new instance gets a place, no new reef is begun, and
    /// nothing that is not there is made in Azure; what was in service once is cared for in its cluster. `Delete`:
    /// nothing is deleted in Azure or in reefs' clusters. `All`: nothing at all is written there; the operator only
    /// looks and reports.
    pub verb: Verb,

    /// Why, for those who find it, 1 to 200 characters, for example `INC-4711: a bad release deletes too much`.
    #[schemars(length(min = 1, max = 200), regex(pattern = r"\S"))]
    pub reason: String,

    /// When the stop ends by itself (RFC 3339, UTC), for example `2026-12-01T00:00:00Z`. Without it the stop lasts until
    /// this entry is removed, and an Event warns once a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// What a stop is about.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Making what is not there.
    Provision,
    /// Deleting.
    Delete,
    /// Every write.
    All,
    /// A verb of a later release, which stops something that this one does not do.
    #[serde(other)]
    #[schemars(skip)]
    Later,
}

impl Verb {
    /// Its name; `Later` where this release does not know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provision => "Provision",
            Self::Delete => "Delete",
            Self::All => "All",
            Self::Later => "Later",
        }
    }
}

/// Where in Azure a region is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.customCloud) == (has(self.cloud) && self.cloud == 'Custom')")
        .message("customCloud goes with cloud Custom, and only with it")
)]
pub struct AzureSpec {
    /// Entra tenant of the subscription, a UUID in lower case.
    #[schemars(length(min = 36, max = 36), regex(pattern = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))]
    pub tenant_id: String,

    /// Subscription of the region's reefs, a UUID in lower case.
    #[schemars(length(min = 36, max = 36), regex(pattern = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))]
    pub subscription_id: String,

    /// Client id of the managed identity that the operator acts as in this region, a UUID in lower case.
    /// Without this field the identity of the chart's `azure.clientId` is used. How it is proven says `credential`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 36, max = 36), regex(pattern = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))]
    pub client_id: Option<String>,

    /// Which of Azure's clouds; `AzurePublic` without this field. `Custom` needs `customCloud`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<CloudName>,

    /// Endpoints of a cloud that is none of the known ones. Only with cloud `Custom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_cloud: Option<CustomCloud>,

    /// How the operator proves that it is this identity. Without this field by workload identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialSpec>,
}

/// How the operator proves to Entra who it is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secretRef) == (self.type in ['ClientSecret', 'ClientCertificate'])")
        .message("secretRef goes with type ClientSecret or ClientCertificate, and only with them")
)]
pub struct CredentialSpec {
    /// `WorkloadIdentity`: the ServiceAccount token of the operator, for which the identity has a federated credential.
    /// `ManagedIdentity`: an identity of the Azure machine that the operator runs on, for which the chart's
    /// `networkPolicy.extraEgress` has to let it reach the machine's metadata service, 169.254.169.254 port 80.
    /// `ClientSecret` and `ClientCertificate`: what the Secret of `secretRef` holds. `DeveloperTools`: whoever is signed in
    /// to the tenant with `az` or `azd` where the operator runs, whatever `clientId` says; for trying it out on one's own
    /// machine, not for clusters.
    #[serde(rename = "type")]
    pub kind: CredentialType,

    /// Secret with key `clientSecret`, or, of type `kubernetes.io/tls`, with an RSA certificate of the application and
    /// its private key. A new content is used when the Region is next looked at, at once in the operator's own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
}

/// Ways to prove an identity.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CredentialType {
    /// A ServiceAccount token.
    WorkloadIdentity,
    /// The machine.
    ManagedIdentity,
    /// A password of the application.
    ClientSecret,
    /// A certificate of the application.
    ClientCertificate,
    /// Azure's command line.
    DeveloperTools,
}

/// A cloud of Azure.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloudName {
    /// The public cloud.
    AzurePublic,
    /// Azure Government.
    #[serde(rename = "AzureUSGovernment")]
    AzureUsGovernment,
    /// Azure in China, operated by 21Vianet.
    AzureChina,
    /// Another one, for example an air-gapped one.
    Custom,
}

/// Endpoints of a cloud. URLs have no path.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CustomCloud {
    /// URL of Azure Resource Manager, for example `https://management.local.azurestack.external`.
    #[schemars(
        length(min = 9, max = 253),
        regex(pattern = r"^https://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$")
    )]
    pub resource_manager: String,

    /// For whom the tokens are that Azure Resource Manager takes, a URI without a slash at its end. The URL of
    /// `resourceManager` without this field.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[^\s]*[^\s/]$"))]
    pub audience: Option<String>,

    /// URL of Entra, for example `https://login.microsoftonline.com`.
    #[schemars(
        length(min = 9, max = 253),
        regex(pattern = r"^https://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$")
    )]
    pub authority: String,

    /// For whom the tokens are that Azure SQL takes, a URI without a slash at its end, for example
    /// `https://database.windows.net`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[^\s]*[^\s/]$"))]
    pub sql_audience: String,

    /// What comes after `file.` in the host names of file shares, for example `core.windows.net`.
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub storage_suffix: String,
}

/// Which DNS zone a region's instances are in.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DnsSpec {
    /// Resource id of an existing public DNS zone, for example
    /// `/subscriptions/<uuid>/resourceGroups/platform/providers/Microsoft.Network/dnsZones/octopus.example`.
    /// Several regions may name the same zone. The operator never makes or deletes a zone. Immutable.
    #[schemars(
        length(min = 1, max = 512),
        regex(
            pattern = r"^/subscriptions/[0-9a-f-]{36}/resourceGroups/[-\w.()]{1,90}/providers/Microsoft\.Network/dnsZones/[a-z0-9][-a-z0-9.]{1,252}$"
        )
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("zoneId is immutable: create another Region"))]
    pub zone_id: String,

    /// How long resolvers may keep our records, seconds. A change reaches records when they are next looked at.
    #[serde(default = "default_ttl")]
    #[schemars(range(min = 30, max = 86_400))]
    pub ttl_seconds: u32,
}

fn default_ttl() -> u32 {
    300
}

impl DnsSpec {
    /// Name of the zone, for example `octopus.example`.
    pub fn zone_name(&self) -> &str {
        self.zone_id.rsplit('/').next().unwrap_or_default()
    }
}

/// How the region's address space is cut into reefs and subnets.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("isCIDR(self.addressSpace) && cidr(self.addressSpace).ip().family() == 4 && cidr(self.addressSpace) == cidr(self.addressSpace).masked()")
        .message("addressSpace must be an IPv4 network in CIDR notation with no host bits set, for example 10.0.0.0/8"),
    validation = Rule::new("!isCIDR(self.addressSpace) || cidr(self.addressSpace).ip().family() != 4 || ['172.16.0.0/16', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16', '168.63.129.16/32', '224.0.0.0/3'].all(r, !cidr(self.addressSpace).containsCIDR(r) && !cidr(r).containsCIDR(self.addressSpace))")
        .message("addressSpace must not overlap 172.16.0.0/16 (services) or 100.64.0.0/10 (pods), which the clusters use themselves, nor what Azure reserves: 127.0.0.0/8, 169.254.0.0/16, 168.63.129.16, 224.0.0.0/3"),
    validation = Rule::new("!isCIDR(self.addressSpace) || cidr(self.addressSpace).prefixLength() <= self.reefPrefixLength")
        .message("reefPrefixLength must not be smaller than the prefix length of addressSpace"),
    validation = Rule::new("self.reefPrefixLength < self.subnetPrefixLength")
        .message("subnetPrefixLength must be greater than reefPrefixLength")
)]
pub struct NetworkSpec {
    /// IPv4 network in CIDR notation from which each reef gets a range. Must not overlap 172.16.0.0/16 or
    /// 100.64.0.0/10, nor another network that reefs are to be peered with.
    #[serde(default = "default_address_space")]
    #[schemars(length(min = 9, max = 18))]
    pub address_space: String,

    /// Length in bits of the prefix of a reef's network: 16 gives each reef 65,536 addresses.
    #[serde(default = "default_reef_prefix")]
    #[schemars(range(min = 8, max = 24))]
    pub reef_prefix_length: u8,

    /// Length in bits of the prefix of a subnet of a reef: 20 gives 16 subnets of 4,096 addresses in a /16.
    #[serde(default = "default_subnet_prefix")]
    #[schemars(range(min = 9, max = 28))]
    pub subnet_prefix_length: u8,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            address_space: default_address_space(),
            reef_prefix_length: default_reef_prefix(),
            subnet_prefix_length: default_subnet_prefix(),
        }
    }
}

fn default_address_space() -> String {
    "10.0.0.0/8".to_owned()
}
fn default_reef_prefix() -> u8 {
    16
}
fn default_subnet_prefix() -> u8 {
    20
}

/// Where the certificate is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Secret of type `kubernetes.io/tls` with the wildcard certificate of the DNS zone and its private key.
    pub secret_ref: SecretReference,
}

/// Names a Secret from a cluster-scoped object.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Namespace of the Secret, for example `reef-system`. The operator may read Secrets only in its own
    /// namespace and in those listed in the chart's `rbac.secretNamespaces`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: String,

    /// Name of the Secret, for example `wildcard-tls`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// What the operator knows of a region.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RegionStatus {
    /// The `metadata.generation` that the rest of the status speaks of; -1 before the first look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready`, `Reconciling`, `Stalled`, `CredentialsValid`, `DNSZoneReady` and `CertificateReady`, and `EmergencyStopped`
    /// and `Paused` while they are true; see the list of conditions in the reference.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,

    /// The last value of the annotation `cloud.octopus.com/reconcile-requested-at` that was acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// What the address plan gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkStatus>,

    /// The DNS zone as it was last read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsStatus>,

    /// The certificate as it was last read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
}

/// What the address plan gives.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStatus {
    /// How many reefs the address space has room for, for example 256.
    pub max_reefs: u32,

    /// How many subnets each reef has room for, for example 16.
    pub subnets_per_reef: u32,
}

/// The DNS zone as it was last read.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DnsStatus {
    /// Name of the zone, for example `octopus.example`.
    pub zone_name: String,

    /// Azure's servers of the zone, to which the parent zone has to delegate; at most the first 8.
    #[schemars(length(max = 8))]
    pub name_servers: Vec<String>,
}

/// The certificate as it was last read: public facts only.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// DNS names that the certificate is for, for example `*.octopus.example`; at most the first 20.
    #[schemars(length(max = 20))]
    pub dns_names: Vec<String>,

    /// Begin of its validity (UTC).
    pub not_before: Time,

    /// End of its validity (UTC).
    pub not_after: Time,

    /// SHA-256 of the certificate in hexadecimal, to compare with what a server shows.
    pub sha256: String,
}
