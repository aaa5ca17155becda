//! Story: the operator's clock is ten minutes ahead of that of everybody else, and then ten minutes behind. It leads, makes
//! each thing once, follows what changes, hands over and takes away as with a clock that is right.

use std::process::Command;

use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, LogParams},
};
use reef_e2e::{
    harness::{Sandbox, eventually, ok, processes, send},
    install::{NAMESPACE, charts},
    instance_harness::{CUSTOMERS, call, hash_of, instance_gone, instance_ready, instances},
    reef_harness::{azure_writes, ready},
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const SAMPLES: [&str; 3] = [
    include_str!("../../../../docs/samples/10-region.yaml"),
    include_str!("../../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../../docs/samples/30-reefs.yaml"),
];

/// How far the clock is off.
const MINUTES: i64 = 10;

#[tokio::test]
async fn a_wrong_clock_misleads_nobody() {
    let temp = TempDir::new().unwrap();
    let library = temp.path().join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stories/skewed/clock.c");
    ok(&Command::new("cc").args(["-shared", "-fPIC", source, "-o"]).arg(&library).output().unwrap());
    let file = format!("--operator-file={}", library.display());
    let arguments = ["--reef-slots=1", "--time-scale=200", &file];
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &arguments);
    let client = sandbox.client().await;
    for sample in &SAMPLES[..2] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let first = SAMPLES[2].split("---").find(|reef| reef.contains("weu-1")).unwrap();
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], first));
    ready(&client, "weu-1").await;
    ok(&sandbox.kubectl(&["create", "namespace", CUSTOMERS]));
    make(&sandbox, "steady");
    let steady = instance_ready(&client, "steady").await;

    for (minutes, name) in [(MINUTES, "ahead"), (-MINUTES, "behind")] {
        skew(&sandbox, minutes);
        let leader = leader_with(&client, minutes).await;
        make(&sandbox, name);
        let status = instance_ready(&client, name).await;
        let get = ("GET", "/api");
        assert_eq!(call(&sandbox, &client, &status, get, None, &Value::Null).await.0, 200, "{name}");
        let edit = r#"{"spec":{"taskCap":10}}"#;
        ok(&sandbox.kubectl(&["-n", CUSTOMERS, "patch", "ci", name, "--type=merge", "-p", edit]));
        eventually("the edit is in effect", || async {
            let found = instances(&client).get(name).await.ok()?;
            let current = found.status?.observed_generation == found.metadata.generation;
            current.then_some(())
        })
        .await;
        instance_ready(&client, name).await;
        // Killed, so that the other one has to wait until the lease has run out, by its own clock.
        kill(&client, &leader).await;
        eventually("another leads", || async { self::leader(&client).await.filter(|l| *l != leader) }).await;
        ok(&sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", name, "--wait=false"]));
        instance_gone(&client, name).await;
        let hash = hash_of(&status);
        assert!(!sandbox.azure_ids().iter().any(|id| id.contains(&hash)), "nothing of {name} is left");
        let made = azure_writes(&sandbox).into_iter().filter(|call| {
            let path = call["path"].as_str().unwrap_or_default();
            call["method"] == "PUT" && path.ends_with(&format!("/databases/db-{hash}-1"))
        });
        assert_eq!(made.count(), 1, "the database of {name} is made once");
    }
    let uid = instance_ready(&client, "steady").await.url;
    assert_eq!(uid, steady.url);
    assert_eq!(call(&sandbox, &client, &steady, ("GET", "/api"), None, &Value::Null).await.0, 200);
}

fn make(sandbox: &Sandbox, name: &str) {
    let manifest = format!(
        "apiVersion: cloud.octopus.com/v1alpha1\nkind: CloudInstance\nmetadata:\n  name: {name}\n  namespace: {CUSTOMERS}\n\
         spec:\n  regionRef: {{ name: westeurope }}\n  subdomain: {name}\n  release: {{ version: 2026.2.4213 }}\n  taskCap: 5\n\
         \u{20} deletionPolicy: Delete\n  deletionProtection: false\n"
    );
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &manifest));
}

/// Starts all replicas anew, with a clock that is off by so much.
fn skew(sandbox: &Sandbox, minutes: i64) {
    let chart = charts().join("reef-operator");
    let environment = format!(
        "extraEnv[0].name=LD_PRELOAD,extraEnv[0].value=/clock.so,extraEnv[1].name=SKEW_SECONDS,extraEnv[1].value={}",
        minutes * 60
    );
    let upgrade = ["upgrade", "reef-operator", chart.to_str().unwrap(), "--namespace", NAMESPACE];
    let values = ["--reuse-values", "--wait", "--set-string", &environment];
    ok(&sandbox.helm(&[&upgrade[..], &values].concat()));
}

async fn leader(client: &Client) -> Option<String> {
    let lease = Api::<Lease>::namespaced(client.clone(), NAMESPACE).get("reef-operator").await.ok()?;
    lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

/// Waits for a leader whose clock is off by so much, as its log shows.
async fn leader_with(client: &Client, minutes: i64) -> String {
    eventually("a replica with the wrong clock leads", || async {
        let leader = leader(client).await?;
        let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
        let log =
            pods.logs(&leader, &LogParams { tail_lines: Some(1), ..LogParams::default() }).await.ok()?;
        let line: Value = serde_json::from_str(log.lines().last()?).ok()?;
        let at: Timestamp = line["timestamp"].as_str()?.parse().ok()?;
        let off = at.duration_since(Timestamp::now()).as_secs();
        // A line of some minutes ago is as good.
        ((off - minutes * 60).abs() < 240).then_some(leader)
    })
    .await
}

/// Ends a leader without a word, and its pod, so that it is not simply started again under the same name.
async fn kill(client: &Client, leader: &str) {
    let variable = format!("POD_NAME={leader}\0");
    let process = processes()
        .into_iter()
        .find(|p| p.command.starts_with("/reef-operator\0run") && p.environment.contains(&variable));
    send(process.expect("the leader's process").pid, Signal::KILL);
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let _ = pods.delete(leader, &DeleteParams::default().grace_period(0)).await;
}
