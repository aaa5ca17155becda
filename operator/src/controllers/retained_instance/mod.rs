//! RetainedInstance: says whether what is kept of a deleted instance is still there ([`plan`]), and deletes it with the
//! object, confirmed.

mod look;
mod plan;
mod tombstone;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt;
use kube::{
    Api, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        Config, Controller, Predicate, PredicateConfig, WatchStreamExt, controller::Action, events::Recorder,
        predicates, reflector, watcher,
    },
};
use reef_crds::RetainedInstance;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Readiness,
    controller::{Context, Reconciles, watch_log},
    resources::memory::Memory,
};

const CONTROLLER: &str = "retained-instance";

type Guarded = DeserializeGuard<RetainedInstance>;

struct Shared {
    context: Arc<Context>,
    recorder: Recorder,
    reconciles: Reconciles<String>,
    /// What is remembered, by UID.
    memories: Mutex<HashMap<String, Memory>>,
}

impl Shared {
    fn take(&self, uid: &str) -> Memory {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(uid).unwrap_or_default()
    }

    fn put(&self, uid: &str, memory: Memory) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), memory);
    }
}

/// Runs the controller until `stop`, then lets the reconciles that run end.
pub async fn run(context: Arc<Context>, readiness: Readiness, stop: CancellationToken) {
    let (store, writer) = reflector::store();
    let shared = Arc::new(Shared {
        recorder: context.recorder(CONTROLLER),
        reconciles: Reconciles::new(CONTROLLER, context.metrics.clone(), context.concurrency),
        context: context.clone(),
        memories: Mutex::default(),
    });
    readiness.expect(CONTROLLER);
    let gone = shared.clone();
    let intent = predicates::generation.combine(predicates::annotations).combine(predicates::finalizers);
    let retained = watcher(Api::<Guarded>::all(context.client.clone()), watcher::Config::default())
        .default_backoff()
        .inspect(watch_log(CONTROLLER, "retainedinstances", context.metrics.clone()))
        .inspect(move |event| match event {
            Ok(watcher::Event::InitDone) => readiness.open(CONTROLLER),
            Ok(watcher::Event::Delete(retained)) => {
                gone.reconciles.forget(&retained.name_any());
                gone.take(&retained.uid().unwrap_or_default());
            }
            _ => {}
        })
        .reflect(writer)
        .applied_objects()
        .predicate_filter(intent, PredicateConfig::default());
    Controller::for_stream(retained, store)
        .with_config(Config::default().concurrency(shared.context.concurrency))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, |_, never: &Infallible, _| match *never {}, shared)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(controller = CONTROLLER, %error, "controller");
            }
        })
        .await;
}

async fn reconcile(retained: Arc<Guarded>, shared: Arc<Shared>) -> Result<Action, Infallible> {
    let retained = match &retained.0 {
        Ok(retained) => retained.clone(),
        Err(error) => {
            tracing::error!(controller = CONTROLLER, name = error.metadata.name, %error, "unreadable RetainedInstance");
            return Ok(Action::await_change());
        }
    };
    let name = retained.name_any();
    Ok(shared.reconciles.run(name, Box::pin(look::look(&retained, &shared))).await)
}
