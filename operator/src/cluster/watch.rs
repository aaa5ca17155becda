//! Follows what instances have in a reef's cluster, so that a server that stops serving, a Job that ended or a route
//! that somebody deleted is noticed at once and not at the next routine look. Metadata only: the look itself reads what
//! it needs.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, channel::mpsc};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::Job,
    core::v1::{
        LimitRange, Namespace, PersistentVolume, PersistentVolumeClaim, ResourceQuota, Secret, Service,
        ServiceAccount,
    },
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource,
    api::DynamicObject,
    core::{ApiResource, GroupVersionKind, PartialObjectMeta, PartialObjectMetaExt},
    runtime::{WatchStreamExt, watcher},
};
use reef_crds::meta::{LABEL_FLEET, LABEL_INSTANCE};
use tokio::task::AbortHandle;

/// Metadata of something that changed, of whatever kind it is.
pub type Changed = PartialObjectMeta<DynamicObject>;

/// Where changes are told.
pub type Told = mpsc::UnboundedSender<Result<Changed, watcher::Error>>;

/// Where they come out.
pub type Heard = mpsc::UnboundedReceiver<Result<Changed, watcher::Error>>;

/// Kinds that are followed.
const KINDS: usize = 14;

/// Between the first lists of two kinds. A new leader connects with all clusters at once, and has more urgent things to ask
/// them than what has changed since it began.
const APART: Duration = Duration::from_millis(150);

/// The version in which each object of a kind in a cluster was last seen, by UID. It outlives a connection, so that what
/// changes while there is none is noticed afterwards.
pub type Versions = Arc<Mutex<HashMap<String, String>>>;

/// What was heard from a cluster so far. It outlives a connection.
#[derive(Default)]
pub struct Record {
    versions: [Versions; KINDS],
    /// How often a watch broke or began.
    breaks: AtomicU64,
    /// How many changes there were, by the instance that they belong to.
    changes: Mutex<HashMap<String, u64>>,
}

/// A moment in what was heard from a cluster about an instance. As long as it is the same, nothing has changed there that
/// is followed.
pub type Mark = (u64, u64);

impl Record {
    /// The present moment for the instance with this hash.
    pub fn mark(&self, hash: &str) -> Mark {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        (self.breaks.load(Ordering::Acquire), changes.get(hash).copied().unwrap_or(0))
    }

    fn note(&self, object: &Changed) {
        if let Some(hash) = object.metadata.labels.as_ref().and_then(|l| l.get(LABEL_INSTANCE)) {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            *changes.entry(hash.clone()).or_default() += 1;
        }
    }
}

/// Watches that run until this is dropped.
pub struct Watches([AbortHandle; KINDS]);

impl Drop for Watches {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Follows what a fleet's instances have in a cluster.
pub fn follow(client: &Client, fleet: &str, record: &Arc<Record>, told: &Told) -> Watches {
    let heard = |n: usize| (record.clone(), n, told.clone());
    let route = |kind: &str, plural: &str| {
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", kind);
        Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, plural))
    };
    Watches([
        // When the API server goes, all that have a server there are looked at.
        one(all::<StatefulSet>(client), fleet, heard(0), true),
        one(all::<Job>(client), fleet, heard(1), false),
        one(all::<Namespace>(client), fleet, heard(2), false),
        one(all::<Service>(client), fleet, heard(3), false),
        one(all::<Secret>(client), fleet, heard(4), false),
        one(all::<NetworkPolicy>(client), fleet, heard(5), false),
        one::<DynamicObject>(route("HTTPRoute", "httproutes"), fleet, heard(6), false),
        one::<DynamicObject>(route("TLSRoute", "tlsroutes"), fleet, heard(7), false),
        one(all::<ServiceAccount>(client), fleet, heard(8), false),
        one(all::<ResourceQuota>(client), fleet, heard(9), false),
        one(all::<LimitRange>(client), fleet, heard(10), false),
        one(all::<PersistentVolume>(client), fleet, heard(11), false),
        one(all::<PersistentVolumeClaim>(client), fleet, heard(12), false),
        one(all::<PodDisruptionBudget>(client), fleet, heard(13), false),
    ])
}

fn all<K>(client: &Client) -> Api<PartialObjectMeta<K>>
where
    K: Resource<DynamicType = ()>,
{
    Api::all(client.clone())
}

fn one<K>(
    api: Api<PartialObjectMeta<K>>,
    fleet: &str,
    (record, kind, told): (Arc<Record>, usize, Told),
    tells_silence: bool,
) -> AbortHandle
where
    K: Resource + Clone + Debug + Send + Sync + 'static,
    PartialObjectMeta<K>: Resource,
    <PartialObjectMeta<K> as Resource>::DynamicType: Clone,
{
    let ours = watcher::Config::default().labels(&format!("{LABEL_FLEET}={fleet}"));
    let task = tokio::spawn(async move {
        tokio::time::sleep(APART * u32::try_from(kind).unwrap_or_default()).await;
        let mut events = watcher(api, ours).default_backoff().boxed();
        let (mut listed, mut there) = (Vec::new(), HashMap::new());
        let mut is_silent = false;
        // Nobody listens when the process ends.
        let tell = |object: Changed| {
            record.note(&object);
            drop(told.unbounded_send(Ok(object)));
        };
        loop {
            match events.try_next().await {
                Ok(Some(event)) => {
                    is_silent = false;
                    let event = without_kind(event);
                    if matches!(event, watcher::Event::InitDone) {
                        // What changed between a look and the first list of all is told by nobody.
                        record.breaks.fetch_add(1, Ordering::Release);
                    }
                    note(&event, &mut there);
                    changed(event, &mut listed, &record.versions[kind]).into_iter().for_each(tell);
                }
                Ok(None) => return,
                // It is tried again. That nothing can be heard is told once.
                Err(error) => {
                    tracing::debug!(%error, "watch in a reef's cluster");
                    record.breaks.fetch_add(1, Ordering::Release);
                    if tells_silence && !std::mem::replace(&mut is_silent, true) {
                        there.values().cloned().for_each(tell);
                    }
                }
            }
        }
    });
    task.abort_handle()
}

/// An event with metadata alone.
fn without_kind<K>(event: watcher::Event<PartialObjectMeta<K>>) -> watcher::Event<Changed> {
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    let bare = |object: PartialObjectMeta<K>| object.metadata.into_response_partial();
    match event {
        Init => Init,
        InitApply(object) => InitApply(bare(object)),
        InitDone => InitDone,
        Apply(object) => Apply(bare(object)),
        Delete(object) => Delete(bare(object)),
    }
}

/// Keeps what is there, by UID.
fn note(event: &watcher::Event<Changed>, there: &mut HashMap<String, Changed>) {
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    let uid = |object: &Changed| object.metadata.uid.clone().unwrap_or_default();
    match event {
        Init => there.clear(),
        InitDone => {}
        InitApply(object) | Apply(object) => drop(there.insert(uid(object), object.clone())),
        Delete(object) => drop(there.remove(&uid(object))),
    }
}

/// What an event tells that was not known. The first list of all tells nothing: everything is looked at then anyway.
fn changed(event: watcher::Event<Changed>, listed: &mut Vec<Changed>, versions: &Versions) -> Vec<Changed> {
    let mut versions = versions.lock().unwrap_or_else(PoisonError::into_inner);
    let version = |object: &Changed| object.metadata.resource_version.clone().unwrap_or_default();
    let uid = |object: &Changed| object.metadata.uid.clone().unwrap_or_default();
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
        let server = |uid: &str, version: &str| -> Changed {
            serde_json::from_value(json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": { "name": "octopus", "namespace": uid, "uid": uid, "resourceVersion": version },
            }))
            .unwrap()
        };
        let versions = Versions::default();
        let mut listed = Vec::new();
        let mut tell = |event| -> Vec<String> {
            changed(event, &mut listed, &versions)
                .iter()
                .filter_map(|object| object.metadata.namespace.clone())
                .collect()
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
