//! Follows the servers of all instances and the agent's Jobs in a reef's cluster, so that a server that stops serving,
//! or a Job that ended, is noticed at once and not at the next look. Metadata only: the look itself reads what it needs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt, TryStreamExt, channel::mpsc};
use k8s_openapi::api::{apps::v1::StatefulSet, batch::v1::Job};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use reef_crds::meta::LABEL_FLEET;
use tokio::task::AbortHandle;

/// Where changes of objects of a kind are told.
pub type Told<K> = mpsc::UnboundedSender<Result<PartialObjectMeta<K>, watcher::Error>>;

/// Where changes come out.
pub type Heard<K> = mpsc::UnboundedReceiver<Result<PartialObjectMeta<K>, watcher::Error>>;

/// Where all changes are told.
#[derive(Clone)]
pub struct Changes {
    /// Of servers.
    pub servers: Told<StatefulSet>,
    /// Of the agent's Jobs.
    pub jobs: Told<Job>,
}

/// The version in which each object of a cluster was last seen, by UID. It outlives a connection, so that what
/// changes while there is none is noticed afterwards.
pub type Versions = Arc<Mutex<HashMap<String, String>>>;

/// Watches that run until this is dropped.
pub struct Watches([AbortHandle; 2]);

impl Drop for Watches {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Follows servers and Jobs of a fleet in a cluster.
pub fn follow(client: &Client, fleet: &str, versions: &[Versions; 2], changes: &Changes) -> Watches {
    let [servers, jobs] = versions.clone();
    Watches([
        one(client.clone(), fleet, servers, changes.servers.clone()),
        one(client.clone(), fleet, jobs, changes.jobs.clone()),
    ])
}

fn one<K>(client: Client, fleet: &str, versions: Versions, told: Told<K>) -> AbortHandle
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let api = Api::<PartialObjectMeta<K>>::all(client);
    let ours = watcher::Config::default().labels(&format!("{LABEL_FLEET}={fleet}"));
    let task = tokio::spawn(async move {
        let mut events = watcher(api, ours).default_backoff().boxed();
        let mut listed = Vec::new();
        loop {
            match events.try_next().await {
                Ok(Some(event)) => {
                    for object in changed(event, &mut listed, &versions) {
                        // Nobody listens when the process ends.
                        let _ = told.unbounded_send(Ok(object));
                    }
                }
                Ok(None) => return,
                // It is tried again; that the cluster cannot be reached is told by looks.
                Err(error) => tracing::debug!(%error, "watch in a reef's cluster"),
            }
        }
    });
    task.abort_handle()
}

/// What an event tells that was not known. The first list of all tells nothing: everything is looked at then anyway.
fn changed<K: Resource>(event: watcher::Event<K>, listed: &mut Vec<K>, versions: &Versions) -> Vec<K> {
    let mut versions = versions.lock().unwrap_or_else(PoisonError::into_inner);
    let version = |object: &K| object.resource_version().unwrap_or_default();
    let uid = |object: &K| object.uid().unwrap_or_default();
    match event {
        watcher::Event::Init => {
            listed.clear();
            Vec::new()
        }
        watcher::Event::InitApply(server) => {
            listed.push(server);
            Vec::new()
        }
        watcher::Event::InitDone => {
            let first = versions.is_empty();
            let all: HashMap<_, _> = listed.iter().map(|s| (uid(s), version(s))).collect();
            let before = std::mem::replace(&mut *versions, all);
            let mut new = std::mem::take(listed);
            new.retain(|server| !first && before.get(&uid(server)) != Some(&version(server)));
            new
        }
        watcher::Event::Apply(server) => {
            let before = versions.insert(uid(&server), version(&server));
            if before == Some(version(&server)) { Vec::new() } else { vec![server] }
        }
        watcher::Event::Delete(server) => {
            versions.remove(&uid(&server));
            vec![server]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_changes_are_told_and_none_is_missed_by_a_new_connection() {
        let server = |uid: &str, version: &str| -> PartialObjectMeta<StatefulSet> {
            serde_json::from_value(json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": { "name": "octopus", "namespace": uid, "uid": uid, "resourceVersion": version },
            }))
            .unwrap()
        };
        let versions = Versions::default();
        let mut listed = Vec::new();
        let mut tell = |event| -> Vec<String> {
            changed(event, &mut listed, &versions).iter().filter_map(ResourceExt::namespace).collect()
        };
        let list = |all: &[(&str, &str)]| {
            let apply = all.iter().map(|(uid, version)| watcher::Event::InitApply(server(uid, version)));
            [watcher::Event::Init]
                .into_iter()
                .chain(apply)
                .chain([watcher::Event::InitDone])
                .collect::<Vec<_>>()
        };
        let mut relist = |all: &[(&str, &str)]| list(all).into_iter().flat_map(&mut tell).collect::<Vec<_>>();
        assert!(relist(&[("a", "1"), ("b", "1")]).is_empty(), "at the start all are looked at anyway");
        assert_eq!(relist(&[("a", "1"), ("b", "2"), ("c", "1")]), ["b", "c"], "a new connection");
        assert_eq!(tell(watcher::Event::Apply(server("a", "3"))), ["a"]);
        assert!(tell(watcher::Event::Apply(server("a", "3"))).is_empty(), "the same again");
        assert_eq!(tell(watcher::Event::Delete(server("a", "4"))), ["a"]);
    }
}
