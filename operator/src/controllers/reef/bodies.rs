//! What each part of a reef has to be: its id, API version and body (pure).

use std::collections::BTreeMap;

use azure_mgmt_sql::package_preview_2024_05::models::{
    ElasticPool, ElasticPoolPerDatabaseSettings, ElasticPoolProperties, Server, ServerExternalAdministrator,
    ServerProperties, Sku, TrackedResource, server_external_administrator, server_properties,
};
use reef_crds::{
    quantity,
    reef_class::{ClusterTier, NodePool, NodePoolMode, ReefClassSpec},
};
use serde_json::{Value, json};

use super::{
    names::{self, TAG_CLAIM, TAG_REVISION},
    parts::Part,
};
use crate::{azure::Unless, controller::hash, resources::decide::Wanted};

/// Everything that the bodies follow from, beside what was seen of other parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The operator's fleet.
    pub fleet: String,
    /// Name of the Region.
    pub region: String,
    /// Name of the Reef.
    pub reef: String,
    /// UID of the Reef object.
    pub uid: String,
    /// Azure location.
    pub location: String,
    /// Azure subscription.
    pub subscription: String,
    /// Entra tenant.
    pub tenant: String,
    /// Id of the DNS zone.
    pub zone: String,
    /// Life of DNS records, seconds.
    pub ttl: u32,
    /// The reef's network and its first subnet, CIDR notation.
    pub address_space: String,
    /// The subnet of the nodes.
    pub subnet: String,
    /// Name of the SQL server.
    pub sql_server: String,
    /// Names of the storage accounts, from number 1.
    pub storage_accounts: Vec<String>,
    /// How many elastic pools there are.
    pub pools: u8,
    /// Name of the class's revision.
    pub revision: String,
    /// The class.
    pub class: ReefClassSpec,
    /// Object id of the operator, once known.
    pub operator: Option<String>,
    /// Public address of the reef's gateway, once known.
    pub gateway: Option<String>,
    /// Client id of the agent's identity as it was last seen.
    pub agent_client: Option<String>,
}

/// Namespace of what the operator keeps in a reef's cluster.
pub const NAMESPACE: &str = "reef-system";
/// ServiceAccount of the reef's agent.
pub const AGENT: &str = "reef-agent";

const NETWORK_CONTRIBUTOR: &str = "4d97b98b-1d4f-4787-a291-c67834d212e7";
const AKS_RBAC_CLUSTER_ADMIN: &str = "b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b";
/// Versions of Azure's APIs.
pub const GROUPS_API: &str = "2021-04-01";
/// API of networks.
pub const NETWORK_API: &str = "2025-03-01";
/// API of managed identities.
pub const IDENTITY_API: &str = "2023-01-31";
/// API of Azure SQL.
pub const SQL_API: &str = "2023-08-01";
/// API of storage.
pub const STORAGE_API: &str = "2025-06-01";
/// API of AKS: the first stable one with the managed Gateway API is of February 2026.
pub const AKS_API: &str = "2026-03-01";
const ROLES_API: &str = "2022-04-01";
/// API of locks.
pub const LOCKS_API: &str = "2016-09-01";
/// API of DNS.
pub const DNS_API: &str = "2018-05-01";

impl Inputs {
    /// Id of the resource group.
    pub fn group(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}",
            self.subscription,
            names::group(&self.fleet, &self.reef)
        )
    }

    fn in_group(&self, provider_and_name: &str) -> String {
        format!("{}/providers/{provider_and_name}", self.group())
    }

    /// The marks of this reef.
    pub fn tags(&self) -> Value {
        names::tags(&self.fleet, &self.region, &self.reef)
    }

    /// All parts.
    pub fn parts(&self) -> Vec<Part> {
        let accounts = u8::try_from(self.storage_accounts.len()).unwrap_or(u8::MAX);
        let others =
            (0u8..).zip(&self.class.cluster.node_pools).filter(|(_, p)| p.mode == NodePoolMode::User);
        super::parts::all(self.pools, accounts, &others.map(|(n, _)| n).collect::<Vec<_>>())
    }

    /// Id of a part.
    pub fn id(&self, part: Part) -> String {
        let server = || self.in_group(&format!("Microsoft.Sql/servers/{}", self.sql_server));
        let account = |n: u8| {
            let name = self.storage_accounts.get(usize::from(n.saturating_sub(1))).map_or("", String::as_str);
            self.in_group(&format!("Microsoft.Storage/storageAccounts/{name}"))
        };
        let cluster = names::cluster(&self.fleet, &self.reef);
        let lock =
            |of: Part| format!("{}/providers/Microsoft.Authorization/locks/reef-operator", self.id(of));
        match part {
            Part::Group => self.group(),
            Part::SecurityGroup => self.in_group("Microsoft.Network/networkSecurityGroups/nodes"),
            Part::EgressAddress => self.in_group("Microsoft.Network/publicIPAddresses/egress"),
            Part::NatGateway => self.in_group("Microsoft.Network/natGateways/egress"),
            Part::Network => self.in_group("Microsoft.Network/virtualNetworks/reef"),
            Part::AgentIdentity => self.in_group("Microsoft.ManagedIdentity/userAssignedIdentities/agent"),
            Part::ClusterIdentity => {
                self.in_group("Microsoft.ManagedIdentity/userAssignedIdentities/cluster")
            }
            Part::SqlServer => server(),
            Part::SqlNetworkRule => format!("{}/virtualNetworkRules/nodes", server()),
            Part::Pool(n) => format!("{}/elasticPools/{}", server(), names::pool(n)),
            Part::StorageAccount(n) => account(n),
            Part::FileService(n) => format!("{}/fileServices/default", account(n)),
            Part::Cluster => self.in_group(&format!("Microsoft.ContainerService/managedClusters/{cluster}")),
            Part::NodePool(n) => {
                let name = self.node_pool(n).map_or("", |p| p.name.as_str());
                format!("{}/agentPools/{name}", self.id(Part::Cluster))
            }
            Part::ClusterNetworkRole => self.role(Part::Network, NETWORK_CONTRIBUTOR, "cluster"),
            // An assignment's principal cannot be changed, and a new management cluster may come with another
            // identity: so the name follows from it. Unknown while we do not know who we are.
            Part::ClusterAdmin => match self.operator.as_deref() {
                Some(operator) => self.role(Part::Cluster, AKS_RBAC_CLUSTER_ADMIN, operator),
                None => String::new(),
            },
            Part::AgentFederation => {
                format!("{}/federatedIdentityCredentials/{AGENT}", self.id(Part::AgentIdentity))
            }
            Part::NetworkLock => lock(Part::Network),
            Part::PoolLock(n) => lock(Part::Pool(n)),
            Part::ClusterLock => lock(Part::Cluster),
            Part::Record => format!("{}/A/{}", self.zone, names::record(&self.fleet, &self.reef)),
        }
    }

    /// A role assignment at a part, by a name that follows from what it says.
    fn role(&self, at: Part, role: &str, whose: &str) -> String {
        let scope = self.id(at);
        let name = hash::uuid(&["role", &scope.to_lowercase(), role, whose]);
        format!("{scope}/providers/Microsoft.Authorization/roleAssignments/{name}")
    }

    fn node_pool(&self, n: u8) -> Option<&NodePool> {
        self.class.cluster.node_pools.get(usize::from(n))
    }

    /// Id of the subnet of the nodes.
    pub fn subnet_id(&self) -> String {
        format!("{}/subnets/nodes", self.id(Part::Network))
    }

    /// What a part has to be, with what was seen of the others.
    pub fn wanted(&self, part: Part, seen: &BTreeMap<Part, Value>) -> Wanted {
        let (api, body) = match part {
            Part::Group => (GROUPS_API, Some(self.group_body())),
            Part::SecurityGroup => (
                NETWORK_API,
                Some(self.tracked(json!({ "properties": { "securityRules": security_rules() } }))),
            ),
            Part::EgressAddress => (NETWORK_API, Some(self.tracked(egress_address()))),
            Part::NatGateway => (NETWORK_API, Some(self.tracked(self.nat_gateway()))),
            Part::Network => (NETWORK_API, Some(self.tracked(self.network()))),
            Part::AgentIdentity | Part::ClusterIdentity => (IDENTITY_API, Some(self.tracked(json!({})))),
            Part::SqlServer => {
                (SQL_API, seen.get(&Part::AgentIdentity).and_then(|agent| self.sql_server_body(agent)))
            }
            Part::SqlNetworkRule => {
                (SQL_API, Some(json!({ "properties": { "virtualNetworkSubnetId": self.subnet_id() } })))
            }
            Part::Pool(_) => (SQL_API, self.pool_body()),
            Part::StorageAccount(_) => (STORAGE_API, Some(self.tracked(self.storage_account()))),
            Part::FileService(_) => (STORAGE_API, Some(self.file_service())),
            Part::Cluster => (AKS_API, Some(self.tracked(self.cluster_body()))),
            Part::NodePool(n) => {
                (AKS_API, self.node_pool(n).map(|p| json!({ "properties": self.node_pool_body(p) })))
            }
            Part::ClusterNetworkRole => {
                let principal =
                    seen.get(&Part::ClusterIdentity).and_then(|i| i["properties"]["principalId"].as_str());
                (ROLES_API, principal.map(|p| self.role_body(NETWORK_CONTRIBUTOR, p)))
            }
            Part::ClusterAdmin => {
                (ROLES_API, self.operator.as_deref().map(|p| self.role_body(AKS_RBAC_CLUSTER_ADMIN, p)))
            }
            Part::AgentFederation => (IDENTITY_API, seen.get(&Part::Cluster).and_then(federation)),
            Part::NetworkLock | Part::PoolLock(_) | Part::ClusterLock => (LOCKS_API, Some(lock())),
            Part::Record => (DNS_API, self.gateway.as_deref().map(|address| self.record(address))),
        };
        let unless = if part == Part::Record { Unless::Exists } else { Unless::Never };
        Wanted { id: self.id(part), api, body, unless }
    }

    fn tracked(&self, mut body: Value) -> Value {
        body["location"] = json!(self.location);
        body["tags"] = self.tags();
        body
    }

    fn group_body(&self) -> Value {
        let mut body = self.tracked(json!({}));
        body["tags"][TAG_CLAIM] = json!(self.uid);
        body["tags"][TAG_REVISION] = json!(self.revision);
        body
    }

    fn nat_gateway(&self) -> Value {
        json!({
            "sku": { "name": "Standard" },
            "properties": { "idleTimeoutInMinutes": 10, "publicIpAddresses": [{ "id": self.id(Part::EgressAddress) }] },
        })
    }

    fn network(&self) -> Value {
        let subnet = json!({
            "addressPrefix": self.subnet,
            "networkSecurityGroup": { "id": self.id(Part::SecurityGroup) },
            "natGateway": { "id": self.id(Part::NatGateway) },
            "serviceEndpoints": [{ "service": "Microsoft.Sql" }, { "service": "Microsoft.Storage" }],
        });
        json!({ "properties": {
            "addressSpace": { "addressPrefixes": [self.address_space] },
            "subnets": [{ "name": "nodes", "properties": subnet }],
        }})
    }

    /// Entra only, with the agent as the only administrator, reachable from the reef's subnet only.
    fn sql_server_body(&self, agent: &Value) -> Option<Value> {
        let administrator = ServerExternalAdministrator {
            administrator_type: Some(server_external_administrator::AdministratorType::ActiveDirectory),
            principal_type: Some(server_external_administrator::PrincipalType::Application),
            login: Some(names::group(&self.fleet, &self.reef)),
            sid: Some(agent["properties"]["principalId"].as_str()?.to_owned()),
            tenant_id: Some(self.tenant.clone()),
            azure_ad_only_authentication: Some(true),
        };
        let server = Server {
            properties: Some(ServerProperties {
                version: Some("12.0".to_owned()),
                minimal_tls_version: Some(server_properties::MinimalTlsVersion::N1_2),
                // Reachable by the network rule only: there is no firewall rule.
                public_network_access: Some(server_properties::PublicNetworkAccess::Enabled),
                administrators: Some(administrator),
                ..ServerProperties::default()
            }),
            ..Server::new(self.tracked_resource())
        };
        typed(&server)
    }

    fn pool_body(&self) -> Option<Value> {
        let class = &self.class.sql.pool;
        let (name, tier) = class.sku.name_and_tier();
        let sku = Sku {
            tier: Some(tier.to_owned()),
            family: class.sku.family().map(str::to_owned),
            capacity: Some(i32::from(class.capacity)),
            ..Sku::new(name.to_owned())
        };
        let limits = ElasticPoolPerDatabaseSettings {
            min_capacity: quantity::number(&class.per_database.min.0),
            max_capacity: quantity::number(&class.per_database.max.0),
            ..ElasticPoolPerDatabaseSettings::default()
        };
        let pool = ElasticPool {
            sku: Some(sku),
            properties: Some(ElasticPoolProperties {
                max_size_bytes: class.max_size.as_ref().and_then(|size| quantity::bytes(&size.0)),
                per_database_settings: Some(limits),
                ..ElasticPoolProperties::default()
            }),
            ..ElasticPool::new(self.tracked_resource())
        };
        typed(&pool)
    }

    fn tracked_resource(&self) -> TrackedResource {
        TrackedResource { tags: Some(self.tags()), ..TrackedResource::new(self.location.clone()) }
    }

    fn storage_account(&self) -> Value {
        json!({
            "kind": "StorageV2",
            "sku": { "name": self.class.storage.sku.as_str() },
            "properties": {
                "minimumTlsVersion": "TLS1_2",
                "supportsHttpsTrafficOnly": true,
                "allowBlobPublicAccess": false,
                // Nodes mount shares with the account's key, which stays in reef-system.
                "allowSharedKeyAccess": true,
                "publicNetworkAccess": "Enabled",
                "networkAcls": {
                    "bypass": "None", "defaultAction": "Deny", "ipRules": [],
                    "virtualNetworkRules": [{ "id": self.subnet_id(), "action": "Allow" }],
                },
            },
        })
    }

    fn file_service(&self) -> Value {
        json!({ "properties": { "shareDeleteRetentionPolicy": { "enabled": true, "days": self.class.storage.soft_delete_days } } })
    }

    fn cluster_body(&self) -> Value {
        let class = &self.class.cluster;
        let system = class.node_pools.iter().filter(|p| p.mode == NodePoolMode::System);
        let pools: Vec<_> = system
            .map(|pool| {
                let mut body = self.node_pool_body(pool);
                body["name"] = json!(pool.name);
                body
            })
            .collect();
        let tier = match class.tier {
            ClusterTier::Free => "Free",
            ClusterTier::Standard => "Standard",
            ClusterTier::Premium => "Premium",
        };
        json!({
            "sku": { "name": "Base", "tier": tier },
            "identity": { "type": "UserAssigned", "userAssignedIdentities": { self.id(Part::ClusterIdentity): {} } },
            "properties": {
                "dnsPrefix": names::cluster(&self.fleet, &self.reef),
                "kubernetesVersion": class.kubernetes_version,
                // Azure's own choice would name group, cluster and location, and may become too long.
                "nodeResourceGroup": format!("{}-nodes", names::group(&self.fleet, &self.reef)),
                "enableRBAC": true,
                "disableLocalAccounts": true,
                "aadProfile": { "managed": true, "enableAzureRBAC": true },
                "oidcIssuerProfile": { "enabled": true },
                "securityProfile": { "workloadIdentity": { "enabled": true } },
                "networkProfile": {
                    "networkPlugin": "azure", "networkPluginMode": "overlay",
                    "networkDataplane": "cilium", "networkPolicy": "cilium",
                    "podCidr": reef_crds::network::POD_CIDR, "serviceCidr": reef_crds::network::SERVICE_CIDR,
                    "dnsServiceIP": "172.16.0.10", "outboundType": "userAssignedNATGateway", "loadBalancerSku": "standard",
                },
                "storageProfile": { "fileCSIDriver": { "enabled": true } },
                // Versions change when the class says so, not by themselves.
                "autoUpgradeProfile": { "upgradeChannel": "none", "nodeOSUpgradeChannel": "None" },
                "ingressProfile": {
                    "gatewayAPI": { "installation": "Standard" },
                    "webAppRouting": {
                        "enabled": true,
                        "nginx": { "defaultIngressControllerType": "None" },
                        "gatewayAPIImplementations": { "appRoutingIstio": { "mode": "Enabled" } },
                    },
                },
                "agentPoolProfiles": pools,
            },
        })
    }

    /// Without a count: the autoscaler owns it.
    fn node_pool_body(&self, pool: &NodePool) -> Value {
        let mode = if pool.mode == NodePoolMode::System { "System" } else { "User" };
        json!({
            "mode": mode, "type": "VirtualMachineScaleSets", "osType": "Linux", "vmSize": pool.vm_size,
            "enableAutoScaling": true, "minCount": pool.min_count, "maxCount": pool.max_count,
            "vnetSubnetID": self.subnet_id(),
        })
    }

    fn role_body(&self, role: &str, principal: &str) -> Value {
        let definition = format!(
            "/subscriptions/{}/providers/Microsoft.Authorization/roleDefinitions/{role}",
            self.subscription
        );
        json!({ "properties": {
            "roleDefinitionId": definition, "principalId": principal,
            // Without it Entra is asked about an identity that it may not know yet.
            "principalType": "ServicePrincipal",
        }})
    }

    fn record(&self, address: &str) -> Value {
        json!({ "properties": { "TTL": self.ttl, "ARecords": [{ "ipv4Address": address }], "metadata": self.tags() } })
    }
}

/// From the Internet to the gateway only. Azure's own last rule denies everything else.
fn security_rules() -> Value {
    json!([{ "name": "gateway", "properties": {
        "priority": 100, "direction": "Inbound", "access": "Allow", "protocol": "Tcp",
        "sourceAddressPrefix": "Internet", "sourcePortRange": "*",
        "destinationAddressPrefix": "*", "destinationPortRange": "443",
    }}])
}

fn egress_address() -> Value {
    json!({ "sku": { "name": "Standard" }, "properties": { "publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4" } })
}

fn federation(cluster: &Value) -> Option<Value> {
    let issuer = cluster["properties"]["oidcIssuerProfile"]["issuerURL"].as_str()?;
    let subject = format!("system:serviceaccount:{NAMESPACE}:{AGENT}");
    Some(
        json!({ "properties": { "issuer": issuer, "subject": subject, "audiences": ["api://AzureADTokenExchange"] } }),
    )
}

fn lock() -> Value {
    json!({ "properties": { "level": "CanNotDelete", "notes": "The reef operator removes this lock when the Reef is deleted." } })
}

/// A typed body without its nulls: the crate sends dates that are not set as null.
/// A typed body as JSON, without what Azure does not take.
pub fn typed(body: &impl serde::Serialize) -> Option<Value> {
    let mut value = serde_json::to_value(body).ok()?;
    strip(&mut value);
    Some(value)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip);
            map.retain(|_, value| !matches!(value, Value::Array(list) if list.is_empty()));
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}
