//! An instance in its reef's cluster: namespace, access to the database, the server, its settings.

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{Api, Client, ResourceExt};
use reef_crds::{condition::Reason, meta::ANNOTATION_CLAIM};
use serde_json::Value;

use super::{
    agent_job,
    done::Done,
    jobs::{self, Agent},
    manifests::{self, SERVER, Server},
};
use crate::{
    cluster::keep::{Manifest, keep_one, verdict},
    controller::{Context, trouble::Trouble},
    resources::Verdict,
};

/// How an instance stands in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct InCluster {
    /// Whether the server can open its database.
    pub access: Verdict,
    /// Whether all its objects are there and the server serves.
    pub workload: Verdict,
    /// Whether its settings are made.
    pub configured: Verdict,
    /// What the agent has done.
    pub done: Done,
}

impl InCluster {
    /// The same for all.
    pub fn all(verdict: &Verdict, done: Done) -> Self {
        Self { access: verdict.clone(), workload: verdict.clone(), configured: verdict.clone(), done }
    }

    /// Whether the server has served with the cloud's settings, so that customers may be led to it.
    pub fn may_publish(&self) -> bool {
        self.done.configured.is_some()
    }
}

/// What is wanted in the cluster.
pub struct Wanted<'a> {
    /// The server.
    pub server: Server<'a>,
    /// How the agent runs.
    pub agent: Agent<'a>,
    /// Whether what belongs to an earlier CloudInstance of this name may be taken over.
    pub may_adopt: bool,
}

/// What the agent has done so far, as the cluster says.
pub async fn done(client: &Client, wanted: &super::bodies::Inputs) -> Result<(Done, Value), Verdict> {
    let manifest = manifests::namespace(wanted, &Done::default());
    let live = manifest.api(client).get_opt(manifest.name()).await;
    let live = live.map_err(|e| verdict("Namespace", manifest.name(), &e))?;
    let live = live.map_or(Value::Null, |live| serde_json::to_value(live).unwrap_or_default());
    Ok((Done::of_namespace(&live), live))
}

/// Brings all of it in line, step by step.
pub async fn keep(context: &Context, client: &Client, wanted: &Wanted<'_>, now: Timestamp) -> InCluster {
    let inputs = wanted.server.inputs;
    let (mut done, live) = match done(client, inputs).await {
        Ok(found) => found,
        Err(verdict) => return InCluster::all(&verdict, Done::default()),
    };
    if let Some(trouble) = foreign(&live, wanted) {
        return InCluster::all(&Verdict::Blocked(trouble), done);
    }
    let waits = |what: &str| Verdict::Waiting(format!("waits for: {what}"));
    if let Err(verdict) = keep_one(context, client, &manifests::namespace(inputs, &done)).await {
        return InCluster::all(&verdict, done);
    }
    let access = jobs::access(inputs, wanted.server.client_id);
    if done.access.as_ref() != Some(&access.inputs) {
        if let Err(verdict) = agent_job::run(context, client, inputs, &access, &wanted.agent, now).await {
            let rest = waits("access to the database");
            return InCluster { access: verdict, workload: rest.clone(), configured: rest, done };
        }
        done.access = Some(access.inputs);
        if let Err(verdict) = keep_one(context, client, &manifests::namespace(inputs, &done)).await {
            return InCluster::all(&verdict, done);
        }
    }
    let workload = match keep_all(context, client, &manifests::all(&wanted.server)).await {
        Err(verdict) => verdict,
        Ok(()) => serving(client, &inputs.namespace()).await,
    };
    let configured = if workload == Verdict::Good {
        configure(context, client, wanted, &mut done, now).await
    } else {
        waits("the server")
    };
    InCluster { access: Verdict::Good, workload, configured, done }
}

async fn configure(
    context: &Context,
    client: &Client,
    wanted: &Wanted<'_>,
    done: &mut Done,
    now: Timestamp,
) -> Verdict {
    let server = &wanted.server;
    let work = jobs::configure(server.inputs, &server.keys.api_key, server.version, server.task_cap);
    if done.configured.as_ref() == Some(&work.inputs) {
        return Verdict::Good;
    }
    match agent_job::run(context, client, server.inputs, &work, &wanted.agent, now).await {
        Err(verdict) => verdict,
        Ok(result) => {
            let version = result["version"].as_str().unwrap_or(server.version).to_owned();
            (done.configured, done.version) = (Some(work.inputs), Some(version));
            match keep_one(context, client, &manifests::namespace(server.inputs, done)).await {
                Ok(_) => Verdict::Good,
                Err(verdict) => verdict,
            }
        }
    }
}

async fn keep_all(context: &Context, client: &Client, manifests: &[Manifest]) -> Result<(), Verdict> {
    for manifest in manifests {
        keep_one(context, client, manifest).await?;
    }
    Ok(())
}

/// Why a namespace of this name is not touched.
fn foreign(live: &Value, wanted: &Wanted<'_>) -> Option<Trouble> {
    if live.is_null() {
        return None;
    }
    let inputs = wanted.server.inputs;
    let name = inputs.namespace();
    let labels = &live["metadata"]["labels"];
    let ours = &manifests::namespace(inputs, &Done::default()).object["metadata"]["labels"];
    let same = |label: &str| labels[label] == ours[label];
    if ![reef_crds::meta::LABEL_FLEET, reef_crds::meta::LABEL_INSTANCE].into_iter().all(same) {
        let message =
            format!("namespace {name} in the reef's cluster is not this instance's: it is left alone");
        return Some(Trouble::new(Reason::NameTaken, message));
    }
    if live["metadata"]["deletionTimestamp"].is_string() {
        let message = format!("namespace {name} in the reef's cluster is being deleted");
        return Some(Trouble::new(Reason::Deleting, message));
    }
    let claim = live["metadata"]["annotations"][ANNOTATION_CLAIM].as_str().unwrap_or_default();
    (claim != inputs.uid && !wanted.may_adopt).then(|| {
        let message = format!("namespace {name} in the reef's cluster belongs to an earlier CloudInstance of this name (uid {claim})");
        Trouble::new(Reason::AdoptionRequired, message)
    })
}

/// Whether the server serves.
async fn serving(client: &Client, namespace: &str) -> Verdict {
    let sets = Api::<StatefulSet>::namespaced(client.clone(), namespace);
    let set = match sets.get(SERVER).await {
        Ok(set) => set,
        Err(error) => return verdict("StatefulSet", SERVER, &error),
    };
    let status = set.status.clone().unwrap_or_default();
    let current = status.observed_generation == set.metadata.generation;
    if current && status.ready_replicas.unwrap_or(0) >= 1 {
        return Verdict::Good;
    }
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    match pods.get_opt(&format!("{SERVER}-0")).await {
        Ok(Some(pod)) => of_pod(&pod),
        Ok(None) => Verdict::Working("the server's pod is not there yet".to_owned()),
        Err(error) => verdict("Pod", SERVER, &error),
    }
}

/// What a pod that is not ready says (pure).
fn of_pod(pod: &Pod) -> Verdict {
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
        return failing(format!(
            "pod {name} ended {} times, last with {}",
            container.restart_count.max(1),
            words(ended)
        ));
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
    use serde_json::json;

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
