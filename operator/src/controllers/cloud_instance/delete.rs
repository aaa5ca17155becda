//! Deletion of a CloudInstance, step by step.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Namespace, PersistentVolume, Pod, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    runtime::controller::Action,
};
use reef_crds::{
    CloudInstance, CloudInstanceStatus, Reef, RetainedInstance, RetainedInstanceSpec,
    condition::Reason,
    meta::{CONFIRM_FORCE_DELETION, INSTANCE_FINALIZER, LABEL_FLEET, LABEL_INSTANCE},
    reef::{DeletionPolicy, ObjectName},
    retained_instance::{Origin, RetainedDatabase, RetainedShare, Tombstone},
};
use serde_json::{Value, json};

use super::{
    Shared,
    bodies::Inputs,
    done::Done,
    keys,
    look::{WAITING, api, connect, held, pauses, write},
    lost, manifests, names,
    parts::Part,
    placing,
    references::{self, Home},
    teardown::{self, Remains, Step},
};
use crate::{
    azure::Arm,
    causes,
    cluster::keep,
    controller::{
        Context, Error, finalizers,
        objects::{Listed, each, key},
        stop,
        trouble::Trouble,
    },
    controllers::reef::{
        bodies::NAMESPACE,
        references::{Held, stops_now},
        teardown::annotated,
    },
    observed::Observed,
    resources::{Pauses, Verdict, act, memory::Memory, observe},
};

/// Pause while Kubernetes works.
const SHORT: Duration = Duration::from_secs(1);

/// One step.
pub(super) async fn step(
    instance: &CloudInstance,
    shared: &Shared,
    memory: &mut Memory,
) -> Result<Action, Error> {
    let context = &*shared.context;
    let paused = stop::paused(instance.annotations(), Timestamp::now());
    if let Some(trouble) = teardown::may_begin(instance).filter(|_| paused.is_none()) {
        return held(instance, shared, &trouble, true).await;
    }
    if instance.status.as_ref().is_none_or(|s| s.placement.is_none()) {
        if let Some(trouble) = paused {
            return held(instance, shared, &trouble, false).await;
        }
        return without_a_place(instance, shared).await;
    }
    let home = match references::home(context, instance).await? {
        Ok(home) => home,
        Err(Held(trouble, stalled)) => return held(instance, shared, &trouble, stalled).await,
    };
    let inputs = match references::inputs(context, instance, &home) {
        Ok(inputs) => inputs,
        Err(Held(trouble, stalled)) => return held(instance, shared, &trouble, stalled).await,
    };
    let now = Timestamp::now();
    let spread = f64::from(now.subsec_nanosecond() % 1000) / 1000.0;
    let times = (pauses(context), spread, now);
    if let Some(trouble) = home.stops.deletions() {
        // What was begun is followed to its end.
        observe::poll(&home.arm, memory, times.0, times.1, times.2).await;
        return held(instance, shared, trouble, false).await;
    }
    let policy = instance.spec.deletion_policy;
    let begun = instance.status.as_ref().map(begun).unwrap_or_default();
    match advance(context, &home, &inputs, (policy, &begun), memory, times).await? {
        Advance::Done(why) => finish(instance, context, why).await,
        Advance::Held(trouble)
            if trouble.reason == Reason::ClusterUnreachable
                && annotated(instance, CONFIRM_FORCE_DELETION) =>
        {
            if let Some(trouble) = teardown::force_waits(&begun, now) {
                return held(instance, shared, &trouble, false).await;
            }
            let tombstone = Some(Tombstone { deletion_policy: policy });
            if let Some(trouble) = make_retained(context, instance, &inputs, tombstone).await? {
                return held(instance, shared, &trouble, true).await;
            }
            finish(instance, context, "by force: a RetainedInstance says what is still to be removed").await
        }
        Advance::Held(trouble) | Advance::Refused(trouble) => held(instance, shared, &trouble, false).await,
        Advance::GoesOn(what) => goes_on(instance, shared, &what, memory, now).await,
        Advance::MakeRetained => {
            if let Some(trouble) = make_retained(context, instance, &inputs, None).await? {
                return held(instance, shared, &trouble, true).await;
            }
            goes_on(instance, shared, "what is kept is written down", memory, now).await
        }
    }
}

/// How far a deletion is after a step.
pub enum Advance {
    /// Nothing is left to do, and why.
    Done(&'static str),
    /// It cannot go on.
    Held(Trouble),
    /// The reef's cluster answers, and does not do what it is asked to.
    Refused(Trouble),
    /// What is being removed.
    GoesOn(String),
    /// What is kept has to be written down before it goes on.
    MakeRetained,
}

/// Data of which it is not known that it ever was there, with the last time when making it was begun.
pub(super) fn begun(status: &CloudInstanceStatus) -> Vec<(Part, Timestamp)> {
    let database = status.database.as_ref().filter(|d| !d.ready).and_then(|d| d.begun_at.as_ref());
    let share = status.share.as_ref().filter(|s| !s.ready).and_then(|s| s.begun_at.as_ref());
    let all = [(Part::Database, database), (Part::Share, share)];
    all.into_iter().filter_map(|(part, at)| Some((part, at?.0))).collect()
}

/// Of what was begun, that which may still come: it is absent, was never seen, and was not refused.
fn may_come(
    begun: &[(Part, Timestamp)],
    remains: &Remains,
    inputs: &Inputs,
    memory: &Memory,
    now: Timestamp,
) -> Option<Part> {
    let is_open = |(part, at): &&(Part, Timestamp)| {
        let state = if *part == Part::Share { &remains.share } else { &remains.database };
        let id = inputs.id(*part);
        let refused = memory.is_refused(&id, now);
        *state == Observed::Absent && !memory.seen.contains(&id) && !refused && teardown::is_young(*at, now)
    };
    begun.iter().find(is_open).map(|(part, _)| *part)
}

/// Looks, and does the next step. `begun` is what may still come of tries to make it.
pub async fn advance(
    context: &Context,
    home: &Home,
    inputs: &Inputs,
    (policy, begun): (DeletionPolicy, &[(Part, Timestamp)]),
    memory: &mut Memory,
    times: (Pauses, f64, Timestamp),
) -> Result<Advance, Error> {
    memory.inherit(begun.iter().map(|(part, at)| (inputs.id(*part), *at)));
    observe::poll(&home.arm, memory, times.0, times.1, times.2).await;
    if let Some(part) = Part::ALL.into_iter().find(|part| memory.operations.contains_key(&inputs.id(*part))) {
        return Ok(Advance::GoesOn(format!("{} is being changed or deleted", part.what())));
    }
    let (mut remains, cluster) = look_for_server(context, home, inputs).await;
    let is_second_look = std::mem::take(&mut memory.looked);
    if teardown::server(inputs, &remains).is_none() {
        look_for_data(context, home, inputs, &mut remains).await?;
        remains.is_second_look = is_second_look;
    }
    for (part, state) in [(Part::Database, &remains.database), (Part::Share, &remains.share)] {
        if matches!(state, Observed::Present(_)) {
            memory.seen.insert(inputs.id(part));
        }
    }
    remains.may_come = may_come(begun, &remains, inputs, memory, times.2);
    let step = teardown::next(policy, inputs, &remains);
    if let Some(trouble) = stops_now(context, &home.region, &home.stops).await?.deletions() {
        return Ok(Advance::Held(trouble.clone()));
    }
    // Before the namespace goes with its copy, and again where there was none.
    let leaves_keys =
        policy == DeletionPolicy::Retain && matches!(step, Step::DeleteWorkload | Step::MakeRetained);
    if let Some(client) = cluster.as_ref().filter(|_| leaves_keys)
        && let Err(trouble) = keys::leave_copy(context, client, inputs).await?
    {
        return Ok(Advance::Held(trouble));
    }
    Ok(match step {
        Step::LookAgain => {
            memory.looked = true;
            Advance::GoesOn("a second look at what is gone".to_owned())
        }
        Step::Done(why) => Advance::Done(why),
        Step::Held(trouble) => Advance::Held(trouble),
        Step::Wait(what) => Advance::GoesOn(what),
        Step::Delete(part) => {
            delete(context, &home.arm_of(context, part), inputs, part, memory, times).await;
            Advance::GoesOn(part.what().to_owned())
        }
        Step::MakeRetained => Advance::MakeRetained,
        Step::DeleteWorkload => {
            if let Some(client) = cluster
                && let Err(error) = delete_workload(context, &client, inputs).await
            {
                return Ok(Advance::Refused(refusal(inputs, &error)));
            }
            Advance::GoesOn("the server".to_owned())
        }
    })
}

/// What it means that the reef's cluster does not delete a server.
fn refusal(inputs: &Inputs, error: &kube::Error) -> Trouble {
    match keep::verdict("Namespace", &inputs.namespace(), error) {
        Verdict::Failed(trouble) | Verdict::Blocked(trouble) | Verdict::Unknown(trouble) => trouble,
        _ => Trouble::new(Reason::ClusterUnreachable, format!("the reef's cluster: {}", causes(error))),
    }
}

/// The step for an instance without a place.
async fn without_a_place(instance: &CloudInstance, shared: &Shared) -> Result<Action, Error> {
    match lost::place(&shared.context, instance, Timestamp::now()).await? {
        Ok(None) => never_begun(instance, &shared.context).await,
        Ok(Some(status)) => {
            write(instance, shared, &status).await?;
            Ok(Action::requeue(SHORT))
        }
        Err(Held(trouble, stalled)) => held(instance, shared, &trouble, stalled).await,
    }
}

/// Of what has no place nothing was begun; only a place may be kept for it.
async fn never_begun(instance: &CloudInstance, context: &Context) -> Result<Action, Error> {
    let uid = instance.uid().unwrap_or_default();
    let keeps =
        |reef: &Reef| reef.status.as_ref().is_some_and(|s| s.reservations.iter().any(|r| r.uid == uid));
    let mut keepers = Vec::new();
    // A place that is kept on a reef which cannot be read is given up when it can be, with the next placement there.
    each::<Reef>(&context.client, "list Reefs", |reef| match reef {
        Listed::Readable(reef) if keeps(reef) => keepers.push(reef.clone()),
        _ => {}
    })
    .await?;
    for reef in &keepers {
        placing::release(context, instance, reef).await?;
    }
    finish(instance, context, "nothing was made for it").await
}

async fn finish(instance: &CloudInstance, context: &Context, why: &str) -> Result<Action, Error> {
    tracing::info!(controller = super::CONTROLLER, name = key(instance), why, "instance deleted");
    finalizers::remove(context, &api(context, instance), instance, INSTANCE_FINALIZER).await?;
    Ok(Action::await_change())
}

async fn get(context: &Context, home: &Home, inputs: &Inputs, part: Part) -> Observed<Value> {
    observe::observed(home.arm_of(context, part).get(&inputs.id(part), inputs.wanted(part).api).await)
}

/// Whether a server is still there, and the record that leads to it. The rest is asked for when it is gone: a server takes
/// its time to end, and each look costs calls to Azure. The object goes because of absences, so each is asked for anew.
async fn look_for_server(context: &Context, home: &Home, inputs: &Inputs) -> (Remains, Option<Client>) {
    let record = get(context, home, inputs, Part::Record).await;
    let client = connect(context, home).await.map(|cluster| cluster.client);
    let in_cluster = match &client {
        Ok(client) => match namespace(client, inputs).await {
            Ok(Some(live)) => Ok((Observed::Present(live), false)),
            Ok(None) => leftovers(client, inputs).await.map(|any| (Observed::Absent, any)),
            Err(why) => Err(why),
        },
        Err(Verdict::Unknown(trouble) | Verdict::Failed(trouble)) => Err(trouble.message.clone()),
        Err(_) => Err("it is not there yet".to_owned()),
    };
    let (namespace, has_leftovers) = in_cluster.unwrap_or_else(|why| (Observed::Unknown(why.into()), false));
    let not_asked = || Observed::Unknown("not asked for while the server is there".into());
    let remains = Remains {
        record,
        namespace,
        has_leftovers,
        identity: not_asked(),
        database: not_asked(),
        share: not_asked(),
        is_retained: false,
        may_come: None,
        is_second_look: false,
    };
    (remains, client.ok())
}

/// What else is there.
async fn look_for_data(
    context: &Context,
    home: &Home,
    inputs: &Inputs,
    remains: &mut Remains,
) -> Result<(), Error> {
    let retained = Api::<RetainedInstance>::all(context.client.clone());
    let name = inputs.namespace();
    let (identity, database, share, found) = tokio::join!(
        get(context, home, inputs, Part::Identity),
        get(context, home, inputs, Part::Database),
        get(context, home, inputs, Part::Share),
        retained.get_opt(&name)
    );
    (remains.identity, remains.database, remains.share) = (identity, database, share);
    let found = found.map_err(Error::api("read the RetainedInstance"))?;
    remains.is_retained = found.is_some_and(|r| r.spec.origin.uid == inputs.uid);
    Ok(())
}

/// The namespace; none only when no pod of it is left either.
async fn namespace(client: &Client, inputs: &Inputs) -> Result<Option<Value>, String> {
    let name = inputs.namespace();
    let manifest = manifests::namespace(inputs, &Done::default());
    let live = manifest.api(client).get_opt(&name).await.map_err(|e| causes(&e))?;
    if let Some(live) = live {
        return Ok(Some(serde_json::to_value(live).unwrap_or_default()));
    }
    let pods = Api::<Pod>::namespaced(client.clone(), &name);
    let pods = pods.list(&ListParams::default()).await.map_err(|e| causes(&e))?.items.len();
    if pods == 0 { Ok(None) } else { Err(format!("{pods} pods without their namespace")) }
}

/// Whether the cluster holds something of the instance that does not go with its namespace.
async fn leftovers(client: &Client, inputs: &Inputs) -> Result<bool, String> {
    let ours = ours(inputs);
    let jobs = Api::<Job>::namespaced(client.clone(), NAMESPACE);
    let volumes = Api::<PersistentVolume>::all(client.clone());
    let jobs = jobs.list_metadata(&ours).await.map_err(|e| causes(&e))?;
    let volumes = volumes.list_metadata(&ours).await.map_err(|e| causes(&e))?;
    let secrets = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    let secrets = secrets.list_metadata(&ours).await.map_err(|e| causes(&e))?;
    Ok(!(jobs.items.is_empty() && volumes.items.is_empty() && secrets.items.is_empty()))
}

/// Selects what is the instance's in the cluster.
fn ours(inputs: &Inputs) -> ListParams {
    ListParams::default().labels(&format!("{LABEL_FLEET}={},{LABEL_INSTANCE}={}", inputs.fleet, inputs.hash))
}

async fn delete(
    context: &Context,
    arm: &Arc<Arm>,
    inputs: &Inputs,
    part: Part,
    memory: &mut Memory,
    times: (Pauses, f64, Timestamp),
) {
    let id = inputs.id(part);
    let waits = memory.failures.get(&id).is_some_and(|failure| failure.retry_at > times.2);
    if waits || context.claim.check().is_err() {
        return;
    }
    tracing::info!(controller = super::CONTROLLER, azure_resource_id = id, "deleting from Azure");
    let answer = arm.delete(&id, inputs.wanted(part).api).await;
    act::note(arm, &id, answer, memory, (times.0, times.1)).await;
}

/// Deletes the namespace, the volume, and the agent's Jobs of the instance.
async fn delete_workload(context: &Context, client: &Client, inputs: &Inputs) -> Result<(), kube::Error> {
    if context.claim.check().is_err() {
        return Ok(());
    }
    let ours = ours(inputs);
    let background = DeleteParams::background();
    tracing::info!(
        controller = super::CONTROLLER,
        namespace = inputs.namespace(),
        "deleting from the reef's cluster"
    );
    let jobs = Api::<Job>::namespaced(client.clone(), NAMESPACE);
    jobs.delete_collection(&background, &ours).await?;
    // One whose Job was not made yet has no owner to go with.
    let secrets = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    secrets.delete_collection(&background, &ours).await?;
    let volumes = Api::<PersistentVolume>::all(client.clone());
    volumes.delete_collection(&background, &ours).await?;
    match Api::<Namespace>::all(client.clone()).delete(&inputs.namespace(), &background).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

/// The release that last ran, or was to run.
fn last_version(instance: &CloudInstance) -> String {
    let running = instance.status.as_ref().and_then(|s| s.version.as_ref()?.running.clone());
    running.unwrap_or_else(|| instance.spec.release.version.clone())
}

/// Writes down what is kept, before anything is taken away that would be needed to find it. Says why if it cannot.
async fn make_retained(
    context: &Context,
    instance: &CloudInstance,
    inputs: &Inputs,
    tombstone: Option<Tombstone>,
) -> Result<Option<Trouble>, Error> {
    context.claim.check()?;
    let spec = RetainedInstanceSpec {
        origin: Origin {
            namespace: inputs.instance_namespace.clone(),
            name: inputs.instance_name.clone(),
            uid: inputs.uid.clone(),
        },
        region_ref: ObjectName { name: inputs.region.clone() },
        reef_ref: ObjectName { name: inputs.reef.clone() },
        database: RetainedDatabase {
            id: inputs.id(Part::Database),
            name: inputs.database(),
            isolation: instance.spec.isolation.database.clone(),
            pool: inputs.pool.clone(),
        },
        share: RetainedShare {
            id: inputs.id(Part::Share),
            name: inputs.share(),
            quota: instance.spec.quota.clone(),
        },
        keys_secret_ref: ObjectName { name: names::keys(&inputs.hash, &inputs.uid) },
        version: last_version(instance),
        subdomain: inputs.subdomain.clone(),
        tombstone,
    };
    let mut retained = RetainedInstance::new(&inputs.namespace(), spec);
    let labels = json!({ LABEL_FLEET: inputs.fleet, LABEL_INSTANCE: inputs.hash });
    retained.metadata.labels = serde_json::from_value(labels).ok();
    let api = Api::<RetainedInstance>::all(context.client.clone());
    match api.create(&PostParams::default(), &retained).await {
        // Made by a try before, unless it speaks of an instance before this one.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let found = api.get_opt(&inputs.namespace()).await;
            let found = found.map_err(Error::api("read the RetainedInstance"))?;
            Ok(found.filter(|found| found.spec.origin.uid != inputs.uid).map(|found| {
                let message = format!(
                    "RetainedInstance {} keeps what an earlier instance of this name stored (uid {}): delete it first",
                    inputs.namespace(),
                    found.spec.origin.uid
                );
                Trouble::new(Reason::RetainedExists, message)
            }))
        }
        other => other.map(|_| None).map_err(Error::api("make the RetainedInstance")),
    }
}

/// Deletion goes on: says what is still there, or what Azure refused.
async fn goes_on(
    instance: &CloudInstance,
    shared: &Shared,
    what: &str,
    memory: &Memory,
    now: Timestamp,
) -> Result<Action, Error> {
    let refused = memory.failures.values().find(|failure| failure.retry_at > now);
    let trouble = match refused {
        Some(failure) => Trouble::azure(what, &failure.error),
        None => Trouble::new(Reason::Deleting, format!("deletion goes on: {what}")),
    };
    held(instance, shared, &trouble, false).await?;
    let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
    let polls = memory.operations.values().map(|running| until(running.poll_at));
    let retries = refused.map(|failure| until(failure.retry_at));
    let pause = polls.chain(retries).min().unwrap_or(SHORT);
    Ok(Action::requeue(pause.clamp(Duration::from_millis(100), WAITING)))
}
