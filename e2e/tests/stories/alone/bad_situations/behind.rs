//! What is deleted or changed behind the operator's back: what holds nothing is made again, what held data is not.

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use reef_e2e::{
    harness::eventually,
    install::NAMESPACE,
    instance_harness::{call, hash_of},
};
use serde_json::{Value, json};

use super::{
    row::{Heal, Row, Sees},
    world::{Object, Part, World, zone},
};

pub fn rows() -> Vec<Row> {
    vec![what_is_empty(), a_database(), a_share(), other_keys()]
}

/// The id of a part of an instance.
fn id(world: &World, part: Part, instance: &str) -> String {
    let end = part.path(instance).trim_start_matches('*').to_owned();
    world.made(instance).into_iter().find(|id| id.ends_with(&end)).unwrap_or_else(|| panic!("{end}"))
}

async fn is_gone(world: &World, id: &str) {
    assert!(world.sandbox.arm("DELETE", id, None).0 < 300, "{id}");
    eventually("it is gone", || async { (world.sandbox.arm("GET", id, None).0 == 404).then_some(()) }).await;
}

async fn installation(world: &World, instance: &str) -> Value {
    let status = world.status(instance).await;
    let (code, root) =
        call(&world.sandbox, &world.client, &status, ("GET", "/api"), None, &Value::Null).await;
    assert_eq!(code, 200);
    root["InstallationId"].clone()
}

fn what_is_empty() -> Row {
    Row {
        name: "identity, credential and DNS record of an instance are deleted",
        object: Object::Instance("robbed"),
        wrong: |w| {
            Box::pin(async move {
                w.instance("robbed", json!({})).await;
                w.ready(Object::Instance("robbed")).await;
                let before = installation(w, "robbed").await;
                let (identity, credential) =
                    (id(w, Part::Identity, "robbed"), id(w, Part::Credential, "robbed"));
                let record = format!("{}/CNAME/robbed", zone());
                w.events_from_now(Object::Instance("robbed"));
                assert!(w.sandbox.arm("DELETE", &record, None).0 < 300);
                assert!(w.sandbox.arm("DELETE", &identity, None).0 < 300);
                w.look(Object::Instance("robbed")).await;
                eventually("all three are there again", || async {
                    let there = |id: &str| w.sandbox.arm("GET", id, None).0 == 200;
                    let again = w.writes("robbed", Part::Identity).len() > 1;
                    (again && there(&credential) && there(&record)).then_some(())
                })
                .await;
                w.ready(Object::Instance("robbed")).await;
                assert_eq!(installation(w, "robbed").await, before, "it has its data");
            })
        },
        sees: Sees {
            condition: ("IdentityReady", "True", "ReconcileSucceeded"),
            says: &["as wanted"],
            event: ("Provisioning", &["managed identity"]),
        },
        never: |w| {
            Box::pin(async move {
                let writes = |part| w.writes("robbed", part).len();
                assert_eq!((writes(Part::Database), writes(Part::Share)), (1, 1), "the data is left alone");
                assert_eq!(writes(Part::Identity), 2, "it is made again once");
            })
        },
        heal: Heal::ThenReady(super::row::nothing),
    }
}

fn a_database() -> Row {
    Row {
        name: "the database of an instance is deleted",
        object: Object::Instance("looted"),
        wrong: |w| {
            Box::pin(async move {
                w.instance("looted", json!({})).await;
                w.ready(Object::Instance("looted")).await;
                let database = id(w, Part::Database, "looted");
                is_gone(w, &database).await;
                w.look(Object::Instance("looted")).await;
                w.shows(Object::Instance("looted"), ("Stalled", "True", "DataResourceMissing")).await;
                // Azure lists a dropped database some minutes later; the message follows.
                eventually("the message names what can be restored", || async {
                    let why =
                        w.shows(Object::Instance("looted"), ("Ready", "False", "DataResourceMissing")).await;
                    why.contains("restorableDroppedDatabases/db-").then_some(())
                })
                .await;
            })
        },
        sees: Sees {
            condition: ("DatabaseReady", "False", "DataResourceMissing"),
            says: &["was there and is gone", "restore it, or annotate", "dropped at ", "to any time from "],
            event: ("DataResourceMissing", &["not made again by itself"]),
        },
        never: |w| Box::pin(async move { assert_eq!(w.writes("looted", Part::Database).len(), 1) }),
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                let confirm = json!({ "confirmation.cloud.octopus.com/recreation": "true" });
                w.patch(Object::Instance("looted"), json!({ "metadata": { "annotations": confirm } })).await;
            })
        }),
    }
}

fn a_share() -> Row {
    Row {
        name: "the file share of an instance is deleted",
        object: Object::Instance("shorn"),
        wrong: |w| {
            Box::pin(async move {
                w.instance("shorn", json!({})).await;
                w.ready(Object::Instance("shorn")).await;
                is_gone(w, &id(w, Part::Share, "shorn")).await;
                w.look(Object::Instance("shorn")).await;
            })
        },
        sees: Sees {
            condition: ("FileShareReady", "False", "DataResourceMissing"),
            says: &["was there and is gone", "Azure keeps what was deleted at ", "undelete it"],
            event: ("DataResourceMissing", &["file share"]),
        },
        never: |w| Box::pin(async move { assert_eq!(w.writes("shorn", Part::Share).len(), 1) }),
        heal: Heal::Deleted,
    }
}

async fn keys_of(world: &World, instance: &str) -> Secret {
    let hash = hash_of(&world.status(instance).await);
    let secrets = Api::<Secret>::namespaced(world.client.clone(), NAMESPACE);
    let all = secrets.list(&ListParams::default()).await.unwrap().items;
    let prefix = format!("instance-{hash}-");
    all.into_iter().find(|s| s.metadata.name.as_ref().is_some_and(|name| name.starts_with(&prefix))).unwrap()
}

/// The Secret cannot be changed: it is another one of the same name.
async fn replace(world: &World, secret: &Secret) {
    let secrets = Api::<Secret>::namespaced(world.client.clone(), NAMESPACE);
    let mut next = secret.clone();
    next.metadata.resource_version = None;
    next.metadata.uid = None;
    let name = next.metadata.name.clone().unwrap();
    // Somebody may be quicker and make it again.
    eventually("it is another", || async {
        let _ = secrets.delete(&name, &DeleteParams::default()).await;
        secrets.create(&PostParams::default(), &next).await.ok()
    })
    .await;
}

/// What the server is given as its master key.
async fn on_the_reef(world: &World) -> ByteString {
    let status = world.status("keyless").await;
    let cluster = world.cluster(&status.placement.unwrap().reef).await;
    let secrets = Api::<Secret>::namespaced(cluster, &status.namespace.unwrap());
    secrets.get("octopus").await.unwrap().data.unwrap()["master-key"].clone()
}

fn other_keys() -> Row {
    Row {
        name: "the copies of an instance's master key differ",
        object: Object::Instance("keyless"),
        wrong: |w| {
            Box::pin(async move {
                w.instance("keyless", json!({})).await;
                w.ready(Object::Instance("keyless")).await;
                let mut other = keys_of(w, "keyless").await;
                let wrong = ByteString(b"AAAAAAAAAAAAAAAAAAAAAA==".to_vec());
                other.data.as_mut().unwrap().insert("master-key".to_owned(), wrong);
                replace(w, &other).await;
                w.look(Object::Instance("keyless")).await;
            })
        },
        sees: Sees {
            condition: ("DatabaseReady", "False", "KeysDiffer"),
            says: &[
                "the keys in the operator's namespace are not those",
                "restore the Secret",
                "nothing is started",
            ],
            event: ("KeysDiffer", &["database"]),
        },
        never: |w| {
            Box::pin(async move {
                let there = on_the_reef(w).await;
                assert_ne!(
                    there.0, b"AAAAAAAAAAAAAAAAAAAAAA==",
                    "the server keeps the key that opens its database"
                );
            })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                let mut right = keys_of(w, "keyless").await;
                right.data.as_mut().unwrap().insert("master-key".to_owned(), on_the_reef(w).await);
                replace(w, &right).await;
                w.look(Object::Instance("keyless")).await;
            })
        }),
    }
}
