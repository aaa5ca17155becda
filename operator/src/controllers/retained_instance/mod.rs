//! RetainedInstance: says whether what is kept of a deleted instance is still there ([`plan`]), and deletes it with the
//! object, confirmed.

mod look;
mod plan;
mod tombstone;

use std::{convert::Infallible, sync::Arc};

use futures::StreamExt;
use kube::{
    ResourceExt,
    runtime::{Config, Controller, controller::Action, events::Recorder},
};
use reef_crds::RetainedInstance;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Readiness,
    controller::{
        Context, Reconciles,
        objects::{self, Guarded, these},
        pause, watch,
    },
    resources::memory::Memories,
};

const CONTROLLER: &str = "retained-instance";

struct Shared {
    context: Arc<Context>,
    recorder: Recorder,
    reconciles: Reconciles<String>,
    memories: Memories,
}

/// Runs the controller until `stop`, then lets the reconciles that run end.
pub async fn run(context: Arc<Context>, readiness: Readiness, stop: CancellationToken) {
    let shared = Arc::new(Shared {
        recorder: context.recorder(CONTROLLER),
        reconciles: Reconciles::new(CONTROLLER, context.metrics.clone(), context.concurrency),
        context: context.clone(),
        memories: Memories::default(),
    });
    let gone = shared.clone();
    let forget = move |retained: &Guarded<RetainedInstance>| {
        pause::forget(&gone.context, retained);
        gone.reconciles.forget(&retained.name_any());
        gone.memories.take(&retained.uid().unwrap_or_default());
    };
    let (store, retained) = objects::follow(&context, (CONTROLLER, "retainedinstances"), readiness, forget);
    let stops = watch::stops(&context, CONTROLLER);
    let stopped = store.clone();
    Controller::for_stream(retained, store)
        // As many as there are: each reef has its own bound.
        .with_config(Config::default().concurrency(0))
        .watches_stream(stops, move |region| {
            these(&stopped, |kept| kept.spec.region_ref.name == region.name_any())
        })
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, |_, never: &Infallible, _| match *never {}, shared)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(controller = CONTROLLER, %error, "controller");
            }
        })
        .await;
}

async fn reconcile(
    retained: Arc<Guarded<RetainedInstance>>,
    shared: Arc<Shared>,
) -> Result<Action, Infallible> {
    let read = objects::readable(&retained, CONTROLLER, &shared.context, &shared.recorder).await;
    let Some(retained) = read else { return Ok(Action::await_change()) };
    let cell = shared.context.cells.reef(&retained.spec.reef_ref.name);
    let Some(_permit) = cell.look().await else { return Ok(Action::await_change()) };
    let look = Box::pin(look::look(&retained, &shared));
    Ok(shared.reconciles.run(retained.name_any(), look).await)
}
