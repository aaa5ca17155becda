//! The object of a pod at its API server.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use tokio::time::sleep;

use super::Shared;

/// Writes a status, if it differs from the one in the object. True if the object has it now.
pub(super) async fn write(shared: &Shared, pod: &Pod, status: &PodStatus) -> bool {
    if pod.status.as_ref() == Some(status) {
        return true;
    }
    let api = Api::<Pod>::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let patch = serde_json::json!({ "metadata": { "uid": pod.uid() }, "status": status });
    let result = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
    if let Err(error) = &result {
        tracing::debug!(%error, pod = pod.name_any(), "pod status");
    }
    result.is_ok()
}

/// Takes the object away, which ends a pod's deletion.
pub(super) async fn remove(shared: &Shared, pod: &Pod) {
    let api = Api::<Pod>::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let now = DeleteParams::default().grace_period(0).preconditions(preconditions);
    for _ in 0..10 {
        match api.delete(&pod.name_any(), &now).await {
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() => return,
            Err(error) => tracing::debug!(%error, pod = pod.name_any(), "delete pod"),
            Ok(_) => return,
        }
        sleep(Duration::from_secs(1)).await;
    }
}
