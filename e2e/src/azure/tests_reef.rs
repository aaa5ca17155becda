//! Tables for the types of a reef: SQL, storage, AKS.

use serde_json::{Value, json};

use super::{
    slots::{Event, Slot},
    tests::{RG, World, body, code, header},
};

pub(super) const NETWORK: &str = "providers/Microsoft.Network/virtualNetworks/v";

pub(super) fn world() -> World {
    let mut world = World::with_group();
    for provider in ["Microsoft.Sql", "Microsoft.Storage", "Microsoft.ContainerService"] {
        let path = format!("/subscriptions/{}/providers/{provider}/register", super::SUBSCRIPTION);
        assert_eq!(world.call("POST", &path, None).status, 200);
    }
    let endpoints = json!([{ "service": "Microsoft.Sql" }, { "service": "Microsoft.Storage" }]);
    let network = json!({ "location": "westeurope", "properties": {
        "addressSpace": { "addressPrefixes": ["10.0.0.0/16"] },
        "subnets": [{ "name": "nodes", "properties": { "addressPrefix": "10.0.0.0/20", "serviceEndpoints": endpoints } }],
    } });
    assert_eq!(world.put(&format!("{RG}/{NETWORK}"), network).status, 201);
    world.later(3);
    world
}

pub(super) fn server() -> String {
    format!("{RG}/providers/Microsoft.Sql/servers/reef")
}

pub(super) fn with_server() -> World {
    let mut world = world();
    world.put(&server(), json!({ "location": "westeurope", "properties": { "version": "12.0" } }));
    world.later(68);
    let pool = json!({ "location": "westeurope", "sku": { "name": "StandardPool", "tier": "Standard", "capacity": 50 }, "properties": {} });
    world.put(&format!("{}/elasticPools/p1", server()), pool);
    world.later(50);
    world
}

#[test]
fn a_network_shows_the_subnets_that_came_with_it() {
    let mut world = world();
    let network = format!("{RG}/{NETWORK}");
    let shown = world.get(&network);
    let subnets = body(&shown)["properties"]["subnets"].as_array().unwrap().clone();
    assert_eq!(
        (subnets.len(), subnets[0]["properties"]["provisioningState"].as_str()),
        (1, Some("Succeeded"))
    );
    assert_eq!(world.get(&format!("{network}/subnets/nodes")).status, 200);
    // Without a list of subnets they stay; with an empty list they go.
    let bare = json!({ "location": "westeurope", "properties": { "addressSpace": { "addressPrefixes": ["10.0.0.0/16"] } } });
    world.put(&network, bare.clone());
    assert_eq!(world.get(&format!("{network}/subnets/nodes")).status, 200);
    let mut empty = bare.clone();
    empty["properties"]["subnets"] = json!([]);
    world.put(&network, empty);
    assert_eq!(world.get(&format!("{network}/subnets/nodes")).status, 404);
    // Before 2023-09-01 no list was an empty one.
    for (version, status) in [("2023-09-01", 200), ("2020-11-01", 404)] {
        let one = json!({ "properties": { "addressPrefix": "10.0.0.0/20" } });
        assert_eq!(world.put(&format!("{network}/subnets/one"), one).status, 201, "{version}");
        world.put(&format!("{network}?api-version={version}"), bare.clone());
        assert_eq!(world.get(&format!("{network}/subnets/one")).status, status, "{version}");
        world.later(60);
        world.delete(&format!("{network}/subnets/one"));
        world.later(60);
    }
    let reference = json!({ "location": "westeurope", "properties": { "subnets": [{ "name": "s", "properties": { "natGateway": { "id": format!("{RG}/x") } } }] } });
    assert_eq!(code(&world.put(&network, reference)), "InvalidResourceReference");
}

fn slot() -> Slot {
    let text = |text: &str| text.to_owned();
    Slot {
        name: text("slot-1"),
        port: 1,
        ca: text("ca"),
        issuer: text("https://i/"),
        version: text("1.36.3"),
    }
}

#[test]
fn a_sql_server_is_not_seen_before_it_is_made() {
    let mut world = world();
    let sent = json!({ "location": "westeurope", "properties": { "version": "12.0" } });
    let made = world.put(&server(), sent.clone());
    assert_eq!((made.status, header(&made, "retry-after")), (202, Some("1")));
    assert_eq!(body(&made)["operation"], "UpsertLogicalServer");
    let poll = header(&made, "azure-asyncoperation").unwrap().to_owned();
    assert!(
        poll.contains("/serverAzureAsyncOperation/")
            && header(&made, "location").unwrap().contains("/serverOperationResults/")
    );
    assert_eq!(world.get(&server()).status, 404);
    assert_eq!(code(&world.put(&server(), sent)), "ConflictingServerOperation");
    assert_eq!(body(&world.get(&poll))["status"], "InProgress");
    world.later(68);
    assert_eq!(body(&world.get(&poll))["status"], "Succeeded");
    let found = world.get(&server());
    let properties = &body(&found)["properties"];
    assert_eq!(
        (properties["state"].as_str(), properties["fullyQualifiedDomainName"].as_str()),
        (Some("Ready"), Some("reef.database.windows.net"))
    );

    let failing = format!("{RG}/providers/Microsoft.Sql/servers/other");
    let made = world.put(&failing, json!({ "location": "westeurope" }));
    world.cloud.fail_operation(&made, "InternalServerError", "no");
    world.later(68);
    assert_eq!(world.get(&failing).status, 404, "a server that failed is not there");
}

#[test]
fn global_names_are_taken_once() {
    let mut world = with_server();
    let group = format!("/subscriptions/{}/resourceGroups/other", super::SUBSCRIPTION);
    world.put(&group, json!({ "location": "westeurope" }));
    let here = json!({ "location": "westeurope", "sku": { "name": "Standard_LRS" }, "kind": "StorageV2" });
    let account = |group: &str| format!("{group}/providers/Microsoft.Storage/storageAccounts/reefone");
    assert_eq!(world.put(&account(RG), here.clone()).status, 202);
    assert_eq!(code(&world.put(&account(&group), here.clone())), "StorageAccountAlreadyTaken");
    assert_eq!(
        code(&world.put(&format!("{group}/providers/Microsoft.Sql/servers/reef"), here.clone())),
        "NameAlreadyExists"
    );
    assert_eq!(
        code(&world.put(&format!("{RG}/providers/Microsoft.Storage/storageAccounts/Bad-Name"), here)),
        "AccountNameInvalid"
    );
}

#[test]
fn a_database_lives_in_a_pool_and_can_be_restored_when_dropped() {
    let mut world = with_server();
    let pool = format!("{}/elasticPools/p1", server());
    let limits = world.get(&pool);
    assert_eq!(
        body(&limits)["properties"]["perDatabaseSettings"],
        json!({ "minCapacity": 0.0, "maxCapacity": 50.0 })
    );
    let database = format!("{}/databases/db", server());
    let sent =
        json!({ "location": "westeurope", "properties": { "elasticPoolId": pool, "createMode": "Default" } });
    assert_eq!(body(&world.put(&database, sent.clone()))["operation"], "CreateLogicalDatabase");
    world.later(66);
    let found = body(&world.get(&database)).clone();
    assert_eq!(
        (found["properties"]["status"].as_str(), &found["sku"]["name"]),
        (Some("Online"), &json!("ElasticPool"))
    );
    assert!(found["properties"]["createMode"].is_null(), "write-only");
    assert_eq!(code(&world.delete(&pool)), "40877");
    let nowhere = json!({ "location": "westeurope", "properties": { "elasticPoolId": format!("{}/elasticPools/no", server()) } });
    assert_eq!(code(&world.put(&format!("{}/databases/x", server()), nowhere)), "ElasticPoolNotFound");
    for n in 1..100 {
        let answer = world.put(&format!("{}/databases/d{n}", server()), sent.clone());
        assert_eq!(answer.status, 202, "{n}");
    }
    assert_eq!(code(&world.put(&format!("{}/databases/d100", server()), sent)), "40881");

    world.delete(&database);
    world.later(15);
    assert_eq!(world.get(&database).status, 404);
    let dropped = format!("{}/restorableDroppedDatabases", server());
    let count = |world: &mut World| body(&world.get(&dropped))["value"].as_array().unwrap().len();
    assert_eq!(count(&mut world), 0, "it takes a while to be listed");
    world.later(300);
    assert_eq!(count(&mut world), 1);
    world.later(8 * 86_400);
    assert_eq!(count(&mut world), 0, "and is gone after its retention");
}

#[test]
fn rules_need_a_subnet_with_the_service_endpoint() {
    let mut world = with_server();
    let rule = format!("{}/virtualNetworkRules/nodes", server());
    let to = |subnet: &str| json!({ "properties": { "virtualNetworkSubnetId": format!("{RG}/{NETWORK}/subnets/{subnet}") } });
    assert_eq!(code(&world.put(&rule, to("none"))), "VirtualNetworkRuleBadRequest");
    assert_eq!(world.put(&rule, to("nodes")).status, 202);
    world.later(21);
    assert_eq!(body(&world.get(&rule))["properties"]["state"], "Ready");
}

#[test]
fn a_storage_account_has_keys_when_it_is_made_and_keeps_deleted_shares() {
    let mut world = world();
    let account = format!("{RG}/providers/Microsoft.Storage/storageAccounts/reefone");
    let sent = json!({ "location": "westeurope", "sku": { "name": "Standard_ZRS" }, "kind": "StorageV2" });
    let made = world.put(&account, sent.clone());
    assert_eq!((made.status, made.body.clone(), header(&made, "retry-after")), (202, None, Some("17")));
    assert_eq!(header(&made, "azure-asyncoperation"), None);
    let keys = format!("{account}/listKeys");
    assert_eq!(code(&world.call("POST", &keys, None)), "StorageAccountIsNotProvisioned");
    let poll = header(&made, "location").unwrap().to_owned();
    assert_eq!((world.get(&poll).status, world.get(&poll).body), (202, None));
    world.later(27);
    assert_eq!(body(&world.get(&poll))["name"], "reefone", "the last answer is the account");
    assert_eq!(world.put(&account, sent).status, 200);
    let keys = body(&world.call("POST", &keys, None))["keys"].as_array().unwrap().clone();
    assert!(keys.len() == 2 && keys[0]["value"] != keys[1]["value"]);

    let service = format!("{account}/fileServices/default");
    let policy = json!({ "properties": { "shareDeleteRetentionPolicy": { "enabled": true, "days": 14 } } });
    let answer = world.put(&format!("{service}?api-version=2023-01-01"), policy.clone());
    assert_eq!((answer.status, body(&answer)), (200, &json!({ "name": "default" })));
    let answer = world.put(&service, policy.clone());
    assert_eq!((answer.status, &body(&answer)["properties"]), (200, &policy["properties"]));
    let share = format!("{service}/shares/one");
    let sent =
        json!({ "properties": { "shareQuota": 100, "enabledProtocols": "SMB", "metadata": { "a": "b" } } });
    let made = world.put(&share, sent.clone());
    assert_eq!(
        (made.status, &body(&made)["properties"], header(&made, "etag").is_some()),
        (201, &sent["properties"], true),
        "as it was sent, without what Azure adds"
    );
    assert_eq!(
        code(&world.put(&share, json!({ "properties": { "shareQuota": 0 } }))),
        "InvalidValuesForRequestParameters"
    );
    assert_eq!(world.delete(&share).status, 200);
    let list = |world: &mut World, expand: bool| {
        let mut request = World::request("GET", &format!("{service}/shares"), None);
        if expand {
            request.query.insert("$expand".to_owned(), "deleted".to_owned());
        }
        let now = world.now;
        body(&world.cloud.handle(&request, now))["value"].as_array().unwrap().clone()
    };
    assert!(list(&mut world, false).is_empty());
    let deleted: Vec<Value> = list(&mut world, true);
    assert_eq!((deleted.len(), &deleted[0]["properties"]["deleted"]), (1, &json!(true)));
}

#[test]
fn an_aks_cluster_gets_a_slot_and_gives_it_back() {
    let mut world = world();
    let cluster = format!("{RG}/providers/Microsoft.ContainerService/managedClusters/reef");
    let pool = json!({ "name": "system", "mode": "System", "minCount": 2, "vnetSubnetID": format!("{RG}/{NETWORK}/subnets/nodes") });
    let sent = json!({ "location": "westeurope", "properties": { "dnsPrefix": "reef", "oidcIssuerProfile": { "enabled": true }, "kubernetesVersion": "1.36", "agentPoolProfiles": [pool] } });
    assert_eq!(code(&world.put(&cluster, sent.clone())), "ManagedClusterCountExceedsQuotaLimit");
    world.cloud.slots.add(slot());
    let mut old = sent.clone();
    old["properties"]["kubernetesVersion"] = json!("1.20");
    assert_eq!(code(&world.put(&cluster, old)), "K8sVersionNotSupported");

    let made = world.put(&cluster, sent.clone());
    assert_eq!(
        (made.status, header(&made, "retry-after"), header(&made, "azure-asyncoperation").is_some()),
        (201, None, true)
    );
    assert_eq!(body(&made)["properties"]["provisioningState"], "Creating");
    let credential = format!("{cluster}/listClusterUserCredential");
    assert_eq!(world.call("POST", &credential, None).status, 409);
    assert_eq!(code(&world.put(&cluster, sent.clone())), "OperationNotAllowed");
    let progress = header(&made, "azure-asyncoperation").unwrap().to_owned();
    let mut words = Vec::new();
    for _ in 0..9 {
        words.push(body(&world.get(&progress))["status"].as_str().unwrap().to_owned());
        world.later(30);
    }
    words.dedup();
    assert_eq!((words[0].as_str(), words[1].as_str()), ("InProgress", "ProvisioningControlPlane"));
    assert_eq!(words.last().unwrap(), "CreatingAgentPool: 0/1 nodes completed");
    let found = body(&world.get(&cluster)).clone();
    let properties = &found["properties"];
    assert_eq!(properties["provisioningState"], "Succeeded");
    assert_eq!(properties["oidcIssuerProfile"]["issuerURL"], "https://i/");
    assert_eq!(
        (&properties["agentPoolProfiles"][0]["name"], &properties["agentPoolProfiles"][0]["count"]),
        (&json!("system"), &json!(2))
    );
    let host = properties["fqdn"].as_str().unwrap().to_owned();
    assert_eq!(world.cloud.slots.port(&host), Some(1));
    assert!(body(&world.call("POST", &credential, None))["kubeconfigs"][0]["value"].is_string());
    assert!(matches!(world.cloud.slots.take_events().as_slice(), [Event::Created { .. }]));

    // The same PUT again is a real operation.
    let again = world.put(&cluster, sent);
    assert_eq!((again.status, &body(&again)["properties"]["provisioningState"]), (200, &json!("Updating")));
    world.later(122);
    assert_eq!(world.delete(RG).status, 202);
    world.later(230 + 16);
    assert_eq!(world.get(RG).status, 404);
    assert!(matches!(world.cloud.slots.take_events().as_slice(), [Event::Deleted { .. }]));
    assert_eq!(world.cloud.slots.port(&host), None);
}

#[test]
fn what_is_synchronous_becomes_asynchronous_and_back() {
    let mut world = world();
    let group = format!("{RG}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/one");
    let request = |method: &str, path: &str, body: Option<Value>| World::request(method, path, body);
    let flipped = |world: &mut World, method: &str, path: &str, body: Option<Value>| {
        let now = world.now;
        world.cloud.handle_flipped(&request(method, path, body), now)
    };
    let here = json!({ "location": "westeurope" });
    let made = flipped(&mut world, "PUT", &group, Some(here.clone()));
    assert_eq!((made.status, header(&made, "retry-after")), (202, Some("1")));
    let status = header(&made, "azure-asyncoperation").unwrap().to_owned();
    assert_eq!(body(&world.get(&status))["status"], "InProgress");
    world.later(6);
    assert_eq!(body(&world.get(&status))["status"], "Succeeded");
    assert_eq!(world.get(&group).status, 200);
    let deleted = flipped(&mut world, "DELETE", &group, None);
    assert_eq!((deleted.status, world.get(&group).status), (202, 200));
    world.later(6);
    assert_eq!(world.get(&group).status, 404);

    let account = format!("{RG}/providers/Microsoft.Storage/storageAccounts/reefone");
    let sent = json!({ "location": "westeurope", "sku": { "name": "Standard_ZRS" }, "kind": "StorageV2" });
    let made = flipped(&mut world, "PUT", &account, Some(sent));
    assert_eq!((made.status, &body(&made)["properties"]["provisioningState"]), (201, &json!("Succeeded")));
    assert_eq!(world.get(&format!("{account}/fileServices/default")).status, 200, "with what comes with it");
    let keys = format!("{account}/listKeys");
    let asked = flipped(&mut world, "POST", &keys, None);
    let result = header(&asked, "location").unwrap().to_owned();
    assert_eq!((asked.status, world.get(&result).status), (202, 202));
    world.later(6);
    assert_eq!(body(&world.get(&result))["keys"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_is_given_up_stays_as_far_as_it_came_and_can_be_asked_for_again() {
    let mut world = world();
    world.cloud.slots.add(slot());
    let cluster = format!("{RG}/providers/Microsoft.ContainerService/managedClusters/reef");
    let sent = json!({ "location": "westeurope", "properties": { "dnsPrefix": "reef", "agentPoolProfiles": [{ "name": "system", "mode": "System" }] } });
    let made = world.put(&cluster, sent.clone());
    let poll = header(&made, "azure-asyncoperation").unwrap().to_owned();
    let abort = |world: &mut World| world.call("POST", &format!("{cluster}/abort"), None);
    let begun = abort(&mut world);
    assert_eq!((begun.status, &body(&begun)["properties"]["provisioningState"]), (202, &json!("Creating")));
    assert_eq!(body(&world.get(&cluster))["properties"]["provisioningState"], "Canceling");
    let ended = body(&world.get(&poll)).clone();
    assert_eq!((&ended["status"], ended["error"].is_object()), (&json!("Canceled"), true));
    let [status, result] =
        ["azure-asyncoperation", "location"].map(|name| header(&begun, name).unwrap().to_owned());
    assert_eq!(world.get(&result).status, 202);
    world.later(5);
    assert_eq!(body(&world.get(&status))["status"], "Succeeded");
    assert_eq!(world.get(&result).status, 204);
    for of in [&cluster, &format!("{cluster}/agentPools/system")] {
        assert_eq!(body(&world.get(of))["properties"]["provisioningState"], "Canceled", "{of}");
    }
    assert_eq!(code(&abort(&mut world)), "OperationNotAllowed", "nothing runs");
    assert_eq!(world.put(&cluster, sent).status, 200);
    world.later(270);
    for of in [&cluster, &format!("{cluster}/agentPools/system")] {
        assert_eq!(body(&world.get(of))["properties"]["provisioningState"], "Succeeded", "{of}");
    }
}

#[test]
fn a_security_group_shows_its_rules_and_those_that_every_one_has() {
    let mut world = world();
    let group = format!("{RG}/providers/Microsoft.Network/networkSecurityGroups/nsg");
    let rule = |priority: u32| json!({ "priority": priority, "direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourceAddressPrefix": "*", "sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRange": "443" });
    let sent = json!({ "location": "westeurope", "properties": { "securityRules": [{ "name": "web", "properties": rule(100) }] } });
    assert_eq!(world.put(&group, sent).status, 201);
    world.later(3);
    assert_eq!(
        world.put(&format!("{group}/securityRules/more"), json!({ "properties": rule(101) })).status,
        201
    );
    world.later(3);
    let shown = body(&world.get(&group)).clone();
    let names = |list: &str| {
        let rules = shown["properties"][list].as_array().unwrap();
        rules.iter().map(|rule| rule["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("securityRules"), ["more", "web"]);
    let own = names("defaultSecurityRules");
    assert_eq!((own.len(), own[0].as_str()), (6, "AllowVnetInBound"));
    assert_eq!(body(&world.get(&format!("{group}/securityRules/web")))["properties"]["priority"], 100);
    assert_eq!(world.delete(&format!("{group}/securityRules/more")).status, 202);
    world.later(11);
    // Who sends no rules wants none.
    world.put(&group, json!({ "location": "westeurope" }));
    world.later(3);
    assert_eq!(body(&world.get(&group))["properties"]["securityRules"], json!([]));
    assert_eq!(world.get(&format!("{group}/securityRules/web")).status, 404);

    let gateway = format!("{RG}/providers/Microsoft.Network/natGateways/nat");
    let address = format!("{RG}/providers/Microsoft.Network/publicIPAddresses/none");
    let sent = json!({ "location": "westeurope", "sku": { "name": "Standard" }, "properties": { "publicIpAddresses": [{ "id": address }] } });
    let refused = world.put(&gateway, sent);
    assert_eq!((refused.status, code(&refused)), (404, "NotFound"));
}
