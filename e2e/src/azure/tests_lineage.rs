//! Databases that are made of others.

use serde_json::{Value, json};

use super::{
    put::started,
    tests::{World, body, code},
    tests_reef::{server, with_server},
};

fn database(name: &str) -> String {
    format!("{}/databases/{name}", server())
}

/// A pooled database with a first backup, and a second server.
fn world() -> World {
    let mut world = with_server();
    let sent = json!({ "location": "westeurope", "properties": {
        "elasticPoolId": format!("{}/elasticPools/p1", server()), "collation": "Latin1_General_CI_AS",
    } });
    assert_eq!(world.put(&database("db"), sent).status, 202);
    let other = json!({ "location": "northeurope", "properties": { "version": "12.0" } });
    assert_eq!(world.put(&format!("{}-2", server()), other).status, 202);
    world.later(300);
    let found = body(&world.get(&database("db"))).clone();
    assert_eq!(found["properties"]["status"], "Online");
    world
}

fn sent(create_mode: &str, more: &Value) -> Value {
    let mut body = json!({ "location": "westeurope", "properties": { "createMode": create_mode, "sourceDatabaseId": database("db") } });
    for (name, value) in more.as_object().into_iter().flatten() {
        body["properties"][name] = value.clone();
    }
    body
}

#[test]
fn a_restore_takes_its_time_and_needs_a_moment_that_there_was() {
    let mut world = world();
    let at = |second: u64| json!({ "restorePointInTime": started(second * 1000) });
    let shown = body(&world.get(&database("db"))).clone();
    let earliest = shown["properties"]["earliestRestoreDate"].as_str().unwrap().to_owned();
    let now = world.now / 1000;
    for (mode, more, status, expect) in [
        ("PointInTimeRestore", at(now + 1), 400, "InvalidRestorePointInTime"),
        ("PointInTimeRestore", at(0), 400, "InvalidRestorePointInTime"),
        ("PointInTimeRestore", json!({ "restorePointInTime": "noon" }), 400, "InvalidRestorePointInTime"),
        ("Restore", json!({ "sourceDatabaseDeletionDate": earliest }), 404, "SourceDatabaseNotFound"),
        ("Copy", json!({ "sourceDatabaseId": database("none") }), 404, "SourceDatabaseNotFound"),
        ("Copy", json!({ "sourceDatabaseId": null }), 400, "MissingSourceDatabaseId"),
        ("Secondary", json!({}), 400, "InvalidSecondaryDatabase"),
        ("RestoreExternalBackup", json!({}), 400, "InvalidCreateMode"),
    ] {
        let refused = world.put(&database("new"), sent(mode, &more));
        assert_eq!((refused.status, code(&refused)), (status, expect), "{mode} {more}");
    }
    let onto = world.put(&database("db"), sent("PointInTimeRestore", &at(now)));
    assert_eq!((onto.status, code(&onto)), (409, "DatabaseAlreadyExists"));

    let begun = world.put(&database("new"), sent("PointInTimeRestore", &at(now)));
    assert_eq!((begun.status, &body(&begun)["operation"]), (202, &json!("CreateRestoreRequest")));
    world.later(400);
    assert_eq!(world.get(&database("new")).status, 404);
    world.later(120);
    let made = body(&world.get(&database("new"))).clone();
    assert_eq!(made["properties"]["status"], "Online");
    assert_eq!(made["properties"]["collation"], "Latin1_General_CI_AS");
    assert_eq!(made["properties"]["earliestRestoreDate"], Value::Null, "its own backups begin now");
    assert_ne!(made["properties"]["databaseId"], shown["properties"]["databaseId"]);
}

#[test]
fn a_dropped_database_comes_back_once_it_is_listed() {
    let mut world = world();
    world.delete(&database("db"));
    world.later(15);
    let gone = started(world.now);
    let by_date = json!({ "sourceDatabaseDeletionDate": gone });
    world.later(60);
    assert_eq!(world.get(&database("db")).status, 404);
    assert_eq!(world.put(&database("back"), sent("Restore", &by_date)).status, 404, "not listed yet");
    world.later(300);
    let listed = body(&world.get(&format!("{}/restorableDroppedDatabases", server()))).clone();
    let item = &listed["value"][0];
    assert_eq!(item["properties"]["databaseName"], "db");
    assert_eq!(body(&world.get(item["id"].as_str().unwrap())), item);
    let deleted = json!({ "sourceDatabaseDeletionDate": item["properties"]["deletionDate"] });
    let by_id = json!({ "sourceDatabaseId": item["id"] });
    for (name, more) in [("back", deleted), ("again", by_id.clone())] {
        let answer = world.put(&database(name), sent("Restore", &more));
        assert_eq!(
            (answer.status, &body(&answer)["operation"]),
            (202, &json!("CreateRestoreRequest")),
            "{name}"
        );
    }
    world.later(600);
    assert_eq!(body(&world.get(&database("back")))["properties"]["status"], "Online");
    world.later(8 * 86_400);
    assert_eq!(code(&world.put(&database("late"), sent("Restore", &by_id))), "SourceDatabaseNotFound");
}

#[test]
fn a_database_is_recovered_from_the_backups_that_left_its_region() {
    let mut world = world();
    let local = json!({ "location": "westeurope", "sku": { "name": "S0" }, "properties": {
        "requestedBackupStorageRedundancy": "Local" } });
    assert_eq!(world.put(&database("local"), local).status, 202);
    world.later(2 * 3600);
    let all = format!("{}/recoverableDatabases", server());
    let listed = body(&world.get(&all))["value"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 1, "backups of the other one stay in its region: {listed}");
    let item = body(&world.get(&format!("{all}/DB"))).clone();
    assert_eq!(item, listed[0]);
    assert_eq!((&item["name"], &item["properties"]["elasticPoolName"]), (&json!("db"), &json!("p1")));
    let copied: jiff::Timestamp =
        item["properties"]["lastAvailableBackupDate"].as_str().unwrap().parse().unwrap();
    let now: jiff::Timestamp = started(world.now).parse().unwrap();
    let old = now.duration_since(copied).as_secs();
    assert!((1..=3600).contains(&old), "{old} s");

    let other = format!("{}-2/databases/db", server());
    let of = |id: &str| json!({ "location": "northeurope", "properties": { "createMode": "Recovery", "recoverableDatabaseId": id } });
    for id in [format!("{all}/local"), format!("{all}/none"), database("db")] {
        let refused = world.put(&other, of(&id));
        assert_eq!((refused.status, code(&refused)), (404, "SourceDatabaseNotFound"), "{id}");
    }
    let begun = world.put(&other, of(&format!("{all}/db")));
    assert_eq!((begun.status, &body(&begun)["operation"]), (202, &json!("CreateRecoverRequest")));
    world.later(800);
    assert_eq!(world.get(&other).status, 404);
    world.later(20);
    assert_eq!(body(&world.get(&other))["properties"]["collation"], "Latin1_General_CI_AS");
    assert_eq!(code(&world.put(&other, of(&format!("{all}/db")))), "DatabaseAlreadyExists");
    assert_eq!(world.get(&format!("{all}/none")).status, 404);
}

#[test]
fn a_replica_has_links_on_both_sides_and_a_failover_changes_their_roles() {
    let mut world = world();
    let replica = format!("{}-2/databases/db", server());
    let mut ask = sent("Secondary", &json!({ "secondaryType": "Geo" }));
    ask["location"] = json!("northeurope");
    let begun = world.put(&replica, ask.clone());
    assert_eq!((begun.status, &body(&begun)["operation"]), (202, &json!("CreateDatabaseAsCopy")));
    world.later(67);
    let links = |world: &mut World, of: &str| body(&world.get(&format!("{of}/replicationLinks"))).clone();
    let [mine, other] = [&replica, &database("db")].map(|of| links(&mut world, of)["value"][0].clone());
    let roles = |link: &Value| {
        ["role", "partnerRole", "partnerServer", "replicationState"]
            .map(|name| link["properties"][name].clone())
    };
    assert_eq!(roles(&mine), ["Secondary", "Primary", "reef", "CATCH_UP"]);
    assert_eq!(roles(&other), ["Primary", "Secondary", "reef-2", "CATCH_UP"]);
    assert_eq!(mine["name"], other["name"]);
    let path = |link: &Value| link["id"].as_str().unwrap().to_owned();
    let failover =
        |world: &mut World, of: &Value, how: &str| world.call("POST", &format!("{}/{how}", path(of)), None);
    assert_eq!(code(&failover(&mut world, &other, "failover")), "InvalidReplicationRole");
    for how in ["failover", "forceFailoverAllowDataLoss"] {
        let of = if how == "failover" { &mine } else { &other };
        let begun = failover(&mut world, of, how);
        assert_eq!(begun.status, 202, "{how}");
        let poll = super::tests::header(&begun, "location").unwrap().to_owned();
        assert_eq!(world.get(&poll).status, 202);
        world.later(40);
        assert_eq!(body(&world.get(&poll))["properties"]["role"], "Primary");
    }
    assert_eq!(world.put(&path(&mine), json!({})).status, 405);
    assert_eq!(world.delete(&path(&mine)).status, 202);
    world.later(15);
    for of in [&replica, &database("db")] {
        assert_eq!(links(&mut world, of)["value"], json!([]));
        assert_eq!(world.get(of).status, 200);
    }

    // One that is there at once has not all of its primary yet.
    let quick = format!("{}-2/databases/quick", server());
    let request = World::request("PUT", &quick, Some(ask));
    assert_eq!(world.cloud.handle_flipped(&request, world.now).status, 201);
    let mine = links(&mut world, &quick)["value"][0].clone();
    assert_eq!(mine["properties"]["replicationState"], "SEEDING");
    assert_eq!(code(&failover(&mut world, &mine, "failover")), "ReplicationNotInCatchUpState");
    world.later(30);
    assert_eq!(failover(&mut world, &mine, "failover").status, 202);
}

#[test]
fn a_database_is_renamed_with_all_that_it_has() {
    let mut world = world();
    let shown = |world: &mut World, name: &str| world.get(&database(name));
    let id = body(&shown(&mut world, "db"))["properties"]["databaseId"].clone();
    let to = |world: &mut World, from: &str, to: &str| {
        world.call("POST", &format!("{}/move", database(from)), Some(json!({ "id": to }))).clone()
    };
    assert_eq!(code(&to(&mut world, "db", &format!("{}-2/databases/db", server()))), "InvalidResourceId");
    assert_eq!(code(&to(&mut world, "db", &database("master"))), "DatabaseAlreadyExists");
    assert_eq!(to(&mut world, "none", &database("other")).status, 404);
    let moved = to(&mut world, "db", &database("other"));
    assert_eq!((moved.status, moved.body), (200, None));
    assert_eq!(shown(&mut world, "db").status, 404);
    let found = body(&shown(&mut world, "other")).clone();
    assert_eq!((&found["name"], &found["properties"]["databaseId"]), (&json!("other"), &id));
    let policy = format!("{}/backupShortTermRetentionPolicies/default", database("other"));
    assert_eq!(body(&world.get(&policy))["id"], policy);
}

#[test]
fn a_hyperscale_database_has_named_replicas_on_its_own_server() {
    let mut world = world();
    let sent = json!({ "location": "westeurope", "sku": { "name": "HS_Gen5_2" } });
    assert_eq!(world.put(&database("large"), sent).status, 202);
    world.later(67);
    assert_eq!(body(&world.get(&database("large")))["kind"], "v12.0,user,vcore,hyperscale");
    let ask = |of: &str| {
        let properties =
            json!({ "createMode": "Secondary", "secondaryType": of, "sourceDatabaseId": database("large") });
        json!({ "location": "westeurope", "properties": properties })
    };
    assert_eq!(code(&world.put(&database("reports"), ask("Geo"))), "InvalidSecondaryDatabase");
    let begun = world.put(&database("reports"), ask("Named"));
    assert_eq!((begun.status, &body(&begun)["operation"]), (202, &json!("CreateLogicalDatabase")));
    world.later(67);
    let links = body(&world.get(&format!("{}/replicationLinks", database("large")))).clone();
    assert_eq!(links["value"][0]["properties"]["linkType"], "NAMED");
    assert_eq!(links["value"][0]["properties"]["partnerDatabase"], "reports");
}

#[test]
fn who_follows_the_old_primary_follows_the_new_one_after_a_failover() {
    let mut world = world();
    let replicas = ["one", "two"].map(|name| format!("{}-2/databases/{name}", server()));
    let mut ask = sent("Secondary", &json!({}));
    ask["location"] = json!("northeurope");
    for replica in &replicas {
        assert_eq!(world.put(replica, ask.clone()).status, 202);
        world.later(67);
        // Again, with something else: the same replica, changed.
        let again = world.put(replica, ask.clone());
        assert_eq!(body(&again)["operation"], "UpdateLogicalDatabase", "{}", body(&again));
        world.later(67);
    }
    let named = sent("Secondary", &json!({ "secondaryType": "Named" }));
    assert_eq!(code(&world.put(&database("named"), named)), "InvalidSecondaryDatabase");
    let links = |world: &mut World, of: &str| {
        let list = body(&world.get(&format!("{of}/replicationLinks"))).clone();
        let mut partners: Vec<_> = list["value"].as_array().unwrap().clone();
        partners.sort_by_key(|link| link["properties"]["partnerDatabase"].to_string());
        partners
    };
    let partners = |links: &[Value]| {
        let of = |link: &Value| {
            [&link["properties"]["partnerDatabase"], &link["properties"]["role"]].map(Value::to_string)
        };
        links.iter().map(of).collect::<Vec<_>>()
    };
    let text = |words: [&str; 2]| words.map(|word| json!(word).to_string());
    let all = links(&mut world, &database("db"));
    assert_eq!(partners(&all), [text(["one", "Primary"]), text(["two", "Primary"])]);
    // The API's first version tells of Location alone, and in the end has nothing to show.
    let mine = links(&mut world, &replicas[0])[0]["id"].as_str().unwrap().to_owned();
    let begun = world.call("POST", &format!("{mine}/failover?api-version=2014-04-01"), None);
    assert_eq!(super::tests::header(&begun, "azure-asyncoperation"), None);
    let poll = super::tests::header(&begun, "location").unwrap().to_owned();
    world.later(40);
    assert_eq!(world.get(&poll).status, 204);
    let all = links(&mut world, &replicas[0]);
    assert_eq!(partners(&all), [text(["db", "Primary"]), text(["two", "Primary"])]);
    assert_eq!(partners(&links(&mut world, &database("db"))), [text(["one", "Secondary"])]);
    assert_eq!(partners(&links(&mut world, &replicas[1])), [text(["one", "Secondary"])]);
    assert_eq!(all[1]["properties"]["replicationState"], "CATCH_UP");
    let link = all[1]["id"].as_str().unwrap();
    assert_eq!(world.delete(&format!("{link}?api-version=2014-04-01")).status, 200);
    assert_eq!(partners(&links(&mut world, &replicas[1])), Vec::<[String; 2]>::new());
}
