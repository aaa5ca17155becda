//! One look at a CloudInstance.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Resource, ResourceExt, runtime::controller::Action};
use reef_crds::{
    CloudInstance, CloudInstanceStatus, Reef,
    condition::{ConditionType, Reason, ours},
    meta::{CONFIRM_RECREATION, INSTANCE_FINALIZER, RECONCILE_REQUESTED_AT},
};

use super::{
    Shared,
    bodies::Inputs,
    delete,
    done::Done,
    in_cluster::{self, InCluster, Routes, Wanted},
    intake::{self, Found},
    jobs::Agent,
    keys::{self, Keys},
    manifests::Server,
    observe,
    parts::Part,
    placing::{self, Placing},
    plan::{self, Facts, Plan},
    references::{self, Home},
    report, restorable, unplace,
};
use crate::{
    controller::{
        Context, Error, finalizers,
        objects::key,
        publish, status, tell_drifts,
        trouble::{Trouble, transition},
    },
    controllers::reef::{bodies::AKS_API, references::Held, teardown::annotated},
    resources::{Pauses, Verdict, act, failed, memory::Memory, observe::poll},
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
    let instance = match placed(instance, shared).await? {
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

/// The instance with its place and names in the status, which stand there before anything is made.
async fn placed(instance: &CloudInstance, shared: &Shared) -> Result<Result<CloudInstance, Held>, Error> {
    let context = &*shared.context;
    if instance.status.as_ref().is_some_and(|s| s.placement.is_some()) {
        return Ok(Ok(instance.clone()));
    }
    let region = match references::region(context, instance).await? {
        Ok(region) => region,
        Err(held) => return Ok(Err(held)),
    };
    let now = Timestamp::now();
    let found = match intake::search(context, instance, &region, now).await? {
        Ok(found) => found,
        Err(held) => return Ok(Err(held)),
    };
    let turn = shared.turn(&region.name_any());
    let mut listed = turn.lock().await;
    let mut note = None;
    let placement = match found {
        Found::There(placement) => placement,
        Found::Nowhere(arm) => {
            // The reefs first, and the instances after: what a reef no longer keeps a place for stands in its instance.
            let reefs = match intake::reefs(context, &region).await? {
                Ok(reefs) => reefs,
                Err(held) => return Ok(Err(held)),
            };
            let placing = Placing { context, arm: &arm, listed: &mut listed, note: &mut note };
            match placing::place(placing, instance, &reefs, now).await? {
                Ok(placement) => placement,
                Err(held) => {
                    refused(instance, shared, &held.0, note).await;
                    return Ok(Err(held));
                }
            }
        }
    };
    let reefs = Api::<Reef>::all(context.client.clone());
    let reef = reefs.get(&placement.reef).await.map_err(Error::api("read the Reef"))?;
    let note = note.unwrap_or_else(|| format!("{}: {}", placing::placement(&placement), placement.reason));
    let next = intake::named(context, instance, &region, &reef, placement);
    // Only while the instance is as it was placed: somebody else may have placed it.
    write_status(instance, shared, &next, true).await?;
    drop(listed);
    let is_first = next.refused_on.is_empty();
    let action = if is_first { "Place" } else { "PlaceAgain" };
    publish(&shared.recorder, &instance.object_ref(&()), Reason::Scheduled, false, action, &note).await;
    // The place stands in the instance's own status now. If this fails, the next placement on that reef does it.
    if let Err(error) = placing::release(context, instance, &reef).await {
        tracing::debug!(%error, name = instance.name_any(), "reservation");
    }
    Ok(Ok(CloudInstance { status: Some(next), ..instance.clone() }))
}

/// Tells why each reef was refused, when that is news.
async fn refused(instance: &CloudInstance, shared: &Shared, trouble: &Trouble, note: Option<String>) {
    let conditions = instance.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let ready = conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str());
    let is_known = ready.is_some_and(|c| c.reason == trouble.reason.as_str() && c.message == trouble.message);
    if let Some(note) = note.filter(|_| !is_known && shared.context.claim.check().is_ok()) {
        publish(&shared.recorder, &instance.object_ref(&()), trouble.reason, true, "Place", &note).await;
    }
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
    poll(&home.arm, memory, times.0, spread, now).await;
    let seen = observe::parts(&home.arm, &inputs, memory, times).await;
    let keys = match keys::known(context, instance, home, &inputs, &seen).await? {
        Ok(keys) => keys,
        Err(Held(trouble, stalled)) => return held(instance, shared, &trouble, stalled).await,
    };
    inputs.keys_hash = keys.hash();
    let status = instance.status.clone().unwrap_or_default();
    let was_published = memory_of(&status);
    let mut facts = Facts {
        inputs: &inputs,
        seen: &seen,
        had: (status.database.is_some_and(|d| d.ready), status.share.is_some_and(|s| s.ready)),
        may_adopt: intake::may_adopt(instance, &home.region, now),
        may_recreate: annotated(instance, CONFIRM_RECREATION) && !status.recreation_spent,
        is_spent: status.recreation_spent,
        unpublished: Some("the server, which has to serve first"),
        now,
    };
    let first = plan::plan(&facts);
    let in_cluster = in_cluster(context, instance, home, &facts, &first, &keys).await;
    tell_drifts(context, &shared.recorder, &instance.object_ref(&()), &inputs.hash).await;
    if in_cluster.may_publish() || was_published {
        facts.unpublished = None;
    }
    let mut plan = plan::plan(&facts);
    restorable::tell(&home.arm, &inputs, &mut plan).await;
    remember(&plan, &inputs, memory, now);
    let begun = begun(instance, &plan, now);
    if let Some(next) = &begun {
        write(instance, shared, next).await?;
    }
    let instance = &CloudInstance { status: begun.or(instance.status.clone()), ..instance.clone() };
    let done = act::act(&home.arm, &context.claim, plan.writes.clone(), memory, times).await;
    for write in &plan.writes {
        if let Some(failure) = memory.failures.get(&write.id).filter(|f| f.retry_at > now) {
            plan.verdicts.insert(write.part, failed(write.part.what(), &failure.error));
        }
    }
    let next = report::report(instance, &plan, &seen, &in_cluster, &context.policy, now);
    write(instance, shared, &next).await?;
    if let Some(why) = unplace::refused(&next, &inputs, (&plan, &seen), memory) {
        let instance = CloudInstance { status: Some(next), ..instance.clone() };
        if unplace::leave(&instance, shared, home, why, now).await? {
            return Ok(Action::requeue(Duration::from_millis(50)));
        }
    }
    Ok(Action::requeue(again(&plan, &in_cluster, memory, done, times.0, now)))
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
pub async fn connect(context: &Context, home: &Home) -> Result<kube::Client, Verdict> {
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
    match context.clusters.get(&home.arm, &id, AKS_API, &host).await {
        Ok(cluster) => Ok(cluster.client),
        Err(error) => Err(Verdict::Unknown(Trouble::new(Reason::ClusterUnreachable, error.to_string()))),
    }
}

/// How it stands in the reef's cluster, after what is to be done there now.
async fn in_cluster(
    context: &Context,
    instance: &CloudInstance,
    home: &Home,
    facts: &Facts<'_>,
    plan: &Plan,
    keys: &Keys,
) -> InCluster {
    let inputs = facts.inputs;
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
    let client = match connect(context, home).await {
        Ok(client) => client,
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
            runs: true,
        },
        database: plan::database_id(facts.seen),
        agent: Agent {
            image: &context.agent_image,
            client_id: &agent.client_id,
            has_ca: context.azure_ca.is_some(),
        },
        routes: match plan.verdicts.get(&Part::Record) {
            Some(Verdict::Good) => Routes::Keep,
            Some(Verdict::Blocked(_)) => Routes::Remove,
            _ => Routes::Leave,
        },
        may_adopt: facts.may_adopt,
    };
    let keep = Box::pin(in_cluster::keep(context, &client, &wanted, facts.now));
    tokio::time::timeout(LONGEST_IN_CLUSTER, keep).await.unwrap_or_else(|_| {
        let seconds = LONGEST_IN_CLUSTER.as_secs();
        let message = format!("the reef's API server did not answer within {seconds} s");
        let verdict = Verdict::Unknown(Trouble::new(Reason::ClusterUnreachable, message));
        InCluster::all(&verdict, Done::default())
    })
}

/// When to look again.
fn again(
    plan: &Plan,
    in_cluster: &InCluster,
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
    let retries = memory.failures.values().map(|failure| until(failure.retry_at));
    let idle = memory.read.iter().filter(|(id, _)| !memory.operations.contains_key(*id));
    let reads = idle.map(|(_, read)| until(read.again_at));
    let verdicts = [&in_cluster.access, &in_cluster.workload, &in_cluster.configured];
    let cluster = verdicts.into_iter().map(|verdict| match verdict {
        Verdict::Good | Verdict::Waiting(_) | Verdict::Blocked(_) => pauses.resync,
        Verdict::Working(_) => pauses.poll,
        // What is refused is asked again, and not all the time.
        Verdict::Failed(_) | Verdict::Unknown(_) => pauses.poll.max(TROUBLED),
    });
    let azure = plan.verdicts.values().map(|verdict| match verdict {
        Verdict::Working(_) | Verdict::Unknown(_) => pauses.poll,
        _ => pauses.resync,
    });
    polls.chain(retries).chain(reads).chain(cluster).chain(azure).min().unwrap_or(pauses.resync)
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
    Ok(Action::requeue(WAITING.min(shared.context.policy.resync)))
}

/// Writes the status if it differs, and tells people of a change.
pub(super) async fn write(
    instance: &CloudInstance,
    shared: &Shared,
    next: &CloudInstanceStatus,
) -> Result<(), Error> {
    write_status(instance, shared, next, false).await
}

/// The same; `as_read` only while the instance is as it was read.
pub(super) async fn write_status(
    instance: &CloudInstance,
    shared: &Shared,
    next: &CloudInstanceStatus,
    as_read: bool,
) -> Result<(), Error> {
    let context = &*shared.context;
    let old = instance.status.clone().map(|s| CloudInstanceStatus { conditions: ours(&s.conditions), ..s });
    let api = api(context, instance);
    let written = if as_read {
        status::write_as_read(context, &api, instance, old.as_ref(), next, "cloudinstances/status").await?
    } else {
        status::write(context, &api, instance, old.as_ref(), next, "cloudinstances/status").await?
    };
    if !written {
        return Ok(());
    }
    let before = old.map(|s| s.conditions).unwrap_or_default();
    let Some(change) = transition(&before, &next.conditions) else { return Ok(()) };
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
    Ok(())
}
