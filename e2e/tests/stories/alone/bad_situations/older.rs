//! A reef's API server that is away, and comes back with an older state, as after a restore of its etcd.

use std::sync::OnceLock;

use k8s_openapi::{ByteString, api::apps::v1::StatefulSet};
use kube::Api;
use reef_e2e::{
    harness::{eventually, send},
    instance_harness::{api_key, call},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    control_plane::ControlPlane,
    row::{Heal, Row, Sees},
    world::{Object, Part, World},
};

/// Rows that concern whole reefs, one after the other.
pub fn alone() -> Vec<Row> {
    vec![older_state()]
}

/// What etcd held of the instance's namespace at first: key and value, both base64.
static BEFORE: OnceLock<Vec<(Value, Value)>> = OnceLock::new();

/// What etcd holds of a namespace of the first reef.
async fn held(cluster: &ControlPlane, namespace: &str) -> Vec<(Value, Value)> {
    let encode = |text: &str| base64(text.as_bytes());
    // All keys that begin with the slash: up to the one that would follow it.
    let range = json!({ "key": encode("/"), "range_end": encode("0") });
    let answer = cluster.etcd("/v3/kv/range", &range).await;
    let all = answer["kvs"].as_array().cloned().unwrap_or_default();
    let of_it = is_of(namespace);
    all.into_iter()
        .filter(|kv| of_it(&kv["key"]))
        .map(|kv| (kv["key"].clone(), kv["value"].clone()))
        .collect()
}

/// Whether a key of etcd is of a namespace.
fn is_of(namespace: &str) -> impl Fn(&Value) -> bool {
    let namespace = namespace.as_bytes().to_vec();
    move |key| {
        let key = decoded(key.as_str().unwrap_or_default());
        key.windows(namespace.len()).any(|part| part == namespace)
    }
}

fn base64(bytes: &[u8]) -> Value {
    serde_json::to_value(ByteString(bytes.to_vec())).unwrap()
}

fn decoded(text: &str) -> Vec<u8> {
    serde_json::from_value::<ByteString>(json!(text)).unwrap().0
}

async fn cap(world: &World) -> (Value, Value) {
    let status = world.status("restored").await;
    let key = api_key(&world.client, &status).await;
    let get = async |path| {
        call(&world.sandbox, &world.client, &status, ("GET", path), Some(&key), &Value::Null).await.1
    };
    let nodes = get("/api/octopusservernodes").await;
    (nodes["Items"][0]["MaxConcurrentTasks"].clone(), get("/api").await["InstallationId"].clone())
}

static DATA: OnceLock<(Value, Value)> = OnceLock::new();

fn older_state() -> Row {
    Row {
        name: "a reef's API server is away and comes back with an older state",
        object: Object::Reef("weu-1"),
        wrong: |w| {
            Box::pin(async move {
                w.instance("restored", json!({ "placement": { "reefRef": { "name": "weu-1" } } })).await;
                w.ready(Object::Instance("restored")).await;
                let cluster = ControlPlane::of(w, "weu-1").await;
                let namespace = w.status("restored").await.namespace.unwrap();
                let before = held(&cluster, &namespace).await;
                assert!(before.len() > 10, "its objects are there: {}", before.len());
                BEFORE.set(before).unwrap();
                w.patch(Object::Instance("restored"), json!({ "spec": { "taskCap": 20 } })).await;
                w.ready(Object::Instance("restored")).await;
                DATA.set(cap(w).await).unwrap();
                send(cluster.server, Signal::STOP);
                w.look(Object::Reef("weu-1")).await;
            })
        },
        sees: Sees {
            condition: ("ClusterReachable", "Unknown", "ClusterUnreachable"),
            says: &["in the reef's cluster"],
            event: ("ClusterUnreachable", &["in the reef's cluster"]),
        },
        never: |w| Box::pin(roll_back(w)),
        heal: Heal::Then(|w| Box::pin(comes_back(w))),
    }
}

/// While nobody can ask, etcd gets the state of before.
async fn roll_back(w: &World) {
    // A reef that was good is good while its cluster cannot be asked, and nothing is made elsewhere.
    w.ready(Object::Reef("weu-1")).await;
    let cluster = ControlPlane::of(w, "weu-1").await;
    let namespace = w.status("restored").await.namespace.unwrap();
    let before = BEFORE.get().unwrap();
    for (key, _) in held(&cluster, &namespace).await {
        if !before.iter().any(|(known, _)| *known == key) {
            cluster.etcd("/v3/kv/deleterange", &json!({ "key": key })).await;
        }
    }
    for (key, value) in before {
        cluster.etcd("/v3/kv/put", &json!({ "key": key, "value": value })).await;
    }
    send(cluster.server, Signal::CONT);
}

async fn comes_back(w: &World) {
    w.look(Object::Reef("weu-1")).await;
    w.shows(Object::Reef("weu-1"), ("ClusterReachable", "True", "ReconcileSucceeded")).await;
    w.look(Object::Instance("restored")).await;
    let namespace = w.status("restored").await.namespace.unwrap();
    let sets = Api::<StatefulSet>::namespaced(w.cluster("weu-1").await, &namespace);
    eventually("the reef has what the spec says, and the data is the same", || async {
        w.ready(Object::Instance("restored")).await;
        let pod = sets.get("octopus").await.ok()?.spec?.template.spec?;
        let cpu = pod.containers[0].resources.clone()?.requests?["cpu"].0.clone();
        (cpu == "1" && cap(w).await == *DATA.get().unwrap()).then_some(())
    })
    .await;
    let writes = |part| w.writes("restored", part).len();
    assert_eq!((writes(Part::Database), writes(Part::Share)), (1, 1), "no data was made again");
    w.delete(Object::Instance("restored")).await;
    w.gone(Object::Instance("restored")).await;
}
