//! Objects that the operator's types cannot read, because another schema let them in.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use reef_e2e::harness::eventually;
use serde_json::{Value, json};

use super::{
    row::{Heal, Row, Sees},
    world::{Object, World},
};

/// Rows that concern all instances, one after the other.
pub fn alone() -> Vec<Row> {
    vec![unreadable(), unreadable_reef()]
}

/// What a CRD says of a field.
struct Field {
    crd: &'static str,
    path: &'static str,
}

const TASK_CAP: Field = Field {
    crd: "cloudinstances.cloud.octopus.com",
    path: "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/taskCap",
};

const SCHEDULING: Field = Field {
    crd: "reefs.cloud.octopus.com",
    path: "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/scheduling",
};

/// Gives a field another schema; the one before.
async fn change(world: &World, field: &Field, schema: &Value) -> Value {
    let crds = Api::<CustomResourceDefinition>::all(world.client.clone());
    let before = serde_json::to_value(crds.get(field.crd).await.unwrap()).unwrap();
    let patch = json!([{ "op": "replace", "path": field.path, "value": schema }]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch).unwrap());
    crds.patch(field.crd, &PatchParams::default(), &patch).await.unwrap();
    before.pointer(field.path).unwrap().clone()
}

static TAKEN_BACK: std::sync::OnceLock<Value> = std::sync::OnceLock::new();

fn unreadable() -> Row {
    Row {
        name: "another schema has let in an instance that the operator cannot read",
        object: Object::InstanceAsItWas("garbled"),
        wrong: |w| {
            Box::pin(async move {
                w.instance("garbled", json!({})).await;
                w.ready(Object::Instance("garbled")).await;
                let before = change(w, &TASK_CAP, &json!({ "type": "string" })).await;
                TAKEN_BACK.set(before).unwrap();
                eventually("the API server takes words for a task cap", || async {
                    let edit = json!({ "spec": { "taskCap": "many" } });
                    w.try_patch(Object::Instance("garbled"), edit).await.ok()
                })
                .await;
            })
        },
        sees: Sees {
            condition: ("Ready", "True", "ReconcileSucceeded"),
            says: &["in service"],
            event: (
                "SpecInvalid",
                &["cannot read this object", "touches nothing", "many", "install the CRD chart"],
            ),
        },
        never: |w| {
            Box::pin(async move {
                let made = w.made("garbled");
                // Another is placed and served meanwhile, and one is deleted.
                change(w, &TASK_CAP, TAKEN_BACK.get().unwrap()).await;
                eventually("the API server takes only numbers again", || async {
                    w.try_instance("bystander", json!({})).await.ok()
                })
                .await;
                w.ready(Object::Instance("bystander")).await;
                w.delete(Object::Instance("bystander")).await;
                w.gone(Object::Instance("bystander")).await;
                assert_eq!(w.made("garbled"), made, "it is left as it is");
            })
        },
        heal: Heal::Then(|w| {
            Box::pin(async move {
                w.patch(Object::Instance("garbled"), json!({ "spec": { "taskCap": 10 } })).await;
                w.ready(Object::Instance("garbled")).await;
            })
        }),
    }
}

static SCHEDULES: std::sync::OnceLock<Value> = std::sync::OnceLock::new();

fn unreadable_reef() -> Row {
    Row {
        name: "an instance is deleted while its Reef cannot be read",
        object: Object::Instance("homed"),
        wrong: |w| {
            Box::pin(async move {
                w.instance("homed", json!({ "placement": { "reefRef": { "name": "weu-2" } } })).await;
                w.ready(Object::Instance("homed")).await;
                SCHEDULES.set(change(w, &SCHEDULING, &json!({ "type": "string" })).await).unwrap();
                eventually("the API server takes any word", || async {
                    let edit = json!({ "spec": { "scheduling": "Sometimes" } });
                    w.try_patch(Object::Reef("weu-2"), edit).await.ok()
                })
                .await;
                w.look(Object::Instance("homed")).await;
                w.delete(Object::Instance("homed")).await;
            })
        },
        sees: Sees {
            condition: ("Ready", "False", "SpecInvalid"),
            says: &["Reef weu-2 cannot be read", "Sometimes", "install the CRD chart"],
            event: ("SpecInvalid", &["Reef weu-2 cannot be read"]),
        },
        never: |w| Box::pin(async move { assert_eq!(w.made("homed").len(), 4, "nothing of it goes") }),
        heal: Heal::Then(|w| {
            Box::pin(async move {
                w.patch(Object::Reef("weu-2"), json!({ "spec": { "scheduling": "Active" } })).await;
                change(w, &SCHEDULING, SCHEDULES.get().unwrap()).await;
                w.ready(Object::Reef("weu-2")).await;
                w.gone(Object::Instance("homed")).await;
                assert!(w.made("homed").is_empty());
            })
        }),
    }
}
