//! The status of a Reef from what was seen and planned (pure).

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use reef_crds::{
    Reef, ReefStatus,
    condition::{ConditionType, Reason},
    meta::RECONCILE_REQUESTED_AT,
    reef::{IdentityStatus, PartStatus},
};
use serde_json::Value;

use super::{bodies::Inputs, in_cluster::InCluster, names, parts::Part, plan::Plan};
use crate::{
    bulkhead::Service,
    controller::{
        Policy,
        standing::{self, Before, Standing},
        trouble::Trouble,
    },
    observed::Observed,
    resources::{Seen, Verdict},
};

/// The conditions of a reef's parts, in the order in which they are shown.
const CONDITIONS: [ConditionType; 9] = [
    ConditionType::AzureReachable,
    ConditionType::NetworkReady,
    ConditionType::IdentityReady,
    ConditionType::SqlReady,
    ConditionType::StorageReady,
    ConditionType::ClusterReady,
    ConditionType::ClusterReachable,
    ConditionType::GatewayReady,
    ConditionType::DnsReady,
];

/// The conditions of a reef whose spec cannot even be begun.
pub fn held(reef: &Reef, trouble: &Trouble, stalled: bool, policy: &Policy, now: Timestamp) -> ReefStatus {
    let old = reef.status.clone().unwrap_or_default();
    let generation = reef.metadata.generation.unwrap_or(0);
    let last_handled_reconcile_at = requested(reef);
    match standing::held(before(&old, generation), trouble, stalled, &CONDITIONS, policy, now) {
        None => ReefStatus { last_handled_reconcile_at, ..old },
        Some(conditions) => {
            ReefStatus { observed_generation: Some(generation), conditions, last_handled_reconcile_at, ..old }
        }
    }
}

fn before(status: &ReefStatus, generation: i64) -> Before<'_> {
    Before {
        conditions: &status.conditions,
        observed: status.observed_generation,
        generation,
        was_good: false,
    }
}

fn requested(reef: &Reef) -> Option<String> {
    reef.annotations().get(RECONCILE_REQUESTED_AT).cloned()
}

/// What was seen of a reef besides its parts in Azure.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// What is in its cluster.
    pub in_cluster: &'a InCluster,
    /// The services that do not answer, so that calls to them are held back.
    pub held_back: &'a [Service],
    /// Whether all in Azure was good for this spec when it was last seen.
    pub was_good: bool,
}

/// The next status.
pub fn report(
    reef: &Reef,
    inputs: &Inputs,
    plan: &Plan,
    seen: &BTreeMap<Part, Seen>,
    around: Around<'_>,
    policy: &Policy,
    now: Timestamp,
) -> ReefStatus {
    let old = reef.status.clone().unwrap_or_default();
    let generation = reef.metadata.generation.unwrap_or(0);
    let standings = CONDITIONS.iter().map(|type_| of_parts(*type_, plan, around)).collect();
    let well = "the reef is in service";
    let conditions = standing::conditions(
        Before { was_good: around.was_good, ..before(&old, generation) },
        standings,
        well,
        policy,
        now,
    );
    let status = ReefStatus {
        observed_generation: Some(generation),
        conditions,
        last_handled_reconcile_at: requested(reef),
        ..old
    };
    with_facts(status, inputs, plan, seen, around.in_cluster)
}

fn of_parts(type_: ConditionType, plan: &Plan, around: Around<'_>) -> Standing {
    let Around { in_cluster, held_back, .. } = around;
    let open = |what: &str| {
        let message =
            format!("{what} did not answer several times in a row: calls are held back until it does");
        Verdict::Unknown(Trouble::new(Reason::CircuitOpen, message))
    };
    let providers = held_back.iter().filter(|service| **service != Service::Cluster).map(Service::name);
    let providers = providers.collect::<Vec<_>>().join(", ");
    let (azure, cluster) = (open(&providers), open("the API server of the reef's cluster"));
    let verdicts: Vec<&Verdict> = match type_ {
        ConditionType::AzureReachable => (!providers.is_empty()).then_some(&azure).into_iter().collect(),
        ConditionType::ClusterReachable if held_back.contains(&Service::Cluster) => vec![&cluster],
        ConditionType::ClusterReachable => vec![&in_cluster.objects],
        ConditionType::GatewayReady => vec![&in_cluster.gateway],
        _ => plan.verdicts.iter().filter(|(part, _)| part.condition() == type_).map(|(_, v)| v).collect(),
    };
    standing::standing(type_, &verdicts)
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
