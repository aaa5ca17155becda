//! Who may mount which share.

use serde_json::{Value, json};

use super::{
    files::MountRequest,
    slots::Slot,
    tests::{RG, World, body},
    tests_reef::{NETWORK, world},
};

/// A network with two subnets, an account with a share, and an AKS cluster in `slot-1`.
fn with_files(acls: &Value) -> World {
    let mut world = world();
    let mut account = json!({ "location": "westeurope", "sku": { "name": "Standard_ZRS" }, "kind": "StorageV2", "properties": {} });
    account["properties"]["networkAcls"] = acls.clone();
    assert_eq!(world.put(&account_id(), account).status, 202);
    world.later(60);
    assert_eq!(world.put(&share_id(), json!({ "properties": { "shareQuota": 1 } })).status, 201);
    world.cloud.slots.add(Slot {
        name: "slot-1".to_owned(),
        port: 1,
        ca: "ca".to_owned(),
        issuer: "https://i/".to_owned(),
        version: "1.36.3".to_owned(),
    });
    let pool = json!({ "name": "system", "mode": "System", "minCount": 2, "vnetSubnetID": subnet() });
    let cluster =
        json!({ "location": "westeurope", "properties": { "dnsPrefix": "r", "agentPoolProfiles": [pool] } });
    let path = format!("{RG}/providers/Microsoft.ContainerService/managedClusters/reef");
    assert_eq!(world.put(&path, cluster).status, 201);
    world.later(600);
    assert_eq!(body(&world.get(&path))["properties"]["provisioningState"], "Succeeded");
    world
}

fn subnet() -> String {
    format!("{RG}/{NETWORK}/subnets/nodes")
}

fn account_id() -> String {
    format!("{RG}/providers/Microsoft.Storage/storageAccounts/reefone")
}

fn share_id() -> String {
    format!("{}/fileServices/default/shares/one", account_id())
}

fn account_key(world: &mut World, n: usize) -> String {
    let keys = world.call("POST", &format!("{}/listKeys", account_id()), None);
    body(&keys)["keys"][n]["value"].as_str().unwrap().to_owned()
}

fn deny(rules: &[&str]) -> Value {
    let rules: Vec<_> = rules.iter().map(|id| json!({ "id": id, "action": "Allow" })).collect();
    json!({ "bypass": "AzureServices", "defaultAction": "Deny", "virtualNetworkRules": rules, "ipRules": [] })
}

#[test]
fn a_share_is_mounted_with_a_key_of_its_account_from_a_subnet_that_is_let_in() {
    let subnet = subnet();
    let mut world = with_files(&deny(&[&subnet.to_uppercase().replace("/SUBSCRIPTIONS", "/subscriptions")]));
    let keys = [account_key(&mut world, 0), account_key(&mut world, 1)];
    for key in &keys {
        let wanted = MountRequest { account: "reefone", share: "one", key };
        assert_eq!(world.cloud.may_mount("slot-1", &wanted), Ok(()));
        let why = world.cloud.may_mount("slot-2", &wanted).unwrap_err();
        assert!(why.contains("not an AKS cluster"), "{why}");
    }
    let key = &keys[0];
    for (account, share, key, expect) in [
        ("reeftwo", "one", key.as_str(), "storage account reeftwo does not exist"),
        ("reefone", "two", key, "share two does not exist"),
        ("reefone", "../one", key, "does not exist"),
        ("reefone", "one", "c2VjcmV0", "permission denied"),
        ("reefone", "one", "", "permission denied"),
    ] {
        let wanted = MountRequest { account, share, key };
        let why = world.cloud.may_mount("slot-1", &wanted).unwrap_err();
        assert!(why.contains(expect), "{why}");
        assert!(!why.contains("c2VjcmV0") && !why.contains(keys[0].as_str()), "a key shows");
    }
}

#[test]
fn an_account_that_names_no_subnet_lets_nobody_in() {
    let mut world = with_files(&deny(&[]));
    let key = account_key(&mut world, 0);
    let wanted = MountRequest { account: "reefone", share: "one", key: &key };
    let why = world.cloud.may_mount("slot-1", &wanted).unwrap_err();
    assert!(why.contains("networkAcls") && why.contains("subnets/nodes"), "{why}");
    let open = json!({ "location": "westeurope", "sku": { "name": "Standard_ZRS" }, "kind": "StorageV2",
        "properties": { "networkAcls": { "defaultAction": "Allow" } } });
    assert_eq!(world.put(&account_id(), open.clone()).status, 200);
    assert_eq!(world.cloud.may_mount("slot-1", &wanted), Ok(()));
    for (property, value) in
        [("publicNetworkAccess", json!("Disabled")), ("allowSharedKeyAccess", json!(false))]
    {
        let mut closed = open.clone();
        closed["properties"][property] = value;
        assert_eq!(world.put(&account_id(), closed).status, 200);
        let why = world.cloud.may_mount("slot-1", &wanted).unwrap_err();
        assert!(why.contains(property), "{why}");
    }
}

#[test]
fn shares_that_go_are_told_once_however_they_go() {
    let mut world = with_files(&deny(&[]));
    let gone = || ("reefone".to_owned(), "one".to_owned());
    assert_eq!(world.delete(&share_id()).status, 200);
    assert_eq!(world.cloud.take_gone_shares(), [gone()]);
    assert!(world.cloud.take_gone_shares().is_empty());
    world.later(3600);
    assert_eq!(world.put(&share_id(), json!({ "properties": { "shareQuota": 1 } })).status, 201);
    assert_eq!(world.delete(&account_id()).status, 200);
    assert_eq!(world.cloud.take_gone_shares(), [gone()]);
}
