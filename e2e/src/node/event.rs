//! Events of pods, for those who ask why nothing runs yet.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Api, ResourceExt, api::PostParams};

use super::Shared;

/// Writes that a pod cannot be started. Best effort, as with every event.
pub(super) async fn cannot_start(shared: &Shared, pod: &Pod, message: &str) {
    let event = warning(pod, &shared.name, message, Timestamp::now());
    let api = Api::<Event>::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    if let Err(error) = api.create(&PostParams::default(), &event).await {
        tracing::debug!(%error, pod = pod.name_any(), "event");
    }
}

fn warning(pod: &Pod, node: &str, message: &str, now: Timestamp) -> Event {
    let reason = if message.starts_with("volume ") { "FailedMount" } else { "FailedCreatePodSandBox" };
    Event {
        metadata: ObjectMeta {
            // As client-go names them: unique by time.
            name: Some(format!("{}.{:x}", pod.name_any(), now.as_nanosecond())),
            namespace: pod.namespace(),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name_any()),
            namespace: pod.namespace(),
            uid: pod.uid(),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(reason.to_owned()),
        // The API takes 1024 bytes.
        message: Some(message.chars().take(1000).collect()),
        source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(node.to_owned()) }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_is_not_there_has_the_reason_of_kubelets() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u" },
        }))
        .unwrap();
        for (message, reason) in
            [("volume data: not bound", "FailedMount"), ("pod process: no", "FailedCreatePodSandBox")]
        {
            let event = warning(&pod, "node-0", message, Timestamp::UNIX_EPOCH);
            assert_eq!((event.reason.as_deref(), event.message.as_deref()), (Some(reason), Some(message)));
            assert_eq!(event.involved_object.uid.as_deref(), Some("u"));
        }
    }
}
