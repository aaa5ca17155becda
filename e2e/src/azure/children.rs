//! Resources that their parents' requests and answers carry inline: subnets of a network, rules of a security group, agent
//! pools of a cluster. They are resources of their own all the same.

use serde_json::{Map, Value, json};

use super::{
    Cloud, defaults,
    id::{Target, key},
    kinds::{self, Kind, State, uuid},
};

/// Whether resources of this type may come inline.
fn is_inline(kind: &Kind) -> bool {
    ["/subnets", "/securityRules", "/agentPools"].iter().any(|segment| kind.name.ends_with(segment))
}

/// By which member subnets name what they use.
fn subnet_member(kind: &str) -> Option<&'static str> {
    match kind {
        "microsoft.network/networksecuritygroups" => Some("networkSecurityGroup"),
        "microsoft.network/natgateways" => Some("natGateway"),
        _ => None,
    }
}

impl Cloud {
    /// A resource and its inline children, as they are kept.
    pub(super) fn with_inline<'a>(
        &'a mut self,
        at: &'a str,
    ) -> impl Iterator<Item = (&'static Kind, &'a mut Value)> {
        let below = format!("{at}/");
        self.resources.iter_mut().filter_map(move |(key, resource)| {
            let kind = kinds::find(resource["type"].as_str()?)?;
            let is_below = key.strip_prefix(&below).is_some_and(|rest| rest.matches('/').count() == 1);
            (key == at || (is_below && is_inline(kind))).then_some((kind, resource))
        })
    }

    /// A resource as it is shown: with its inline children.
    pub(super) fn shown(&self, resource: &Value) -> Value {
        let kind = resource["type"].as_str().unwrap_or_default().to_lowercase();
        if kind == "microsoft.sql/servers/databases" {
            return self.shown_database(resource);
        }
        if kind == "microsoft.sql/servers/databases/replicationlinks" {
            return self.shown_link(resource);
        }
        if kind == "microsoft.network/publicipaddresses" {
            return self.shown_address(resource);
        }
        if kind == "microsoft.network/dnszones" {
            let mut shown = resource.clone();
            let sets = self.record_sets(resource["id"].as_str().unwrap_or_default()).len();
            shown["properties"]["numberOfRecordSets"] = json!(sets);
            return shown;
        }
        let mut shown = resource.clone();
        if let Some(member) = subnet_member(&kind) {
            self.show_subnets(&mut shown, member);
        }
        if kind == "microsoft.network/networksecuritygroups" {
            let rules = defaults::security_rules(resource);
            shown["properties"]["defaultSecurityRules"] = rules;
        }
        let Some((segment, property)) = defaults::inline_children(&kind) else { return shown };
        let below =
            format!("{}/{}/", key(resource["id"].as_str().unwrap_or_default()), segment.to_lowercase());
        let children = self.resources.iter().filter(|(k, _)| k.starts_with(&below));
        let items: Vec<_> = children.map(|(_, child)| defaults::inline(property, child)).collect();
        shown["properties"][property] = json!(items);
        shown
    }

    /// Makes the children that a PUT brings inline. A list without one of them takes that one away; no
    /// list leaves them alone.
    pub(super) fn put_children(&mut self, parent: &Kind, at: &str, body: &Value, seconds: u32) {
        let Some((segment, property)) = defaults::inline_children(&parent.name.to_lowercase()) else {
            return;
        };
        let Some(items) = body["properties"][property].as_array() else { return };
        let parent_id = self.resources.get(at).and_then(|r| r["id"].as_str()).unwrap_or(at).to_owned();
        let below = format!("{at}/{}/", segment.to_lowercase());
        let names: Vec<_> =
            items.iter().map(|i| i["name"].as_str().unwrap_or_default().to_lowercase()).collect();
        self.resources
            .retain(|k, _| k.strip_prefix(&below).is_none_or(|name| names.iter().any(|n| n == name)));
        for item in items {
            let path = format!("{parent_id}/{segment}/{}", item["name"].as_str().unwrap_or_default());
            let Some(target) = Target::parse(&path) else { continue };
            let Some(kind) = kinds::find(&target.kind()) else { continue };
            let old = self.resources.get(&key(&path)).cloned();
            let mut child =
                self.resource(&target, kind, &defaults::child_body(property, item), old.as_ref(), &path);
            if let State::Provisioning(word) = kind.state {
                let word = match (seconds, &old) {
                    (0, _) => "Succeeded",
                    (_, None) => word,
                    (_, Some(_)) => "Updating",
                };
                child["properties"]["provisioningState"] = json!(word);
            }
            self.resources.insert(key(&path), child);
        }
    }

    /// Whether a resource, or what comes with it, is another than it was.
    pub(super) fn changes(&self, old: &Value, new: &Value, body: &Value) -> bool {
        let properties = |resource: &Value| {
            let mut properties = resource["properties"].clone();
            properties.as_object_mut().map(|map| map.remove("provisioningState"));
            properties
        };
        if properties(old) != properties(new) {
            return true;
        }
        let kind = new["type"].as_str().unwrap_or_default().to_lowercase();
        let Some((segment, property)) = defaults::inline_children(&kind) else { return false };
        let Some(items) = body["properties"][property].as_array() else { return false };
        let id = new["id"].as_str().unwrap_or_default();
        let below = format!("{}/{}/", key(id), segment.to_lowercase());
        let is_other = |item: &Value| {
            let path = format!("{id}/{segment}/{}", item["name"].as_str().unwrap_or_default());
            let (Some(target), Some(old)) = (Target::parse(&path), self.resources.get(&key(&path))) else {
                return true;
            };
            let kind = kinds::find(&target.kind());
            let new = kind.map(|kind| {
                self.resource(&target, kind, &defaults::child_body(property, item), Some(old), &path)
            });
            new.is_none_or(|new| properties(old) != properties(&new))
        };
        let is_child = |path: &&String| path.strip_prefix(&below).is_some_and(|name| !name.contains('/'));
        self.resources.keys().filter(is_child).count() != items.len() || items.iter().any(is_other)
    }

    /// A cluster or a pool shows the version that it has: its cluster's, or what Azure chooses, if it asks for none.
    pub(super) fn show_version(&self, pool: &mut Map<String, Value>, at: &str) {
        let cluster = at.split("/agentpools/").next().unwrap_or(at);
        let [asked, has] = if cluster == at {
            ["kubernetesVersion", "currentKubernetesVersion"]
        } else {
            ["orchestratorVersion", "currentOrchestratorVersion"]
        };
        let known =
            self.resources.get(cluster).map(|cluster| cluster["properties"]["kubernetesVersion"].clone());
        let current = self.slots.version_of(cluster);
        let Some(properties) = pool.get_mut("properties").and_then(Value::as_object_mut) else { return };
        let wanted = properties.get(asked).filter(|version| *version != "").cloned();
        let wanted = wanted.or(known).filter(Value::is_string).or_else(|| current.as_ref().map(|v| json!(v)));
        if let Some(wanted) = wanted {
            properties.insert(asked.to_owned(), wanted);
        }
        if let Some(current) = current {
            properties.insert(has.to_owned(), json!(current));
        }
    }

    /// What subnets use shows them, once they do.
    fn show_subnets(&self, shown: &mut Value, member: &str) {
        let id = key(shown["id"].as_str().unwrap_or_default());
        let subnets = self.resources("Microsoft.Network/virtualNetworks/subnets");
        let users: Vec<Value> = subnets
            .iter()
            .filter(|subnet| defaults::same(&subnet["properties"][member]["id"], &id))
            .map(|subnet| json!({ "id": subnet["id"] }))
            .collect();
        if !users.is_empty() {
            shown["properties"]["subnets"] = json!(users);
        }
    }

    /// An address shows who has it.
    fn shown_address(&self, address: &Value) -> Value {
        let mut shown = address.clone();
        let gateways = self.resources("Microsoft.Network/natGateways");
        let has = |gateway: &&Value| {
            let addresses = gateway["properties"]["publicIpAddresses"].as_array();
            let id = key(address["id"].as_str().unwrap_or_default());
            addresses.is_some_and(|all| all.iter().any(|one| defaults::same(&one["id"], &id)))
        };
        if let Some(gateway) = gateways.iter().find(has) {
            shown["properties"]["natGateway"] = json!({ "id": gateway["id"] });
        }
        shown
    }

    /// Azure adds the ids of the identities that a resource names, and makes the one that is the resource's own.
    pub(super) fn with_identities(&self, property: &str, mut value: Value, of: &str) -> Value {
        if property == "identity"
            && let Some(map) = value.as_object_mut()
        {
            map.retain(|_, member| !member.is_null());
            if map.get("type").and_then(Value::as_str).is_some_and(|kind| kind.contains("SystemAssigned")) {
                map.insert("principalId".to_owned(), json!(uuid(self.seed, &format!("{}#own", key(of)))));
                map.insert("tenantId".to_owned(), json!(super::TENANT));
            }
        }
        if property == "identity"
            && let Some(map) = value.get_mut("userAssignedIdentities").and_then(Value::as_object_mut)
        {
            for (id, known) in map.iter_mut() {
                let id = key(id);
                *known = json!({
                    "clientId": uuid(self.seed, &format!("{id}#client")),
                    "principalId": uuid(self.seed, &format!("{id}#principal")),
                });
            }
        }
        value
    }
}
