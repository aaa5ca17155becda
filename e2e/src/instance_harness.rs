//! What the stories about instances share.

use kube::{Api, Client, api::ListParams};
use reef_crds::{CloudInstance, CloudInstanceStatus, Reef, RetainedInstance};

use crate::harness::eventually;

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
