//! Reef: sees what is in Azure and in the reef's cluster ([`observe`], [`in_cluster`]), decides ([`plan`]),
//! writes ([`act`]) and says how it stands ([`report`]). What a reef is made of is in [`parts`] and
//! [`bodies`]; how it goes is in [`teardown`].

mod begin;
pub mod bodies;
mod delete;
mod furnish;
mod in_cluster;
pub mod keys;
mod look;
pub mod manifests;
pub mod names;
mod observe;
mod parts;
pub mod plan;
mod policies;
pub mod references;
mod report;
pub mod teardown;
mod tenants;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_report;
#[cfg(test)]
mod tests_teardown;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        Config, Controller, Predicate, PredicateConfig, WatchStreamExt,
        controller::Action,
        events::Recorder,
        predicates,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use reef_crds::{Reef, ReefClass, Region};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Readiness,
    controller::{Context, Reconciles, watch, watch_log},
    resources::memory::Memory,
};

const CONTROLLER: &str = "reef";

type Guarded = DeserializeGuard<Reef>;

struct Shared {
    context: Arc<Context>,
    recorder: Recorder,
    reconciles: Reconciles<String>,
    /// What is remembered, by UID.
    memories: Mutex<HashMap<String, Memory>>,
    /// Held while a reef gets its network, so that two do not get the same.
    allocation: tokio::sync::Mutex<()>,
}

impl Shared {
    /// Takes what is remembered of a reef. A look that is given up loses it, which is as good as a restart.
    fn take(&self, uid: &str) -> Memory {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(uid).unwrap_or_default()
    }

    fn put(&self, uid: &str, memory: Memory) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), memory);
    }
}

/// Runs the controller until `stop`, then lets the reconciles that run end.
pub async fn run(context: Arc<Context>, readiness: Readiness, stop: CancellationToken) {
    let client = context.client.clone();
    let (store, writer) = reflector::store();
    let shared = Arc::new(Shared {
        recorder: context.recorder(CONTROLLER),
        reconciles: Reconciles::new(CONTROLLER, context.metrics.clone(), context.concurrency),
        context: context.clone(),
        memories: Mutex::default(),
        allocation: tokio::sync::Mutex::default(),
    });
    readiness.expect(CONTROLLER);
    let gone = shared.clone();
    let reefs = watcher(Api::<Guarded>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .inspect(watch_log(CONTROLLER, "reefs", context.metrics.clone()))
        .inspect(move |event| match event {
            Ok(watcher::Event::InitDone) => readiness.open(CONTROLLER),
            Ok(watcher::Event::Delete(reef)) => {
                gone.reconciles.forget(&reef.name_any());
                gone.take(&reef.uid().unwrap_or_default());
            }
            _ => {}
        })
        .reflect(writer)
        .applied_objects()
        .predicate_filter(intent(), PredicateConfig::default());
    // Regions and classes wake the reefs that name them when their status changes too: a reef waits for them.
    let metrics = || context.metrics.clone();
    let regions = Api::<PartialObjectMeta<Region>>::all(client.clone());
    let regions = watch::touched(regions, CONTROLLER, "regions", metrics());
    let classes = Api::<PartialObjectMeta<ReefClass>>::all(client.clone());
    let classes = watch::touched(classes, CONTROLLER, "reefclasses", metrics());
    let secrets = Api::<PartialObjectMeta<Secret>>::namespaced(client, &context.namespace);
    let secrets = watch::touched(secrets, CONTROLLER, "secrets", metrics());
    let (by_region, by_class, all) = (store.clone(), store.clone(), store.clone());
    Controller::for_stream(reefs, store)
        .with_config(Config::default().concurrency(shared.context.concurrency))
        .watches_stream(regions, move |region| {
            these(&by_region, |reef| reef.spec.region_ref.name == region.name_any())
        })
        .watches_stream(classes, move |class| {
            these(&by_class, |reef| reef.spec.class_ref.name == class.name_any())
        })
        // A certificate may be any region's, and a look that finds nothing to do writes nothing.
        .watches_stream(secrets, move |_| these(&all, |_| true))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, |_, never: &Infallible, _| match *never {}, shared)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(controller = CONTROLLER, %error, "controller");
            }
        })
        .await;
}

fn these(store: &Store<Guarded>, fits: impl Fn(&Reef) -> bool) -> Vec<ObjectRef<Guarded>> {
    let found = store.state_filter(|reef| reef.0.as_ref().is_ok_and(&fits));
    found.into_iter().map(|reef| ObjectRef::from_obj(&*reef)).collect()
}

/// What makes a Reef worth a look.
fn intent<K: Resource>() -> impl Predicate<K> {
    predicates::generation.combine(predicates::annotations).combine(predicates::finalizers)
}

async fn reconcile(reef: Arc<Guarded>, shared: Arc<Shared>) -> Result<Action, Infallible> {
    let reef = match &reef.0 {
        Ok(reef) => reef.clone(),
        Err(error) => {
            tracing::error!(controller = CONTROLLER, name = error.metadata.name, %error, "unreadable Reef");
            return Ok(Action::await_change());
        }
    };
    let name = reef.name_any();
    Ok(shared.reconciles.run(name, Box::pin(look::look(&reef, &shared))).await)
}
