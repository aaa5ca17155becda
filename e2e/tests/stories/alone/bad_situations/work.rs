//! What is edited, deleted or cordoned in the middle of work.

use reef_e2e::instance_harness::{api_key, call};
use serde_json::{Value, json};

use super::{
    row::{Heal, Row, Sees},
    world::{Object, Part, answer},
};

pub fn rows() -> Vec<Row> {
    vec![edit(), deletion(), class()]
}

/// Rows that concern whole reefs, one after the other.
pub fn alone() -> Vec<Row> {
    vec![cordon()]
}

fn edit() -> Row {
    Row {
        name: "the spec is edited while the database is being made",
        object: Object::Instance("changing"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse("changing", Part::Database, Some(4), &answer(409, "ConflictingDatabaseOperation"));
                w.instance("changing", json!({})).await;
                w.shows(Object::Instance("changing"), ("DatabaseReady", "False", "AzureConflict")).await;
                let spec = json!({ "taskCap": 10, "quota": { "database": "20Gi", "share": "200Gi" } });
                w.patch(Object::Instance("changing"), json!({ "spec": spec })).await;
            })
        },
        sees: Sees {
            // Of the new generation.
            condition: ("Reconciling", "True", "ProgressingWithRetry"),
            says: &["database", "409 ConflictingDatabaseOperation"],
            event: ("AzureConflict", &["database"]),
        },
        never: |w| Box::pin(async move { assert_eq!(w.writes("changing", Part::Identity).len(), 1) }),
        heal: Heal::ByItself(|w| {
            Box::pin(async move {
                let status = w.status("changing").await;
                let key = api_key(&w.client, &status).await;
                let nodes = ("GET", "/api/octopusservernodes");
                let (_, nodes) = call(&w.sandbox, &w.client, &status, nodes, Some(&key), &Value::Null).await;
                assert_eq!(nodes["Items"][0]["MaxConcurrentTasks"], 10);
                let made = w.made("changing");
                let database = made.iter().find(|id| id.contains("/databases/")).unwrap();
                let found = w.sandbox.arm("GET", database, None).1;
                assert_eq!(found["properties"]["maxSizeBytes"], 20_u64 << 30);
                let taken = w.writes("changing", Part::Database).iter().filter(|c| c.status < 300).count();
                assert_eq!(taken, 1, "it is made once, as it is wanted by then");
            })
        }),
    }
}

/// Reefs that exist keep the revision of their class that they were made from.
fn class() -> Row {
    Row {
        name: "the class of the reef is edited while an instance is being made on it",
        object: Object::Instance("steadfast"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse("steadfast", Part::Database, None, &answer(409, "ConflictingServerOperation"));
                w.instance("steadfast", json!({})).await;
                w.shows(Object::Instance("steadfast"), ("DatabaseReady", "False", "AzureConflict")).await;
                w.patch(
                    Object::ReefClass("standard"),
                    json!({ "spec": { "sql": { "pool": { "capacity": 400 } } } }),
                )
                .await;
            })
        },
        sees: Sees {
            condition: ("DatabaseReady", "False", "AzureConflict"),
            says: &["409 ConflictingServerOperation"],
            event: ("AzureConflict", &["database"]),
        },
        never: |w| {
            Box::pin(async move {
                for reef in ["weu-1", "weu-2"] {
                    w.look(Object::Reef(reef)).await;
                    w.ready(Object::Reef(reef)).await;
                }
            })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                w.sandbox.azure_healed_of("steadfast");
                w.look(Object::Instance("steadfast")).await;
                w.ready(Object::Instance("steadfast")).await;
                let pools: Vec<_> = w
                    .sandbox
                    .azure_ids()
                    .into_iter()
                    // Another row may make a reef of the class as it is now.
                    .filter(|id| id.contains("/reef-sandbox-weu-"))
                    .filter(|id| id.rsplit('/').nth(1) == Some("elasticPools"))
                    .collect();
                assert!(pools.len() >= 2, "{pools:?}");
                for pool in pools {
                    let found = w.sandbox.arm("GET", &pool, None).1;
                    assert_eq!(found["sku"]["capacity"], 200, "{pool} is as its reef was made");
                }
                w.patch(
                    Object::ReefClass("standard"),
                    json!({ "spec": { "sql": { "pool": { "capacity": 200 } } } }),
                )
                .await;
            })
        }),
    }
}

fn deletion() -> Row {
    Row {
        name: "an instance is deleted while it is being made",
        object: Object::Instance("unwanted"),
        wrong: |w| {
            Box::pin(async move {
                // A certain refusal: of what may still come a deletion waits for a quarter of an hour.
                w.refuse("unwanted", Part::Share, None, &answer(403, "AuthorizationFailed"));
                w.instance("unwanted", json!({})).await;
                w.shows(Object::Instance("unwanted"), ("DatabaseReady", "False", "WaitingForDependency"))
                    .await;
            })
        },
        sees: Sees {
            condition: ("FileShareReady", "False", "Unauthorized"),
            says: &["file share", "403 AuthorizationFailed"],
            event: ("Unauthorized", &["file share"]),
        },
        never: |w| Box::pin(async move { assert!(w.writes("unwanted", Part::Share).len() <= 4) }),
        heal: Heal::Then(|w| {
            Box::pin(async move {
                w.delete(Object::Instance("unwanted")).await;
                w.shows(Object::Instance("unwanted"), ("Ready", "False", "Deleting")).await;
                let writes = w.writes("unwanted", Part::Share).len();
                w.sandbox.azure_healed_of("unwanted");
                w.gone(Object::Instance("unwanted")).await;
                assert_eq!(w.writes("unwanted", Part::Share).len(), writes, "nothing is made any more");
                assert!(w.made("unwanted").is_empty(), "what was made is gone");
            })
        }),
    }
}

fn cordon() -> Row {
    Row {
        name: "a reef is cordoned while an instance is being made on it",
        object: Object::Instance("aboard"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse("aboard", Part::Database, None, &answer(409, "ConflictingServerOperation"));
                w.instance("aboard", json!({ "placement": { "reefRef": { "name": "weu-1" } } })).await;
                w.shows(Object::Instance("aboard"), ("DatabaseReady", "False", "AzureConflict")).await;
                w.patch(Object::Reef("weu-1"), json!({ "spec": { "scheduling": "Cordoned" } })).await;
                w.instance("ashore", json!({ "placement": { "reefRef": { "name": "weu-1" } } })).await;
                w.event(Object::Instance("ashore"), "NoReefFits", &["not weu-1: Cordoned"]).await;
            })
        },
        sees: Sees {
            condition: ("DatabaseReady", "False", "AzureConflict"),
            says: &["409 ConflictingServerOperation"],
            event: ("Scheduled", &["weu-1"]),
        },
        never: |w| Box::pin(async move { assert!(w.made("ashore").is_empty()) }),
        heal: Heal::Then(|w| {
            Box::pin(async move {
                w.sandbox.azure_healed_of("aboard");
                w.look(Object::Instance("aboard")).await;
                // Who is aboard goes on; who is not waits until the reef takes somebody again.
                w.ready(Object::Instance("aboard")).await;
                w.shows(Object::Instance("ashore"), ("Ready", "False", "NoReefFits")).await;
                w.patch(Object::Reef("weu-1"), json!({ "spec": { "scheduling": "Active" } })).await;
                w.ready(Object::Instance("ashore")).await;
                w.delete(Object::Instance("ashore")).await;
            })
        }),
    }
}
