//! A reef's cluster whose etcd takes no writes, and one whose authority is replaced.

use reef_e2e::{
    harness::{eventually, send},
    instance_harness::call,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    control_plane::ControlPlane,
    row::{Heal, Row, Sees},
    world::{Object, Part, World, answer, zone},
};

/// Rows that concern whole reefs, one after the other.
pub fn alone() -> Vec<Row> {
    vec![network_away(), full_etcd(), rotated_authority()]
}

async fn on_the_first_reef(world: &World, name: &str) {
    world.instance(name, json!({ "placement": { "reefRef": { "name": "weu-1" } } })).await;
}

async fn serves(world: &World, name: &str) {
    let status = world.status(name).await;
    let get = ("GET", "/api");
    assert_eq!(call(&world.sandbox, &world.client, &status, get, None, &Value::Null).await.0, 200, "{name}");
}

fn network_away() -> Row {
    Row {
        name: "what Azure knows of a reef's network cannot be asked, while the zone answers",
        object: Object::Reef("weu-1"),
        wrong: |w| {
            Box::pin(async move {
                on_the_first_reef(w, "zoned").await;
                w.ready(Object::Instance("zoned")).await;
                let path = "*/resourceGroups/reef-sandbox-weu-1/providers/Microsoft.Network/*";
                let fault = answer(503, "ServiceUnavailable");
                w.sandbox.azure_fault(&json!({ "label": "network", "path": path, "fault": fault }));
                w.look(Object::Reef("weu-1")).await;
            })
        },
        sees: Sees {
            condition: ("AzureReachable", "Unknown", "CircuitOpen"),
            says: &["Microsoft.Network"],
            event: ("CircuitOpen", &["Microsoft.Network"]),
        },
        // The zone is of the same provider, but it is not the reef's.
        never: |w| {
            Box::pin(async move {
                let record = format!("{}/CNAME/zoned", zone());
                assert!(w.sandbox.arm("DELETE", &record, None).0 < 300);
                w.look(Object::Instance("zoned")).await;
                eventually("the record is there again", || async {
                    (w.sandbox.arm("GET", &record, None).0 == 200).then_some(())
                })
                .await;
                w.shows(Object::Reef("weu-1"), ("AzureReachable", "Unknown", "CircuitOpen")).await;
                serves(w, "zoned").await;
            })
        },
        heal: Heal::Then(|w| {
            Box::pin(async move {
                w.sandbox.azure_healed_of("network");
                w.shows(Object::Reef("weu-1"), ("AzureReachable", "True", "ReconcileSucceeded")).await;
                w.delete(Object::Instance("zoned")).await;
                w.gone(Object::Instance("zoned")).await;
            })
        }),
    }
}

/// What etcd does by itself when its quota is used up, and what its administrator does when there is room again.
async fn alarm(world: &World, action: &str) {
    let etcd = ControlPlane::of(world, "weu-1").await;
    let answer = etcd.etcd("/v3/maintenance/alarm", &json!({ "action": action, "alarm": "NOSPACE" })).await;
    assert!(answer["header"].is_object(), "{answer}");
}

fn full_etcd() -> Row {
    Row {
        name: "the etcd of a reef is full",
        object: Object::Instance("overfull"),
        wrong: |w| {
            Box::pin(async move {
                on_the_first_reef(w, "stored").await;
                w.ready(Object::Instance("stored")).await;
                alarm(w, "ACTIVATE").await;
                on_the_first_reef(w, "overfull").await;
            })
        },
        sees: Sees {
            condition: ("WorkloadAvailable", "False", "ClusterFull"),
            says: &["in the reef's cluster", "database space exceeded"],
            event: ("ClusterFull", &["database space exceeded"]),
        },
        never: |w| {
            Box::pin(async move {
                // Who runs there serves on, and is asked for by nobody anew.
                w.look(Object::Instance("stored")).await;
                w.ready(Object::Instance("stored")).await;
                serves(w, "stored").await;
                assert_eq!(w.writes("stored", Part::Database).len(), 1);
                let made = w.made("overfull");
                let elsewhere: Vec<_> =
                    made.iter().filter(|id| !id.contains("/reef-sandbox-weu-1/")).collect();
                assert!(!made.is_empty() && elsewhere.is_empty(), "nothing is made elsewhere: {elsewhere:?}");
            })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                alarm(w, "DEACTIVATE").await;
                w.look(Object::Instance("overfull")).await;
                w.delete(Object::Instance("stored")).await;
            })
        }),
    }
}

/// What Azure says that vouches for the API server of the first reef, and all else of the credential.
async fn authority(world: &World) -> Value {
    let aks = world.reef("weu-1").await.cluster.unwrap().name;
    let ids = world.sandbox.azure_ids();
    let id = ids.iter().find(|id| id.ends_with(&format!("/managedClusters/{aks}"))).unwrap();
    let (code, credential) = world.sandbox.arm("POST", &format!("{id}/listClusterUserCredential"), None);
    assert_eq!(code, 200, "{credential}");
    credential
}

fn rotated_authority() -> Row {
    Row {
        name: "the authority of a reef's API server is replaced",
        object: Object::Reef("weu-1"),
        wrong: |w| {
            Box::pin(async move {
                on_the_first_reef(w, "rotated").await;
                w.ready(Object::Instance("rotated")).await;
                let before = authority(w).await;
                w.sandbox.rotate_authorities();
                eventually("Azure hands out another authority", || async {
                    (authority(w).await != before).then_some(())
                })
                .await;
                // As AKS does for that, the API server is away for a while. Who gave up waiting connects anew, and with the
                // authority that Azure names now, or the handshake fails.
                let server = ControlPlane::of(w, "weu-1").await.server;
                send(server, Signal::STOP);
                w.look(Object::Reef("weu-1")).await;
            })
        },
        sees: Sees {
            condition: ("ClusterReachable", "Unknown", "ClusterUnreachable"),
            says: &["in the reef's cluster"],
            event: ("ClusterUnreachable", &["in the reef's cluster"]),
        },
        never: |w| Box::pin(async move { serves(w, "rotated").await }),
        heal: Heal::Then(|w| {
            Box::pin(async move {
                send(ControlPlane::of(w, "weu-1").await.server, Signal::CONT);
                w.look(Object::Reef("weu-1")).await;
                w.shows(Object::Reef("weu-1"), ("ClusterReachable", "True", "ReconcileSucceeded")).await;
                // An edit goes through the new connection.
                w.patch(Object::Instance("rotated"), json!({ "spec": { "taskCap": 20 } })).await;
                w.ready(Object::Instance("rotated")).await;
                serves(w, "rotated").await;
                w.delete(Object::Instance("rotated")).await;
                eventually("it is gone", || async { w.made("rotated").is_empty().then_some(()) }).await;
            })
        }),
    }
}
