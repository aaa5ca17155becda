//! The status of a CloudInstance from what was seen and planned (pure).

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use reef_crds::{
    CloudInstance, CloudInstanceStatus,
    cloud_instance::{InstanceIdentityStatus, VersionStatus},
    condition::{ConditionType, Decided, merge},
    meta::{CONFIRM_RECREATION, RECONCILE_REQUESTED_AT},
};

use super::{
    in_cluster::InCluster,
    parts::Part,
    placing,
    plan::{Plan, client_id},
};
use crate::{
    controller::{
        Policy,
        standing::{self, Before, Standing},
        trouble::Trouble,
    },
    controllers::reef::teardown::annotated,
    resources::{Seen, Verdict},
};

/// The conditions of an instance's parts, in the order in which they are shown. `Resized` comes after them: the instance
/// is Ready whatever it says.
const CONDITIONS: [ConditionType; 7] = [
    ConditionType::Placed,
    ConditionType::IdentityReady,
    ConditionType::DatabaseReady,
    ConditionType::FileShareReady,
    ConditionType::WorkloadAvailable,
    ConditionType::Configured,
    ConditionType::DnsReady,
];

fn before<'a>(instance: &CloudInstance, status: &'a CloudInstanceStatus, generation: i64) -> Before<'a> {
    // That it goes is told although it was good.
    let leaving = instance.metadata.deletion_timestamp.is_some();
    let observed = status.observed_generation.filter(|_| !leaving);
    Before { conditions: &status.conditions, observed, generation, was_good: false }
}

fn requested(instance: &CloudInstance) -> Option<String> {
    instance.annotations().get(RECONCILE_REQUESTED_AT).cloned()
}

/// The status of an instance that cannot be begun or gone on with.
pub fn held(
    instance: &CloudInstance,
    trouble: &Trouble,
    stalled: bool,
    policy: &Policy,
    now: Timestamp,
) -> CloudInstanceStatus {
    let old = instance.status.clone().unwrap_or_default();
    let generation = instance.metadata.generation.unwrap_or(0);
    let last_handled_reconcile_at = requested(instance);
    let kept: Vec<_> = CONDITIONS.into_iter().chain([ConditionType::Resized]).collect();
    match standing::held(before(instance, &old, generation), trouble, stalled, &kept, policy, now) {
        None => CloudInstanceStatus { last_handled_reconcile_at, ..old },
        Some(conditions) => CloudInstanceStatus {
            observed_generation: Some(generation),
            conditions,
            last_handled_reconcile_at,
            ..old
        },
    }
}

/// The next status.
pub fn report(
    instance: &CloudInstance,
    plan: &Plan,
    seen: &BTreeMap<Part, Seen>,
    in_cluster: &InCluster,
    policy: &Policy,
    now: Timestamp,
) -> CloudInstanceStatus {
    let old = instance.status.clone().unwrap_or_default();
    let generation = instance.metadata.generation.unwrap_or(0);
    let mut standings: Vec<_> = CONDITIONS.iter().map(|type_| of_parts(*type_, plan, in_cluster)).collect();
    if let (Some(placed), Some(place)) = (standings.first_mut(), &old.placement) {
        placed.trouble.message = placing::placement(place).to_string();
    }
    let well = "the server is in service";
    let mut conditions = standing::conditions(
        Before { was_good: plan.was_good, ..before(instance, &old, generation) },
        standings,
        well,
        policy,
        now,
    );
    conditions.extend(merge(&old.conditions, &[resized(in_cluster)], generation, now));
    let good = |part: Part| plan.verdicts.get(&part) == Some(&Verdict::Good);
    let database = old.database.clone().map(|mut database| {
        database.ready |= good(Part::Database) || in_cluster.done.access.is_some();
        database
    });
    let share = old.share.clone().map(|mut share| {
        share.ready |= good(Part::Share) || in_cluster.done.configured.is_some();
        share
    });
    let identity = old.identity.clone().map(|identity| InstanceIdentityStatus {
        client_id: client_id(seen).map(str::to_owned).or(identity.client_id),
        ..identity
    });
    // A confirmation that stands there while nothing is lost is none for a later loss.
    let nothing_is_lost = good(Part::Database) && good(Part::Share);
    let recreation_spent =
        annotated(instance, CONFIRM_RECREATION) && (nothing_is_lost || old.recreation_spent);
    let was_running = old.version.as_ref().and_then(|v| v.running.clone());
    let version = VersionStatus {
        running: in_cluster.done.version.clone().or(was_running),
        target: instance.spec.release.version.clone(),
    };
    CloudInstanceStatus {
        observed_generation: Some(generation),
        conditions,
        last_handled_reconcile_at: requested(instance),
        database,
        share,
        identity,
        version: Some(version),
        recreation_spent,
        ..old
    }
}

/// What is said of the size of the server's pod.
fn resized(in_cluster: &InCluster) -> Decided {
    let Standing { type_, status, trouble, .. } =
        standing::standing(ConditionType::Resized, &[&in_cluster.resized]);
    Decided { type_, status, reason: trouble.reason, message: trouble.message }
}

fn of_parts(type_: ConditionType, plan: &Plan, in_cluster: &InCluster) -> Standing {
    let mut verdicts: Vec<&Verdict> =
        plan.verdicts.iter().filter(|(part, _)| part.condition() == type_).map(|(_, v)| v).collect();
    match type_ {
        ConditionType::DatabaseReady => verdicts.push(&in_cluster.access),
        ConditionType::WorkloadAvailable => verdicts.push(&in_cluster.workload),
        ConditionType::Configured => verdicts.push(&in_cluster.configured),
        _ => {}
    }
    standing::standing(type_, &verdicts)
}
