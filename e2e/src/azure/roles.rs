//! Built-in roles and what they allow.

/// Owner.
pub const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
/// Contributor.
pub const CONTRIBUTOR: &str = "b24988ac-6180-42a0-ab88-20f7382dd24c";
/// Reader.
pub const READER: &str = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
/// User Access Administrator.
pub const USER_ACCESS_ADMINISTRATOR: &str = "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9";
/// DNS Zone Contributor.
pub const DNS_ZONE_CONTRIBUTOR: &str = "befefa01-2a29-4197-83a8-272ff33ce314";

/// Azure Kubernetes Service RBAC Cluster Admin: everything inside a cluster, nothing in ARM.
pub const AKS_RBAC_CLUSTER_ADMIN: &str = "b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b";

/// Whether a role allows an action such as `microsoft.network/dnszones/read`, lower case.
pub fn allows(role: &str, action: &str) -> bool {
    let authorization = action.starts_with("microsoft.authorization/");
    let read = action.ends_with("/read");
    match role {
        OWNER => true,
        CONTRIBUTOR => read || !authorization,
        READER => read,
        USER_ACCESS_ADMINISTRATOR => read || authorization,
        DNS_ZONE_CONTRIBUTOR => {
            action.starts_with("microsoft.network/dnszones/")
                || (read && action.starts_with("microsoft.resources/"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles() {
        let (read, write) = ("microsoft.network/dnszones/read", "microsoft.network/virtualnetworks/write");
        let grant = "microsoft.authorization/roleassignments/write";
        for (role, expect) in [
            (OWNER, [true, true, true]),
            (CONTRIBUTOR, [true, true, false]),
            (READER, [true, false, false]),
            (USER_ACCESS_ADMINISTRATOR, [true, false, true]),
            (DNS_ZONE_CONTRIBUTOR, [true, false, false]),
            ("made-up", [false, false, false]),
        ] {
            assert_eq!([read, write, grant].map(|action| allows(role, action)), expect, "{role}");
        }
    }
}
