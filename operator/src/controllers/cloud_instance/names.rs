//! Names of what an instance is made of (pure). They follow from its identity (fleet, namespace, name), so that
//! the same manifest in a new management cluster finds what exists.

use serde_json::{Value, json};

use crate::{
    controller::hash,
    controllers::reef::names::{TAG_FLEET, TAG_REEF, TAG_REGION},
};

/// Tag or metadata with the namespace and name of the CloudInstance.
pub const TAG_INSTANCE: &str = "reef-operator-instance";
/// Tag or metadata with the UID of the CloudInstance that claims the resource.
pub const TAG_CLAIM: &str = "reef-operator-claim";
/// Tag of the identity with the storage account of the instance's share.
pub const TAG_ACCOUNT: &str = "reef-operator-storage-account";
/// Tag of the identity with the elastic pool of the instance's database; empty if it has compute of its own.
pub const TAG_POOL: &str = "reef-operator-pool";
/// Tag of the identity with the number of the placement.
pub const TAG_GENERATION: &str = "reef-operator-placement";
/// Tag of the database with the hash of the instance's keys.
pub const TAG_KEYS: &str = "reef-operator-keys";

/// The identity of an instance in short: 16 hexadecimal digits.
pub fn hash(fleet: &str, namespace: &str, name: &str) -> String {
    hash::hex(&["instance", fleet, namespace, name], 16)
}

/// Name of the database with this incarnation.
pub fn database(hash: &str, incarnation: u32) -> String {
    format!("db-{hash}-{incarnation}")
}

/// Name of the file share with this incarnation.
pub fn share(hash: &str, incarnation: u32) -> String {
    format!("fs-{hash}-{incarnation}")
}

/// Name of the managed identity, and of its user in the database.
pub fn identity(hash: &str) -> String {
    format!("id-{hash}")
}

/// Name of the namespace in the reef's cluster: readable, and one for all instances of all namespaces.
pub fn namespace(name: &str, hash: &str) -> String {
    format!("oct-{name}-{}", hash.get(..8).unwrap_or(hash))
}

/// Name of the PersistentVolume of a share.
pub fn volume(share: &str) -> String {
    format!("reef-{share}")
}

/// Name of the Secret with the keys of an instance in the operator's namespace. Another object of the same name has other
/// keys, unless it takes over what the first one had.
pub fn keys(hash: &str, uid: &str) -> String {
    format!("instance-{hash}-{}", uid.get(..8).unwrap_or(uid))
}

/// What every resource of an instance is marked with, its claim aside.
pub fn tags(fleet: &str, region: &str, reef: &str, instance: &str) -> Value {
    json!({ TAG_FLEET: fleet, TAG_REGION: region, TAG_REEF: reef, TAG_INSTANCE: instance })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_azure_and_kubernetes_take() {
        let hash = hash("prod", "customers", "acme");
        // These stand in Azure: they must never change.
        assert_eq!(hash, "c005f4920b8cdd9d");
        assert_eq!(database(&hash, 1), format!("db-{hash}-1"));
        let name = "a".repeat(40);
        assert!(namespace(&name, &hash).len() <= 63);
        assert!(share(&hash, u32::MAX).len() <= 63 && !share(&hash, 1).contains("--"));
        assert_ne!(hash, super::hash("prod", "customers-acme", ""));
        assert_ne!(hash, super::hash("prod", "customer", "sacme"));
    }
}
