//! What a provider makes of what was sent: its defaults, its spelling, and what only it knows.

use serde_json::{Map, Value, json};

use super::{
    id::{Target, key},
    kinds::uuid,
};

/// The properties as they are stored. `old` are those of the resource so far.
pub fn properties(
    target: &Target,
    sent: &Value,
    old: Option<&Value>,
    id: &str,
    (seed, born): (u64, u64),
) -> Map<String, Value> {
    let mut made = Made { map: sent["properties"].as_object().cloned().unwrap_or_default(), old };
    let kind = target.kind();
    match kind.split('/').next().unwrap_or_default() {
        "microsoft.network" => network(&mut made, target, &kind, id, seed),
        "microsoft.sql" => sql(&mut made, target, sent, &kind, id, (seed, born)),
        "microsoft.storage" => storage(&mut made, target, &kind),
        "microsoft.containerservice" => aks(&mut made, target, sent, &kind, id, seed),
        _ => {}
    }
    match kind.as_str() {
        "microsoft.managedidentity/userassignedidentities" => {
            made.add("tenantId", json!(super::TENANT));
            made.add("principalId", json!(uuid(seed, &format!("{id}#principal"))));
            made.add("clientId", json!(uuid(seed, &format!("{id}#client"))));
        }
        "microsoft.authorization/roleassignments" => made.set("scope", json!(target.scope)),
        _ => {}
    }
    made.map
}

struct Made<'a> {
    map: Map<String, Value>,
    old: Option<&'a Value>,
}

impl Made<'_> {
    /// What was sent stays; else what was there; else this.
    fn add(&mut self, name: &str, value: Value) {
        let kept = self.old.map(|o| o[name].clone()).filter(|v| !v.is_null());
        self.map.entry(name).or_insert(kept.unwrap_or(value));
    }

    /// This, whatever was sent.
    fn set(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// Never shown again.
    fn hide(&mut self, name: &str) {
        self.map.remove(name);
    }
}

fn network(made: &mut Made<'_>, target: &Target, kind: &str, id: &str, seed: u64) {
    match kind {
        "microsoft.network/virtualnetworks" => {
            made.add("resourceGuid", json!(uuid(seed, id)));
            made.add("privateEndpointVNetPolicies", json!("Disabled"));
            made.add("virtualNetworkPeerings", json!([]));
            made.add("enableDdosProtection", json!(false));
            // Subnets are resources of their own; see `children`.
            made.hide("subnets");
        }
        "microsoft.network/virtualnetworks/subnets" => {
            made.add("delegations", json!([]));
            made.add("privateEndpointNetworkPolicies", json!("Disabled"));
            made.add("privateLinkServiceNetworkPolicies", json!("Enabled"));
            for endpoint in
                made.map.get_mut("serviceEndpoints").and_then(Value::as_array_mut).into_iter().flatten()
            {
                endpoint["provisioningState"] = json!("Succeeded");
                if endpoint["locations"].is_null() {
                    endpoint["locations"] = json!(["*"]);
                }
            }
        }
        "microsoft.network/networksecuritygroups" => {
            made.add("resourceGuid", json!(uuid(seed, id)));
            let rules = made.map.get_mut("securityRules").and_then(Value::as_array_mut);
            for rule in rules.into_iter().flatten() {
                rule["id"] =
                    json!(format!("{id}/securityRules/{}", rule["name"].as_str().unwrap_or_default()));
                rule["properties"]["provisioningState"] = json!("Succeeded");
            }
        }
        "microsoft.network/natgateways" => made.add("resourceGuid", json!(uuid(seed, id))),
        "microsoft.network/publicipaddresses" => {
            made.add("resourceGuid", json!(uuid(seed, id)));
            let last = uuid(seed, id).bytes().fold(0u8, u8::wrapping_add);
            // TEST-NET-3: no real machine has it.
            made.add("ipAddress", json!(format!("203.0.113.{last}")));
            made.add("idleTimeoutInMinutes", json!(4));
        }
        "microsoft.network/dnszones" => {
            made.add("maxNumberOfRecordSets", json!(10_000));
            let servers: Vec<_> = (1..=4).map(|n| format!("ns{n}-01.azure-dns.example.")).collect();
            made.add("nameServers", json!(servers));
            made.add("zoneType", json!("Public"));
        }
        kind if kind.starts_with("microsoft.network/dnszones/") => {
            let zone = target.names.first().cloned().unwrap_or_default();
            made.add("fqdn", json!(format!("{}.{zone}.", target.name())));
            made.add("targetResource", json!({}));
        }
        _ => {}
    }
}

fn sql(made: &mut Made<'_>, target: &Target, sent: &Value, kind: &str, id: &str, (seed, born): (u64, u64)) {
    match kind {
        "microsoft.sql/servers" => {
            let login = format!("CloudSA{}", &uuid(seed, id)[..8]);
            made.add("administratorLogin", json!(login));
            made.add("version", json!("12.0"));
            made.add("minimalTlsVersion", json!("1.2"));
            made.add("publicNetworkAccess", json!("Enabled"));
            made.add("restrictOutboundNetworkAccess", json!("Disabled"));
            made.add("retentionDays", json!(-1));
            made.add("privateEndpointConnections", json!([]));
            made.set("fullyQualifiedDomainName", json!(format!("{}.database.windows.net", target.name())));
            made.hide("administratorLoginPassword");
        }
        "microsoft.sql/servers/elasticpools" => {
            // What comes back are floating-point numbers, whatever was sent.
            let limit = |name: &str, value: f64| {
                sent["properties"]["perDatabaseSettings"][name].as_f64().unwrap_or(value)
            };
            let capacity = sent["sku"]["capacity"].as_f64().unwrap_or(50.0);
            let settings = json!({ "minCapacity": limit("minCapacity", 0.0), "maxCapacity": limit("maxCapacity", capacity) });
            made.set("perDatabaseSettings", settings);
            made.add("maxSizeBytes", json!(107_374_182_400_u64));
            made.add("zoneRedundant", json!(false));
        }
        "microsoft.sql/servers/databases" => {
            for write_only in ["createMode", "sourceDatabaseId", "restorePointInTime"] {
                made.hide(write_only);
            }
            made.add("collation", json!("SQL_Latin1_General_CP1_CI_AS"));
            made.add("maxSizeBytes", json!(34_359_738_368_u64));
            made.add("requestedBackupStorageRedundancy", json!("Geo"));
            // Another one each time that it is made.
            made.add("databaseId", json!(uuid(seed, &format!("{id}#{born}"))));
            made.add("catalogCollation", json!("SQL_Latin1_General_CP1_CI_AS"));
            made.add("zoneRedundant", json!(false));
            let objective = if made.map.contains_key("elasticPoolId") {
                "ElasticPool"
            } else {
                sent["sku"]["name"].as_str().unwrap_or("GP_Gen5_2")
            };
            made.set("currentServiceObjectiveName", json!(objective));
            made.set("requestedServiceObjectiveName", json!(objective));
        }
        _ => {}
    }
}

fn storage(made: &mut Made<'_>, target: &Target, kind: &str) {
    match kind {
        "microsoft.storage/storageaccounts" => {
            made.add("minimumTlsVersion", json!("TLS1_2"));
            made.add("supportsHttpsTrafficOnly", json!(true));
            made.add("networkAcls", json!({ "bypass": "AzureServices", "defaultAction": "Allow", "virtualNetworkRules": [], "ipRules": [] }));
            let acls = made.map.get_mut("networkAcls");
            let rules = acls.and_then(|a| a["virtualNetworkRules"].as_array_mut());
            for rule in rules.into_iter().flatten() {
                rule["state"] = json!("Succeeded");
            }
            let name = target.name();
            made.set(
                "primaryEndpoints",
                json!({
                    "blob": format!("https://{name}.blob.core.windows.net/"),
                    "file": format!("https://{name}.file.core.windows.net/"),
                }),
            );
            made.set("statusOfPrimary", json!("available"));
        }
        "microsoft.storage/storageaccounts/fileservices" => {
            made.add("shareDeleteRetentionPolicy", json!({ "enabled": true, "days": 7 }));
        }
        "microsoft.storage/storageaccounts/fileservices/shares" => {
            made.add("shareQuota", json!(102_400));
            made.add("accessTier", json!("TransactionOptimized"));
            made.add("leaseStatus", json!("unlocked"));
            made.hide("enabledProtocols");
        }
        _ => {}
    }
}

fn aks(made: &mut Made<'_>, target: &Target, sent: &Value, kind: &str, id: &str, seed: u64) {
    if kind == "microsoft.containerservice/managedclusters" {
        let location = sent["location"].as_str().unwrap_or_default().to_lowercase();
        let prefix = made.map.get("dnsPrefix").and_then(Value::as_str).unwrap_or("aks").to_owned();
        let suffix = &uuid(seed, id)[..8];
        made.add("fqdn", json!(format!("{prefix}-{suffix}.hcp.{location}.azmk8s.io")));
        let group = target.group.clone().unwrap_or_default();
        made.add("nodeResourceGroup", json!(format!("MC_{group}_{}_{location}", target.name())));
        made.add("powerState", json!({ "code": "Running" }));
        made.add("maxAgentPools", json!(100));
        made.add("supportPlan", json!("KubernetesOfficial"));
        made.hide("agentPoolProfiles");
        return;
    }
    made.add("osDiskSizeGB", json!(128));
    made.add("osDiskType", json!("Managed"));
    made.add("maxPods", json!(250));
    made.add("type", json!("VirtualMachineScaleSets"));
    made.add("osType", json!("Linux"));
    made.add("powerState", json!({ "code": "Running" }));
    made.add("count", json!(1));
    let count =
        ["minCount", "count"].iter().find_map(|n| made.map.get(*n).and_then(Value::as_u64)).unwrap_or(1);
    if made.map.get("count").and_then(Value::as_u64).is_some_and(|c| c < count) {
        made.set("count", json!(count));
    }
}

/// What the provider makes of a SKU.
pub fn sku(target: &Target, body: &Value, old: Option<&Value>) -> Option<Value> {
    let sent = &body["sku"];
    match target.kind().as_str() {
        "microsoft.sql/servers/databases" => Some(database_sku(body, old)),
        "microsoft.storage/storageaccounts" if sent.is_object() => {
            let tier = if sent["name"].as_str().is_some_and(|n| n.starts_with("Premium")) {
                "Premium"
            } else {
                "Standard"
            };
            Some(json!({ "name": sent["name"], "tier": tier }))
        }
        _ => sent
            .is_object()
            .then(|| sent.clone())
            .or_else(|| old.map(|o| o["sku"].clone()).filter(|s| !s.is_null())),
    }
}

/// `S0` becomes Standard with 10 DTU; in a pool the SKU is the pool's; without either it is two vCores.
fn database_sku(body: &Value, old: Option<&Value>) -> Value {
    if body["properties"]["elasticPoolId"].is_string() {
        return json!({ "name": "ElasticPool", "tier": "Standard", "capacity": 0 });
    }
    let dtu = |tier: &str, capacity: u32| json!({ "name": tier, "tier": tier, "capacity": capacity });
    match body["sku"]["name"].as_str() {
        Some("S0") => dtu("Standard", 10),
        Some("S1") => dtu("Standard", 20),
        Some("S2") => dtu("Standard", 50),
        Some("S3") => dtu("Standard", 100),
        Some("P1") => dtu("Premium", 125),
        Some("P2") => dtu("Premium", 250),
        Some(_) => body["sku"].clone(),
        None => old.map(|o| o["sku"].clone()).filter(|s| !s.is_null()).unwrap_or_else(
            || json!({ "name": "GP_Gen5", "tier": "GeneralPurpose", "family": "Gen5", "capacity": 2 }),
        ),
    }
}

/// The children that a PUT of this resource brings with it: their type and the property that lists them.
pub fn inline_children(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "microsoft.network/virtualnetworks" => Some(("subnets", "subnets")),
        "microsoft.containerservice/managedclusters" => Some(("agentPools", "agentPoolProfiles")),
        _ => None,
    }
}

/// An inline child as it would have been PUT on its own: networks nest `properties`, AKS does not.
pub fn child_body(property: &str, item: &Value) -> Value {
    if property == "subnets" {
        return json!({ "properties": item["properties"] });
    }
    let mut properties = item.clone();
    if let Some(map) = properties.as_object_mut() {
        map.remove("name");
    }
    json!({ "properties": properties })
}

/// A child as its parent shows it.
pub fn inline(property: &str, child: &Value) -> Value {
    if property == "subnets" {
        return child.clone();
    }
    let mut item = child["properties"].clone();
    item["name"] = child["name"].clone();
    item
}

/// Whether an id names the other resource.
pub fn same(id: &Value, other: &str) -> bool {
    id.as_str().is_some_and(|id| key(id) == other)
}
