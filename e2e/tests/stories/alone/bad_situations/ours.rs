//! Resources that have the name of one of ours and are somebody else's: they are left alone, and that is told.

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use reef_e2e::{azure::SUBSCRIPTION, harness::eventually, instance_harness::CUSTOMERS};
use reef_operator::controllers::cloud_instance::names;
use serde_json::{Value, json};

use super::{
    row::{Heal, Row, Sees},
    world::{Object, Part, World},
};

pub fn rows() -> Vec<Row> {
    vec![identity(), database(), share(), namespace()]
}

const GROUP: &str = "resourceGroups/reef-sandbox-weu-1";

/// Asks for an instance on the first reef, where what is in its way was put.
async fn ask(world: &World, name: &str) {
    world.instance(name, json!({ "placement": { "reefRef": { "name": "weu-1" } } })).await;
}

/// Puts something of somebody else where a part of an instance is to be; its id.
async fn put(world: &World, part: Part, instance: &str, body: &Value) -> String {
    let id = id(world, part, instance).await;
    assert!(world.sandbox.arm("PUT", &id, Some(body)).0 < 300, "{id}");
    eventually("it is there", || async { (world.sandbox.arm("GET", &id, None).0 == 200).then_some(()) })
        .await;
    id
}

async fn id(world: &World, part: Part, instance: &str) -> String {
    let reef = world.reef("weu-1").await;
    let parent = match part {
        Part::Identity | Part::Credential => "Microsoft.ManagedIdentity".to_owned(),
        Part::Database => format!("Microsoft.Sql/servers/{}", reef.sql_server.unwrap().name),
        Part::Share => {
            format!(
                "Microsoft.Storage/storageAccounts/{}/fileServices/default",
                reef.storage_accounts[0].name
            )
        }
    };
    format!(
        "/subscriptions/{SUBSCRIPTION}/{GROUP}/providers/{parent}{}",
        part.path(instance).trim_start_matches('*')
    )
}

/// It is as it was put there.
async fn is_untouched(world: &World, part: Part, instance: &str) {
    let found = world.sandbox.arm("GET", &id(world, part, instance).await, None).1;
    let marks = if matches!(part, Part::Share) { &found["properties"]["metadata"] } else { &found["tags"] };
    assert_eq!(*marks, json!({ "owner": "finance" }), "{found}");
}

async fn take_away(world: &World, part: Part, instance: &str) {
    let id = id(world, part, instance).await;
    assert!(world.sandbox.arm("DELETE", &id, None).0 < 300);
    eventually("it is gone", || async { (world.sandbox.arm("GET", &id, None).0 == 404).then_some(()) }).await;
}

fn identity() -> Row {
    Row {
        name: "somebody has an identity of that name",
        object: Object::Instance("id-taken"),
        wrong: |w| {
            Box::pin(async move {
                let body = json!({ "location": "westeurope", "tags": { "owner": "finance" } });
                put(w, Part::Identity, "id-taken", &body).await;
                ask(w, "id-taken").await;
            })
        },
        sees: Sees {
            condition: ("IdentityReady", "False", "NameTaken"),
            says: &["managed identity", "does not carry the marks", "left alone"],
            event: ("NameTaken", &["managed identity"]),
        },
        never: |w| {
            Box::pin(async move {
                is_untouched(w, Part::Identity, "id-taken").await;
                assert_eq!(w.made("id-taken").len(), 1, "nothing is made beside it");
            })
        },
        heal: Heal::ThenReady(|w| Box::pin(take_away(w, Part::Identity, "id-taken"))),
    }
}

fn database() -> Row {
    Row {
        name: "somebody has a database of that name",
        object: Object::Instance("db-taken"),
        wrong: |w| {
            Box::pin(async move {
                let body = json!({ "location": "westeurope", "tags": { "owner": "finance" } });
                put(w, Part::Database, "db-taken", &body).await;
                ask(w, "db-taken").await;
            })
        },
        sees: Sees {
            condition: ("Ready", "False", "NameTaken"),
            says: &["database", "db-", "does not carry the marks", "left alone"],
            event: ("NameTaken", &["database"]),
        },
        never: |w| {
            Box::pin(async move {
                is_untouched(w, Part::Database, "db-taken").await;
                assert_eq!(w.made("db-taken").len(), 1, "nothing is made beside it");
            })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                take_away(w, Part::Database, "db-taken").await;
                w.look(Object::Instance("db-taken")).await;
            })
        }),
    }
}

fn share() -> Row {
    Row {
        name: "somebody has a file share of that name",
        object: Object::Instance("fs-taken"),
        wrong: |w| {
            Box::pin(async move {
                let body = json!({ "properties": { "shareQuota": 5, "metadata": { "owner": "finance" } } });
                put(w, Part::Share, "fs-taken", &body).await;
                ask(w, "fs-taken").await;
            })
        },
        sees: Sees {
            condition: ("FileShareReady", "False", "NameTaken"),
            says: &["file share", "does not carry the marks", "left alone"],
            event: ("NameTaken", &["file share"]),
        },
        never: |w| Box::pin(is_untouched(w, Part::Share, "fs-taken")),
        heal: Heal::ThenReady(|w| Box::pin(take_away(w, Part::Share, "fs-taken"))),
    }
}

fn its_namespace() -> String {
    names::namespace("ns-taken", &names::hash("sandbox", CUSTOMERS, "ns-taken"))
}

fn namespace() -> Row {
    Row {
        name: "somebody has a namespace of that name in the reef's cluster",
        object: Object::Instance("ns-taken"),
        wrong: |w| {
            Box::pin(async move {
                let metadata = json!({ "name": its_namespace(), "labels": { "owner": "finance" } });
                let namespace: Namespace = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
                Api::all(w.cluster("weu-1").await).create(&PostParams::default(), &namespace).await.unwrap();
                ask(w, "ns-taken").await;
            })
        },
        sees: Sees {
            condition: ("WorkloadAvailable", "False", "NameTaken"),
            says: &["namespace oct-ns-taken-", "is not this instance's", "left alone"],
            event: ("NameTaken", &["namespace"]),
        },
        never: |w| {
            Box::pin(async move {
                let found =
                    Api::<Namespace>::all(w.cluster("weu-1").await).get(&its_namespace()).await.unwrap();
                let labels = found.metadata.labels.unwrap();
                assert!(
                    labels["owner"] == "finance" && !labels.keys().any(|l| l.contains("octopus")),
                    "{labels:?}"
                );
            })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                let namespaces = Api::<Namespace>::all(w.cluster("weu-1").await);
                namespaces.delete(&its_namespace(), &DeleteParams::default()).await.unwrap();
            })
        }),
    }
}
