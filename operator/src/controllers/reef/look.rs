//! One look at a Reef.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Resource, ResourceExt, runtime::controller::Action};
use reef_crds::{
    Reef, ReefClassSpec, ReefStatus, Region,
    condition::{ConditionType, Reason, ours},
    meta::{CONFIRM_ADOPTION, CONFIRM_RECREATION, RECONCILE_REQUESTED_AT, REEF_FINALIZER},
    reef_class::{
        Capacity, ClusterClass, ClusterTier, PerDatabase, PoolClass, PoolSku, SqlClass, StorageClass,
        StorageSku,
    },
};

use super::{
    Shared,
    begin::{self, Existing},
    bodies::Inputs,
    delete, furnish,
    in_cluster::InCluster,
    observe,
    parts::Part,
    plan::{self, Facts, Plan},
    references::{self, Held, References},
    report::{self, Around},
    teardown::{self, Step, annotated},
    tenants,
};
use crate::{
    azure::Class,
    controller::{
        Context, Error, finalizers,
        objects::{Listed, each},
        pause, publish, status,
        stop::{self, Stops},
        tell_drifts,
        trouble::{Trouble, transition, transition_of},
    },
    observed::Observed,
    resources::{Pauses, Seen, Verdict, act, failed, memory::Memory, observe::poll},
};

/// Pause while something that wakes us is waited for.
const WAITING: Duration = Duration::from_secs(30);

/// One look: sees, decides, acts, reports.
pub async fn look(reef: &Reef, shared: &Shared) -> Result<Action, Error> {
    let context = &*shared.context;
    context.claim.check()?;
    let uid = reef.uid().unwrap_or_default();
    if reef.metadata.deletion_timestamp.is_some() {
        if !finalizers::has(reef, REEF_FINALIZER) {
            return Ok(Action::await_change());
        }
        let mut memory = shared.memories.take(&uid);
        let result = remove(reef, shared, &mut memory).await;
        shared.memories.put(&uid, memory);
        return result;
    }
    if !finalizers::has(reef, REEF_FINALIZER) {
        finalizers::add(context, &Api::all(context.client.clone()), reef, REEF_FINALIZER).await?;
        return Ok(Action::await_change());
    }
    let references = match references::all(context, reef).await? {
        Ok(references) => references,
        Err(Held(trouble, stalled)) => return held(reef, shared, &trouble, stalled).await,
    };
    let status = match begun(reef, shared, &references).await? {
        Ok(status) => status,
        Err(Held(trouble, stalled)) => return held(reef, shared, &trouble, stalled).await,
    };
    let reef = Reef { status: Some(status), ..reef.clone() };
    let mut memory = shared.memories.take(&uid);
    let requested = reef.annotations().get(RECONCILE_REQUESTED_AT);
    if requested != reef.status.as_ref().and_then(|s| s.last_handled_reconcile_at.as_ref()) {
        memory.asked(Timestamp::now());
    }
    let result = work(&reef, shared, &references, &mut memory).await;
    shared.memories.put(&uid, memory);
    result
}

fn pauses(context: &Context) -> Pauses {
    Pauses { poll: context.policy.azure_poll, resync: context.policy.resync }
}

/// Any spread will do; the clock's last digits differ from look to look.
fn spread(now: Timestamp) -> f64 {
    f64::from(now.subsec_nanosecond() % 1000) / 1000.0
}

async fn work(
    reef: &Reef,
    shared: &Shared,
    references: &References,
    memory: &mut Memory,
) -> Result<Action, Error> {
    let context = &*shared.context;
    let arm = &references.arm;
    let pauses = pauses(context);
    let now = Timestamp::now();
    let spread = spread(now);
    let mut inputs = inputs(context, reef, &references.region, references.revision.1.clone());
    inputs.operator = arm.principal().await.ok();
    poll(arm, memory, pauses, spread, now).await;
    let seen =
        observe::parts(|part| references.arm_of(context, part), &inputs, memory, (pauses, spread, now)).await;
    let was_in_service =
        reef.status.as_ref().is_some_and(|s| s.gateway.as_ref().is_some_and(|g| g.address.is_some()));
    let ban = references.stops.ban(was_in_service);
    let in_cluster = furnish::cluster(context, &inputs, (references, &ban), &seen).await;
    tell_drifts(context, &shared.recorder, &reef.object_ref(&()), &inputs.reef).await;
    inputs.gateway =
        in_cluster.address.clone().or_else(|| reef.status.as_ref()?.gateway.as_ref()?.address.clone());
    let facts = Facts {
        inputs: &inputs,
        seen: &seen,
        had_data: &had_data(reef),
        may_adopt: may_adopt(reef, &references.region, now),
        may_recreate: annotated(reef, CONFIRM_RECREATION),
        now,
    };
    let mut plan = plan::plan(&facts);
    let at = (&references.region, &references.stops);
    let stops = references::hold_now(context, at, (&mut plan.verdicts, &mut plan.writes), Part::what).await?;
    let good = plan.verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Good);
    good.for_each(|(part, _)| memory.settled(&inputs.id(*part)));
    if let Some(next) = rename(reef, context, &inputs, &seen) {
        // The new name stands in the status before anything is made under it.
        write(reef, shared, &next).await?;
        return Ok(Action::requeue(Duration::from_millis(100)));
    }
    let arm_of = |part: &Part| references.arm_of(context, *part);
    let done = act::act(arm_of, &context.claim, plan.writes.clone(), memory, (pauses, spread, now)).await;
    for write in &plan.writes {
        // Of this try: an older failure's time to try again has come.
        if let Some(failure) = memory.failures.get(&write.id).filter(|f| f.retry_at > now) {
            plan.verdicts.insert(write.part, failed(&write.part.what(), &failure.error));
        }
    }
    let held_back = arm.cell().held_back();
    let was_good = memory.was_good(reef.metadata.generation, &plan.verdicts);
    let around = Around { in_cluster: &in_cluster, held_back: &held_back, was_good };
    let next = report::report(reef, &inputs, &plan, &seen, around, &context.policy, now);
    write(reef, shared, &next).await?;
    let pause = again(&plan, &in_cluster, memory, &seen, done, pauses, now);
    Ok(Action::requeue(stops.cap(pause, now)))
}

/// When to look again.
pub(super) fn again(
    plan: &Plan,
    in_cluster: &InCluster,
    memory: &Memory,
    seen: &BTreeMap<Part, Seen>,
    done: bool,
    pauses: Pauses,
    now: Timestamp,
) -> Duration {
    if done {
        // What waits for it goes on at once.
        return Duration::from_millis(50);
    }
    let until = |at: Timestamp| {
        Duration::try_from(at.duration_since(now)).unwrap_or_default().max(Duration::from_millis(50))
    };
    let polls = memory.operations.values().map(|running| until(running.poll_at));
    // What an operation runs on is not read before it ends.
    let idle = memory.read.iter().filter(|(id, _)| !memory.operations.contains_key(*id));
    let reads = idle.map(|(_, read)| until(read.again_at));
    let cluster = match (&in_cluster.objects, &in_cluster.gateway) {
        (Verdict::Good, Verdict::Good) | (Verdict::Waiting(_), _) => pauses.resync,
        _ => pauses.poll,
    };
    let planned = plan::look_again(plan, seen, pauses, now);
    polls.chain(reads).chain([cluster, planned]).min().unwrap_or(pauses.resync)
}

/// The name of a server or account that somebody else has is replaced by the next one.
fn rename(
    reef: &Reef,
    context: &Context,
    inputs: &Inputs,
    seen: &BTreeMap<Part, Seen>,
) -> Option<ReefStatus> {
    let status = reef.status.as_ref()?;
    let taken = seen.iter().find(|(part, seen)| {
        let failed = seen.failure.as_ref().is_some_and(|f| f.error.class() == Class::NameTaken);
        part.has_global_name() && failed && seen.state == Observed::Absent
    })?;
    let id = inputs.id(*taken.0);
    begin::renamed(status, &context.fleet, &reef.name_any(), id.rsplit('/').next().unwrap_or_default())
}

fn had_data(reef: &Reef) -> BTreeSet<Part> {
    let Some(status) = &reef.status else { return BTreeSet::new() };
    let server = status.sql_server.as_ref().is_some_and(|s| s.host.is_some()).then_some(Part::SqlServer);
    let cluster = status.cluster.as_ref().is_some_and(|c| c.host.is_some()).then_some(Part::Cluster);
    let accounts = (1u8..).zip(&status.storage_accounts).filter(|(_, a)| a.ready);
    server.into_iter().chain(cluster).chain(accounts.map(|(n, _)| Part::StorageAccount(n))).collect()
}

fn may_adopt(reef: &Reef, region: &Region, now: Timestamp) -> bool {
    annotated(reef, CONFIRM_ADOPTION) || region.spec.adopt_until.as_ref().is_some_and(|until| now < until.0)
}

/// The status with names, which is written before anything is made under them.
async fn begun(
    reef: &Reef,
    shared: &Shared,
    references: &References,
) -> Result<Result<ReefStatus, Held>, Error> {
    let old = reef.status.clone().unwrap_or_default();
    if old.resource_group.is_some() {
        return Ok(Ok(old));
    }
    let context = &*shared.context;
    let existing = &references.existing;
    // One that exists in Azure is not new.
    if let Some(trouble) = references.stops.creations().filter(|_| *existing == Existing::default()) {
        return Ok(Err(Held(trouble.clone(), false)));
    }
    // Before the lock, which reefs of all regions share. What is given out meanwhile stands in the Reefs.
    let ranges = match references::networks(references, reef, &context.fleet).await {
        Ok(ranges) => ranges,
        Err(held) => return Ok(Err(held)),
    };
    let turn = shared.allocation.lock().await;
    let mut taken = taken(context, reef).await?;
    taken.extend(ranges.iter().filter_map(|range| range.parse::<Ipv4Net>().ok()));
    let wish = reef.spec.address_space.as_deref();
    let range = begin::allocate(references.addresses, wish, existing.address_space.as_deref(), &taken);
    let address_space = match range {
        Ok(range) => range,
        Err(trouble) => return Ok(Err(Held(trouble, true))),
    };
    let region = &references.region;
    let name = reef.name_any();
    let origin = begin::Origin {
        fleet: &context.fleet,
        reef: &name,
        location: &region.spec.location,
        subscription: references::subscription_of(reef, region),
        zone: region.spec.dns.zone_name(),
        revision: &references.revision.0,
        address_space,
    };
    let next = begin::named(old, &origin, existing);
    write(reef, shared, &next).await?;
    drop(turn);
    Ok(Ok(next))
}

/// The ranges of the other reefs of the region, from the API server itself and not from a cache.
async fn taken(context: &Context, reef: &Reef) -> Result<BTreeSet<Ipv4Net>, Error> {
    let mut ranges = BTreeSet::new();
    each::<Reef>(&context.client, "list Reefs", |other| {
        let range = match other {
            Listed::Readable(other) => {
                let is_other =
                    other.name_any() != reef.name_any() && other.spec.region_ref == reef.spec.region_ref;
                other.status.as_ref().filter(|_| is_other).and_then(|s| s.address_space.clone())
            }
            // Whatever its region: it does no harm to leave a range free.
            Listed::Unreadable(other) => other["status"]["addressSpace"].as_str().map(str::to_owned),
        };
        ranges.extend(range.and_then(|range| range.parse::<Ipv4Net>().ok()));
    })
    .await?;
    Ok(ranges)
}

fn inputs(context: &Context, reef: &Reef, region: &Region, class: ReefClassSpec) -> Inputs {
    let status = reef.status.clone().unwrap_or_default();
    let address_space = status.address_space.unwrap_or_default();
    let subnet = address_space.parse::<Ipv4Net>().ok().and_then(|range| {
        let length = region.spec.network.subnet_prefix_length.max(range.prefix_len());
        range.subnets(length).ok()?.next()
    });
    Inputs {
        fleet: context.fleet.clone(),
        region: region.name_any(),
        reef: reef.name_any(),
        uid: reef.uid().unwrap_or_default(),
        location: status.location.unwrap_or_default(),
        subscription: status.subscription_id.unwrap_or_default(),
        tenant: region.spec.azure.tenant_id.clone(),
        zone: region.spec.dns.zone_id.clone(),
        ttl: region.spec.dns.ttl_seconds,
        subnet: subnet.map(|s| s.to_string()).unwrap_or_default(),
        address_space,
        sql_server: status.sql_server.map(|s| s.name).unwrap_or_default(),
        storage_accounts: status.storage_accounts.into_iter().map(|a| a.name).collect(),
        revision: status.class_revision.unwrap_or_default(),
        pools: u8::try_from(status.pools.len()).unwrap_or(u8::MAX),
        class,
        operator: None,
        gateway: None,
        agent_client: status.agent_identity.map(|identity| identity.client_id),
    }
}

async fn held(reef: &Reef, shared: &Shared, trouble: &Trouble, stalled: bool) -> Result<Action, Error> {
    let next = report::held(reef, trouble, stalled, &shared.context.policy, Timestamp::now());
    write(reef, shared, &next).await?;
    let pause = WAITING.min(shared.context.policy.resync);
    Ok(Action::requeue(stop::cap_by_pause(reef.annotations(), pause, Timestamp::now())))
}

/// Writes the status if it differs, and tells people of a change.
async fn write(reef: &Reef, shared: &Shared, next: &ReefStatus) -> Result<(), Error> {
    let context = &*shared.context;
    let api = Api::<Reef>::all(context.client.clone());
    // Reservations are written by whoever places instances, with the version that was read; never from here.
    let without = |s: ReefStatus| ReefStatus { reservations: Vec::new(), ..s };
    let old = reef.status.clone().map(|s| without(ReefStatus { conditions: ours(&s.conditions), ..s }));
    let mut next = without(next.clone());
    let before = old.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    let at = (next.observed_generation.unwrap_or(0).max(0), Timestamp::now());
    next.conditions = pause::with(context, reef, &before, next.conditions, at);
    if !status::write(context, &api, reef, old.as_ref(), &next, "reefs/status").await? {
        return Ok(());
    }
    pause::tell(context, &shared.recorder, reef, &before, &next.conditions).await;
    tell_reachable(reef, shared, &before, &next.conditions).await;
    let Some(change) = transition(&before, &next.conditions) else { return Ok(()) };
    tracing::info!(
        controller = super::CONTROLLER,
        name = reef.name_any(),
        generation = reef.metadata.generation,
        ready = change.ready,
        reason = change.reason.as_str(),
        change.message,
        "reef changed"
    );
    if context.claim.check().is_ok() {
        let object = reef.object_ref(&());
        publish(&shared.recorder, &object, change.reason, !change.is_calm(), "Reconcile", &change.message)
            .await;
    }
    Ok(())
}

/// Tells people that a service of a reef cannot be reached, and when it can again: the reef stays Ready meanwhile.
async fn tell_reachable(reef: &Reef, shared: &Shared, before: &[Condition], next: &[Condition]) {
    for type_ in [ConditionType::AzureReachable, ConditionType::ClusterReachable] {
        let was_lost = before.iter().any(|c| c.type_ == type_.as_str() && c.status == "Unknown");
        let change = transition_of(type_, before, next);
        if let Some(change) = change.filter(|c| !c.is_calm() || (c.ready && was_lost))
            && shared.context.claim.check().is_ok()
        {
            let object = reef.object_ref(&());
            publish(&shared.recorder, &object, change.reason, !change.ready, "Reach", &change.message).await;
        }
    }
}

/// One step of a deletion.
async fn remove(reef: &Reef, shared: &Shared, memory: &mut Memory) -> Result<Action, Error> {
    let context = &*shared.context;
    let forbidden = stop::paused(reef.annotations(), Timestamp::now());
    if forbidden.is_none() {
        if let Some(trouble) = teardown::may_begin(reef) {
            return held(reef, shared, &trouble, true).await;
        }
        if let Some(trouble) = tenants::in_the_way(context, reef).await? {
            return held(reef, shared, &trouble, true).await;
        }
    }
    // What has no names was never begun.
    if reef.status.as_ref().is_none_or(|s| s.resource_group.is_none()) {
        if let Some(trouble) = forbidden {
            return held(reef, shared, &trouble, false).await;
        }
        return finish(reef, context, "nothing was made for it").await;
    }
    let region = match references::region(context, &reef.spec.region_ref.name).await? {
        Ok(region) => region,
        Err(Held(trouble, stalled)) => return held(reef, shared, &trouble, stalled).await,
    };
    let (pauses, now) = (pauses(context), Timestamp::now());
    let stops = Stops::of(&region, reef.annotations(), now);
    let cell = context.cells.reef(&reef.name_any());
    let arm = match references::arm(context, &region, cell, &stops.ban(true)) {
        Ok(arm) => arm,
        Err(Held(trouble, stalled)) => return held(reef, shared, &trouble, stalled).await,
    };
    if let Some(trouble) = stops.deletions() {
        // What was begun is followed to its end.
        poll(&arm, memory, pauses, spread(now), now).await;
        return held(reef, shared, trouble, false).await;
    }
    let inputs = inputs(context, reef, &region, no_class());
    let step = delete::step(reef, &arm, &context.claim, &inputs, memory, (pauses, spread(now), now)).await;
    match step {
        Step::Done(why) => {
            context.clusters.forget(&inputs.id(Part::Cluster));
            finish(reef, context, why).await
        }
        Step::Held(trouble, stalled) => held(reef, shared, &trouble, stalled).await,
        Step::LookAgain => {
            deleting(reef, shared, "resource group: a second look at what is in it", memory, now).await
        }
        Step::Wait(what) => deleting(reef, shared, &what, memory, now).await,
        Step::DeleteRecord => deleting(reef, shared, "DNS record", memory, now).await,
        Step::DeleteLocks(_) => deleting(reef, shared, "locks", memory, now).await,
        Step::DeleteGroup => deleting(reef, shared, "resource group", memory, now).await,
    }
}

/// Deletion goes on: says what is still there, or what Azure refused.
async fn deleting(
    reef: &Reef,
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
    let next = report::held(reef, &trouble, false, &shared.context.policy, now);
    write(reef, shared, &next).await?;
    let poll = pauses(&shared.context).poll;
    let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
    let polls = memory.operations.values().map(|running| until(running.poll_at));
    let retries = refused.map(|failure| until(failure.retry_at));
    let quick = memory.operations.is_empty() && refused.is_none() && what != "resource group: being deleted";
    let pause =
        if quick { poll.min(Duration::from_secs(1)) } else { polls.chain(retries).min().unwrap_or(poll) };
    Ok(Action::requeue(pause.max(Duration::from_millis(50))))
}

async fn finish(reef: &Reef, context: &Context, why: &str) -> Result<Action, Error> {
    tracing::info!(controller = super::CONTROLLER, name = reef.name_any(), why, "reef deleted");
    finalizers::remove(context, &Api::all(context.client.clone()), reef, REEF_FINALIZER).await?;
    Ok(Action::await_change())
}

/// Deletion works by ids, which do not follow from the class: it goes on when the class is gone.
fn no_class() -> ReefClassSpec {
    let zero = || k8s_openapi::apimachinery::pkg::api::resource::Quantity("0".to_owned());
    ReefClassSpec {
        cluster: ClusterClass {
            kubernetes_version: String::new(),
            tier: ClusterTier::Standard,
            node_pools: Vec::new(),
            gateway_class_name: String::new(),
        },
        sql: SqlClass {
            pool: PoolClass {
                sku: PoolSku::StandardPool,
                capacity: 0,
                max_size: None,
                per_database: PerDatabase { min: zero(), max: zero() },
                max_databases: 0,
            },
        },
        storage: StorageClass { sku: StorageSku::Standard_LRS, soft_delete_days: 1, shares_per_account: 0 },
        capacity: Capacity::default(),
    }
}
