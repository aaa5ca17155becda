//! What a server's pod says of itself (pure).

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use reef_crds::condition::Reason;

use crate::{controller::trouble::Trouble, resources::Verdict};

/// Whether a pod serves and is not being ended (pure).
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is_true = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    is_true && pod.metadata.deletion_timestamp.is_none()
}

/// What a pod that is not ready says (pure).
pub fn of_pod(pod: &Pod) -> Verdict {
    let name = pod.name_any();
    let status = pod.status.clone().unwrap_or_default();
    let failing = |why: String| Verdict::Failed(Trouble::new(Reason::WorkloadFailing, why));
    let Some(container) = status.container_statuses.iter().flatten().next() else {
        let scheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled");
        return match scheduled.filter(|c| c.status == "False") {
            Some(condition) => failing(format!(
                "pod {name} finds no node: {}",
                condition.message.clone().unwrap_or_default()
            )),
            None => Verdict::Working(format!("pod {name} starts")),
        };
    };
    let state = container.state.clone().unwrap_or_default();
    let last = container.last_state.clone().unwrap_or_default().terminated;
    let words = |t: &k8s_openapi::api::core::v1::ContainerStateTerminated| {
        let message = t.message.clone().unwrap_or_default();
        format!("exit code {} {message}", t.exit_code).trim().to_owned()
    };
    if let Some(ended) = state.terminated.as_ref().or(last.as_ref()) {
        return failing(format!("pod {name} ended with {}", words(ended)));
    }
    match state.waiting {
        Some(waiting)
            if !matches!(waiting.reason.as_deref(), None | Some("ContainerCreating" | "PodInitializing")) =>
        {
            let reason = waiting.reason.unwrap_or_default();
            failing(format!("pod {name}: {reason} {}", waiting.message.unwrap_or_default()).trim().to_owned())
        }
        Some(waiting) => match waiting.message {
            Some(message) => Verdict::Working(format!("pod {name} starts: {message}")),
            None => Verdict::Working(format!("pod {name} starts")),
        },
        None => Verdict::Working(format!("pod {name} runs and does not serve yet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_that_is_ready_and_stays_serves() {
        let pod = |ready: &str, ending: Value| -> Pod {
            let conditions =
                json!([{ "type": "PodScheduled", "status": "True" }, { "type": "Ready", "status": ready }]);
            let metadata = json!({ "name": "octopus-0", "deletionTimestamp": ending });
            serde_json::from_value(json!({ "metadata": metadata, "status": { "conditions": conditions } }))
                .unwrap()
        };
        assert!(is_ready(&pod("True", Value::Null)));
        assert!(!is_ready(&pod("False", Value::Null)));
        assert!(!is_ready(&pod("True", json!("2026-01-01T00:00:00Z"))));
        assert!(!is_ready(&Pod::default()));
    }

    #[test]
    fn a_pod_that_does_not_serve_says_why() {
        let pod = |status: Value| -> Pod {
            serde_json::from_value(json!({ "metadata": { "name": "octopus-0" }, "status": status })).unwrap()
        };
        let container = |state: Value, last: Value, restarts: i32| {
            pod(json!({ "containerStatuses": [{
                "name": "octopus", "image": "i", "imageID": "", "ready": false, "restartCount": restarts,
                "state": state, "lastState": last,
            }] }))
        };
        let ended = json!({ "terminated": { "exitCode": 1, "message": "schema is newer" } });
        for (pod, fails, expect) in [
            (pod(json!({})), false, "starts"),
            (
                pod(
                    json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/1 nodes" }] }),
                ),
                true,
                "finds no node: 0/1 nodes",
            ),
            (container(json!({ "running": {} }), json!({}), 0), false, "does not serve yet"),
            (container(json!({ "running": {} }), ended.clone(), 2), true, "exit code 1 schema is newer"),
            (
                container(
                    json!({ "waiting": { "reason": "ErrImagePull", "message": "no image" } }),
                    json!({}),
                    0,
                ),
                true,
                "ErrImagePull no image",
            ),
            (
                container(json!({ "waiting": { "reason": "ContainerCreating" } }), json!({}), 0),
                false,
                "starts",
            ),
        ] {
            match (of_pod(&pod), fails) {
                (Verdict::Working(text), false) => assert!(text.contains(expect), "{text}"),
                (Verdict::Failed(trouble), true) => {
                    assert!(trouble.message.contains(expect), "{}", trouble.message);
                }
                (other, _) => panic!("{expect}: {other:?}"),
            }
        }
    }
}
