//! Reefs and instances for the tests.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    Account, Ask, Candidate, Demand, Dimension, Gauge, Instance, Placement, Pool, Readiness, Reservation,
    Seen, Size, Tiers,
};
use crate::observed::Observed;

pub(super) const GI: u64 = 1024 * 1024 * 1024;
pub(super) const REGION: &str = "westeurope";

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(super) fn instance(name: &str) -> Instance {
    Instance { namespace: "tenant".to_owned(), name: name.to_owned() }
}

pub(super) fn gauge(limit: u64, used: u64) -> Gauge {
    Gauge { limit, used }
}

/// A small instance: task cap 5.
pub(super) fn size() -> Size {
    Size { pods: 1, cpu: 150, memory: 3 * GI / 2, database: 5 * GI, share: 50 * GI }
}

pub(super) fn demand(name: &str) -> Demand {
    Demand {
        instance: instance(name),
        claim: format!("uid-{name}"),
        revision: 1,
        generation: 1,
        region: REGION.to_owned(),
        ask: Ask { size: size(), tiers: Tiers::default(), anti_affinity: None },
        reef: None,
        labels: BTreeMap::new(),
        refused_on: BTreeSet::new(),
    }
}

pub(super) fn pool(name: &str, databases: u64, used: u64) -> Pool {
    Pool {
        name: name.to_owned(),
        ready: true,
        capacity: 100_000,
        guarantee: 0,
        databases: Some(gauge(databases, used)),
        storage: Some(gauge(1000 * GI, 5 * GI * used)),
    }
}

pub(super) fn account(name: &str, shares: u64, used: u64) -> Account {
    Account {
        name: name.to_owned(),
        ready: true,
        shares: Some(gauge(shares, used)),
        storage: gauge(5120 * GI, 50 * GI * used),
    }
}

/// An empty reef in service.
pub(super) fn reef(name: &str) -> Candidate {
    let room = [
        (Dimension::Instances, gauge(300, 0)),
        (Dimension::Identities, gauge(800, 0)),
        (Dimension::Databases, gauge(5000, 0)),
        (Dimension::Pods, gauge(1000, 0)),
        (Dimension::Cpu, gauge(64_000, 0)),
        (Dimension::Memory, gauge(256 * GI, 0)),
    ];
    Candidate {
        name: name.to_owned(),
        labels: labels("ring", "late"),
        ready: Readiness::Ready,
        room: BTreeMap::from(room),
        reserve_percent: 10,
        pools: vec![pool("pool-1", 100, 0)],
        accounts: vec![account("st1", 50, 0)],
        ..Candidate::default()
    }
}

/// The reef with this many of something used.
pub(super) fn used(mut reef: Candidate, dimension: Dimension, amount: u64) -> Candidate {
    reef.room.get_mut(&dimension).unwrap().used = amount;
    reef
}

pub(super) fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

/// The demand, apart from others of a group.
pub(super) fn apart(mut demand: Demand, group: &str) -> Demand {
    demand.ask.anti_affinity = Some(group.to_owned());
    demand
}

/// What `demand` was promised in the first pool and account of a reef.
pub(super) fn reservation(demand: &Demand, second: i64) -> Reservation {
    Reservation {
        instance: demand.instance.clone(),
        claim: demand.claim.clone(),
        revision: demand.revision,
        generation: demand.generation,
        pool: Some("pool-1".to_owned()),
        account: "st1".to_owned(),
        ask: demand.ask.clone(),
        at: at(second),
    }
}

/// The instance of a demand as it was when the demand was made.
pub(super) fn seen(demand: &Demand, placement: Option<Placement>) -> Observed<Seen> {
    Observed::Present(Seen { claim: demand.claim.clone(), revision: demand.revision, placement })
}

pub(super) fn placement(reef: &str) -> Placement {
    Placement {
        reef: reef.to_owned(),
        pool: Some("pool-1".to_owned()),
        account: "st1".to_owned(),
        generation: 1,
    }
}
