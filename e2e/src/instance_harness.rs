//! What the stories about instances share.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, api::ListParams};
use reef_crds::{CloudInstance, CloudInstanceStatus, Reef, RetainedInstance};
use serde_json::Value;

use crate::{
    harness::{Sandbox, eventually},
    install::NAMESPACE,
};

/// Namespace of the sample instances.
pub const CUSTOMERS: &str = "customers";

/// Where instances of the samples are.
pub fn instances(client: &Client) -> Api<CloudInstance> {
    Api::namespaced(client.clone(), CUSTOMERS)
}

/// Waits until a condition of an instance's newest spec stands like this.
pub async fn instance_shows(
    client: &Client,
    name: &str,
    type_: &str,
    status: &str,
    reason: &str,
) -> CloudInstanceStatus {
    eventually(&format!("{name} shows {type_} {status} {reason}"), || async {
        let instance = instances(client).get_opt(name).await.ok()??;
        let found = instance.status?;
        let current = found.observed_generation == instance.metadata.generation;
        let fits =
            found.conditions.iter().any(|c| c.type_ == type_ && c.status == status && c.reason == reason);
        (current && fits).then_some(found)
    })
    .await
}

/// Waits until an instance is in service.
pub async fn instance_ready(client: &Client, name: &str) -> CloudInstanceStatus {
    instance_shows(client, name, "Ready", "True", "ReconcileSucceeded").await
}

/// Waits until an instance is gone.
pub async fn instance_gone(client: &Client, name: &str) {
    eventually(&format!("{name} is gone"), || async {
        instances(client).get_opt(name).await.ok()?.is_none().then_some(())
    })
    .await;
}

/// What is kept of deleted instances.
pub async fn retained(client: &Client) -> Vec<RetainedInstance> {
    let list = Api::<RetainedInstance>::all(client.clone()).list(&ListParams::default()).await;
    list.map(|list| list.items).unwrap_or_default()
}

/// Name of the AKS cluster of the reef that an instance is on.
pub async fn cluster_of(client: &Client, status: &CloudInstanceStatus) -> Option<String> {
    let reef = &status.placement.as_ref()?.reef;
    let reef = Api::<Reef>::all(client.clone()).get_opt(reef).await.ok()??;
    Some(reef.status?.cluster?.name)
}

/// Short hash of an instance's identity, as in the names of its resources.
pub fn hash_of(status: &CloudInstanceStatus) -> String {
    let identity = &status.identity.as_ref().expect("its identity").name;
    identity.strip_prefix("id-").expect("a name of ours").to_owned()
}

/// The key of the REST API that the operator made for an instance.
pub async fn api_key(client: &Client, status: &CloudInstanceStatus) -> String {
    let all =
        Api::<CloudInstance>::all(client.clone()).list(&ListParams::default()).await.expect("instances");
    let is_its = |i: &&CloudInstance| i.status.as_ref().is_some_and(|s| s.identity == status.identity);
    let uid = all.items.iter().find(is_its).and_then(|i| i.metadata.uid.clone()).expect("its UID");
    let secrets = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    let name = format!("instance-{}-{}", hash_of(status), &uid[..8]);
    let secret = secrets.get(&name).await.expect("the keys");
    let data = secret.data.expect("data");
    String::from_utf8(data["api-key"].0.clone()).expect("text")
}

/// Calls an instance's REST API through its reef's gateway, as a customer would: status and body. The status is 0 if nobody
/// answers.
pub async fn call(
    sandbox: &Sandbox,
    client: &Client,
    status: &CloudInstanceStatus,
    (method, path): (&str, &str),
    key: Option<&str>,
    body: &Value,
) -> (u16, Value) {
    let cluster = cluster_of(client, status).await.expect("its cluster");
    let ca = std::fs::read_to_string(sandbox.folder().join("run/public-ca.crt")).expect("the authority");
    let host = status.url.as_ref().expect("its URL").trim_start_matches("https://").to_owned();
    let call = sandbox.https(&cluster, &host, &ca).expect("its gateway");
    let mut headers: Vec<(&str, &str)> = key.map(|key| ("X-Octopus-ApiKey", key)).into_iter().collect();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    if !body.is_empty() {
        headers.push(("Content-Type", "application/json"));
    }
    match call.exchange(method, path, &headers, body.as_bytes()) {
        Ok(answer) => (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null)),
        Err(error) => {
            eprintln!("{method} {path} of {host}: {error}");
            (0, Value::Null)
        }
    }
}
