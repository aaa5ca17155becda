//! An instance in its reef's cluster: namespace, access to the database, the server, its settings.

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{Api, Client};
use reef_crds::{cloud_instance::MaintenanceWindow, condition::Reason, meta::ANNOTATION_CLAIM};
use serde_json::Value;

use super::{
    agent_job,
    done::Done,
    jobs::{self, Agent},
    manifests::{self, SERVER, Server},
    moved::{self, Moves},
    pod::{is_ready, of_pod},
    resize,
    resized::{self, Refusals},
    restart,
    route::of_route,
    volume,
};
use crate::{
    cluster::keep::{Manifest, keep_one, remove_one, unread},
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
    /// Whether its pod has the size that it is to have. A server of another size serves all the same.
    pub resized: Verdict,
    /// What the agent has done.
    pub done: Done,
    /// Whether the server's StatefulSet has not seen its newest spec yet: then nobody would hear of what its pod does.
    pub lags: bool,
}

impl InCluster {
    /// The same for all.
    pub fn all(verdict: &Verdict, done: Done) -> Self {
        let [access, workload, configured, resized] = [(); 4].map(|()| verdict.clone());
        Self { access, workload, configured, resized, done, lags: false }
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
    /// Azure's own id of the database, where it is known now.
    pub database: Option<&'a str>,
    /// How the agent runs.
    pub agent: Agent<'a>,
    /// What becomes of the routes to the server.
    pub routes: Routes,
    /// Whether what belongs to an earlier CloudInstance of this name may be taken over.
    pub may_adopt: bool,
    /// Sizes that clusters did not take.
    pub refusals: &'a Refusals,
    /// When the server may be moved to another node.
    pub window: Option<&'a MaintenanceWindow>,
    /// Which servers were moved.
    pub moves: &'a Moves,
}

/// What becomes of the routes to the server: a host name is used only by the instance that has its DNS record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// The record is this instance's: they are kept.
    Keep,
    /// It is not known whose it is, or it is being made: they stay as they are.
    Leave,
    /// It is somebody else's: they go.
    Remove,
}

impl Routes {
    /// What follows from how the DNS record stands (pure).
    pub fn of(record: Option<&Verdict>) -> Self {
        match record {
            Some(Verdict::Good) => Self::Keep,
            Some(Verdict::Blocked(trouble)) if trouble.reason == Reason::NameTaken => Self::Remove,
            // Also one of ours that has to be adopted first, or that Azure refuses to change.
            _ => Self::Leave,
        }
    }
}

/// What the agent has done so far, as the cluster says.
pub async fn done(client: &Client, wanted: &super::bodies::Inputs) -> Result<(Done, Value), Verdict> {
    let manifest = manifests::namespace(wanted, &Done::default());
    let live = manifest.api(client).get_opt(manifest.name()).await;
    let live = live.map_err(|e| unread("Namespace", manifest.name(), &e))?;
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
    if live["metadata"]["deletionTimestamp"].is_string() {
        let what =
            format!("namespace {} in the reef's cluster is being deleted by somebody", inputs.namespace());
        return InCluster::all(&Verdict::Working(what), done);
    }
    done.database = wanted.database.map(str::to_owned).or(done.database);
    let namespace = match keep_one(context, client, &manifests::namespace(inputs, &done)).await {
        Ok(namespace) => namespace["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        Err(verdict) => return InCluster::all(&verdict, done),
    };
    if let Err(access) = access(context, client, wanted, &mut done, now).await {
        let rest = after(&access, "access to the database");
        let resized = Box::pin(moved::undo(context, client, wanted, &mut done, now)).await;
        let resized = resized.unwrap_or_else(|| rest.clone());
        return InCluster { access, resized, ..InCluster::all(&rest, done) };
    }
    let database = done.database.clone().unwrap_or_default();
    let server = Server { database: &database, ..wanted.server.clone() };
    let (workload, resized, pod, lags) = match workload(context, client, &server).await {
        Err(verdict) => {
            let undone = Box::pin(moved::undo(context, client, wanted, &mut done, now)).await;
            let resized = undone.unwrap_or_else(|| after(&verdict, "the server"));
            (verdict, resized, None, false)
        }
        Ok(pod) => {
            let resized = resized::keep(context, client, (&server, wanted.refusals), pod.as_ref()).await;
            let (workload, lags) = serving(client, &inputs.namespace()).await;
            let at = (pod.as_ref(), workload == Verdict::Good);
            let moved = moved::keep(context, client, wanted, at, resized, &mut done, now);
            let resized = Box::pin(moved).await;
            (workload, resized, pod, lags)
        }
    };
    let configured = if done.drained().is_some() {
        // Both would write the node of the server as a whole.
        if done.configured.is_some() { Verdict::Good } else { waits("the server, which takes no tasks now") }
    } else if workload == Verdict::Good {
        // With more tasks than it has memory for a server would end them all.
        let task_cap = pod.map_or(server.task_cap, |pod| resize::bearable(&pod, server.task_cap));
        let wanted = Wanted { server: Server { task_cap, ..wanted.server.clone() }, ..*wanted };
        configure(context, client, (&wanted, &namespace), &mut done, now).await
    } else {
        after(&workload, "the server")
    };
    let workload = match routes(context, client, &server, wanted.routes).await {
        Err(verdict) if workload == Verdict::Good => verdict,
        _ => workload,
    };
    InCluster { access: Verdict::Good, workload, configured, resized, done, lags }
}

/// How what comes after something else stands: it waits for it, and is as unknown as that is.
fn after(before: &Verdict, what: &str) -> Verdict {
    if matches!(before, Verdict::Unknown(_)) { before.clone() } else { waits(what) }
}

fn waits(what: &str) -> Verdict {
    Verdict::Waiting(format!("waits for: {what}"))
}

/// Gives the server access to this very database, once.
async fn access(
    context: &Context,
    client: &Client,
    wanted: &Wanted<'_>,
    done: &mut Done,
    now: Timestamp,
) -> Result<(), Verdict> {
    let inputs = wanted.server.inputs;
    let work = jobs::access(inputs, wanted.server.client_id, done.database.as_deref());
    if done.access.as_ref() == Some(&work.inputs) {
        return Ok(());
    }
    agent_job::run(context, client, inputs, &work, &wanted.agent, now).await?;
    done.access = Some(work.inputs);
    keep_one(context, client, &manifests::namespace(inputs, done)).await.map(drop)
}

/// All that the server needs, and the server; its pod as it was before.
async fn workload(context: &Context, client: &Client, server: &Server<'_>) -> Result<Option<Pod>, Verdict> {
    volume::free(context, client, server.inputs).await?;
    let pod = resized::pod(client, &server.inputs.namespace()).await?;
    let server = Server { asked: pod.as_ref().and_then(resize::asked), ..server.clone() };
    keep_all(context, client, &manifests::all(&server)).await?;
    restart::if_needed(context, client, &server, pod.as_ref()).await?;
    Ok(pod)
}

/// The routes to the server.
async fn routes(
    context: &Context,
    client: &Client,
    server: &Server<'_>,
    routes: Routes,
) -> Result<(), Verdict> {
    match routes {
        Routes::Leave => Ok(()),
        Routes::Keep => {
            let mut kept = Vec::new();
            for manifest in manifests::routes(server) {
                kept.push(keep_one(context, client, &manifest).await?);
            }
            let bad = kept.iter().map(of_route).find(|verdict| *verdict != Verdict::Good);
            bad.map_or(Ok(()), Err)
        }
        Routes::Remove => {
            for manifest in manifests::routes(server) {
                remove_one(context, client, &manifest).await?;
            }
            Ok(())
        }
    }
}

async fn configure(
    context: &Context,
    client: &Client,
    (wanted, namespace): (&Wanted<'_>, &str),
    done: &mut Done,
    now: Timestamp,
) -> Verdict {
    let server = &wanted.server;
    let work = jobs::configure(server, done.database.as_deref(), namespace);
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
    let claim = live["metadata"]["annotations"][ANNOTATION_CLAIM].as_str().unwrap_or_default();
    (claim != inputs.uid && !wanted.may_adopt).then(|| {
        let message = format!("namespace {name} in the reef's cluster belongs to an earlier CloudInstance of this name (uid {claim})");
        Trouble::new(Reason::AdoptionRequired, message)
    })
}

/// Whether the server serves, and whether its StatefulSet has not seen its newest spec.
async fn serving(client: &Client, namespace: &str) -> (Verdict, bool) {
    let sets = Api::<StatefulSet>::namespaced(client.clone(), namespace);
    let set = match sets.get(SERVER).await {
        Ok(set) => set,
        Err(error) => return (unread("StatefulSet", SERVER, &error), false),
    };
    let status = set.status.clone().unwrap_or_default();
    let current = status.observed_generation == set.metadata.generation;
    if current && status.ready_replicas.unwrap_or(0) >= 1 {
        return (Verdict::Good, false);
    }
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let verdict = match pods.get_opt(&manifests::pod_name()).await {
        // Its StatefulSet was changed a moment ago, or nobody looks after that now.
        Ok(Some(pod)) if is_ready(&pod) => Verdict::Good,
        Ok(Some(pod)) => of_pod(&pod),
        Ok(None) => Verdict::Working("the server's pod is not there yet".to_owned()),
        Err(error) => unread("Pod", SERVER, &error),
    };
    (verdict, !current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_go_only_when_the_name_is_somebody_elses() {
        let blocked = |reason| Verdict::Blocked(Trouble::new(reason, "why"));
        for (record, routes) in [
            (Some(Verdict::Good), Routes::Keep),
            (Some(blocked(Reason::NameTaken)), Routes::Remove),
            (Some(blocked(Reason::AdoptionRequired)), Routes::Leave),
            (Some(blocked(Reason::SpecInvalid)), Routes::Leave),
            (Some(Verdict::Unknown(Trouble::new(Reason::AzureUnavailable, "503"))), Routes::Leave),
            (None, Routes::Leave),
        ] {
            assert_eq!(Routes::of(record.as_ref()), routes, "{record:?}");
        }
    }

    #[test]
    fn what_follows_something_unknown_is_unknown() {
        let unknown = Verdict::Unknown(Trouble::new(Reason::ClusterUnreachable, "429"));
        assert_eq!(after(&unknown, "the server"), unknown);
        let starts = Verdict::Working("pod octopus-0 starts".to_owned());
        assert_eq!(after(&starts, "the server"), waits("the server"));
    }
}
