//! Ends pods of servers; by itself one that holds on to a database or an identity that is no more: its template is followed
//! only when it starts, and it would go on with connections and tokens of the one before.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use reef_crds::condition::Reason;

use super::manifests::{self, Server};
use crate::{
    cluster::keep::verdict,
    controller::{Context, trouble::Trouble},
    resources::Verdict,
};

/// Ends the pod if it was started for another database or identity. The StatefulSet makes the next one.
pub async fn if_needed(
    context: &Context,
    client: &Client,
    server: &Server<'_>,
    pod: Option<&Pod>,
) -> Result<(), Verdict> {
    let Some(pod) = pod.filter(|pod| is_of_another(pod, server)) else { return Ok(()) };
    if context.claim.check().is_err() {
        return Ok(());
    }
    let namespace = server.inputs.namespace();
    tracing::info!(namespace, "its database or identity is another: restarting");
    end(context, client, &namespace, pod).await?;
    Err(Verdict::Working("the server is started again for its new database or identity".to_owned()))
}

/// Ends this very pod. The StatefulSet makes the next one.
pub async fn end(context: &Context, client: &Client, namespace: &str, pod: &Pod) -> Result<(), Verdict> {
    if context.claim.check().is_err() {
        return Err(Verdict::Unknown(Trouble::new(
            Reason::ClusterUnreachable,
            "this replica no longer leads",
        )));
    }
    let (pods, name) = (Api::<Pod>::namespaced(client.clone(), namespace), pod.name_any());
    tracing::info!(pod = name, namespace, "ending a server's pod");
    let this_one = Preconditions { uid: pod.uid(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
    match pods.delete(&name, &parameters).await {
        // It is gone, or is another by now.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop).map_err(|error| verdict("Pod", &name, &error)),
    }
}

/// Whether a pod that is not ending already was started for something else (pure).
fn is_of_another(pod: &Pod, server: &Server<'_>) -> bool {
    let started_for = pod.annotations().get(manifests::CONNECTION);
    // What is not known is not another. One that does not say is left alone.
    let is_known = !server.database.is_empty() && !server.client_id.is_empty();
    let another = is_known && started_for.is_some_and(|value| *value != manifests::connection(server));
    pod.metadata.deletion_timestamp.is_none() && another
}

#[cfg(test)]
mod tests {
    use super::{
        super::{keys::Keys, tests::inputs},
        *,
    };
    use serde_json::json;

    #[test]
    fn only_a_pod_that_says_that_it_was_started_for_something_else_is_ended() {
        let keys = Keys { master_key: String::new(), api_key: String::new() };
        let inputs = inputs();
        let server = Server {
            inputs: &inputs,
            image: "i",
            version: "v",
            task_cap: 5,
            client_id: "client",
            database: "database",
            keys: &keys,
            asked: None,
            runs: true,
        };
        // It stands in pods that run: with another value a new release of the operator would end them all.
        assert_eq!(manifests::connection(&server), "e406a6a2f658ffaf");
        let pod = |value: Option<&str>, deleted: Option<&str>| -> Pod {
            let annotations = value.map(|value| json!({ manifests::CONNECTION: value }));
            let metadata =
                json!({ "name": "octopus-0", "annotations": annotations, "deletionTimestamp": deleted });
            serde_json::from_value(json!({ "metadata": metadata })).unwrap()
        };
        assert!(!is_of_another(&pod(Some("e406a6a2f658ffaf"), None), &server));
        assert!(!is_of_another(&pod(None, None), &server), "it does not say");
        assert!(is_of_another(&pod(Some("other"), None), &server));
        assert!(
            !is_of_another(&pod(Some("other"), Some("2026-01-01T00:00:00Z")), &server),
            "it ends already"
        );
        let unknown = Server { database: "", ..server };
        assert!(!is_of_another(&pod(Some("other"), None), &unknown), "which database it is now is not known");
    }
}
