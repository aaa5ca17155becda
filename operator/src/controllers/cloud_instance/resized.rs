//! Gives the server's pod the size that it is to have, without a restart.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use reef_crds::{condition::Reason, meta::FIELD_MANAGER};

use super::{
    manifests::{self, Server, pod_name},
    resize::{self, Step},
    sizes::Size,
};
use crate::{
    cluster::keep::{keep_one, unread, verdict},
    controller::{Context, trouble::Trouble},
    metrics::ByOutcome,
    resources::Verdict,
};

/// Sizes that clusters do not take, by the UID of the instance: of which pod, which size, and why. The answer stays what it
/// is as long as the pod stays on its node, so it is not asked for again.
#[derive(Default)]
pub struct Refusals(Mutex<HashMap<String, Refusal>>);

struct Refusal {
    /// UID of the pod.
    pod: Option<String>,
    size: Size,
    why: Trouble,
}

impl Refusals {
    fn of(&self, instance: &str, pod: &Pod, size: Size) -> Option<Trouble> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = all.get(instance)?;
        (refusal.pod == pod.uid() && refusal.size == size).then(|| refusal.why.clone())
    }

    fn add(&self, instance: &str, pod: &Pod, size: Size, why: &Trouble) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(instance.to_owned(), Refusal { pod: pod.uid(), size, why: why.clone() });
    }

    /// It is asked for anew the next time.
    pub fn forget(&self, instance: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(instance);
    }
}

/// The server's pod, if there is one.
pub async fn pod(client: &Client, namespace: &str) -> Result<Option<Pod>, Verdict> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    pods.get_opt(&pod_name()).await.map_err(|e| unread("Pod", &pod_name(), &e))
}

/// Asks for the size that the pod is to have, if it asks for another: how that stands. The quota of the namespace has
/// room for the larger of both before, and follows what became smaller after.
pub async fn keep(
    context: &Context,
    client: &Client,
    (server, refusals): (&Server<'_>, &Refusals),
    pod: Option<&Pod>,
) -> Verdict {
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
    if let Some(why) = refusals.of(&server.inputs.uid, pod, size) {
        return Verdict::Failed(why);
    }
    if context.claim.check().is_err() {
        return Verdict::Unknown(Trouble::new(Reason::ClusterUnreachable, "this replica no longer leads"));
    }
    let namespace = server.inputs.namespace();
    tracing::info!(pod = pod_name(), namespace, ?size, "resizing");
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Strategic(resize::patch(pod, size));
    match pods.patch_resize(&pod_name(), &parameters, &patch).await {
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
        Err(kube::Error::Api(status))
            if matches!(status.code, 400 | 403 | 422) && !resize::is_of_caller(&status.message) =>
        {
            let why = resize::refused(size, &status.message);
            refusals.add(&server.inputs.uid, pod, size, &why);
            Verdict::Failed(why)
        }
        Err(error) => verdict("Pod", &pod_name(), &error),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sizes, *};

    #[test]
    fn a_refusal_holds_for_its_pod_and_size() {
        let pod = |uid: &str| -> Pod {
            serde_json::from_value(serde_json::json!({ "metadata": { "uid": uid } })).unwrap()
        };
        let (size, why) = (sizes::of(5), Trouble::new(Reason::ResizeInfeasible, "no node has it"));
        let all = Refusals::default();
        all.add("i", &pod("a"), size, &why);
        assert_eq!(all.of("i", &pod("a"), size), Some(why));
        assert_eq!(all.of("i", &pod("b"), size), None, "another pod may be on another node");
        assert_eq!(all.of("i", &pod("a"), Size { cpu_limit: 1, ..size }), None);
        assert_eq!(all.of("j", &pod("a"), size), None);
        all.forget("i");
        assert_eq!(all.of("i", &pod("a"), size), None);
    }
}
