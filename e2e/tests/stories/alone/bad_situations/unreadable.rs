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
    vec![unreadable()]
}

const CRD: &str = "cloudinstances.cloud.octopus.com";

/// Where the CRD says what a task cap is.
const TASK_CAP: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/taskCap";

/// Gives the task cap another schema; the one before.
async fn task_cap(world: &World, schema: &Value) -> Value {
    let crds = Api::<CustomResourceDefinition>::all(world.client.clone());
    let before = serde_json::to_value(crds.get(CRD).await.unwrap()).unwrap();
    let patch = json!([{ "op": "replace", "path": TASK_CAP, "value": schema }]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch).unwrap());
    crds.patch(CRD, &PatchParams::default(), &patch).await.unwrap();
    before.pointer(TASK_CAP).unwrap().clone()
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
                let before = task_cap(w, &json!({ "type": "string" })).await;
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
                task_cap(w, TAKEN_BACK.get().unwrap()).await;
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
