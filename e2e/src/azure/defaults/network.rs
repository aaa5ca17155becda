//! Microsoft.Network.

use serde_json::{Value, json};

use super::Made;
use crate::azure::{id::Target, kinds::uuid};

/// Lists that a rule always shows.
const RANGES: [&str; 4] =
    ["sourcePortRanges", "destinationPortRanges", "sourceAddressPrefixes", "destinationAddressPrefixes"];

/// The rules that each security group has of itself: name, description, from, to, whether it lets through, priority.
const OWN_RULES: [(&str, &str, &str, &str, &str, u32); 6] = [
    (
        "AllowVnetInBound",
        "Allow inbound traffic from all VMs in VNET",
        "VirtualNetwork",
        "VirtualNetwork",
        "Allow",
        65_000,
    ),
    (
        "AllowAzureLoadBalancerInBound",
        "Allow inbound traffic from azure load balancer",
        "AzureLoadBalancer",
        "*",
        "Allow",
        65_001,
    ),
    ("DenyAllInBound", "Deny all inbound traffic", "*", "*", "Deny", 65_500),
    (
        "AllowVnetOutBound",
        "Allow outbound traffic from all VMs to all VMs in VNET",
        "VirtualNetwork",
        "VirtualNetwork",
        "Allow",
        65_000,
    ),
    (
        "AllowInternetOutBound",
        "Allow outbound traffic from all VMs to Internet",
        "*",
        "Internet",
        "Allow",
        65_001,
    ),
    ("DenyAllOutBound", "Deny all outbound traffic", "*", "*", "Deny", 65_500),
];

/// The rules that a security group has of itself.
pub(in crate::azure) fn security_rules(group: &Value) -> Value {
    let id = group["id"].as_str().unwrap_or_default();
    let rules = OWN_RULES.iter().map(|(name, description, from, to, access, priority)| {
        let direction = if name.ends_with("InBound") { "Inbound" } else { "Outbound" };
        let mut properties = json!({
            "provisioningState": group["properties"]["provisioningState"],
            "description": description, "protocol": "*", "sourcePortRange": "*",
            "destinationPortRange": "*", "sourceAddressPrefix": from, "destinationAddressPrefix": to,
            "access": access, "priority": priority, "direction": direction,
        });
        for list in RANGES {
            properties[list] = json!([]);
        }
        json!({
            "name": name, "id": format!("{id}/defaultSecurityRules/{name}"), "etag": group["etag"],
            "type": "Microsoft.Network/networkSecurityGroups/defaultSecurityRules", "properties": properties,
        })
    });
    rules.collect()
}

pub(super) fn properties(made: &mut Made<'_>, target: &Target, kind: &str, id: &str, seed: u64) {
    match kind {
        "microsoft.network/virtualnetworks" => {
            made.all(json!({
                "resourceGuid": uuid(seed, id), "virtualNetworkPeerings": [], "enableDdosProtection": false,
                "privateEndpointVNetPolicies": "Disabled",
            }));
            if let Some(options) = made.map.get_mut("dhcpOptions").filter(|options| options.is_object())
                && options["dnsServers"].is_null()
            {
                options["dnsServers"] = json!([]);
            }
            // Subnets are resources of their own; see `children`.
            made.hide("subnets");
        }
        "microsoft.network/virtualnetworks/subnets" => subnet(made, id, seed),
        "microsoft.network/networksecuritygroups" => {
            made.add("resourceGuid", json!(uuid(seed, id)));
            // Rules are resources of their own too.
            made.hide("securityRules");
        }
        "microsoft.network/networksecuritygroups/securityrules" => {
            for list in RANGES {
                made.map.entry(list).or_insert_with(|| json!([]));
            }
        }
        "microsoft.network/natgateways" => {
            made.all(json!({ "resourceGuid": uuid(seed, id), "idleTimeoutInMinutes": 4, "type": "Public" }));
        }
        "microsoft.network/publicipaddresses" => {
            made.all(json!({
                "resourceGuid": uuid(seed, id), "idleTimeoutInMinutes": 4, "publicIPAddressVersion": "IPv4", "ipTags": [],
            }));
            // One that is being made has none yet.
            if let Some(address) = made.old.map(|old| old["ipAddress"].clone()).filter(Value::is_string) {
                made.set("ipAddress", address);
            }
        }
        "microsoft.network/dnszones" => {
            let servers: Vec<_> = (1..=4).map(|n| format!("ns{n}-01.azure-dns.example.")).collect();
            made.all(json!({
                "maxNumberOfRecordSets": 10_000, "maxNumberOfRecordsPerRecordSet": null, "nameServers": servers,
                "zoneType": "Public",
            }));
        }
        kind if kind.starts_with("microsoft.network/dnszones/") => record(made, target, kind),
        _ => {}
    }
}

/// The address that a public address gets, of TEST-NET-3: no real machine has it.
pub(in crate::azure) fn address(id: &str, seed: u64) -> String {
    format!("203.0.113.{}", uuid(seed, id).bytes().fold(0u8, u8::wrapping_add))
}

fn subnet(made: &mut Made<'_>, id: &str, seed: u64) {
    made.all(json!({
        "delegations": [], "privateEndpointNetworkPolicies": "Disabled", "privateLinkServiceNetworkPolicies": "Enabled",
    }));
    for endpoint in made.map.get_mut("serviceEndpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        endpoint["provisioningState"] = json!("Succeeded");
        if endpoint["locations"].is_null() {
            let old = made.old.and_then(|old| old["serviceEndpoints"].as_array()).into_iter().flatten();
            let known = old.clone().find(|old| old["service"] == endpoint["service"]);
            endpoint["locations"] = known.map_or_else(|| json!(["*"]), |old| old["locations"].clone());
        }
    }
    for delegation in made.map.get_mut("delegations").and_then(Value::as_array_mut).into_iter().flatten() {
        let id = format!("{id}/delegations/{}", delegation["name"].as_str().unwrap_or_default());
        delegation["etag"] = json!(format!("W/\"{}\"", uuid(seed, &id)));
        delegation["id"] = json!(id);
        delegation["type"] = json!("Microsoft.Network/virtualNetworks/subnets/delegations");
        delegation["properties"]["provisioningState"] = json!("Succeeded");
        delegation["properties"]["actions"] = json!(["Microsoft.Network/virtualNetworks/subnets/action"]);
    }
}

/// A record set shows the list of its type even when it is empty.
fn record(made: &mut Made<'_>, target: &Target, kind: &str) {
    let zone = target.names.first().cloned().unwrap_or_default();
    let host = if target.name() == "@" { String::new() } else { format!("{}.", target.name()) };
    made.all(json!({
        "fqdn": format!("{host}{zone}."), "targetResource": {}, "provisioningState": "Succeeded", "TTL": 3600,
    }));
    let list = match kind.rsplit('/').next().unwrap_or_default() {
        "a" => "ARecords",
        "aaaa" => "AAAARecords",
        "caa" => "caaRecords",
        "ds" => "DSRecords",
        "mx" => "MXRecords",
        "ns" => "NSRecords",
        "ptr" => "PTRRecords",
        "srv" => "SRVRecords",
        "tlsa" => "TLSARecords",
        "txt" => "TXTRecords",
        _ => return,
    };
    // What was sent is all that there is: nothing stays of an earlier list.
    made.map.entry(list).or_insert_with(|| json!([]));
}
