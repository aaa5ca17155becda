//! Story: one reef hangs, its Azure and its API server, and the other does not notice: thirty instances are made on it
//! meanwhile, and what is held back is told.

use std::{fmt::Write, time::Instant};

use kube::{Client, ResourceExt, api::ListParams};
use reef_e2e::{
    harness::{Sandbox, eventually_within, ok},
    instance_harness::{CUSTOMERS, instance_ready, instances},
    reef_harness::{ready, set, shows},
};
use serde_json::json;

const SAMPLES: [&str; 3] = [
    include_str!("../../../../docs/samples/10-region.yaml"),
    include_str!("../../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../../docs/samples/30-reefs.yaml"),
];

const COUNT: usize = 30;

fn manifests(names: &[String]) -> String {
    let mut text = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {CUSTOMERS}\n");
    for name in names {
        write!(
            text,
            "---\napiVersion: cloud.octopus.com/v1alpha1\nkind: CloudInstance\nmetadata:\n  name: {name}\n  namespace: {CUSTOMERS}\n\
             spec:\n  regionRef: {{ name: westeurope }}\n  subdomain: {name}\n  release: {{ version: 2026.2.4213 }}\n  taskCap: 5\n\
             \u{20} quota: {{ share: 10Gi, database: 1Gi }}\n  deletionPolicy: Delete\n  deletionProtection: false\n"
        )
        .unwrap();
    }
    text
}

/// Where an instance is.
async fn reef_of(client: &Client, name: &str) -> Option<String> {
    Some(instances(client).get(name).await.ok()?.status?.placement?.reef)
}

#[tokio::test]
async fn a_reef_that_hangs_is_not_felt_by_another() {
    let sandbox =
        Sandbox::start_alone(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=200"]);
    let client = sandbox.client().await;
    for sample in SAMPLES {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    ready(&client, "weu-1").await;
    let dead = ready(&client, "weu-2").await;
    // Often enough that the dead reef's instances are looked at all the time.
    set(&sandbox, "resyncSeconds=10");
    let early: Vec<_> = ["before-a", "before-b", "before-c", "before-d"].map(str::to_owned).into();
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &manifests(&early)));
    for name in &early {
        instance_ready(&client, name).await;
    }
    let mut on_dead = Vec::new();
    for name in &early {
        on_dead.extend(reef_of(&client, name).await.filter(|reef| reef == "weu-2").map(|_| name.clone()));
    }
    assert!(!on_dead.is_empty(), "some are on the reef that is to hang");

    let slot = slot_of(&dead);
    sandbox.api_server(&slot, false);
    sandbox.azure_fault(
        &json!({ "label": "dead", "path": "*/resourceGroups/reef-sandbox-weu-2*", "fault": "hang" }),
    );
    let began = Instant::now();
    let names: Vec<_> = (0..COUNT).map(|n| format!("i{n}")).collect();
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &manifests(&names)));
    eventually_within(600, "thirty are Ready beside a reef that hangs", || async {
        let all = instances(&client).list(&ListParams::default()).await.ok()?.items;
        let is_ready = |name: &str| {
            let found = all.iter().find(|i| i.name_any() == name);
            let conditions = found.and_then(|i| i.status.as_ref()).map(|s| s.conditions.as_slice());
            conditions.unwrap_or_default().iter().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        names.iter().all(|name| is_ready(name)).then_some(())
    })
    .await;
    println!("{COUNT} instances Ready after {:.0} s beside a reef that hangs", began.elapsed().as_secs_f64());
    for name in &names {
        assert_eq!(reef_of(&client, name).await.as_deref(), Some("weu-1"), "{name}");
    }
    // It is told on the reef.
    shows(&client, "weu-2", "AzureReachable", "Unknown", "CircuitOpen").await;
    // Without Azure nobody gets as far as the cluster; then it is told that the cluster does not answer either.
    sandbox.azure_healed();
    shows(&client, "weu-2", "AzureReachable", "True", "ReconcileSucceeded").await;
    shows(&client, "weu-2", "ClusterReachable", "Unknown", "CircuitOpen").await;

    sandbox.api_server(&slot, true);
    ready(&client, "weu-2").await;
    shows(&client, "weu-2", "ClusterReachable", "True", "ReconcileSucceeded").await;
    for name in &on_dead {
        instance_ready(&client, name).await;
    }
}

/// The slot of the sandbox in which a reef's cluster runs.
fn slot_of(status: &reef_crds::ReefStatus) -> String {
    let issuer = status.cluster.as_ref().and_then(|c| c.issuer.as_ref()).unwrap();
    issuer.rsplit('/').nth(1).unwrap().to_owned()
}
