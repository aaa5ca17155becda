//! The resource types that the emulator knows, and how each behaves.
//!
//! Times are medians of recorded traffic, seconds.

/// How a PUT or DELETE is answered. Retry-After in seconds; some providers give none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Done at once; status of a PUT for something new, or of a DELETE.
    Sync(u16),
    /// 201 or 200 with the body and Azure-AsyncOperation.
    Body(Option<u32>),
    /// 202 with Azure-AsyncOperation and Location.
    Both(Option<u32>),
    /// 202 with Location only and no body.
    Location(u32),
}

/// Where a resource shows how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nowhere.
    None,
    /// `properties.provisioningState`, with this word while it is made.
    Provisioning(&'static str),
    /// A property of its own, with this word when all is well. Such a resource cannot be seen before it is made.
    Own(&'static str, &'static str),
}

/// A resource type.
pub struct Kind {
    /// Full type as Azure spells it.
    pub name: &'static str,
    /// How PUT is answered for something new.
    pub create: Style,
    /// How PUT is answered for something that exists.
    pub update: Style,
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
    /// Where it shows how it is.
    pub state: State,
    /// Whether every write gives it a new ETag.
    pub etag: bool,
    /// Word for it in the URLs of its operations; empty where the provider has one URL for all types.
    pub operation: &'static str,
}

impl Kind {
    /// What the status of an operation says while a resource is made or changed. AKS tells how far it is.
    pub fn words(&self) -> &'static [&'static str] {
        match self.name {
            "Microsoft.ContainerService/managedClusters" => &[
                "InProgress",
                "ProvisioningControlPlane",
                "ProvisioningNetworkResources",
                "ReconcilingAddons",
                "CreatingAgentPool: 0/1 nodes completed",
            ],
            "Microsoft.ContainerService/managedClusters/agentPools" => {
                &["Creating", "CreatingAgentPool: 0/1 nodes completed"]
            }
            _ => &["InProgress"],
        }
    }
}

const fn sync(name: &'static str, tracked: bool) -> Kind {
    Kind {
        name,
        create: Style::Sync(201),
        update: Style::Sync(200),
        delete: Style::Sync(200),
        create_seconds: 0,
        update_seconds: 0,
        delete_seconds: 0,
        tracked,
        state: State::None,
        etag: false,
        operation: "",
    }
}

const fn network(name: &'static str, tracked: bool, create_seconds: u32) -> Kind {
    Kind {
        create: Style::Body(Some(3)),
        update: Style::Body(Some(3)),
        delete: Style::Both(Some(10)),
        create_seconds,
        update_seconds: 2,
        delete_seconds: 11,
        state: State::Provisioning("Updating"),
        etag: true,
        ..sync(name, tracked)
    }
}

const fn sql(name: &'static str, operation: &'static str, tracked: bool, create_seconds: u32) -> Kind {
    Kind {
        create: Style::Both(Some(15)),
        update: Style::Both(Some(15)),
        delete: Style::Both(Some(15)),
        create_seconds,
        update_seconds: create_seconds / 2,
        delete_seconds: 15,
        state: State::Own("state", "Ready"),
        operation,
        ..sync(name, tracked)
    }
}

const fn aks(name: &'static str, tracked: bool, seconds: [u32; 3]) -> Kind {
    let [create_seconds, update_seconds, delete_seconds] = seconds;
    Kind {
        create: Style::Body(None),
        update: Style::Body(None),
        delete: Style::Both(None),
        create_seconds,
        update_seconds,
        delete_seconds,
        state: State::Provisioning("Creating"),
        ..sync(name, tracked)
    }
}

const fn record(name: &'static str) -> Kind {
    Kind { etag: true, ..sync(name, false) }
}

/// Every type.
pub const KINDS: [Kind; 36] = [
    Kind {
        delete: Style::Location(15),
        delete_seconds: 16,
        state: State::Provisioning("Updating"),
        ..sync("Microsoft.Resources/resourceGroups", true)
    },
    network("Microsoft.Network/virtualNetworks", true, 3),
    network("Microsoft.Network/virtualNetworks/subnets", false, 2),
    Kind { delete: Style::Both(Some(1)), ..network("Microsoft.Network/networkSecurityGroups", true, 3) },
    Kind {
        delete: Style::Both(Some(1)),
        ..network("Microsoft.Network/networkSecurityGroups/securityRules", false, 2)
    },
    network("Microsoft.Network/publicIPAddresses", true, 3),
    network("Microsoft.Network/natGateways", true, 3),
    sync("Microsoft.ManagedIdentity/userAssignedIdentities", true),
    sync("Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials", false),
    Kind {
        delete: Style::Both(Some(3)),
        delete_seconds: 10,
        etag: true,
        ..sync("Microsoft.Network/dnsZones", true)
    },
    record("Microsoft.Network/dnsZones/A"),
    record("Microsoft.Network/dnsZones/AAAA"),
    record("Microsoft.Network/dnsZones/CAA"),
    record("Microsoft.Network/dnsZones/CNAME"),
    record("Microsoft.Network/dnsZones/DS"),
    record("Microsoft.Network/dnsZones/MX"),
    record("Microsoft.Network/dnsZones/NS"),
    record("Microsoft.Network/dnsZones/PTR"),
    record("Microsoft.Network/dnsZones/SOA"),
    record("Microsoft.Network/dnsZones/SRV"),
    record("Microsoft.Network/dnsZones/TLSA"),
    record("Microsoft.Network/dnsZones/TXT"),
    Kind { update: Style::Sync(201), ..sync("Microsoft.Authorization/roleAssignments", false) },
    sync("Microsoft.Authorization/locks", false),
    Kind {
        create: Style::Both(Some(1)),
        update: Style::Both(Some(1)),
        ..sql("Microsoft.Sql/servers", "server", true, 68)
    },
    Kind { delete: Style::Sync(204), ..sql("Microsoft.Sql/servers/elasticPools", "elasticPool", true, 50) },
    Kind {
        state: State::Own("status", "Online"),
        ..sql("Microsoft.Sql/servers/databases", "database", true, 66)
    },
    sql("Microsoft.Sql/servers/virtualNetworkRules", "virtualNetworkRules", false, 21),
    Kind {
        state: State::None,
        ..sql(
            "Microsoft.Sql/servers/databases/backupShortTermRetentionPolicies",
            "shortTermRetentionPolicy",
            false,
            15,
        )
    },
    Kind {
        state: State::None,
        ..sql(
            "Microsoft.Sql/servers/databases/backupLongTermRetentionPolicies",
            "longTermRetentionPolicy",
            false,
            15,
        )
    },
    Kind {
        state: State::None,
        ..sql("Microsoft.Sql/servers/databases/replicationLinks", "replicationLink", false, 15)
    },
    Kind {
        create: Style::Location(17),
        create_seconds: 27,
        state: State::Provisioning("Creating"),
        ..sync("Microsoft.Storage/storageAccounts", true)
    },
    Kind { create: Style::Sync(200), ..sync("Microsoft.Storage/storageAccounts/fileServices", false) },
    Kind { etag: true, ..sync("Microsoft.Storage/storageAccounts/fileServices/shares", false) },
    aks("Microsoft.ContainerService/managedClusters", true, [270, 122, 230]),
    aks("Microsoft.ContainerService/managedClusters/agentPools", false, [197, 90, 25]),
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
