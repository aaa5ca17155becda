//! Follows the servers of all instances in a reef's cluster, so that one that stops serving is noticed at once and not
//! at the next routine look. One watch per cluster, of metadata only: the look itself reads what it needs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt, TryStreamExt, channel::mpsc};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use reef_crds::meta::LABEL_FLEET;
use tokio::task::AbortHandle;

/// A server that changed in any way.
pub type Server = PartialObjectMeta<StatefulSet>;

/// Where changes are told.
pub type Changes = mpsc::UnboundedSender<Result<Server, watcher::Error>>;

/// The version in which each server of a cluster was last seen, by UID. It outlives a connection, so that what
/// changes while there is none is noticed afterwards.
pub type Versions = Arc<Mutex<HashMap<String, String>>>;

/// A watch that runs until this is dropped.
pub struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows the servers of a fleet in a cluster.
pub fn follow(client: Client, fleet: &str, versions: Versions, changes: Changes) -> Watch {
    let api = Api::<Server>::all(client);
    let ours = watcher::Config::default().labels(&format!("{LABEL_FLEET}={fleet}"));
    let task = tokio::spawn(async move {
        let mut events = watcher(api, ours).default_backoff().boxed();
        let mut listed = Vec::new();
        loop {
            match events.try_next().await {
                Ok(Some(event)) => {
                    for server in changed(event, &mut listed, &versions) {
                        // Nobody listens when the process ends.
                        let _ = changes.unbounded_send(Ok(server));
                    }
                }
                Ok(None) => return,
                // It is tried again; that the cluster cannot be reached is told by looks.
                Err(error) => tracing::debug!(%error, "watch of servers"),
            }
        }
    });
    Watch(task.abort_handle())
}

/// What an event tells that was not known. The first list of all tells nothing: everything is looked at then anyway.
fn changed(event: watcher::Event<Server>, listed: &mut Vec<Server>, versions: &Versions) -> Vec<Server> {
    let mut versions = versions.lock().unwrap_or_else(PoisonError::into_inner);
    let version = |server: &Server| server.resource_version().unwrap_or_default();
    let uid = |server: &Server| server.uid().unwrap_or_default();
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
        let server = |uid: &str, version: &str| -> Server {
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
