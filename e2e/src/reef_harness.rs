//! What the stories about reefs share.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use reef_crds::{Reef, ReefStatus};
use serde_json::Value;

use crate::{
    harness::{Sandbox, eventually, ok},
    install::{NAMESPACE, charts},
};

/// Upgrades the operator with more values, and waits until it runs with them.
pub fn set(sandbox: &Sandbox, values: &str) {
    let chart = charts().join("reef-operator");
    let chart = chart.to_str().expect("a path of text");
    let upgrade = ["upgrade", "reef-operator", chart, "--namespace", NAMESPACE, "--reuse-values", "--wait"];
    ok(&sandbox.helm(&[&upgrade[..], &["--set", values]].concat()));
}

/// The Reef, if it is there.
pub async fn get(client: &Client, name: &str) -> Option<Reef> {
    Api::<Reef>::all(client.clone()).get_opt(name).await.ok().flatten()
}

/// Waits until a condition of a Reef's newest spec stands like this.
pub async fn shows(client: &Client, name: &str, type_: &str, status: &str, reason: &str) -> ReefStatus {
    eventually(&format!("{name} shows {type_} {status} {reason}"), || async {
        let reef = get(client, name).await?;
        let found = reef.status?;
        let current = found.observed_generation == reef.metadata.generation;
        let fits =
            found.conditions.iter().any(|c| c.type_ == type_ && c.status == status && c.reason == reason);
        (current && fits).then_some(found)
    })
    .await
}

/// Waits until a Reef is in service.
pub async fn ready(client: &Client, name: &str) -> ReefStatus {
    shows(client, name, "Ready", "True", "ReconcileSucceeded").await
}

/// Waits until a Reef is gone.
pub async fn gone(client: &Client, name: &str) {
    eventually(&format!("{name} is gone"), || async {
        Api::<Reef>::all(client.clone()).get_opt(name).await.ok()?.is_none().then_some(())
    })
    .await;
}

/// Message of a condition.
pub fn message(status: &ReefStatus, type_: &str) -> String {
    let found = status.conditions.iter().find(|c| c.type_ == type_);
    found.expect("the condition").message.clone()
}

/// Name of the reef's AKS cluster.
pub fn cluster(status: &ReefStatus) -> String {
    status.cluster.as_ref().expect("a cluster").name.clone()
}

/// Writes to Azure so far. Tokens, registrations and asking for the authority of a cluster are none, though they are POSTs.
pub fn azure_writes(sandbox: &Sandbox) -> Vec<Value> {
    const NONE: [&str; 3] = ["/token", "/register", "/listClusterUserCredential"];
    let mut journal = sandbox.azure_journal();
    journal.retain(|entry| {
        let path = entry["path"].as_str().unwrap_or_default();
        entry["method"] != "GET" && !NONE.iter().any(|end| path.ends_with(end))
    });
    journal
}

/// Sets how many replicas of the operator there are; of none, waits until the last has ended.
pub fn scale_operator(sandbox: &Sandbox, replicas: u8) {
    let count = format!("--replicas={replicas}");
    ok(&sandbox.kubectl(&["-n", NAMESPACE, "scale", "deployment/reef-operator", &count]));
    if replicas == 0 {
        let pods =
            ["wait", "pod", "-l", "app.kubernetes.io/component=operator", "--for=delete", "--timeout=180s"];
        ok(&sandbox.kubectl(&[&["-n", NAMESPACE][..], &pods[..]].concat()));
    }
}

/// Waits until a controller looks so many times without a write: what is under way, for example the Event after a
/// status, comes to its end first.
pub async fn settled(client: &Client, controller: &str, times: f64, writes: impl AsyncFn() -> usize) {
    const ROUNDS: usize = 8;
    let mut rounds = 0;
    loop {
        let (before, first) = (writes().await, looks(client, controller).await);
        eventually("routine looks", || async {
            (looks(client, controller).await >= first + times).then_some(())
        })
        .await;
        if writes().await == before {
            return;
        }
        rounds += 1;
        assert!(rounds < ROUNDS, "{controller}: something is written in each of {ROUNDS} rounds of looks");
    }
}

/// Writes of users of Entra, so the operator's, in a reef's cluster so far.
pub fn cluster_writes(sandbox: &Sandbox, status: &ReefStatus) -> usize {
    let issuer = status.cluster.as_ref().and_then(|c| c.issuer.as_ref()).expect("an issuer");
    let slot = issuer.rsplit('/').nth(1).expect("the slot's name");
    let path = sandbox.folder().join(format!("logs/{slot}-audit.log"));
    let text = std::fs::read_to_string(path).expect("the audit log");
    let events = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    // Their names are object ids; everybody else's have a colon or are words.
    events
        .filter(|e| e["user"]["username"].as_str().is_some_and(|u| u.len() == 36 && !u.contains(':')))
        .count()
}

/// The metrics of the replica that leads.
pub async fn metrics(client: &Client) -> String {
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    let lease = leases.get("reef-operator").await.ok().and_then(|l| l.spec);
    let leader = lease.and_then(|s| s.holder_identity).expect("a leader");
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{leader}:8080/proxy/metrics");
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    client.request_text(request).await.unwrap_or_default()
}

/// Reconciles of a controller that the leader has done.
pub async fn looks(client: &Client, controller: &str) -> f64 {
    let text = metrics(client).await;
    let name =
        format!("controller_runtime_reconcile_total{{controller=\"{controller}\",result=\"success\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0.0)
}
