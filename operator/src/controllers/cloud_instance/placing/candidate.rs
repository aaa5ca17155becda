//! A reef as the allocator sees it (pure).

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use reef_crds::{
    Reef, ReefClassSpec,
    condition::{ConditionType, true_since},
    quantity,
    reef::{PartStatus, ReefStatus, Scheduling},
    reef_class::PoolClass,
};

use super::{reservations, used::Used, vm_sizes};
use crate::placement::{
    self, Account, BYTES_PER_ACCOUNT, Candidate, DATABASES_PER_SERVER, Dimension, Gauge,
    IDENTITIES_PER_GROUP, Pool, Readiness,
};

/// A reservation whose instance is gone is given up after this, seconds.
const GRACE_SECONDS: i64 = 600;

/// Identities in a reef's resource group that are the reef's own: the agent's and the cluster's.
const OWN_IDENTITIES: u64 = 2;

/// The reef, the revision of its class if that could be read, and what is on all reefs. The reef was read before
/// what is on it.
pub fn candidate(reef: &Reef, class: Option<&ReefClassSpec>, used: &Used, now: Timestamp) -> Candidate {
    let status = reef.status.clone().unwrap_or_default();
    let kept: Vec<_> = status.reservations.iter().map(reservations::read).collect();
    let mut candidate = Candidate {
        name: reef.name_any(),
        labels: reef.labels().clone(),
        ready: ready(&status),
        deleting: reef.metadata.deletion_timestamp.is_some(),
        cordoned: reef.spec.scheduling == Scheduling::Cordoned,
        dedicated_to: reef
            .spec
            .dedicated_to
            .as_ref()
            .map(|to| to.namespaces.iter().map(|namespace| namespace.0.clone()).collect()),
        room: room(class),
        reserve_percent: class.map_or(0, |class| class.capacity.reserve_percent),
        pools: status.pools.iter().map(|part| pool(part, class.map(|class| &class.sql.pool))).collect(),
        accounts: status.storage_accounts.iter().map(|part| account(part, class)).collect(),
        reservations: placement::prune(&kept, &used.seen_of(&kept), now, GRACE_SECONDS),
        ..Candidate::default()
    };
    used.count_on(&mut candidate);
    candidate
}

fn ready(status: &ReefStatus) -> Readiness {
    let find = |type_: ConditionType| status.conditions.iter().find(|c| c.type_ == type_.as_str());
    if true_since(&status.conditions, ConditionType::Ready).is_some() {
        // It serves those that are there, and nobody new can be made in its cluster.
        let lost = find(ConditionType::ClusterReachable).filter(|c| c.status != "True");
        return lost.map_or(Readiness::Ready, |c| Readiness::NotReady(c.reason.clone()));
    }
    let condition = find(ConditionType::Ready);
    Readiness::NotReady(condition.map_or_else(|| "not looked at yet".to_owned(), |c| c.reason.clone()))
}

fn empty(limit: u64) -> Gauge {
    Gauge { limit, used: 0 }
}

/// What there is. What follows from a class that is not known is not known.
fn room(class: Option<&ReefClassSpec>) -> BTreeMap<Dimension, Gauge> {
    let mut room = BTreeMap::from([
        (Dimension::Identities, Gauge { limit: IDENTITIES_PER_GROUP, used: OWN_IDENTITIES }),
        (Dimension::Databases, empty(DATABASES_PER_SERVER)),
    ]);
    if let Some(class) = class {
        room.insert(Dimension::Instances, empty(u64::from(class.capacity.max_instances)));
        let nodes = vm_sizes::room(&class.cluster.node_pools);
        room.insert(Dimension::Pods, empty(nodes.pods));
        let known = [(Dimension::Cpu, nodes.cpu), (Dimension::Memory, nodes.memory)];
        room.extend(known.into_iter().filter_map(|(dimension, limit)| Some((dimension, empty(limit?)))));
    }
    room
}

fn pool(part: &PartStatus, class: Option<&PoolClass>) -> Pool {
    let bytes = |class: &PoolClass| u64::try_from(quantity::bytes(&class.max_size.as_ref()?.0)?).ok();
    Pool {
        name: part.name.clone(),
        ready: part.ready,
        capacity: class.map_or(0, |class| u64::from(class.capacity) * 1000),
        guarantee: class.map_or(0, |class| thousandths(&class.per_database.min.0)),
        databases: class.map(|class| empty(u64::from(class.max_databases))),
        storage: class.and_then(bytes).map(empty),
    }
}

fn account(part: &PartStatus, class: Option<&ReefClassSpec>) -> Account {
    Account {
        name: part.name.clone(),
        ready: part.ready,
        shares: class.map(|class| empty(u64::from(class.storage.shares_per_account))),
        storage: empty(BYTES_PER_ACCOUNT),
    }
}

/// A quantity in thousandths, rounded up. The schema takes no negative one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from float saturates, and a guarantee that is too large refuses"
)]
fn thousandths(text: &str) -> u64 {
    quantity::number(text).map_or(0, |number| (number * 1000.0).ceil() as u64)
}
