//! Subdomains that somebody has.

use std::sync::OnceLock;

use futures::future::join;
use kube::{Api, api::DeleteParams};
use reef_crds::CloudInstance;
use reef_e2e::harness::eventually;
use serde_json::json;

use super::{
    row::{Heal, Row, Sees},
    world::{Object, World, zone},
};

pub fn rows() -> Vec<Row> {
    vec![taken_by_another_tenant(), taken_in_the_zone(), two_at_the_same_moment()]
}

fn record(subdomain: &str) -> String {
    format!("{}/CNAME/{subdomain}", zone())
}

fn taken_by_another_tenant() -> Row {
    Row {
        name: "a subdomain is another tenant's",
        object: Object::Instance("thief"),
        wrong: |w| {
            Box::pin(async move {
                w.namespace("rivals").await;
                w.instance_in("rivals", "secret-project", json!({ "subdomain": "wanted" })).await;
                eventually("the first one has its record", || async {
                    (w.sandbox.arm("GET", &record("wanted"), None).0 == 200).then_some(())
                })
                .await;
                w.instance("thief", json!({ "subdomain": "wanted" })).await;
            })
        },
        sees: Sees {
            condition: ("Stalled", "True", "NameTaken"),
            says: &["DNS record", "/CNAME/wanted", "another CloudInstance", "spec.subdomain"],
            event: ("NameTaken", &["/CNAME/wanted"]),
        },
        never: |w| {
            Box::pin(async move {
                let why = w.shows(Object::Instance("thief"), ("Ready", "False", "NameTaken")).await;
                assert!(
                    !why.contains("rivals") && !why.contains("secret-project"),
                    "a tenant's name shows: {why}"
                );
                assert!(w.made("thief").is_empty(), "who cannot have its name needs nothing");
            })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                let rivals = instances_in(w, "rivals");
                rivals.delete("secret-project", &DeleteParams::default()).await.unwrap();
            })
        }),
    }
}

fn instances_in(world: &World, namespace: &str) -> Api<CloudInstance> {
    Api::namespaced(world.client.clone(), namespace)
}

fn taken_in_the_zone() -> Row {
    Row {
        name: "a subdomain is a record of somebody who knows no operator",
        object: Object::Instance("www"),
        wrong: |w| {
            Box::pin(async move {
                let body =
                    json!({ "properties": { "TTL": 60, "CNAMERecord": { "cname": "elsewhere.example" } } });
                assert_eq!(w.sandbox.arm("PUT", &record("www"), Some(&body)).0, 201);
                w.instance("www", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("Stalled", "True", "NameTaken"),
            says: &["DNS record", "/CNAME/www", "left alone"],
            event: ("NameTaken", &["left alone"]),
        },
        never: |w| {
            Box::pin(async move {
                let found = w.sandbox.arm("GET", &record("www"), None).1;
                assert_eq!(found["properties"]["CNAMERecord"]["cname"], "elsewhere.example");
                assert!(w.made("www").is_empty());
            })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move { assert_eq!(w.sandbox.arm("DELETE", &record("www"), None).0, 200) })
        }),
    }
}

/// Who won, and who lost.
static OUTCOME: OnceLock<(&str, &str)> = OnceLock::new();

/// Which of the two has the name is decided by Azure, which makes a record only if there is none.
fn two_at_the_same_moment() -> Row {
    Row {
        name: "two instances want one subdomain at the same moment",
        object: Object::InstanceThat(|| OUTCOME.get().unwrap().1),
        wrong: |w| {
            Box::pin(async move {
                let wish = || json!({ "subdomain": "one-name" });
                join(w.instance("first", wish()), w.instance("second", wish())).await;
                let (winner, loser) = outcome(w).await;
                println!("of two that want one name {winner} has it, {loser} does not");
                OUTCOME.set((winner, loser)).unwrap();
            })
        },
        sees: Sees {
            condition: ("Stalled", "True", "NameTaken"),
            says: &["DNS record", "/CNAME/one-name", "belongs to CloudInstance customers/"],
            event: ("NameTaken", &["/CNAME/one-name"]),
        },
        never: |w| {
            Box::pin(async move {
                let puts = w.calls("PUT", "/CNAME/one-name");
                assert_eq!(puts.iter().filter(|call| call.status < 300).count(), 1, "one of them made it");
                w.ready(Object::InstanceThat(|| OUTCOME.get().unwrap().0)).await;
            })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move { w.delete(Object::InstanceThat(|| OUTCOME.get().unwrap().0)).await })
        }),
    }
}

async fn outcome(world: &World) -> (&'static str, &'static str) {
    eventually("one has the name, and the other says that it does not", || async {
        let reason = async |name: &'static str| {
            let found = instances_in(world, "customers").get(name).await.ok()?.status?;
            Some(found.conditions.iter().find(|c| c.type_ == "Ready")?.reason.clone())
        };
        let [first, second] = [reason("first").await?, reason("second").await?];
        match (first.as_str(), second.as_str()) {
            ("ReconcileSucceeded", "NameTaken") => Some(("first", "second")),
            ("NameTaken", "ReconcileSucceeded") => Some(("second", "first")),
            _ => None,
        }
    })
    .await
}
