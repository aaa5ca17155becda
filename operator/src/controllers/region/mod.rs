//! Region: look at DNS zone and certificate ([`observe`]), decide ([`plan`]), say it
//! ([`report`]). There is nothing to act on yet beside status.

pub mod certificate;
pub mod observe;
pub mod plan;
pub mod report;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, sync::Arc};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{Config, Controller, controller::Action, events::Recorder},
};
use reef_crds::{
    CloudInstance, Reef, Region, RegionStatus, RetainedInstance, condition::ours, meta::REGION_FINALIZER,
    region::Verb,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Readiness,
    controller::{
        Context, Error, Reconciles, finalizers,
        objects::{self, Guarded, these},
        objects::{Listed, each, key, may_be_here},
        pause, publish, status, stop,
        trouble::transition,
        watch,
    },
    metrics::{ByRegion, ByStop},
};

const CONTROLLER: &str = "region";

struct Shared {
    context: Arc<Context>,
    recorder: Recorder,
    reconciles: Reconciles<String>,
}

/// Runs the controller until `stop`, then lets the reconciles that run end.
pub async fn run(context: Arc<Context>, readiness: Readiness, stop: CancellationToken) {
    let client = context.client.clone();
    let shared = Arc::new(Shared {
        recorder: context.recorder(CONTROLLER),
        reconciles: Reconciles::new(CONTROLLER, context.metrics.clone(), context.concurrency),
        context: context.clone(),
    });
    let gone = shared.clone();
    let forget = move |region: &Guarded<Region>| {
        pause::forget(&gone.context, region);
        forget(&region.name_any(), &gone);
    };
    let (store, regions) = objects::follow(&context, (CONTROLLER, "regions"), readiness, forget);
    // Secrets elsewhere are read when a Region is looked at; watching them all would mean reading them all.
    let secrets = Api::<PartialObjectMeta<Secret>>::namespaced(client.clone(), &context.namespace);
    let secrets = watch::touched(secrets, CONTROLLER, "secrets", context.metrics.clone());
    // The last Reef that goes lets its Region go.
    let reefs = Api::<PartialObjectMeta<Reef>>::all(client);
    let reefs = watch::touched(reefs, CONTROLLER, "reefs", context.metrics.clone());
    let (cache, leaving) = (store.clone(), store.clone());
    Controller::for_stream(regions, store)
        .with_config(Config::default().concurrency(shared.context.concurrency))
        .watches_stream(secrets, move |secret| these(&cache, |region| refers_to(region, &secret)))
        .watches_stream(reefs, move |_| these(&leaving, |region| region.meta().deletion_timestamp.is_some()))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, |_, never: &Infallible, _| match *never {}, shared)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(controller = CONTROLLER, %error, "controller");
            }
        })
        .await;
}

fn forget(name: &str, shared: &Shared) {
    shared.context.metrics.certificate_not_after.remove(&ByRegion { region: name.to_owned() });
    shared.context.arms.prove(name, None);
    show_stops(name, &[], &shared.context);
    shared.reconciles.forget(&name.to_owned());
}

fn refers_to(region: &Region, secret: &PartialObjectMeta<Secret>) -> bool {
    let credential =
        region.spec.azure.credential.as_ref().and_then(|credential| credential.secret_ref.as_ref());
    [Some(&region.spec.tls.secret_ref), credential].into_iter().flatten().any(|reference| {
        secret.namespace().as_deref() == Some(&reference.namespace) && secret.name_any() == reference.name
    })
}

async fn reconcile(region: Arc<Guarded<Region>>, shared: Arc<Shared>) -> Result<Action, Infallible> {
    let read = objects::readable(&region, CONTROLLER, &shared.context, &shared.recorder).await;
    let Some(region) = read else { return Ok(Action::await_change()) };
    Ok(shared.reconciles.run(region.name_any(), look(&region, &shared)).await)
}

async fn look(region: &Region, shared: &Shared) -> Result<Action, Error> {
    let context = &*shared.context;
    context.claim.check()?;
    if region.metadata.deletion_timestamp.is_some() {
        return remove(region, shared).await;
    }
    if !finalizers::has(region, REGION_FINALIZER) {
        finalizers::add(context, &Api::all(context.client.clone()), region, REGION_FINALIZER).await?;
        return Ok(Action::await_change());
    }
    let observation = observe::observe(region, context).await;
    let now = Timestamp::now();
    let plan = plan::plan(region, &observation, &context.policy, now);
    let next = report::report(region, &plan, &context.policy, now);
    write(region, &next, shared).await?;
    gauge(region, &next, context);
    Ok(Action::requeue(stop::cap_for_region(region, plan.look_again, now)))
}

/// A Region goes when nothing refers to it any more, and takes nothing with it.
async fn remove(region: &Region, shared: &Shared) -> Result<Action, Error> {
    let context = &*shared.context;
    if !finalizers::has(region, REGION_FINALIZER) {
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    if let Some(trouble) = stop::paused(region.annotations(), now) {
        write(region, &report::going(region, &trouble, now), shared).await?;
        return Ok(Action::requeue(stop::cap_for_region(region, plan::WAITING, now)));
    }
    let name = region.name_any();
    // From the API server itself: an empty cache is no empty region.
    let mut users = Vec::new();
    let at = "/spec/regionRef/name";
    each::<Reef>(&context.client, "list Reefs", |reef| match reef {
        Listed::Readable(r) => {
            users.extend((r.spec.region_ref.name == name).then(|| format!("Reef {}", key(r))));
        }
        Listed::Unreadable(value) => users.extend(may_be_here("Reef", value, at, &name)),
    })
    .await?;
    each::<CloudInstance>(&context.client, "list CloudInstances", |instance| match instance {
        Listed::Readable(i) => {
            users.extend((i.spec.region_ref.name == name).then(|| format!("CloudInstance {}", key(i))));
        }
        Listed::Unreadable(value) => users.extend(may_be_here("CloudInstance", value, at, &name)),
    })
    .await?;
    each::<RetainedInstance>(&context.client, "list RetainedInstances", |kept| match kept {
        Listed::Readable(k) => {
            users.extend((k.spec.region_ref.name == name).then(|| format!("RetainedInstance {}", key(k))));
        }
        Listed::Unreadable(value) => users.extend(may_be_here("RetainedInstance", value, at, &name)),
    })
    .await?;
    if users.is_empty() {
        tracing::info!(controller = CONTROLLER, name, "region deleted");
        finalizers::remove(context, &Api::all(context.client.clone()), region, REGION_FINALIZER).await?;
        return Ok(Action::await_change());
    }
    let next = report::deleting(region, &users, now);
    write(region, &next, shared).await?;
    Ok(Action::requeue(stop::cap_for_region(region, plan::WAITING, now)))
}

/// Writes the status if it differs, and tells people of a change.
async fn write(region: &Region, next: &RegionStatus, shared: &Shared) -> Result<(), Error> {
    let api = Api::<Region>::all(shared.context.client.clone());
    let old = region.status.clone().map(|s| RegionStatus { conditions: ours(&s.conditions), ..s });
    let (now, generation) = (Timestamp::now(), next.observed_generation.unwrap_or(0).max(0));
    let before = old.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let conditions = stop::with_stops(next.conditions.clone(), before, region, generation, now);
    let conditions = pause::with(&shared.context, region, before, conditions, (generation, now));
    let next = &RegionStatus { conditions, ..next.clone() };
    show_stops(&region.name_any(), &stop::verbs(region, now), &shared.context);
    if status::write(&shared.context, &api, region, old.as_ref(), next, "regions/status").await? {
        pause::tell(&shared.context, &shared.recorder, region, before, &next.conditions).await;
        announce(region, next, shared).await;
    }
    Ok(())
}

/// One Event and one line in the log when Ready or its reason changes.
async fn announce(region: &Region, next: &RegionStatus, shared: &Shared) {
    let before = region.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    let Some(change) = transition(&before, &next.conditions) else { return };
    let name = region.name_any();
    tracing::info!(
        controller = CONTROLLER,
        name,
        generation = region.metadata.generation,
        ready = change.ready,
        reason = change.reason.as_str(),
        change.message,
        "region changed"
    );
    if shared.context.claim.check().is_err() {
        return;
    }
    let reference = region.object_ref(&());
    publish(&shared.recorder, &reference, change.reason, !change.ready, "Reconcile", &change.message).await;
}

/// Shows which verbs are stopped in the metrics.
fn show_stops(region: &str, stopped: &[Verb], context: &Context) {
    for verb in [Verb::Provision, Verb::Delete, Verb::All] {
        let by = ByStop { region: region.to_owned(), verb: verb.as_str() };
        if stopped.contains(&verb) {
            context.metrics.emergency_stop.get_or_create(&by).set(1);
        } else {
            context.metrics.emergency_stop.remove(&by);
        }
    }
}

fn gauge(region: &Region, status: &RegionStatus, context: &Context) {
    let by = ByRegion { region: region.name_any() };
    match &status.certificate {
        Some(certificate) => {
            let seconds = certificate.not_after.0.as_duration().as_secs_f64();
            context.metrics.certificate_not_after.get_or_create(&by).set(seconds);
        }
        None => drop(context.metrics.certificate_not_after.remove(&by)),
    }
}
