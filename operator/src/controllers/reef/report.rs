//! The status of a Reef from what was seen and planned (pure).

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use reef_crds::{
    Reef, ReefStatus,
    condition::{ConditionType, Decided, Reason, merge, of_this_spec, true_since},
    meta::RECONCILE_REQUESTED_AT,
    reef::{IdentityStatus, PartStatus},
};
use serde_json::Value;

use super::{
    bodies::Inputs,
    in_cluster::InCluster,
    names,
    parts::Part,
    plan::{Plan, Seen, Verdict},
};
use crate::{
    controller::{
        Policy,
        trouble::{Trouble, is_late, progress},
    },
    observed::Observed,
};

/// The conditions of a reef's parts, in the order in which they are shown.
const CONDITIONS: [ConditionType; 8] = [
    ConditionType::NetworkReady,
    ConditionType::IdentityReady,
    ConditionType::SqlReady,
    ConditionType::StorageReady,
    ConditionType::ClusterReady,
    ConditionType::ClusterReachable,
    ConditionType::GatewayReady,
    ConditionType::DnsReady,
];

/// How one condition stands.
struct Standing {
    type_: ConditionType,
    status: Option<bool>,
    trouble: Trouble,
    /// What needs a human is 0, what is tried again 1, what is worked at 2, what waits 3, what is not known 4.
    rank: u8,
}

/// The conditions of a reef whose spec cannot even be begun.
pub fn held(reef: &Reef, trouble: &Trouble, stalled: bool, policy: &Policy, now: Timestamp) -> ReefStatus {
    let old = reef.status.clone().unwrap_or_default();
    let generation = reef.metadata.generation.unwrap_or(0);
    let before = of_this_spec(&old.conditions, generation);
    let was_ready = true_since(&old.conditions, ConditionType::Ready).is_some();
    let keep = was_ready && old.observed_generation == Some(generation) && !stalled;
    if keep {
        // A good reef stays as it is while what it refers to cannot be read.
        return ReefStatus { last_handled_reconcile_at: requested(reef), ..old };
    }
    let ready = Decided {
        type_: ConditionType::Ready,
        status: Some(false),
        reason: trouble.reason,
        message: trouble.message.clone(),
    };
    let stalled =
        stalled || is_late(&before, policy, now) || true_since(&before, ConditionType::Stalled).is_some();
    let mut decided = vec![ready, progress(trouble, stalled)];
    decided.extend(kept(&old.conditions));
    ReefStatus {
        observed_generation: Some(generation),
        conditions: merge(&before, &decided, generation, now),
        last_handled_reconcile_at: requested(reef),
        ..old
    }
}

/// The conditions of parts as they were.
fn kept(old: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> Vec<Decided> {
    let of = |type_: &ConditionType| old.iter().find(|c| c.type_ == type_.as_str());
    let decided = |type_: &ConditionType| {
        let condition = of(type_)?;
        let status = match condition.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        };
        let reason = Reason::ALL.iter().copied().find(|r| r.as_str() == condition.reason)?;
        Some(Decided { type_: *type_, status, reason, message: condition.message.clone() })
    };
    CONDITIONS.iter().filter_map(decided).collect()
}

fn requested(reef: &Reef) -> Option<String> {
    reef.annotations().get(RECONCILE_REQUESTED_AT).cloned()
}

/// The next status.
pub fn report(
    reef: &Reef,
    inputs: &Inputs,
    plan: &Plan,
    seen: &BTreeMap<Part, Seen>,
    in_cluster: &InCluster,
    policy: &Policy,
    now: Timestamp,
) -> ReefStatus {
    let old = reef.status.clone().unwrap_or_default();
    let generation = reef.metadata.generation.unwrap_or(0);
    let standings: Vec<_> = CONDITIONS.iter().map(|type_| standing(*type_, plan, in_cluster)).collect();
    let before = of_this_spec(&old.conditions, generation);
    let was_ready = old.observed_generation == Some(generation)
        && true_since(&old.conditions, ConditionType::Ready).is_some();
    // What is worst; what could not be looked at only if there is nothing else and all was not well before.
    let worst = standings.iter().filter(|s| s.status != Some(true)).min_by_key(|s| s.rank);
    let bad = worst.filter(|s| s.status.is_some() || !was_ready);
    let mut decided = vec![match bad {
        None => Decided {
            type_: ConditionType::Ready,
            status: Some(true),
            reason: Reason::ReconcileSucceeded,
            message: "the reef is in service".to_owned(),
        },
        Some(bad) => Decided {
            type_: ConditionType::Ready,
            status: Some(false),
            reason: bad.trouble.reason,
            message: bad.trouble.message.clone(),
        },
    }];
    if let Some(bad) = bad {
        let already = true_since(&before, ConditionType::Stalled).is_some();
        decided.push(progress(
            &bad.trouble,
            (bad.rank == 0) || is_late(&before, policy, now) || (already && !moved(&before, &standings)),
        ));
    }
    decided.extend(standings.into_iter().map(|s| Decided {
        type_: s.type_,
        status: s.status,
        reason: s.trouble.reason,
        message: s.trouble.message,
    }));
    let status = ReefStatus {
        observed_generation: Some(generation),
        conditions: merge(&before, &decided, generation, now),
        last_handled_reconcile_at: requested(reef),
        ..old
    };
    with_facts(status, inputs, plan, seen, in_cluster)
}

/// Whether a part's condition flips with this report: then a reef that was late goes on.
fn moved(
    before: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    standings: &[Standing],
) -> bool {
    standings.iter().any(|s| {
        let was = before.iter().find(|c| c.type_ == s.type_.as_str()).map(|c| c.status.as_str());
        s.status == Some(true) && was != Some("True")
    })
}

fn standing(type_: ConditionType, plan: &Plan, in_cluster: &InCluster) -> Standing {
    let verdicts: Vec<&Verdict> = match type_ {
        ConditionType::ClusterReachable => vec![&in_cluster.objects],
        ConditionType::GatewayReady => vec![&in_cluster.gateway],
        _ => plan.verdicts.iter().filter(|(part, _)| part.condition() == type_).map(|(_, v)| v).collect(),
    };
    let rank = |verdict: &Verdict| match verdict {
        Verdict::Blocked(_) => 0,
        Verdict::Failed(_) => 1,
        Verdict::Working(_) => 2,
        Verdict::Waiting(_) => 3,
        Verdict::Unknown(_) => 4,
        Verdict::Good => 5,
    };
    let well = || Trouble::new(Reason::ReconcileSucceeded, "as wanted");
    let Some(worst) = verdicts.into_iter().min_by_key(|v| rank(v)) else {
        return Standing { type_, status: Some(true), trouble: well(), rank: 5 };
    };
    let (status, trouble) = match worst.clone() {
        Verdict::Unknown(trouble) => (None, trouble),
        Verdict::Waiting(what) => (Some(false), Trouble::new(Reason::WaitingForDependency, what)),
        Verdict::Working(what) => (Some(false), Trouble::new(Reason::Provisioning, what)),
        Verdict::Failed(trouble) | Verdict::Blocked(trouble) => (Some(false), trouble),
        Verdict::Good => (Some(true), well()),
    };
    Standing { type_, status, trouble, rank: rank(worst) }
}

/// What was read and does not change often. What could not be read stays as it was.
fn with_facts(
    mut status: ReefStatus,
    inputs: &Inputs,
    plan: &Plan,
    seen: &BTreeMap<Part, Seen>,
    in_cluster: &InCluster,
) -> ReefStatus {
    let good = |part: Part| plan.verdicts.get(&part) == Some(&Verdict::Good);
    let text = |part: Part, path: &[&str]| {
        let Observed::Present(value) = &seen.get(&part)?.state else { return None };
        path.iter().fold(value, |value: &Value, step| &value[*step]).as_str().map(str::to_owned)
    };
    status.egress_address = text(Part::EgressAddress, &["properties", "ipAddress"]).or(status.egress_address);
    if let Some(server) = &mut status.sql_server
        && good(Part::SqlServer)
    {
        server.host = text(Part::SqlServer, &["properties", "fullyQualifiedDomainName"]);
    }
    let pool = |n: u8| {
        let name = names::pool(n);
        let was = status.pools.iter().any(|p| p.name == name && p.ready);
        PartStatus { ready: was || good(Part::Pool(n)), name }
    };
    status.pools = (1..=inputs.pools).map(pool).collect();
    let account = |(n, name): (u8, &String)| {
        let was = status.storage_accounts.iter().any(|a| a.name == *name && a.ready);
        PartStatus { ready: was || good(Part::StorageAccount(n)), name: name.clone() }
    };
    status.storage_accounts = (1u8..).zip(&inputs.storage_accounts).map(account).collect();
    let client = text(Part::AgentIdentity, &["properties", "clientId"]);
    let principal = text(Part::AgentIdentity, &["properties", "principalId"]);
    if let (Some(client_id), Some(principal_id)) = (client, principal) {
        status.agent_identity = Some(IdentityStatus { client_id, principal_id });
    }
    if let Some(cluster) = &mut status.cluster
        && good(Part::Cluster)
    {
        cluster.host = text(Part::Cluster, &["properties", "fqdn"]);
        cluster.issuer = text(Part::Cluster, &["properties", "oidcIssuerProfile", "issuerURL"]);
        cluster.version = text(Part::Cluster, &["properties", "currentKubernetesVersion"]);
    }
    if let Some(gateway) = &mut status.gateway {
        gateway.address = in_cluster.address.clone().or_else(|| gateway.address.take());
    }
    status
}
