//! Reaches a reef's cluster, once it is there, and keeps in it what the operator keeps there.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use reef_crds::condition::Reason;
use tokio::time::timeout;

use super::{
    bodies::{AKS_API, Inputs},
    in_cluster::{self, InCluster},
    keys, manifests,
    parts::Part,
    plan::is_claimed,
    references::{self, References},
};
use crate::{
    cluster::guard::guarded,
    controller::{Context, stop::Ban, trouble::Trouble},
    observed::Observed,
    resources::{Seen, Verdict},
};

/// How long a look at the reef's cluster may take, and how long its keys.
const LONGEST_IN_CLUSTER: Duration = Duration::from_secs(30);

/// What the operator keeps in the cluster, if there is one.
pub async fn cluster(
    context: &Context,
    inputs: &Inputs,
    (references, ban): (&References, &Ban),
    seen: &BTreeMap<Part, Seen>,
) -> InCluster {
    let present = |part: Part| match seen.get(&part).map(|s| &s.state) {
        Some(Observed::Present(value)) => Some(value),
        _ => None,
    };
    if let Some(blind) = blind(seen) {
        return blind;
    }
    if !is_claimed(inputs, seen) {
        return InCluster::waiting("the resource group");
    }
    let cluster = present(Part::Cluster);
    let host = cluster.and_then(|c| c["properties"]["fqdn"].as_str());
    let made = cluster.is_some_and(|c| c["properties"]["oidcIssuerProfile"]["issuerURL"].is_string());
    let (Some(host), true, Some(_)) = (host, made, present(Part::ClusterAdmin)) else {
        return InCluster::waiting("the AKS cluster");
    };
    let id = inputs.id(Part::Cluster);
    let connected = match context.clusters.get(&references.arm, &id, AKS_API, host).await {
        Ok(connected) => connected,
        Err(error) => {
            let trouble = Trouble::new(Reason::ClusterUnreachable, error.to_string());
            return InCluster::trouble(Verdict::Unknown(trouble));
        }
    };
    let client = guarded(connected.client, ban);
    let certificate = references::certificate(context, &references.region, Timestamp::now()).await;
    let agent = present(Part::AgentIdentity).and_then(|a| a["properties"]["clientId"].as_str());
    // One that cannot be seen now is the one that it was: without it the agent could not do its work.
    let agent = agent.or(inputs.agent_client.as_deref());
    let manifests = manifests::all(&manifests::Inputs {
        fleet: &inputs.fleet,
        reef: &inputs.reef,
        agent_client: agent,
        zone: references.region.spec.dns.zone_name(),
        azure_ca: context.azure_ca.as_deref(),
        gateway_class: &inputs.class.cluster.gateway_class_name,
        certificate: certificate.as_ref(),
    });
    let late = |what: &str, reason| {
        let message = format!("{what} within {} s", LONGEST_IN_CLUSTER.as_secs());
        Verdict::Unknown(Trouble::new(reason, message))
    };
    let keep = in_cluster::keep(context, &client, &manifests);
    let found = timeout(LONGEST_IN_CLUSTER, keep).await.unwrap_or_else(|_| {
        InCluster::trouble(late("the reef's API server did not answer", Reason::ClusterUnreachable))
    });
    match &found.objects {
        Verdict::Good => context.clusters.trust(&id),
        Verdict::Unknown(_) => context.clusters.doubt(&id),
        _ => {}
    }
    if found.objects != Verdict::Good {
        return found;
    }
    // What Azure says of keys puts no connection in doubt.
    let keys = keys::keep(context, (&references.arm, &client), inputs, seen);
    let objects = timeout(LONGEST_IN_CLUSTER, keys).await;
    let objects = objects
        .unwrap_or_else(|_| late("the keys of the storage accounts did not come", Reason::AzureUnavailable));
    InCluster { objects, ..found }
}

/// Nothing is done in a cluster while it is not known whether it is there and ours.
fn blind(seen: &BTreeMap<Part, Seen>) -> Option<InCluster> {
    [Part::Group, Part::Cluster, Part::ClusterAdmin].into_iter().find_map(|part| {
        let Some(Seen { state: Observed::Unknown(why), blind, .. }) = seen.get(&part) else { return None };
        let reason = blind.unwrap_or(why.reason);
        let message = format!("{} is not known: {why}", part.what());
        Some(InCluster::trouble(Verdict::Unknown(Trouble::new(reason, message))))
    })
}
