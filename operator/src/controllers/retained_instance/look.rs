//! One look at a RetainedInstance.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Api, Resource, ResourceExt, api::DeleteParams, runtime::controller::Action};
use reef_crds::{
    CloudInstance, Region, RetainedInstance, RetainedInstanceStatus,
    condition::{ConditionType, Reason, ours},
    meta::{RECONCILE_REQUESTED_AT, RETAINED_FINALIZER},
    reef::DeletionPolicy,
};

use super::{
    Shared,
    plan::{self, Part, Step},
    tombstone,
};
use crate::{
    azure::Arm,
    controller::{
        Context, Error, finalizers, pause, publish,
        standing::{self, Before},
        status,
        stop::{self, Stops},
        trouble::{Trouble, transition},
    },
    controllers::cloud_instance::{keys::remove_copy, look::connect, names, references::on_reef},
    controllers::reef::{
        bodies::{IDENTITY_API, SQL_API, STORAGE_API},
        references::{Held, arm, stops_now},
    },
    observed::Observed,
    resources::{
        Pauses, Verdict, act,
        lists::list_of,
        memory::Memory,
        observe::{observed, poll},
    },
};

/// The conditions of what is kept.
const CONDITIONS: [ConditionType; 2] = [ConditionType::DatabaseReady, ConditionType::FileShareReady];

/// One look.
pub async fn look(retained: &RetainedInstance, shared: &Shared) -> Result<Action, Error> {
    let context = &*shared.context;
    context.claim.check()?;
    let api = Api::<RetainedInstance>::all(context.client.clone());
    let deleting = retained.metadata.deletion_timestamp.is_some();
    if !finalizers::has(retained, RETAINED_FINALIZER) {
        if !deleting {
            finalizers::add(context, &api, retained, RETAINED_FINALIZER).await?;
        }
        return Ok(Action::await_change());
    }
    let is_removed = retained.status.as_ref().is_some_and(|s| s.removed);
    let spent = is_removed && plan::leaves_nothing(retained);
    let now = Timestamp::now();
    let is_paused = stop::paused(retained.annotations(), now).is_some();
    if let Some(trouble) = plan::may_begin(retained).filter(|_| deleting && !spent && !is_paused) {
        return held(retained, shared, &trouble, true).await;
    }
    let region = match region(context, retained).await? {
        Ok(region) => region,
        Err(Held(trouble, stalled)) => return held(retained, shared, &trouble, stalled).await,
    };
    let origin = &retained.spec.origin;
    let instances = Api::<CloudInstance>::namespaced(context.client.clone(), &origin.namespace);
    let instance = instances.get_opt(&origin.name).await.map_err(Error::api("read the CloudInstance"))?;
    if let Some(trouble) = plan::in_use(retained, instance.as_ref()) {
        return held(retained, shared, &trouble, true).await;
    }
    let uid = retained.uid().unwrap_or_default();
    let is_buried = retained.spec.tombstone.is_none() || is_removed;
    let stops = Stops::of(&region, retained.annotations(), now);
    let cell = context.cells.reef(&retained.spec.reef_ref.name);
    let arm = match arm(context, &region, cell, &stops.ban(true)) {
        Ok(arm) => arm,
        Err(Held(trouble, stalled)) => return held(retained, shared, &trouble, stalled).await,
    };
    if let Some(trouble) = stops.deletions().filter(|_| deleting || spent || !is_buried) {
        follow(shared, &arm, &uid, now).await;
        return held(retained, shared, trouble, false).await;
    }
    if let Some(tombstone) = retained.spec.tombstone.as_ref().filter(|_| !is_removed) {
        let policy = if deleting { DeletionPolicy::Delete } else { tombstone.deletion_policy };
        let mut memory = shared.memories.take(&uid);
        let result = tombstone::bury(retained, shared, (region, stops), policy, &mut memory).await;
        shared.memories.put(&uid, memory);
        return result;
    }
    if spent && !deleting {
        let gone = api.delete(&retained.name_any(), &DeleteParams::default()).await;
        return gone.map(|_| Action::await_change()).map_err(Error::api("delete the RetainedInstance"));
    }
    if !deleting {
        return keep(retained, shared, &arm, &stops).await;
    }
    let mut memory = shared.memories.take(&uid);
    let result = remove(retained, shared, (&arm, region, stops), &mut memory).await;
    shared.memories.put(&uid, memory);
    result
}

/// What was begun is followed to its end.
async fn follow(shared: &Shared, arm: &Arc<Arm>, uid: &str, now: Timestamp) {
    let mut memory = shared.memories.take(uid);
    poll(arm, &mut memory, pauses(&shared.context), spread(now), now).await;
    shared.memories.put(uid, memory);
}

async fn region(context: &Context, retained: &RetainedInstance) -> Result<Result<Region, Held>, Error> {
    let name = &retained.spec.region_ref.name;
    let regions = Api::<Region>::all(context.client.clone());
    let found = regions.get_opt(name).await.map_err(Error::api("read the Region"))?;
    Ok(found.ok_or_else(|| {
        let message = format!("spec.regionRef: Region {name} does not exist: apply its manifest again");
        Held(Trouble::new(Reason::ReferenceNotFound, message), false)
    }))
}

fn pauses(context: &Context) -> Pauses {
    Pauses { poll: context.policy.azure_poll, resync: context.policy.resync }
}

/// Any spread will do; the clock's last digits differ from look to look.
fn spread(now: Timestamp) -> f64 {
    f64::from(now.subsec_nanosecond() % 1000) / 1000.0
}

/// The version of the API of a part.
const fn version(part: Part) -> &'static str {
    match part {
        Part::Database => SQL_API,
        Part::Share => STORAGE_API,
    }
}

async fn keep(
    retained: &RetainedInstance,
    shared: &Shared,
    arm: &Arc<Arm>,
    stops: &Stops,
) -> Result<Action, Error> {
    let context = &*shared.context;
    let look = async |part: Part| {
        let id = part.id(retained);
        let young = context.policy.resync / 2;
        // What its list shows to be as it was is not read by itself.
        if let Ok(listing) = context.lists.get(arm, list_of(id), version(part), young, Timestamp::now()).await
            && let Some(found) = listing.find(id)
            && let Verdict::Good =
                plan::verdict(retained, part, &context.fleet, &Observed::Present(found.clone()))
        {
            return Verdict::Good;
        }
        let state = observed(arm.get(id, version(part)).await);
        plan::verdict(retained, part, &context.fleet, &state)
    };
    let (database, share) = tokio::join!(look(Part::Database), look(Part::Share));
    let old = retained.status.clone().unwrap_or_default();
    let generation = retained.metadata.generation.unwrap_or(0);
    let standings = CONDITIONS
        .into_iter()
        .zip([&database, &share])
        .map(|(type_, verdict)| standing::standing(type_, &[verdict]))
        .collect();
    let before = Before {
        conditions: &old.conditions,
        observed: old.observed_generation,
        generation,
        was_good: false,
    };
    let well = "database and file share are kept until this object is deleted";
    let now = Timestamp::now();
    let conditions = standing::conditions(before, standings, well, &context.policy, now);
    write(retained, shared, &with(retained, conditions)).await?;
    Ok(Action::requeue(stops.cap(context.policy.resync, now)))
}

async fn remove(
    retained: &RetainedInstance,
    shared: &Shared,
    (arm, region, stops): (&Arc<Arm>, Region, Stops),
    memory: &mut Memory,
) -> Result<Action, Error> {
    let context = &*shared.context;
    let now = Timestamp::now();
    let (pauses, spread) = (pauses(context), spread(now));
    poll(arm, memory, pauses, spread, now).await;
    let get = async |part: Part| observed(arm.get(part.id(retained), version(part)).await);
    let identity = plan::identity(retained, &context.fleet);
    let identity = async { observed(arm.get(&identity, IDENTITY_API).await) };
    let (identity, database, share) = tokio::join!(identity, get(Part::Database), get(Part::Share));
    let is_second_look = std::mem::take(&mut memory.looked);
    match plan::teardown(retained, &context.fleet, [&identity, &database, &share]) {
        // One answer may be wrong, and with the object goes what is known of its data.
        Step::Done if !is_second_look => {
            memory.looked = true;
            let message = "deletion goes on: a second look at what is gone";
            held(retained, shared, &Trouble::new(Reason::Deleting, message), false).await?;
            Ok(Action::requeue(Duration::from_secs(1)))
        }
        Step::Done => {
            forget_keys(retained, context, (region, stops)).await?;
            tracing::info!(
                controller = super::CONTROLLER,
                name = retained.name_any(),
                "nothing is kept any more"
            );
            let api = Api::<RetainedInstance>::all(context.client.clone());
            finalizers::remove(context, &api, retained, RETAINED_FINALIZER).await?;
            Ok(Action::await_change())
        }
        Step::Held(trouble, stalled) => held(retained, shared, &trouble, stalled).await,
        Step::Delete(part) => {
            if let Some(trouble) = stops_now(context, &region, &stops).await?.deletions() {
                return held(retained, shared, trouble, false).await;
            }
            let id = part.id(retained).to_owned();
            let waits = memory.failures.get(&id).is_some_and(|failure| failure.retry_at > now);
            if !waits && !memory.operations.contains_key(&id) && context.claim.check().is_ok() {
                tracing::info!(controller = super::CONTROLLER, azure_resource_id = id, "deleting from Azure");
                let answer = arm.delete(&id, version(part)).await;
                act::note(arm, &id, answer, memory, (pauses, spread)).await;
            }
            let trouble = match memory.failures.get(&id) {
                Some(failure) => Trouble::azure(part.what(), &failure.error),
                None => Trouble::new(Reason::Deleting, format!("deletion goes on: {}", part.what())),
            };
            held(retained, shared, &trouble, false).await?;
            Ok(Action::requeue(pauses.poll.min(Duration::from_secs(2))))
        }
    }
}

/// Removes the copy of the keys from the reef. What they opened is gone, so a reef that cannot be reached holds up nothing.
async fn forget_keys(
    retained: &RetainedInstance,
    context: &Context,
    at: (Region, Stops),
) -> Result<(), Error> {
    let Ok(home) = on_reef(context, at, &retained.spec.reef_ref.name).await? else { return Ok(()) };
    let origin = &retained.spec.origin;
    let hash = names::hash(&context.fleet, &origin.namespace, &origin.name);
    let gone = async { remove_copy(context, &connect(context, &home).await?.client, &hash).await };
    if let Err(verdict) = gone.await {
        tracing::warn!(name = retained.name_any(), ?verdict, "the copy of the keys stays on the reef");
    }
    Ok(())
}

pub(super) fn with(
    retained: &RetainedInstance,
    conditions: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
) -> RetainedInstanceStatus {
    RetainedInstanceStatus {
        observed_generation: retained.metadata.generation,
        conditions,
        last_handled_reconcile_at: retained.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
        removed: retained.status.as_ref().is_some_and(|s| s.removed),
    }
}

pub(super) async fn held(
    retained: &RetainedInstance,
    shared: &Shared,
    trouble: &Trouble,
    stalled: bool,
) -> Result<Action, Error> {
    let policy = &shared.context.policy;
    let old = retained.status.clone().unwrap_or_default();
    let generation = retained.metadata.generation.unwrap_or(0);
    // That it goes is told although it was good.
    let observed =
        if retained.metadata.deletion_timestamp.is_some() { None } else { old.observed_generation };
    let before = Before { conditions: &old.conditions, observed, generation, was_good: false };
    if let Some(conditions) = standing::held(before, trouble, stalled, &CONDITIONS, policy, Timestamp::now())
    {
        write(retained, shared, &with(retained, conditions)).await?;
    }
    let pause = Duration::from_secs(30).min(policy.resync);
    Ok(Action::requeue(stop::cap_by_pause(retained.annotations(), pause, Timestamp::now())))
}

/// Writes the status if it differs, and tells people of a change.
pub(super) async fn write(
    retained: &RetainedInstance,
    shared: &Shared,
    next: &RetainedInstanceStatus,
) -> Result<(), Error> {
    let context = &*shared.context;
    let api = Api::<RetainedInstance>::all(context.client.clone());
    let old = retained.status.clone();
    let old = old.map(|s| RetainedInstanceStatus { conditions: ours(&s.conditions), ..s });
    let before = old.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    let at = (next.observed_generation.unwrap_or(0).max(0), Timestamp::now());
    let conditions = pause::with(context, retained, &before, next.conditions.clone(), at);
    let next = &RetainedInstanceStatus { conditions, ..next.clone() };
    if !status::write(context, &api, retained, old.as_ref(), next, "retainedinstances/status").await? {
        return Ok(());
    }
    pause::tell(context, &shared.recorder, retained, &before, &next.conditions).await;
    let Some(change) = transition(&before, &next.conditions) else { return Ok(()) };
    if context.claim.check().is_ok() {
        let object = retained.object_ref(&());
        publish(&shared.recorder, &object, change.reason, !change.is_calm(), "Reconcile", &change.message)
            .await;
    }
    Ok(())
}
