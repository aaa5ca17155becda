//! Story: the management cluster is lost with all keys, and the same manifests are applied to a new one: the instances
//! are found where they are, and nothing of them is made, changed or restarted.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt, api::ListParams};
use reef_crds::CloudInstanceStatus;
use reef_e2e::{
    harness::{Sandbox, eventually, ok},
    instance_harness::{api_key, call, cluster_of, instance_ready, instance_shows},
    reef_harness::{cluster_writes, ready},
    wipe::wipe,
};
use serde_json::{Value, json};

const SAMPLES: [&str; 4] = [
    include_str!("../../../docs/samples/10-region.yaml"),
    include_str!("../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../docs/samples/30-reefs.yaml"),
    include_str!("../../../docs/samples/40-instances.yaml"),
];

const NAMES: [&str; 3] = ["acme", "globex", "initech"];

type All = BTreeMap<&'static str, CloudInstanceStatus>;

async fn all_ready(client: &Client) -> All {
    let mut all = All::new();
    for name in NAMES {
        all.insert(name, instance_ready(client, name).await);
    }
    all
}

/// Each server's pod: UID, start and restarts.
async fn pods(sandbox: &Sandbox, client: &Client, all: &All) -> BTreeMap<&'static str, Value> {
    let mut pods = BTreeMap::new();
    for (name, status) in all {
        let cluster = sandbox.reef_client(&cluster_of(client, status).await.unwrap()).await;
        let api = Api::<Pod>::namespaced(cluster, status.namespace.as_ref().unwrap());
        let pod = api.list(&ListParams::default()).await.unwrap().items.remove(0);
        let status = pod.status.clone().unwrap();
        let restarts = status.container_statuses.unwrap()[0].restart_count;
        pods.insert(*name, json!([pod.uid(), status.start_time, restarts]));
    }
    pods
}

#[tokio::test]
async fn instances_are_found_where_they_are() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=200"]);
    let client = sandbox.client().await;
    for sample in SAMPLES {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let before = all_ready(&client).await;
    let mut keys = BTreeMap::new();
    for (name, status) in &before {
        let key = api_key(&client, status).await;
        let project = json!({ "Name": format!("of {name}") });
        let (code, _) =
            call(&sandbox, &client, status, ("POST", "/api/projects"), Some(&key), &project).await;
        assert_eq!(code, 201);
        keys.insert(*name, key);
    }
    let (ids, running) = (sandbox.azure_ids(), pods(&sandbox, &client, &before).await);
    let reefs = [ready(&client, "weu-1").await, ready(&client, "weu-2").await];
    let in_reefs = reefs.each_ref().map(|status| cluster_writes(&sandbox, status));

    wipe(&sandbox);
    let calls = sandbox.azure_journal().len();
    // In the order that is worst: the instances are there before their reefs are.
    for sample in [SAMPLES[0], SAMPLES[1], SAMPLES[3]] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    nothing_is_made_twice(&sandbox, &client, calls).await;
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], SAMPLES[2]));
    nothing_is_taken_unasked(&sandbox, &client, calls).await;
    let region =
        SAMPLES[0].replace("spec:\n  location", "spec:\n  adoptUntil: \"2999-01-01T00:00:00Z\"\n  location");
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &region));
    let after = all_ready(&client).await;

    for name in NAMES {
        assert_eq!(facts(&before[name]), facts(&after[name]), "{name}: the status is rebuilt");
        assert_eq!(
            api_key(&client, &after[name]).await,
            keys[name],
            "{name}: the keys come back from the reef"
        );
        let path = ("GET", "/api/projects");
        let (_, projects) =
            call(&sandbox, &client, &after[name], path, Some(&keys[name]), &Value::Null).await;
        assert_eq!(projects["Items"][0]["Name"], format!("of {name}"));
    }
    assert_eq!(sandbox.azure_ids(), ids, "nothing is made, nothing is gone");
    assert_eq!(pods(&sandbox, &client, &after).await, running, "nothing is restarted");
    only_claims_were_written(&sandbox, calls);
    let now = reefs.each_ref().map(|status| cluster_writes(&sandbox, status));
    let new: usize = now.iter().zip(in_reefs).map(|(now, then)| now - then).sum();
    assert_eq!(new, NAMES.len(), "the claim on each instance's namespace, and nothing else");
    what_was_lost_meanwhile_is_not_made(&sandbox, &client, &after["acme"], &keys["acme"]).await;
}

/// The management cluster is lost once more, and a database with it: without its keys nobody could read a restored one.
async fn what_was_lost_meanwhile_is_not_made(
    sandbox: &Sandbox,
    client: &Client,
    acme: &CloudInstanceStatus,
    key: &str,
) {
    let name = &acme.database.as_ref().unwrap().name;
    let database = sandbox.azure_ids().into_iter().find(|id| id.ends_with(name)).unwrap();
    wipe(sandbox);
    assert!(sandbox.arm("DELETE", &database, None).0 < 300);
    eventually("the database is gone", || async {
        (sandbox.arm("GET", &database, None).0 == 404).then_some(())
    })
    .await;
    let region =
        SAMPLES[0].replace("spec:\n  location", "spec:\n  adoptUntil: \"2999-01-01T00:00:00Z\"\n  location");
    for sample in [&region, SAMPLES[1], SAMPLES[2], SAMPLES[3]] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let stalled = instance_shows(client, "acme", "Stalled", "True", "DataResourceMissing").await;
    assert_eq!(sandbox.arm("GET", &database, None).0, 404, "no empty one takes its place");
    assert_eq!(api_key(client, &stalled).await, key, "the keys are those that it had");
    instance_ready(client, "globex").await;
}

/// What of a status has to be the same again.
fn facts(status: &CloudInstanceStatus) -> CloudInstanceStatus {
    let mut placement = status.placement.clone();
    if let Some(placement) = &mut placement {
        placement.reason.clear();
    }
    let (mut database, mut share) = (status.database.clone(), status.share.clone());
    if let Some(database) = &mut database {
        database.begun_at = None;
    }
    if let Some(share) = &mut share {
        share.begun_at = None;
    }
    CloudInstanceStatus {
        placement,
        database,
        share,
        url: status.url.clone(),
        version: status.version.clone(),
        namespace: status.namespace.clone(),
        ..CloudInstanceStatus::default()
    }
}

/// Their DNS records say that they exist on reefs of which nothing is known here.
async fn nothing_is_made_twice(sandbox: &Sandbox, client: &Client, calls: usize) {
    for name in NAMES {
        let held = instance_shows(client, name, "Ready", "False", "ReferenceNotFound").await;
        let message = &held.conditions[0].message;
        assert!(message.contains("apply the manifest of that Reef first"), "{message}");
    }
    assert_eq!(puts(sandbox, calls), 0);
}

/// Without a word of the platform team it may be another team's instance of the same name.
async fn nothing_is_taken_unasked(sandbox: &Sandbox, client: &Client, calls: usize) {
    for name in NAMES {
        instance_shows(client, name, "Stalled", "True", "AdoptionRequired").await;
    }
    assert_eq!(puts(sandbox, calls), 0);
}

fn puts(sandbox: &Sandbox, calls: usize) -> usize {
    sandbox.azure_journal().into_iter().skip(calls).filter(|e| e["method"] == "PUT").count()
}

fn only_claims_were_written(sandbox: &Sandbox, calls: usize) {
    let puts: Vec<_> =
        sandbox.azure_journal().into_iter().skip(calls).filter(|e| e["method"] == "PUT").collect();
    for put in &puts {
        let path = put["path"].as_str().unwrap();
        let claim = path.split('/').count() == 5
            || ["/userAssignedIdentities/id-", "/databases/db-", "/shares/fs-", "/CNAME/"]
                .iter()
                .any(|part| path.contains(part));
        assert!(claim && !path.contains("federatedIdentityCredentials"), "{put}");
    }
    // One that Azure did not take is tried again.
    let taken = puts.iter().filter(|put| put["status"].as_u64().is_some_and(|status| status < 300));
    assert_eq!(taken.count(), 2 + 4 * NAMES.len(), "one for each that carries a claim: {puts:#?}");
}
