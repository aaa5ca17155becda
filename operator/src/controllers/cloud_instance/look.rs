//! One look at a CloudInstance.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{Api, Resource, ResourceExt, runtime::controller::Action};
use reef_crds::{
    CloudInstance, CloudInstanceStatus,
    condition::{ConditionType, Reason, ours},
    meta::{CONFIRM_RECREATION, INSTANCE_FINALIZER, RECONCILE_REQUESTED_AT},
};

use super::{
    Shared,
    bodies::Inputs,
    delete,
    done::Done,
    growth,
    in_cluster::{self, InCluster, Routes, Wanted},
    intake,
    jobs::Agent,
    keys::{self, Keys},
    manifests::Server,
    moved, observe,
    parts::Part,
    placed,
    plan::{self, Facts, Plan},
    references::{self, Home},
    report, restorable, steady, unplace,
};
use crate::{
    cluster::{self, ReefCluster},
    controller::{
        Context, Error, finalizers,
        objects::key,
        pause, publish, status, stop, tell_drifts,
        trouble::{Trouble, transition, transition_of},
    },
    controllers::reef::{
        bodies::AKS_API,
        references::{Held, hold_now},
        teardown::annotated,
    },
    resources::{Pauses, Seen, Verdict, act, failed, memory::Memory, observe::poll},
};

/// Pause while something that wakes us is waited for.
pub(super) const WAITING: Duration = Duration::from_secs(30);

/// Shortest pause while something is refused or cannot be asked.
const TROUBLED: Duration = Duration::from_secs(5);

/// How long a look at the reef's cluster may take in all.
const LONGEST_IN_CLUSTER: Duration = Duration::from_secs(60);

/// One look: sees, decides, acts, reports.
pub(super) async fn look(instance: &CloudInstance, shared: &Shared) -> Result<Action, Error> {
    let context = &*shared.context;
    context.claim.check()?;
    let uid = instance.uid().unwrap_or_default();
    if instance.metadata.deletion_timestamp.is_some() {
        if !finalizers::has(instance, INSTANCE_FINALIZER) {
            return Ok(Action::await_change());
        }
        let mut memory = shared.memories.take(&uid);
        let result = delete::step(instance, shared, &mut memory).await;
        shared.memories.put(&uid, memory);
        return result;
    }
    if !finalizers::has(instance, INSTANCE_FINALIZER) {
        let api = api(context, instance);
        finalizers::add(context, &api, instance, INSTANCE_FINALIZER).await?;
        return Ok(Action::await_change());
    }
    let instance = match placed::placed(instance, shared).await? {
        Ok(instance) => instance,
        Err(Held(trouble, stalled)) => return held(instance, shared, &trouble, stalled).await,
    };
    let home = match references::home(context, &instance).await? {
        Ok(home) => home,
        Err(Held(trouble, stalled)) => return held(&instance, shared, &trouble, stalled).await,
    };
    let mut memory = shared.memories.take(&uid);
    if instance.annotations().get(RECONCILE_REQUESTED_AT)
        != instance.status.as_ref().and_then(|s| s.last_handled_reconcile_at.as_ref())
    {
        memory.asked(Timestamp::now());
        shared.steady.forget(&uid);
        shared.refusals.forget(&uid);
    }
    let leaves = instance.status.as_ref().is_some_and(|s| s.leaving.is_some());
    let result = if leaves {
        unplace::step(&instance, shared, &home, &mut memory).await
    } else {
        work(&instance, shared, &home, &mut memory).await
    };
    shared.memories.put(&uid, memory);
    result
}

/// Where CloudInstances of this namespace are.
pub(super) fn api(context: &Context, instance: &CloudInstance) -> Api<CloudInstance> {
    Api::namespaced(context.client.clone(), &instance.namespace().unwrap_or_default())
}

/// Settings of the waits.
pub(super) fn pauses(context: &Context) -> Pauses {
    Pauses { poll: context.policy.azure_poll, resync: context.policy.resync }
}

async fn work(
    instance: &CloudInstance,
    shared: &Shared,
    home: &Home,
    memory: &mut Memory,
) -> Result<Action, Error> {
    let context = &*shared.context;
    let now = Timestamp::now();
    // Any spread will do; the clock's last digits differ from look to look.
    let spread = f64::from(now.subsec_nanosecond() % 1000) / 1000.0;
    let times = (pauses(context), spread, now);
    let mut inputs = match references::inputs(context, instance, home) {
        Ok(inputs) => inputs,
        Err(Held(trouble, stalled)) => return held(instance, shared, &trouble, stalled).await,
    };
    let status = instance.status.clone().unwrap_or_default();
    memory.inherit(delete::begun(&status).into_iter().map(|(part, at)| (inputs.id(part), at)));
    poll(&home.arm, memory, times.0, spread, now).await;
    let has_served = status.version.as_ref().is_some_and(|v| v.running.is_some());
    let seen = observe::parts(context, home, &inputs, memory, has_served, times).await;
    let keys = match keys::known(context, instance, home, &inputs, &seen).await? {
        Ok(keys) => keys,
        Err(Held(trouble, stalled)) => return held(instance, shared, &trouble, stalled).await,
    };
    inputs.keys_hash = keys.hash();
    let was_published = memory_of(&status);
    let mut facts = facts(instance, home, (&inputs, &seen), now);
    facts.taken_for_good = (has_served && !memory.is_doubtful).then_some(Part::Federation);
    let first = plan::plan(&facts);
    if doubtful(&first, &inputs, memory) {
        return Ok(Action::requeue(Duration::from_millis(10)));
    }
    let in_cluster = in_cluster(shared, instance, home, &facts, &first, &keys).await;
    tell_drifts(context, &shared.recorder, &instance.object_ref(&()), &inputs.hash).await;
    if in_cluster.may_publish() || was_published || has_served {
        facts.unpublished = None;
    }
    memory.is_doubtful = in_cluster.workload != Verdict::Good;
    let mut plan = plan::plan(&facts);
    let held_back = (&mut plan.verdicts, &mut plan.writes);
    let what = |part: Part| part.what().to_owned();
    let stops = hold_now(context, (&home.region, &home.stops), held_back, what).await?;
    growth::hold(shared, home, status.placement.as_ref(), (&mut plan, &seen), now).await?;
    restorable::tell(&home.arm, &inputs, &mut plan).await;
    remember(&plan, &inputs, memory, now);
    plan.was_good = memory.was_good(instance.metadata.generation, &plan.verdicts);
    let begun = begun(instance, &plan, now);
    let instance = &match &begun {
        Some(next) => write(instance, shared, next).await?,
        None => instance.clone(),
    };
    let done = carry_out(context, home, &mut plan, memory, times).await;
    let next = report::report(instance, &plan, &seen, &in_cluster, &context.policy, now);
    let instance = write(instance, shared, &next).await?;
    if let Some(why) = unplace::refused(&next, &inputs, (&plan, &seen), memory, now)
        && unplace::leave(&instance, shared, home, why, now).await?
    {
        return Ok(Action::requeue(Duration::from_millis(50)));
    }
    let window = moved::again(instance.spec.maintenance_window.as_ref(), now);
    let pause = again(&plan, (&in_cluster, window), memory, done, times.0, now);
    Ok(Action::requeue(stops.cap(pause, now)))
}

/// What the plan of an instance follows from that is not published yet.
fn facts<'a>(
    instance: &CloudInstance,
    home: &Home,
    (inputs, seen): (&'a Inputs, &'a BTreeMap<Part, Seen>),
    now: Timestamp,
) -> Facts<'a> {
    let status = instance.status.clone().unwrap_or_default();
    Facts {
        inputs,
        seen,
        taken_for_good: None,
        had: (status.database.is_some_and(|d| d.ready), status.share.is_some_and(|s| s.ready)),
        may_adopt: intake::may_adopt(instance, &home.region, now),
        may_recreate: annotated(instance, CONFIRM_RECREATION) && !status.recreation_spent,
        is_spent: status.recreation_spent,
        unpublished: Some("the server, which has to serve first"),
        now,
    }
}

/// Does what is planned. True if something is done already, so that what waits for it can go on.
async fn carry_out(
    context: &Context,
    home: &Home,
    plan: &mut Plan,
    memory: &mut Memory,
    times: (Pauses, f64, Timestamp),
) -> bool {
    let arm_of = |part: &Part| home.arm_of(context, *part);
    let done = act::act(arm_of, &context.claim, plan.writes.clone(), memory, times).await;
    for write in &plan.writes {
        if let Some(failure) = memory.failures.get(&write.id).filter(|f| f.retry_at > times.2) {
            plan.verdicts.insert(write.part, failed(write.part.what(), &failure.error));
        }
    }
    done
}

/// Whether something is not as wanted of which only a list tells. It is read by itself before anything follows from it.
fn doubtful(plan: &Plan, inputs: &Inputs, memory: &mut Memory) -> bool {
    let bad = plan.verdicts.iter().filter(|(_, verdict)| **verdict != Verdict::Good);
    bad.filter(|(part, _)| memory.doubt(&inputs.id(**part))).count() > 0
}

/// What the verdicts mean for the next looks.
fn remember(plan: &Plan, inputs: &Inputs, memory: &mut Memory, now: Timestamp) {
    for (part, verdict) in &plan.verdicts {
        match verdict {
            Verdict::Good => memory.settled(&inputs.id(*part)),
            // It may be free, or put right, before the next routine look.
            Verdict::Blocked(_) => memory.read_by(&inputs.id(*part), now, WAITING),
            _ => {}
        }
    }
}

/// How long ago a try to make something is noted anew, seconds.
const NOTED_SECONDS: i64 = 60;

/// The status that says that data is about to be made, before it is: after a crash nobody else would know that
/// something may still come.
fn begun(instance: &CloudInstance, plan: &Plan, now: Timestamp) -> Option<CloudInstanceStatus> {
    let mut next = instance.status.clone()?;
    let is_new = |part| plan.writes.iter().any(|write| write.part == part && write.found.is_none());
    let is_old =
        |at: &Option<Time>| at.as_ref().is_none_or(|at| now.as_second() - at.0.as_second() > NOTED_SECONDS);
    let at = Time(Timestamp::from_second(now.as_second()).ok()?);
    let mut any = false;
    if let Some(database) = next.database.as_mut().filter(|d| is_new(Part::Database) && is_old(&d.begun_at)) {
        (database.begun_at, any) = (Some(at.clone()), true);
    }
    if let Some(share) = next.share.as_mut().filter(|s| is_new(Part::Share) && is_old(&s.begun_at)) {
        (share.begun_at, any) = (Some(at), true);
    }
    any.then_some(next)
}

/// Whether the DNS record was good once: it stays as it is to be, whatever the server does today.
fn memory_of(status: &CloudInstanceStatus) -> bool {
    let type_ = ConditionType::DnsReady;
    reef_crds::condition::true_since(&status.conditions, type_).is_some()
}

/// A connection to the reef's cluster.
pub async fn connect(context: &Context, home: &Home) -> Result<ReefCluster, Verdict> {
    let status = home.reef.status.clone().unwrap_or_default();
    let known = status.cluster.and_then(|c| Some((c.name, c.host?)));
    let (Some((name, host)), Some(subscription), Some(group)) =
        (known, status.subscription_id, status.resource_group)
    else {
        return Err(Verdict::Waiting("waits for: the reef's cluster".to_owned()));
    };
    let id = format!(
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.ContainerService/managedClusters/{name}"
    );
    let unreachable = |error: cluster::Error| Trouble::new(Reason::ClusterUnreachable, error.to_string());
    let connected = context.clusters.get(&home.arm, &id, AKS_API, &host).await;
    let cluster = connected.map_err(|error| Verdict::Unknown(unreachable(error)))?;
    Ok(cluster.under(&home.stops.ban(true)))
}

/// How it stands in the reef's cluster, after what is to be done there now.
async fn in_cluster(
    shared: &Shared,
    instance: &CloudInstance,
    home: &Home,
    facts: &Facts<'_>,
    plan: &Plan,
    keys: &Keys,
) -> InCluster {
    let (context, inputs) = (&*shared.context, facts.inputs);
    let status = instance.status.clone().unwrap_or_default();
    let known = status.identity.and_then(|i| i.client_id);
    let client_id = plan::client_id(facts.seen).map(str::to_owned).or(known);
    let started = status.version.is_some_and(|v| v.running.is_some());
    let agent = home.reef.status.as_ref().and_then(|s| s.agent_identity.clone());
    let missing = plan::missing(plan, started);
    let (Some(client_id), Some(agent), None) = (client_id, agent, missing) else {
        let what = missing.map_or("managed identity", Part::what);
        let waiting = Verdict::Waiting(format!("waits for: {what}"));
        return InCluster::all(&waiting, Done::default());
    };
    let cluster = match connect(context, home).await {
        // What never served is not gone on with while nothing may be made.
        Ok(cluster) => cluster.under(&home.stops.ban(started)),
        Err(verdict) => return InCluster::all(&verdict, Done::default()),
    };
    let wanted = Wanted {
        server: Server {
            inputs,
            image: &context.octopus_image,
            version: &instance.spec.release.version,
            task_cap: instance.spec.task_cap,
            client_id: &client_id,
            database: "",
            keys,
            asked: None,
            runs: true,
        },
        database: plan::database_id(facts.seen),
        agent: Agent {
            image: &context.agent_image,
            client_id: &agent.client_id,
            has_ca: context.azure_ca.is_some(),
        },
        routes: Routes::of(plan.verdicts.get(&Part::Record)),
        may_adopt: facts.may_adopt,
        refusals: &shared.refusals,
        window: instance.spec.maintenance_window.as_ref(),
        moves: &shared.moves,
    };
    let (uid, mark, comparable) = (&inputs.uid, cluster.record.mark(&inputs.hash), steady::of(&wanted));
    if let Some(known) = shared.steady.known(uid, &comparable, mark, context.policy.resync, facts.now) {
        return known;
    }
    let keep = Box::pin(in_cluster::keep(context, &cluster.client, &wanted, facts.now));
    let found = tokio::time::timeout(LONGEST_IN_CLUSTER, keep).await.unwrap_or_else(|_| {
        let seconds = LONGEST_IN_CLUSTER.as_secs();
        let message = format!("the reef's API server did not answer within {seconds} s");
        let verdict = Verdict::Unknown(Trouble::new(Reason::ClusterUnreachable, message));
        InCluster::all(&verdict, Done::default())
    });
    shared.steady.keep(uid, comparable, mark, &found, facts.now);
    found
}

/// When to look again.
fn again(
    plan: &Plan,
    (in_cluster, window): (&InCluster, Option<Timestamp>),
    memory: &Memory,
    done: bool,
    pauses: Pauses,
    now: Timestamp,
) -> Duration {
    let shortest = Duration::from_millis(50);
    if done {
        // What waits for it goes on at once.
        return shortest;
    }
    let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default().max(shortest);
    let polls = memory.operations.values().map(|running| until(running.poll_at));
    // What could have been tried again by now and was not is not wanted any more, or waits for something else.
    let retries =
        memory.failures.values().filter(|f| f.retry_at > now).map(|failure| until(failure.retry_at));
    let idle = memory.read.iter().filter(|(id, _)| !memory.operations.contains_key(*id));
    let reads = idle.map(|(_, read)| until(read.again_at));
    let verdicts = [&in_cluster.access, &in_cluster.workload, &in_cluster.configured];
    let cluster = verdicts.into_iter().map(|verdict| match verdict {
        Verdict::Good | Verdict::Waiting(_) | Verdict::Blocked(_) => pauses.resync,
        Verdict::Working(_) => pauses.poll,
        // What is refused is asked again, and not all the time.
        Verdict::Failed(_) | Verdict::Unknown(_) => pauses.poll.max(TROUBLED),
    });
    let size = match &in_cluster.resized {
        Verdict::Working(_) | Verdict::Failed(Trouble { reason: Reason::ResizeMoving, .. }) => TROUBLED,
        // The node gives it by itself, or there is room on another one, which wakes nobody.
        Verdict::Failed(Trouble { reason: Reason::ResizeDeferred, .. }) | Verdict::Unknown(_) => WAITING,
        Verdict::Failed(_) => window.map_or(pauses.resync, until),
        _ => pauses.resync,
    };
    let azure = plan.verdicts.values().map(|verdict| match verdict {
        Verdict::Working(_) | Verdict::Unknown(_) => pauses.poll,
        _ => pauses.resync,
    });
    polls.chain(retries).chain(reads).chain(cluster).chain(azure).chain([size]).min().unwrap_or(pauses.resync)
}

/// The status of an instance that cannot go on.
pub(super) async fn held(
    instance: &CloudInstance,
    shared: &Shared,
    trouble: &Trouble,
    stalled: bool,
) -> Result<Action, Error> {
    let next = report::held(instance, trouble, stalled, &shared.context.policy, Timestamp::now());
    write(instance, shared, &next).await?;
    let pause = WAITING.min(shared.context.policy.resync);
    Ok(Action::requeue(stop::cap_by_pause(instance.annotations(), pause, Timestamp::now())))
}

/// Writes the status if it differs, and tells people of a change; the instance as it is then. Only while it is as it was
/// read: what somebody knew of it who saw an older one, or led before, is not to undo where it was placed since.
pub(super) async fn write(
    instance: &CloudInstance,
    shared: &Shared,
    next: &CloudInstanceStatus,
) -> Result<CloudInstance, Error> {
    let context = &*shared.context;
    let old = instance.status.clone().map(|s| CloudInstanceStatus { conditions: ours(&s.conditions), ..s });
    let api = api(context, instance);
    let before = old.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    let at = (next.observed_generation.unwrap_or(0).max(0), Timestamp::now());
    let conditions = pause::with(context, instance, &before, next.conditions.clone(), at);
    let next = &CloudInstanceStatus { conditions, ..next.clone() };
    let resource = "cloudinstances/status";
    let Some(written) = status::write_as_read(context, &api, instance, old.as_ref(), next, resource).await?
    else {
        return Ok(instance.clone());
    };
    resize_waits(instance, shared, &before, next).await;
    pause::tell(context, &shared.recorder, instance, &before, &next.conditions).await;
    let Some(change) = transition(&before, &next.conditions) else { return Ok(written) };
    tracing::info!(
        controller = super::CONTROLLER,
        name = key(instance),
        generation = instance.metadata.generation,
        ready = change.ready,
        reason = change.reason.as_str(),
        change.message,
        "instance changed"
    );
    // That no reef fits was told with the reasons against each.
    if change.reason != Reason::NoReefFits && context.claim.check().is_ok() {
        let object = instance.object_ref(&());
        publish(&shared.recorder, &object, change.reason, !change.is_calm(), "Reconcile", &change.message)
            .await;
    }
    Ok(written)
}

/// Tells people once that a server cannot get its size now, or is moved for it.
async fn resize_waits(
    instance: &CloudInstance,
    shared: &Shared,
    before: &[Condition],
    next: &CloudInstanceStatus,
) {
    let waits =
        |reason| matches!(reason, Reason::ResizeDeferred | Reason::ResizeInfeasible | Reason::ResizeMoving);
    let change = transition_of(ConditionType::Resized, before, &next.conditions);
    if let Some(change) = change.filter(|c| waits(c.reason) && shared.context.claim.check().is_ok()) {
        let object = instance.object_ref(&());
        let warns = change.reason != Reason::ResizeMoving;
        publish(&shared.recorder, &object, change.reason, warns, "Resize", &change.message).await;
    }
}
