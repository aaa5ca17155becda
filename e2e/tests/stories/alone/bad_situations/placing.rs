//! Places: no reef fits.

use reef_e2e::{
    harness::eventually,
    instance_harness::{call, instances},
};
use serde_json::{Value, json};

use super::{
    row::{Heal, Row, Sees},
    world::{Object, Part, World, answer},
};

pub fn rows() -> Vec<Row> {
    vec![no_reef_fits(), no_room_anywhere()]
}

/// Rows that need the other reef to be well: one that failed to answer gets no instance for a minute, and among the rows
/// that run side by side some service of a reef fails all the time.
pub fn moves() -> Vec<Row> {
    vec![no_room_for_the_database(), no_room_for_the_share()]
}

fn no_reef_fits() -> Row {
    Row {
        name: "no reef has the label that an instance asks for",
        object: Object::Instance("golden"),
        wrong: |w| {
            Box::pin(async move {
                let selector = json!({ "reefSelector": { "matchLabels": { "ring": "gold" } } });
                w.instance("golden", json!({ "placement": selector })).await;
            })
        },
        sees: Sees {
            condition: ("Ready", "False", "NoReefFits"),
            says: &["region westeurope", "lacks a label that was asked for"],
            event: ("NoReefFits", &["not weu-1: lacks a label", "not weu-2: lacks a label"]),
        },
        never: |w| Box::pin(async move { assert!(w.made("golden").is_empty()) }),
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                w.patch(Object::Reef("weu-2"), json!({ "metadata": { "labels": { "ring": "gold" } } })).await;
                w.ready(Object::Instance("golden")).await;
                let status = w.status("golden").await;
                assert_eq!(status.placement.unwrap().reef, "weu-2");
            })
        }),
    }
}

/// It is on another reef than at first, and nothing of it is on the first one.
async fn has_moved(world: &World, instance: &'static str) {
    let status = world.status(instance).await;
    let place = status.placement.unwrap();
    assert_eq!((place.generation, status.refused_on.len()), (2, 1));
    let first = &status.refused_on[0];
    assert!(first.generation == 1 && first.reef != place.reef, "{first:?} {place:?}");
    let made = world.made(instance);
    let group = format!("/resourceGroups/reef-sandbox-{}/", place.reef);
    assert!(made.iter().all(|id| id.contains(&group)), "nothing is left on the first reef: {made:#?}");
    assert_eq!(made.len(), 4, "identity, credential, database, share: {made:#?}");
    let reefs = [world.reef("weu-1").await, world.reef("weu-2").await];
    let kept = reefs.iter().flat_map(|reef| &reef.reservations).filter(|r| r.name == instance);
    assert!(kept.count() <= 1, "no place is kept for it where it is not");
}

fn no_room_for_the_database() -> Row {
    Row {
        name: "Azure has no room for a new database on the reef, another reef has",
        object: Object::Instance("roomy"),
        wrong: |w| {
            Box::pin(async move {
                let text = "The elastic pool has reached its database count limit.";
                let fault = json!({ "answer": { "status": 409, "code": "40881", "message": text } });
                w.refuse("roomy", Part::Database, Some(1), &fault);
                w.instance("roomy", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("Ready", "True", "ReconcileSucceeded"),
            says: &["in service"],
            event: (
                "QuotaExceeded",
                &["database", "40881", "count limit", "taken off Reef weu-", "Reef weu-"],
            ),
        },
        never: |w| {
            Box::pin(async move {
                has_moved(w, "roomy").await;
                let taken = w.writes("roomy", Part::Database).iter().filter(|c| c.status < 300).count();
                assert_eq!(taken, 1, "it is made once");
            })
        },
        heal: Heal::Then(|w| {
            Box::pin(async move {
                w.event(Object::Instance("roomy"), "Scheduled", &["had no room for it there"]).await;
            })
        }),
    }
}

/// Its database was made by then: it never was opened, so it goes too.
fn no_room_for_the_share() -> Row {
    Row {
        name: "Azure has no room for a new file share on the reef, another reef has",
        object: Object::Instance("shelved"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse("shelved", Part::Share, None, &answer(409, "ResourceQuotaExceeded"));
                w.instance("shelved", json!({})).await;
                // The first time its database may still be being made, and nothing is taken away under an operation; the
                // other reef may not answer at the moment. By itself it is tried again after half a minute and more.
                w.asked_until_placed("shelved", 2).await;
                w.sandbox.azure_healed_of("shelved");
            })
        },
        sees: Sees {
            condition: ("Ready", "True", "ReconcileSucceeded"),
            says: &["in service"],
            event: ("QuotaExceeded", &["file share", "ResourceQuotaExceeded", "taken off Reef weu-"]),
        },
        never: |w| Box::pin(has_moved(w, "shelved")),
        heal: Heal::Then(|w| Box::pin(async move { w.ready(Object::Instance("shelved")).await })),
    }
}

fn no_room_anywhere() -> Row {
    Row {
        name: "Azure has no room for a new database on any reef",
        object: Object::Instance("crowded"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse("crowded", Part::Database, None, &answer(409, "40881"));
                w.instance("crowded", json!({})).await;
                eventually("it has tried the other reef", || async {
                    let found = instances(&w.client).get("crowded").await.ok()?.status?;
                    let second = found.placement.is_some_and(|place| place.generation == 2);
                    (second && w.writes("crowded", Part::Database).len() >= 2).then_some(())
                })
                .await;
            })
        },
        sees: Sees {
            condition: ("DatabaseReady", "False", "QuotaExceeded"),
            says: &["database", "409 40881"],
            event: ("QuotaExceeded", &["database", "40881"]),
        },
        never: |w| {
            Box::pin(async move {
                // It waits where it is, and does not go to and fro.
                w.look(Object::Instance("crowded")).await;
                eventually("one more try", || async {
                    (w.writes("crowded", Part::Database).len() >= 3).then_some(())
                })
                .await;
                w.shows(Object::Instance("crowded"), ("DatabaseReady", "False", "QuotaExceeded")).await;
                let status = w.status("crowded").await;
                assert!(status.leaving.is_none() && status.placement.unwrap().generation == 2);
            })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                w.sandbox.azure_healed_of("crowded");
                w.look(Object::Instance("crowded")).await;
            })
        }),
    }
}

/// Rows that concern whole reefs, one after the other.
pub fn alone() -> Vec<Row> {
    vec![no_room_to_grow()]
}

fn no_room_to_grow() -> Row {
    Row {
        name: "an instance asks for more room than its elastic pool has left",
        object: Object::Instance("outgrown"),
        wrong: |w| {
            Box::pin(async move {
                let place = json!({ "reefRef": { "name": "weu-1" } });
                let with = |size: &str| json!({ "placement": place, "quota": { "database": size, "share": "10Gi" } });
                w.instance("bulky", with("100Gi")).await;
                w.instance("outgrown", with("10Gi")).await;
                w.ready(Object::Instance("bulky")).await;
                w.ready(Object::Instance("outgrown")).await;
                w.patch(
                    Object::Instance("outgrown"),
                    json!({ "spec": { "quota": { "database": "100Gi" } } }),
                )
                .await;
            })
        },
        sees: Sees {
            condition: ("DatabaseReady", "False", "ReefFull"),
            says: &["database: the larger size waits", "elastic pool pool-1 of Reef weu-1", "has 190 GiB"],
            event: ("ReefFull", &["database"]),
        },
        never: |w| {
            Box::pin(async move {
                assert_eq!(w.writes("outgrown", Part::Database).len(), 1, "Azure is not asked for it");
                let status = w.status("outgrown").await;
                let (code, _) =
                    call(&w.sandbox, &w.client, &status, ("GET", "/api"), None, &Value::Null).await;
                assert_eq!(code, 200, "it serves with what it has");
            })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                w.delete(Object::Instance("bulky")).await;
                w.gone(Object::Instance("bulky")).await;
                w.look(Object::Instance("outgrown")).await;
                w.ready(Object::Instance("outgrown")).await;
                let made = w.made("outgrown");
                let database = made.iter().find(|id| id.contains("/databases/")).unwrap();
                assert_eq!(
                    w.sandbox.arm("GET", database, None).1["properties"]["maxSizeBytes"],
                    100_u64 << 30
                );
            })
        }),
    }
}
