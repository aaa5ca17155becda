//! Story: the operator is killed again and again while six instances are made and while they are deleted; what comes
//! of it is what comes of it without.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Namespace, PersistentVolume},
};
use kube::{Api, Client, ResourceExt, api::ListParams};
use reef_crds::CloudInstanceStatus;
use reef_e2e::{
    canaries::Canaries,
    harness::{Sandbox, ok},
    instance_harness::{CUSTOMERS, call, cluster_of, hash_of, instance_gone, instance_ready, retained},
    kill::{kill_leaders, seed},
    reef_harness::{cluster, ready, set},
};
use serde_json::Value;

const SAMPLES: [&str; 3] = [
    include_str!("../../../../docs/samples/10-region.yaml"),
    include_str!("../../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../../docs/samples/30-reefs.yaml"),
];

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Those whose data goes with them.
const DELETED: [&str; 2] = ["a", "b"];

/// Six: two whose data goes, one with compute of its own, two that are never together.
fn manifests() -> String {
    let mut text = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {CUSTOMERS}\n");
    for name in NAMES {
        let policy = if DELETED.contains(&name) { "Delete" } else { "Retain" };
        let more = match name {
            "c" => "  isolation: { database: { tier: Dedicated, sku: S0 } }\n",
            "d" | "e" => "  placement: { antiAffinityGroup: apart }\n",
            _ => "",
        };
        write!(
            text,
            "---\napiVersion: cloud.octopus.com/v1alpha1\nkind: CloudInstance\nmetadata:\n  name: {name}\n  namespace: {CUSTOMERS}\n\
             spec:\n  regionRef: {{ name: westeurope }}\n  subdomain: {name}\n  release: {{ version: 2026.2.4213 }}\n  taskCap: 5\n\
             \u{20} deletionPolicy: {policy}\n  deletionProtection: false\n{more}"
        )
        .unwrap();
    }
    text
}

#[tokio::test]
async fn instances_survive_their_operator() {
    let seed = seed();
    println!("REEF_SEED={seed}");
    let sandbox =
        Sandbox::start_alone(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=100"]);
    let client = sandbox.client().await;
    let canaries = Canaries::begin(&client);
    // A short lease, so that there are many kills in little time.
    set(&sandbox, "lease.durationSeconds=3");
    for sample in SAMPLES {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let reefs = [ready(&client, "weu-1").await, ready(&client, "weu-2").await];
    let (empty, began) = (sandbox.azure_ids(), sandbox.azure_made().len());

    let (stop, killer) = kill_leaders(client.clone(), seed);
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &manifests()));
    let mut all = BTreeMap::new();
    for name in NAMES {
        all.insert(name, instance_ready(&client, name).await);
    }
    stop.send_replace(true);
    let while_made = killer.await.unwrap();
    nothing_was_made_twice(&sandbox, began);
    there_is_what_the_statuses_say(&sandbox, &empty, &all);
    let places = |name: &str| all[name].placement.as_ref().unwrap().reef.clone();
    assert_ne!(places("d"), places("e"));
    each_serves_alone(&sandbox, &client, &all).await;
    canaries.do_not_show(&sandbox, &client).await;

    let (stop, killer) = kill_leaders(client.clone(), seed ^ 0x5eed);
    ok(&sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", "--all", "--wait=false"]));
    for name in NAMES {
        instance_gone(&client, name).await;
    }
    stop.send_replace(true);
    let while_deleted = killer.await.unwrap();
    println!("killed {while_made} times while they were made, {while_deleted} times while they were deleted");
    assert!(while_made + while_deleted >= 2, "the story was not one");
    only_what_is_kept_is_left(&sandbox, &client, &empty, &all).await;
    for reef in &reefs {
        let cluster = sandbox.reef_client(&cluster(reef)).await;
        let list = ListParams::default();
        let namespaces = Api::<Namespace>::all(cluster.clone()).list(&list).await.unwrap();
        assert!(!namespaces.items.iter().any(|n| n.name_any().starts_with("oct-")));
        assert!(Api::<PersistentVolume>::all(cluster.clone()).list(&list).await.unwrap().items.is_empty());
        assert!(Api::<Job>::all(cluster).list(&list).await.unwrap().items.is_empty());
    }
}

/// Each resource came into being once.
fn nothing_was_made_twice(sandbox: &Sandbox, began: usize) {
    let mut made = BTreeMap::new();
    for path in sandbox.azure_made().into_iter().skip(began) {
        *made.entry(path.to_lowercase()).or_insert(0) += 1;
    }
    assert!(made.keys().any(|path| path.contains("/databases/")), "databases are among them");
    let twice: Vec<_> = made.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// Five resources for each, where its status says, and nothing else.
fn there_is_what_the_statuses_say(
    sandbox: &Sandbox,
    empty: &[String],
    all: &BTreeMap<&str, CloudInstanceStatus>,
) {
    let new: Vec<_> = sandbox.azure_ids().into_iter().filter(|id| !empty.contains(id)).collect();
    assert_eq!(new.len(), 5 * all.len(), "{new:#?}");
    for (name, status) in all {
        let (hash, placement) = (hash_of(status), status.placement.as_ref().unwrap());
        let group = format!("/resourceGroups/reef-sandbox-{}/", placement.reef);
        let of: Vec<_> = new.iter().filter(|id| id.contains(&hash)).collect();
        assert!(of.len() == 4 && of.iter().all(|id| id.contains(&group)), "{name}: {of:#?}");
        assert!(new.iter().any(|id| id.ends_with(&format!("/CNAME/{name}"))));
    }
}

async fn each_serves_alone(sandbox: &Sandbox, client: &Client, all: &BTreeMap<&str, CloudInstanceStatus>) {
    let mut ids = BTreeSet::new();
    for (name, status) in all {
        let (code, root) = call(sandbox, client, status, ("GET", "/api"), None, &Value::Null).await;
        assert_eq!((code, &root["Version"]), (200, &"2026.2.4213".into()), "{name}");
        assert!(ids.insert(root["InstallationId"].to_string()), "{name} is another");
        let (code, _) =
            call(sandbox, client, status, ("GET", "/api/serverstatus/health"), None, &Value::Null).await;
        assert_eq!(code, 200, "{name}: no two servers ever wrote its database");
        let home = cluster_of(client, status).await.unwrap();
        for reef in ["weu-1", "weu-2"] {
            let cluster = cluster(&ready(client, reef).await);
            let namespaces = Api::<Namespace>::all(sandbox.reef_client(&cluster).await);
            let there = namespaces.get_opt(status.namespace.as_ref().unwrap()).await.unwrap().is_some();
            assert_eq!(there, cluster == home, "{name} at {reef}");
        }
    }
}

async fn only_what_is_kept_is_left(
    sandbox: &Sandbox,
    client: &Client,
    empty: &[String],
    all: &BTreeMap<&str, CloudInstanceStatus>,
) {
    let mut left: Vec<_> = sandbox.azure_ids().into_iter().filter(|id| !empty.contains(id)).collect();
    left.sort();
    let kept = retained(client).await;
    let mut named: Vec<_> =
        kept.iter().flat_map(|k| [k.spec.database.id.clone(), k.spec.share.id.clone()]).collect();
    named.sort();
    assert_eq!(left, named, "each that is left is named once");
    let kept: BTreeSet<_> = kept.iter().map(|k| k.spec.origin.name.as_str()).collect();
    assert_eq!(kept, all.keys().copied().filter(|name| !DELETED.contains(name)).collect());
}
