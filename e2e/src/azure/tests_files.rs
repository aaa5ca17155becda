//! Who may mount which share.

use serde_json::{Value, json};

use super::{
    files::MountRequest,
    slots::Slot,
    tests::{RG, World, body, code},
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
fn a_network_keeps_the_subnet_of_a_cluster() {
    let mut world = with_files(&deny(&[]));
    let network = json!({ "location": "westeurope", "properties": { "addressSpace": { "addressPrefixes": ["10.0.0.0/16"] }, "subnets": [] } });
    let refused = world.put(&format!("{RG}/{NETWORK}"), network);
    assert_eq!((refused.status, code(&refused)), (400, "InUseSubnetCannotBeDeleted"));
    assert_eq!(world.get(&subnet()).status, 200);
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
fn shares_that_go_are_told_once_however_they_go_and_come_back_with_their_snapshots() {
    let mut world = with_files(&deny(&[]));
    let told = |world: &mut World| -> Vec<_> {
        let moved = world.cloud.take_moved_shares();
        moved.into_iter().map(|m| (m.account, m.share, m.back_as)).collect()
    };
    let (account, share) = ("reefone".to_owned(), "one".to_owned());
    let snapshot = World::request("PUT", &format!("{}?api-version=1&$expand=snapshots", share_id()), None);
    assert_eq!(world.cloud.handle(&snapshot, world.now).status, 201);
    let moment = body(&world.cloud.handle(&snapshot, world.now))["properties"]["snapshotTime"].clone();
    assert_eq!(world.delete(&share_id()).status, 200);
    assert_eq!(told(&mut world), [(account.clone(), share.clone(), None)]);
    assert!(told(&mut world).is_empty());
    world.later(3600);
    assert_eq!(world.put(&share_id(), json!({ "properties": { "shareQuota": 1 } })).status, 201);

    let shares = share_id().rsplit_once('/').unwrap().0.to_owned();
    let listed = world.get(&format!("{shares}?api-version=1&$expand=deleted"));
    let listed = body(&listed)["value"].as_array().unwrap().clone();
    let version =
        listed.iter().find_map(|s| s["properties"]["version"].as_str()).expect("the deleted one").to_owned();
    let back = |name: &str, version: &str| {
        let body = json!({ "deletedShareName": "one", "deletedShareVersion": version });
        World::request("POST", &format!("{shares}/{name}/restore"), Some(body))
    };
    for (name, version, status, code_) in [
        ("one", version.as_str(), 409, "ShareAlreadyExists"),
        ("two", "01D8FB1BFAFCCB82", 404, "ShareNotFound"),
    ] {
        let refused = world.cloud.handle(&back(name, version), world.now);
        assert_eq!((refused.status, code(&refused)), (status, code_));
    }
    assert_eq!(world.cloud.handle(&back("two", &version), world.now).status, 200);
    assert_eq!(told(&mut world), [(account.clone(), share.clone(), Some("two".to_owned()))]);
    let mut two = World::request("GET", &format!("{shares}/two"), None);
    let shown = world.cloud.handle(&two, world.now);
    assert_eq!(
        (&body(&shown)["name"], &body(&shown)["properties"]["shareQuota"]),
        (&json!("two"), &json!(1))
    );
    two.snapshot = moment.as_str().map(str::to_owned);
    assert_eq!(body(&world.cloud.handle(&two, world.now))["properties"]["snapshotTime"], moment);
    assert_eq!(world.cloud.handle(&back("three", &version), world.now).status, 404, "it came back once");

    assert_eq!(world.delete(&account_id()).status, 200);
    assert_eq!(told(&mut world), [(account.clone(), share, None), (account, "two".to_owned(), None)]);
}
