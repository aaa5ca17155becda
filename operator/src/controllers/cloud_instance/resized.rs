//! Gives the server's pod the size that it is to have, without a restart.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use reef_crds::{condition::Reason, meta::FIELD_MANAGER};

use super::{
    manifests::{self, SERVER, Server},
    resize::{self, Step},
};
use crate::{
    cluster::keep::{keep_one, verdict},
    controller::{Context, trouble::Trouble},
    metrics::ByOutcome,
    resources::Verdict,
};

fn name() -> String {
    format!("{SERVER}-0")
}

/// The server's pod, if there is one.
pub async fn pod(client: &Client, namespace: &str) -> Result<Option<Pod>, Verdict> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    pods.get_opt(&name()).await.map_err(|e| verdict("Pod", &name(), &e))
}

/// Asks for the size that the pod is to have, if it asks for another: how that stands. The quota of the namespace has
/// room for the larger of both before, and follows what became smaller after.
pub async fn keep(context: &Context, client: &Client, server: &Server<'_>, pod: Option<&Pod>) -> Verdict {
    let Some(pod) = pod else { return Verdict::Waiting("waits for: the server's pod".to_owned()) };
    let step = resize::decide(pod, server.task_cap);
    let count = |outcome| {
        context.metrics.writes.get_or_create(&ByOutcome { resource: "pods/resize", outcome }).inc();
    };
    let size = match step {
        Step::Resize(size) => size,
        Step::Working(what) => return Verdict::Working(what),
        Step::Pending(trouble) => return Verdict::Failed(trouble),
        Step::Nothing => {
            count("skipped");
            return Verdict::Good;
        }
    };
    if context.claim.check().is_err() {
        return Verdict::Unknown(Trouble::new(Reason::ClusterUnreachable, "this replica no longer leads"));
    }
    let namespace = server.inputs.namespace();
    tracing::info!(pod = name(), namespace, ?size, "resizing");
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Strategic(resize::patch(pod, size));
    match pods.patch_resize(&name(), &parameters, &patch).await {
        Ok(pod) => {
            count("changed");
            let room = Server { asked: resize::asked(&pod), ..server.clone() };
            match keep_one(context, client, &manifests::room(&room)).await {
                Ok(_) => Verdict::Working("the server's pod is being resized".to_owned()),
                Err(verdict) => verdict,
            }
        }
        // It is gone, or is another by now.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            Verdict::Working("the server's pod was replaced".to_owned())
        }
        // The quota was raised a moment ago, and the cluster reckons with the one before.
        Err(kube::Error::Api(status)) if resize::is_of_quota(&status.message) => {
            Verdict::Working("the namespace's quota grows with the server".to_owned())
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
            Verdict::Failed(resize::refused(size, &status.message))
        }
        Err(error) => verdict("Pod", &name(), &error),
    }
}
