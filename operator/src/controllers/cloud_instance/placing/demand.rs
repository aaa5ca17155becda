//! What an instance asks for, from its spec (pure).

use jiff::Timestamp;
use kube::ResourceExt;
use reef_crds::{
    CloudInstance,
    cloud_instance::{self, DatabaseIsolation, PlacementStatus, Quota},
    quantity,
};

use super::super::sizes;
use crate::placement::{Ask, Demand, Instance, Placement, Seen, Size, Tier, Tiers};

/// Nodes of a server.
const NODES: u64 = 1;

/// Who it is.
pub fn who(instance: &CloudInstance) -> Instance {
    Instance { namespace: instance.namespace().unwrap_or_default(), name: instance.name_any() }
}

/// How long an instance is not placed again where Azure had no room for it, seconds.
const REFUSED_SECONDS: i64 = 1800;

/// What it asks for, for its first placement, or the next after those that were given up.
pub fn demand(instance: &CloudInstance, now: Timestamp) -> Demand {
    let refused_on = instance.status.as_ref().map(|s| s.refused_on.as_slice()).unwrap_or_default();
    let is_recent = |at: Timestamp| now.as_second() - at.as_second() < REFUSED_SECONDS;
    let wishes = instance.spec.placement.clone().unwrap_or_default();
    Demand {
        instance: who(instance),
        claim: instance.uid().unwrap_or_default(),
        revision: instance.metadata.generation.unwrap_or(0),
        generation: 1 + refused_on.iter().map(|refused| refused.generation).max().unwrap_or(0),
        region: instance.spec.region_ref.name.clone(),
        ask: ask(instance),
        reef: wishes.reef_ref.map(|reference| reference.name),
        labels: wishes.reef_selector.map(|selector| selector.match_labels).unwrap_or_default(),
        refused_on: { refused_on.iter() }.filter(|r| is_recent(r.at.0)).map(|r| r.reef.clone()).collect(),
    }
}

/// What it uses up where it is.
pub fn ask(instance: &CloudInstance) -> Ask {
    let spec = &instance.spec;
    let size = sizes::of(spec.task_cap);
    let data = kept(&spec.quota, &spec.isolation.database);
    Ask {
        size: Size {
            pods: NODES,
            cpu: NODES * u64::from(size.cpu_request),
            memory: NODES * (u64::from(size.memory_request) << 20),
            ..data.size
        },
        tiers: Tiers { reef: tier(spec.isolation.reef.tier), ..data.tiers },
        anti_affinity: spec.placement.as_ref().and_then(|p| p.anti_affinity_group.clone()),
    }
}

/// What its data uses up, also when it is gone.
pub fn kept(quota: &Quota, database: &DatabaseIsolation) -> Ask {
    // A quantity that cannot be read is made as 1 GiB, see `references`.
    let bytes = |text: &str| quantity::bytes(text).and_then(|n| u64::try_from(n).ok()).unwrap_or(1 << 30);
    Ask {
        size: Size { database: bytes(&quota.database.0), share: bytes(&quota.share.0), ..Size::default() },
        tiers: Tiers { database: tier(database.tier), ..Tiers::default() },
        anti_affinity: None,
    }
}

fn tier(tier: cloud_instance::Tier) -> Tier {
    match tier {
        cloud_instance::Tier::Shared => Tier::Shared,
        cloud_instance::Tier::Dedicated => Tier::Dedicated,
    }
}

/// The instance as far as its reservation is concerned.
pub fn seen(instance: &CloudInstance) -> Seen {
    Seen {
        claim: instance.uid().unwrap_or_default(),
        revision: instance.metadata.generation.unwrap_or(0),
        placement: instance.status.as_ref().and_then(|s| s.placement.as_ref()).map(placement),
    }
}

/// A placement as the allocator knows it.
pub fn placement(status: &PlacementStatus) -> Placement {
    Placement {
        reef: status.reef.clone(),
        pool: status.pool.clone(),
        account: status.storage_account.clone(),
        generation: status.generation,
    }
}
