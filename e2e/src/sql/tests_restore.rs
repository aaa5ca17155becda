//! What is in databases that were made of others.

use std::time::Duration;

use serde_json::{Value, json};

use super::tests::{AGENT, HOST, Wire, World, group, run};

const ROWS: &str = "SELECT n FROM dbo.T ORDER BY n";

const OTHER: &str = "sql2.database.windows.net";

fn servers() -> String {
    format!("{}/Microsoft.Sql/servers", group())
}

fn source() -> String {
    format!("{}/sql1/databases/one", servers())
}

/// What ARM shows of a resource.
fn shown(world: &World, path: &str) -> Value {
    world.azure.ask("GET", path, None).body.unwrap_or_default()
}

/// Waits for something; Azure's time goes by a thousand times faster.
async fn until(holds: impl Fn() -> bool) {
    let looks = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looks).await.expect("it comes to pass");
}

/// Asks for a database that is made of the first one, and waits for it.
async fn made(world: &World, path: &str, create_mode: &str, point: Option<&str>) {
    let mut properties = json!({ "createMode": create_mode, "sourceDatabaseId": source() });
    if let Some(point) = point {
        properties["restorePointInTime"] = json!(point);
    }
    let body = json!({ "location": "westeurope", "properties": properties });
    let answer = world.azure.ask("PUT", path, Some(body));
    assert_eq!(answer.status, 202, "{answer:?}");
    until(|| shown(world, path)["properties"]["status"] == "Online").await;
}

async fn on(world: &World, host: &str) -> Wire {
    let token = world.sql_token(AGENT);
    world.open(world.inside, host, "one", &token).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_comes_back_as_it_was() {
    let world = World::new().await;
    let mut one = world.as_(AGENT, "one").await.unwrap();
    for statement in [
        "CREATE TABLE dbo.T (n INT)",
        "CREATE USER [id-1] WITH SID = 0x000102030405060708090a0b0c0d0e0f, TYPE = E",
        "INSERT INTO dbo.T (n) VALUES (1)",
        // What is begun before the moment and committed after it does not come back.
        "BEGIN TRANSACTION",
        "INSERT INTO dbo.T (n) VALUES (2)",
    ] {
        run(&mut one, statement).await.unwrap();
    }
    let earliest = || shown(&world, &source())["properties"]["earliestRestoreDate"].clone();
    let now = || crate::azure::started(world.azure.now());
    until(|| earliest().as_str().is_some_and(|earliest| earliest < now().as_str())).await;
    let moment = now();
    until(|| now() > moment).await;
    run(&mut one, "COMMIT").await.unwrap();
    let database = |name: &str| format!("{}/sql1/databases/{name}", servers());
    made(&world, &database("past"), "PointInTimeRestore", Some(&moment)).await;
    made(&world, &database("copy"), "Copy", None).await;
    run(&mut one, "INSERT INTO dbo.T (n) VALUES (3)").await.unwrap();
    for (name, expect) in [("past", &["1"][..]), ("copy", &["1", "2"]), ("one", &["1", "2", "3"])] {
        let mut client = world.as_(AGENT, name).await.unwrap();
        assert_eq!(run(&mut client, ROWS).await.unwrap().concat(), expect, "{name}");
        let users = run(&mut client, "SELECT name FROM sys.database_principals WHERE type = 'E'").await;
        assert_eq!(users.unwrap(), [["id-1"]], "{name}");
    }
    // What is dropped comes back as it was last.
    let _ = world.azure.ask("DELETE", &source(), None);
    let dropped = format!("{}/sql1/restorableDroppedDatabases", servers());
    until(|| shown(&world, &dropped)["value"].as_array().is_some_and(|listed| listed.len() == 1)).await;
    let id = shown(&world, &dropped)["value"][0]["id"].clone();
    let body = json!({ "location": "westeurope", "properties": { "createMode": "Restore", "sourceDatabaseId": id } });
    assert_eq!(world.azure.ask("PUT", &database("one"), Some(body)).status, 202, "its name is free");
    until(|| shown(&world, &database("one"))["properties"]["status"] == "Online").await;
    let mut back = world.as_(AGENT, "one").await.unwrap();
    assert_eq!(run(&mut back, ROWS).await.unwrap().concat(), ["1", "2", "3"]);
}

/// The first database with three rows and a replica on another server that the same subnets reach; path of the
/// replica's link.
async fn replicated() -> (World, String) {
    let world = World::new().await;
    let subnet = format!("{}/Microsoft.Network/virtualNetworks/v/subnets/nodes", group());
    for (id, properties) in [
        ("sql2", json!({ "administrators": { "sid": AGENT } })),
        ("sql2/virtualNetworkRules/nodes", json!({ "virtualNetworkSubnetId": subnet })),
    ] {
        let body = json!({ "location": "westeurope", "properties": properties });
        world.azure.seed(&format!("{}/{id}", servers()), &body);
    }
    let mut one = on(&world, HOST).await;
    run(&mut one, "CREATE TABLE dbo.T (n INT); INSERT INTO dbo.T (n) VALUES (1)").await.unwrap();
    let replica = format!("{}/sql2/databases/one", servers());
    made(&world, &replica, "Secondary", None).await;
    let link = shown(&world, &format!("{replica}/replicationLinks"))["value"][0]["id"].clone();
    (world, link.as_str().unwrap().to_owned())
}

async fn fail_over(world: &World, link: &str, how: &str) {
    until(|| world.azure.ask("POST", &format!("{link}/{how}"), None).status == 202).await;
    until(|| shown(world, link)["properties"]["role"] == "Primary").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_follows_until_it_leads_and_is_on_its_own_without_its_link() {
    let (world, link) = replicated().await;
    let (mut one, mut follower) = (on(&world, HOST).await, on(&world, OTHER).await);
    run(&mut one, "INSERT INTO dbo.T (n) VALUES (2)").await.unwrap();
    assert_eq!(run(&mut follower, ROWS).await.unwrap().len(), 2);
    assert_eq!(run(&mut follower, "DELETE FROM dbo.T").await, Err(3906));
    fail_over(&world, &link, "failover").await;
    let (mut leader, mut was) = (on(&world, OTHER).await, on(&world, HOST).await);
    run(&mut leader, "INSERT INTO dbo.T (n) VALUES (3)").await.unwrap();
    assert_eq!(run(&mut was, "DELETE FROM dbo.T").await, Err(3906));
    assert_eq!(world.azure.ask("DELETE", &link, None).status, 202);
    until(|| world.azure.ask("GET", &link, None).status == 404).await;
    run(&mut leader, "INSERT INTO dbo.T (n) VALUES (4)").await.unwrap();
    let mut apart = on(&world, HOST).await;
    assert_eq!(run(&mut apart, ROWS).await.unwrap().len(), 3);
    run(&mut apart, "DELETE FROM dbo.T").await.unwrap();
    assert_eq!(run(&mut leader, ROWS).await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_failover_loses_what_was_written_last_and_ends_connections() {
    let (world, link) = replicated().await;
    let mut one = on(&world, HOST).await;
    let begun = world.azure.ask("POST", &format!("{link}/forceFailoverAllowDataLoss"), None);
    assert_eq!(begun.status, 202);
    let mut written = 1;
    while one.simple_query(format!("INSERT INTO dbo.T (n) VALUES ({written})")).await.is_ok() {
        written += 1;
    }
    let mut leader = on(&world, OTHER).await;
    let kept = run(&mut leader, ROWS).await.unwrap().len();
    assert!((1..=written).contains(&kept), "{kept} of {written}");
    run(&mut leader, "INSERT INTO dbo.T (n) VALUES (0)").await.unwrap();
    let mut was = on(&world, HOST).await;
    assert_eq!(run(&mut was, ROWS).await.unwrap().len(), kept + 1, "it follows now");
}
