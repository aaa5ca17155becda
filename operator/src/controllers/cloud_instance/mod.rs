//! CloudInstance: gets its place and names ([`intake`], [`placing`]), sees what is in Azure ([`observe`]) and in the
//! reef's cluster ([`in_cluster`]), decides ([`plan`]), writes, and says how it stands ([`report`]). What an instance
//! is made of is in [`parts`], [`bodies`] and [`manifests`]; how it goes is in [`teardown`].

mod agent_job;
pub mod bodies;
pub mod delete;
mod done;
mod elsewhere;
mod existing;
mod growth;
mod in_cluster;
mod intake;
mod jobs;
pub mod keys;
pub mod look;
mod lost;
mod manifests;
mod moved;
pub mod names;
mod observe;
pub mod parts;
mod placed;
mod placing;
mod plan;
mod pod;
pub mod references;
mod report;
mod resize;
mod resized;
mod restart;
mod restorable;
mod route;
mod sizes;
mod steady;
mod teardown;
#[cfg(test)]
mod tests;
mod unplace;
mod volume;
mod window;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api, ResourceExt,
    core::{ApiResource, PartialObjectMeta},
    runtime::{
        Config, Controller,
        controller::Action,
        events::Recorder,
        reflector::{ObjectRef, Store},
    },
};
use reef_crds::{CloudInstance, Reef, Region, RetainedInstance, meta::LABEL_INSTANCE};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Readiness,
    cluster::watch::Changed,
    controller::{
        Context, Reconciles,
        objects::{self, Guarded, key, these},
        pause, watch,
    },
    resources::memory::Memories,
};

const CONTROLLER: &str = "cloud-instance";

struct Shared {
    context: Arc<Context>,
    recorder: Recorder,
    reconciles: Arc<Reconciles<String>>,
    memories: Arc<Memories>,
    /// With which all was well in their clusters.
    steady: Arc<steady::Steadies>,
    /// Sizes that clusters did not take.
    refusals: Arc<resized::Refusals>,
    /// Servers that were moved to another node.
    moves: moved::Moves,
    store: Store<Guarded<CloudInstance>>,
    /// By Region: held while an instance gets its place. One after the other there are no conflicts with ourselves, and
    /// a region that hangs holds up no other.
    turns: Mutex<HashMap<String, Turn>>,
}

/// Held while an instance of a region gets its place; what is known from the placements before it.
type Turn = Arc<tokio::sync::Mutex<placing::Before>>;

impl Shared {
    /// The turn of a region.
    fn turn(&self, region: &str) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(region.to_owned()).or_default().clone()
    }
}

/// Runs the controller until `stop`, then lets the reconciles that run end.
pub async fn run(context: Arc<Context>, readiness: Readiness, stop: CancellationToken) {
    let client = context.client.clone();
    let (reconciles, memories) =
        (Reconciles::new(CONTROLLER, context.metrics.clone(), context.concurrency), Memories::default());
    let (reconciles, memories) = (Arc::new(reconciles), Arc::new(memories));
    let (steady, refusals) = (Arc::<steady::Steadies>::default(), Arc::<resized::Refusals>::default());
    let forget = {
        let (reconciles, memories, steady) = (reconciles.clone(), memories.clone(), steady.clone());
        let refusals = refusals.clone();
        let context = context.clone();
        move |instance: &Guarded<CloudInstance>| {
            pause::forget(&context, instance);
            reconciles.forget(&key(instance));
            memories.take(&instance.uid().unwrap_or_default());
            steady.forget(&instance.uid().unwrap_or_default());
            refusals.forget(&instance.uid().unwrap_or_default());
        }
    };
    let (store, instances) = objects::follow(&context, (CONTROLLER, "cloudinstances"), readiness, forget);
    let shared = Arc::new(Shared {
        recorder: context.recorder(CONTROLLER),
        reconciles,
        context: context.clone(),
        memories,
        steady,
        refusals,
        moves: moved::Moves::default(),
        store: store.clone(),
        turns: Mutex::default(),
    });
    // What an instance without a place waits for wakes it.
    let metrics = || context.metrics.clone();
    let regions = Api::<PartialObjectMeta<Region>>::all(client.clone());
    let regions = watch::touched(regions, CONTROLLER, "regions", metrics());
    let stops = watch::stops(&context, CONTROLLER);
    let reefs = Api::<PartialObjectMeta<Reef>>::all(client.clone());
    let reefs = watch::touched(reefs, CONTROLLER, "reefs", metrics());
    let retained = Api::<PartialObjectMeta<RetainedInstance>>::all(client);
    let retained = watch::touched(retained, CONTROLLER, "retainedinstances", metrics());
    let heard = context.heard.lock().unwrap_or_else(PoisonError::into_inner).take();
    let heard = stream::iter(heard).flatten();
    let (by_region, waiting, kept, stopped) = (store.clone(), store.clone(), store.clone(), store.clone());
    let hearing = store.clone();
    Controller::for_stream(instances, store)
        // As many as there are: each reef has its own bound, so that one of them does not use up the others'.
        .with_config(Config::default().concurrency(0))
        .watches_stream(regions, move |region| {
            these(&by_region, |i| unplaced(i) && i.spec.region_ref.name == region.name_any())
        })
        .watches_stream(stops, move |region| these(&stopped, |i| i.spec.region_ref.name == region.name_any()))
        .watches_stream(reefs, move |_| these(&waiting, unplaced))
        .watches_stream(retained, move |_| these(&kept, unplaced))
        .watches_stream_with(heard, move |changed: Changed| in_a_cluster(&hearing, &changed), any_kind())
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, |_, never: &Infallible, _| match *never {}, shared)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(controller = CONTROLLER, %error, "controller");
            }
        })
        .await;
}

fn unplaced(instance: &CloudInstance) -> bool {
    instance.status.as_ref().is_none_or(|s| s.placement.is_none())
}

/// Changes in the reefs' clusters are of many kinds, and only their labels count.
fn any_kind() -> ApiResource {
    ApiResource::erase::<StatefulSet>(&())
}

/// The instance that something in a reef's cluster belongs to.
fn in_a_cluster(
    store: &Store<Guarded<CloudInstance>>,
    object: &Changed,
) -> Vec<ObjectRef<Guarded<CloudInstance>>> {
    let Some(hash) = object.metadata.labels.as_ref().and_then(|l| l.get(LABEL_INSTANCE)) else {
        return Vec::new();
    };
    let identity = names::identity(hash);
    these(store, |instance| {
        let its = instance.status.as_ref().and_then(|s| s.identity.as_ref());
        its.is_some_and(|its| its.name == identity)
    })
}

async fn reconcile(instance: Arc<Guarded<CloudInstance>>, shared: Arc<Shared>) -> Result<Action, Infallible> {
    let read = objects::readable(&instance, CONTROLLER, &shared.context, &shared.recorder).await;
    let Some(of) = read else { return Ok(Action::await_change()) };
    let cells = &shared.context.cells;
    let cell = match of.status.as_ref().and_then(|s| s.placement.as_ref()) {
        Some(place) => cells.reef(&place.reef),
        None => cells.region(&of.spec.region_ref.name),
    };
    let Some(_permit) = cell.look().await else { return Ok(Action::await_change()) };
    // As it is by now.
    let newest = shared.store.get(&ObjectRef::from_obj(&*instance));
    let Some(instance) = newest.and_then(|newest| newest.0.as_ref().ok().cloned()) else {
        return Ok(Action::await_change());
    };
    Ok(shared.reconciles.run(key(&instance), Box::pin(look::look(&instance, &shared))).await)
}
