//! What a provider makes of what was sent: its defaults, its spelling, and what only it knows.

use serde_json::{Map, Value, json};

mod aks;
mod network;
mod sql;
mod storage;

pub(super) use network::{address, security_rules};

use super::{
    id::{Target, key},
    kinds::uuid,
};

/// What it takes to know a new value of a provider's own.
#[derive(Clone, Copy)]
pub struct Born<'a> {
    /// The cloud's seed.
    pub seed: u64,
    /// A number that no other write has.
    pub number: u64,
    /// The moment, as a date.
    pub at: &'a str,
    /// Who writes: object id.
    pub by: &'a str,
}

/// The properties as they are stored. `old` are those of the resource so far.
pub fn properties(
    target: &Target,
    sent: &Value,
    old: Option<&Value>,
    id: &str,
    born: Born<'_>,
) -> Map<String, Value> {
    let mut made = Made { map: sent["properties"].as_object().cloned().unwrap_or_default(), old };
    let kind = target.kind();
    match kind.split('/').next().unwrap_or_default() {
        "microsoft.network" => network::properties(&mut made, target, &kind, id, born.seed),
        "microsoft.sql" => sql::properties(&mut made, target, sent, (&kind, id), born),
        "microsoft.storage" => storage::properties(&mut made, target, sent, &kind, born),
        "microsoft.containerservice" => aks::properties(&mut made, target, sent, &kind, (id, born.seed)),
        _ => {}
    }
    match kind.as_str() {
        "microsoft.managedidentity/userassignedidentities" => {
            made.add("tenantId", json!(super::TENANT));
            made.add("principalId", json!(uuid(born.seed, &format!("{id}#principal"))));
            made.add("clientId", json!(uuid(born.seed, &format!("{id}#client"))));
        }
        "microsoft.authorization/roleassignments" => {
            made.set("scope", json!(target.scope));
            made.all(json!({
                "principalType": "ServicePrincipal", "condition": null, "conditionVersion": null, "description": null,
                "delegatedManagedIdentityResourceId": null, "createdOn": born.at, "createdBy": born.by,
            }));
            made.set("updatedOn", json!(born.at));
            made.set("updatedBy", json!(born.by));
        }
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

    /// The same for each member of an object.
    fn all(&mut self, values: Value) {
        if let Value::Object(values) = values {
            values.into_iter().for_each(|(name, value)| self.add(&name, value));
        }
    }

    /// Takes away what is empty or as it is by default: Azure does not show it.
    fn drop_empty(&mut self, names: &[&str]) {
        for name in names {
            let value = self.map.get(*name);
            let is_empty = value.is_some_and(|value| match value {
                Value::Null => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            });
            if is_empty {
                self.map.remove(*name);
            }
        }
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

/// What the provider makes of a SKU.
pub fn sku(target: &Target, body: &Value, old: Option<&Value>) -> Option<Value> {
    let sent = &body["sku"];
    match target.kind().as_str() {
        "microsoft.sql/servers/databases" => Some(database_sku(body, old)),
        "microsoft.sql/servers/elasticpools" if !sent.is_object() => {
            let kept = old.map(|old| old["sku"].clone()).filter(Value::is_object);
            Some(kept.unwrap_or_else(
                || json!({ "name": "GP_Gen5", "tier": "GeneralPurpose", "family": "Gen5", "capacity": 2 }),
            ))
        }
        "microsoft.containerservice/managedclusters" => {
            let kept = |name: &str| old.and_then(|old| old["sku"][name].as_str());
            let part =
                |name: &str, value: &str| sent[name].as_str().or(kept(name)).unwrap_or(value).to_owned();
            Some(json!({ "name": part("name", "Base"), "tier": part("tier", "Free") }))
        }
        "microsoft.network/publicipaddresses" if !sent.is_object() => {
            let kept = old.map(|old| old["sku"].clone()).filter(Value::is_object);
            Some(kept.unwrap_or_else(|| json!({ "name": "Basic", "tier": "Regional" })))
        }
        "microsoft.network/publicipaddresses" | "microsoft.network/natgateways" if sent.is_object() => {
            Some(json!({ "name": sent["name"], "tier": sent["tier"].as_str().unwrap_or("Regional") }))
        }
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
        // GP_Gen5_8 is a size of Gen5 with 8 vCores.
        Some(name) if body["sku"]["family"].is_null() && name.matches('_').count() == 2 => {
            let parts: Vec<&str> = name.split('_').collect();
            let tier = match parts[0] {
                "BC" => "BusinessCritical",
                "HS" => "Hyperscale",
                _ => "GeneralPurpose",
            };
            let capacity = parts[2].parse().unwrap_or(2_u32);
            json!({ "name": format!("{}_{}", parts[0], parts[1]), "tier": tier, "family": parts[1], "capacity": capacity })
        }
        Some(_) => body["sku"].clone(),
        None => old.map(|o| o["sku"].clone()).filter(|s| !s.is_null()).unwrap_or_else(
            || json!({ "name": "GP_Gen5", "tier": "GeneralPurpose", "family": "Gen5", "capacity": 2 }),
        ),
    }
}

/// What SQL calls a server, a pool or a database.
pub fn kind(of: &str, sku: Option<&Value>) -> Option<&'static str> {
    match of {
        "Microsoft.Sql/servers" => Some("v12.0"),
        "Microsoft.Sql/servers/elasticPools" if sku.is_some_and(|sku| sku["family"].is_string()) => {
            Some("vcore,pool")
        }
        "Microsoft.Sql/servers/elasticPools" => Some("pool"),
        "Microsoft.Sql/servers/databases" => Some(database_kind(sku.unwrap_or(&Value::Null))),
        _ => None,
    }
}

fn database_kind(sku: &Value) -> &'static str {
    match (sku["name"].as_str(), sku["family"].is_string()) {
        (Some("ElasticPool"), _) => "v12.0,user,pool",
        (Some("System"), _) => "v12.0,system",
        (Some(name), _) if name.starts_with("HS_") => "v12.0,user,vcore,hyperscale",
        (_, true) => "v12.0,user,vcore",
        _ => "v12.0,user",
    }
}

/// The member of a cluster with its pools.
const POOLS: &str = "agentPoolProfiles";

/// The children that a PUT of this resource brings with it: their type and the property that lists them.
pub fn inline_children(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "microsoft.network/virtualnetworks" => Some(("subnets", "subnets")),
        "microsoft.network/networksecuritygroups" => Some(("securityRules", "securityRules")),
        "microsoft.containerservice/managedclusters" => Some(("agentPools", POOLS)),
        _ => None,
    }
}

/// An inline child as it would have been PUT on its own: networks nest `properties`, AKS does not.
pub fn child_body(property: &str, item: &Value) -> Value {
    if property != POOLS {
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
    if property != POOLS {
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
