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
pub mod parts;
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

use std::{convert::Infallible, sync::Arc};

use futures::{StreamExt, stream};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, ResourceExt,
    core::{PartialObjectMeta, PartialObjectMetaExt},
    runtime::{Config, Controller, controller::Action, events::Recorder},
};
use reef_crds::{Reef, ReefClass, Region};
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

const CONTROLLER: &str = "reef";

struct Shared {
    context: Arc<Context>,
    recorder: Recorder,
    reconciles: Reconciles<String>,
    memories: Memories,
    /// Held while a reef gets its network, so that two do not get the same.
    allocation: tokio::sync::Mutex<()>,
}

/// Runs the controller until `stop`, then lets the reconciles that run end.
pub async fn run(context: Arc<Context>, readiness: Readiness, stop: CancellationToken) {
    let client = context.client.clone();
    let shared = Arc::new(Shared {
        recorder: context.recorder(CONTROLLER),
        reconciles: Reconciles::new(CONTROLLER, context.metrics.clone(), context.concurrency),
        context: context.clone(),
        memories: Memories::default(),
        allocation: tokio::sync::Mutex::default(),
    });
    let gone = shared.clone();
    let forget = move |reef: &Guarded<Reef>| {
        pause::forget(&gone.context, reef);
        gone.reconciles.forget(&reef.name_any());
        gone.memories.take(&reef.uid().unwrap_or_default());
        gone.context.cells.forget(&reef.name_any());
        let status = reef.0.as_ref().ok().and_then(|reef| reef.status.as_ref());
        if let Some((subscription, group)) =
            status.and_then(|s| Some((s.subscription_id.as_ref()?, s.resource_group.as_ref()?)))
        {
            gone.context.lists.forget(&format!("/subscriptions/{subscription}/resourceGroups/{group}/"));
        }
    };
    let (store, reefs) = objects::follow(&context, (CONTROLLER, "reefs"), readiness, forget);
    // Regions and classes wake the reefs that name them when their status changes too: a reef waits for them.
    let metrics = || context.metrics.clone();
    let regions = Api::<PartialObjectMeta<Region>>::all(client.clone());
    let regions = watch::touched(regions, CONTROLLER, "regions", metrics());
    let classes = Api::<PartialObjectMeta<ReefClass>>::all(client.clone());
    let classes = watch::touched(classes, CONTROLLER, "reefclasses", metrics());
    let secrets = Api::<PartialObjectMeta<Secret>>::namespaced(client, &context.namespace);
    let secrets = watch::touched(secrets, CONTROLLER, "secrets", metrics());
    let (by_region, by_class, all) = (store.clone(), store.clone(), store.clone());
    let by_name = store.clone();
    // That a service does not answer, or answers again, shows in the status at once.
    let breakers = stream::iter(context.cells.changed()).flatten().map(|name| {
        let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
        Ok(metadata.into_response_partial::<Reef>())
    });
    Controller::for_stream(reefs, store)
        // As many as there are: a reef that hangs holds up no other.
        .with_config(Config::default().concurrency(0))
        .watches_stream(regions, move |region| {
            these(&by_region, |reef| reef.spec.region_ref.name == region.name_any())
        })
        .watches_stream(classes, move |class| {
            these(&by_class, |reef| reef.spec.class_ref.name == class.name_any())
        })
        .watches_stream(breakers, move |cell| these(&by_name, |reef| reef.name_any() == cell.name_any()))
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

async fn reconcile(reef: Arc<Guarded<Reef>>, shared: Arc<Shared>) -> Result<Action, Infallible> {
    let read = objects::readable(&reef, CONTROLLER, &shared.context, &shared.recorder).await;
    let Some(reef) = read else { return Ok(Action::await_change()) };
    Ok(shared.reconciles.run(reef.name_any(), Box::pin(look::look(&reef, &shared))).await)
}
