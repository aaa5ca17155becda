//! The resource types that the emulator knows: how each behaves, and what it adds to what was sent.
//!
//! Times are medians of recorded traffic, seconds.

use serde_json::{Map, Value, json};

use super::id::Target;

/// How a PUT or DELETE that takes time is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Done at once, with this status for something new (200 otherwise).
    Sync(u16),
    /// 201 or 200 with the body and Azure-AsyncOperation; Retry-After, seconds.
    Body(u32),
    /// 202 with Azure-AsyncOperation and Location; Retry-After, seconds.
    Both(u32),
    /// 202 with Location only and no body; Retry-After, seconds.
    Location(u32),
}

/// A resource type.
pub struct Kind {
    /// Full type as Azure spells it.
    pub name: &'static str,
    /// How PUT is answered.
    pub put: Style,
    /// How DELETE is answered.
    pub delete: Style,
    /// How long a creation takes.
    pub create_seconds: u32,
    /// How long an update takes.
    pub update_seconds: u32,
    /// How long a deletion takes.
    pub delete_seconds: u32,
    /// Whether the resource has a location and tags, as top-level resources do.
    pub tracked: bool,
    /// Whether `properties.provisioningState` shows how it is.
    pub state: bool,
    /// Whether every write gives it a new ETag.
    pub etag: bool,
}

const fn sync(name: &'static str, tracked: bool) -> Kind {
    Kind {
        name,
        put: Style::Sync(201),
        delete: Style::Sync(200),
        create_seconds: 0,
        update_seconds: 0,
        delete_seconds: 0,
        tracked,
        state: false,
        etag: false,
    }
}

const fn network(name: &'static str, tracked: bool, create_seconds: u32) -> Kind {
    Kind {
        name,
        put: Style::Body(3),
        delete: Style::Both(10),
        create_seconds,
        update_seconds: 0,
        delete_seconds: 11,
        tracked,
        state: true,
        etag: true,
    }
}

const fn record(name: &'static str) -> Kind {
    Kind { etag: true, ..sync(name, false) }
}

/// Every type.
pub const KINDS: [Kind; 14] = [
    Kind {
        delete: Style::Location(15),
        delete_seconds: 16,
        state: true,
        ..sync("Microsoft.Resources/resourceGroups", true)
    },
    network("Microsoft.Network/virtualNetworks", true, 3),
    network("Microsoft.Network/virtualNetworks/subnets", false, 2),
    Kind { delete: Style::Both(1), ..network("Microsoft.Network/networkSecurityGroups", true, 3) },
    network("Microsoft.Network/publicIPAddresses", true, 3),
    network("Microsoft.Network/natGateways", true, 3),
    sync("Microsoft.ManagedIdentity/userAssignedIdentities", true),
    sync("Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials", false),
    Kind {
        delete: Style::Both(3),
        delete_seconds: 10,
        etag: true,
        ..sync("Microsoft.Network/dnsZones", true)
    },
    record("Microsoft.Network/dnsZones/A"),
    record("Microsoft.Network/dnsZones/CNAME"),
    record("Microsoft.Network/dnsZones/TXT"),
    sync("Microsoft.Authorization/roleAssignments", false),
    sync("Microsoft.Authorization/locks", false),
];

/// The type with this name in lower case.
pub fn find(kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.name.eq_ignore_ascii_case(kind))
}

/// A value that looks random and is the same for the same name: ids in a run with a seed are repeatable.
pub fn uuid(seed: u64, name: &str) -> String {
    let mut hash = seed ^ 0xcbf2_9ce4_8422_2325;
    let mut next = |salt: u8| {
        for byte in name.bytes().chain([salt]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash ^ (hash >> 29)
    };
    let (a, b) = (next(1), next(2));
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        (b >> 48) & 0xfff,
        b & 0xffff_ffff_ffff
    )
}

/// What the provider makes of the properties that were sent: its defaults and what only it knows. `old`
/// are the properties of the resource so far.
pub fn properties(
    target: &Target,
    sent: &Value,
    old: Option<&Value>,
    id: &str,
    seed: u64,
) -> Map<String, Value> {
    let mut properties = sent["properties"].as_object().cloned().unwrap_or_default();
    let mut add = |name: &str, value: Value| {
        let kept = old.map(|o| o[name].clone()).filter(|v| !v.is_null());
        properties.entry(name).or_insert(kept.unwrap_or(value));
    };
    match target.kind().as_str() {
        "microsoft.network/virtualnetworks" => {
            add("resourceGuid", json!(uuid(seed, id)));
            add("privateEndpointVNetPolicies", json!("Disabled"));
            add("virtualNetworkPeerings", json!([]));
            add("enableDdosProtection", json!(false));
        }
        "microsoft.network/virtualnetworks/subnets" => {
            add("delegations", json!([]));
            add("privateEndpointNetworkPolicies", json!("Disabled"));
            add("privateLinkServiceNetworkPolicies", json!("Enabled"));
        }
        "microsoft.network/networksecuritygroups" | "microsoft.network/natgateways" => {
            add("resourceGuid", json!(uuid(seed, id)));
        }
        "microsoft.network/publicipaddresses" => {
            add("resourceGuid", json!(uuid(seed, id)));
            let last = uuid(seed, id).bytes().fold(0u8, u8::wrapping_add);
            // TEST-NET-3: no real machine has it.
            add("ipAddress", json!(format!("203.0.113.{last}")));
            add("idleTimeoutInMinutes", json!(4));
        }
        "microsoft.managedidentity/userassignedidentities" => {
            add("tenantId", json!(super::TENANT));
            add("principalId", json!(uuid(seed, &format!("{id}#principal"))));
            add("clientId", json!(uuid(seed, &format!("{id}#client"))));
        }
        "microsoft.network/dnszones" => {
            add("maxNumberOfRecordSets", json!(10_000));
            let servers: Vec<_> = (1..=4).map(|n| format!("ns{n}-01.azure-dns.example.")).collect();
            add("nameServers", json!(servers));
            add("zoneType", json!("Public"));
        }
        kind if kind.starts_with("microsoft.network/dnszones/") => {
            let zone = target.names.first().cloned().unwrap_or_default();
            add("fqdn", json!(format!("{}.{zone}.", target.name())));
            add("targetResource", json!({}));
        }
        "microsoft.authorization/roleassignments" => {
            properties.insert("scope".to_owned(), json!(target.scope));
        }
        _ => {}
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_look_like_uuids_and_repeat() {
        let id = uuid(1, "a");
        assert_eq!(id.len(), 36);
        assert_eq!(id, uuid(1, "a"));
        assert_ne!(id, uuid(2, "a"));
        assert_ne!(id, uuid(1, "b"));
        assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    }
}
