//! Two or three operators that all believe they lead, with old views of the same reefs, in every order of
//! their reads and writes: capacity is never sold twice, and nobody is placed twice (invariant 6).

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    Candidate, Demand, Dimension, Gauge, Group, Instance, Placement, Reservation, Seen, Tier, place, prune,
    reserve,
    world::{GI, account, apart, at, demand, gauge, instance, pool, reef},
};
use crate::observed::Observed;

const GRACE: i64 = 30;

/// An object in an API server.
#[derive(Clone, Debug)]
struct Stored<T> {
    version: u64,
    value: T,
}

/// A CloudInstance: its spec as a demand, and its status.
#[derive(Clone, Debug)]
struct Tenant {
    demand: Demand,
    placement: Option<Placement>,
}

type Reefs = BTreeMap<String, Stored<Candidate>>;
type Tenants = BTreeMap<Instance, Stored<Tenant>>;

/// The management API server, and a clock that moves with each write.
#[derive(Clone, Debug, Default)]
struct World {
    version: u64,
    reefs: Reefs,
    tenants: Tenants,
}

/// In which order an operator reads before it reserves. Only the first is right.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    ReefFirst,
    InstancesFirst,
}

/// What an operator is about to do.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "three of them live at a time")]
enum Goal {
    /// Reserve this placement for a demand made from this version of the instance.
    Reserve { demand: Demand, version: u64, placement: Placement },
    /// Drop reservations of a reef.
    Prune,
}

#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "three of them live at a time")]
enum Job {
    /// Reads the reef and the instances, then writes the reef.
    Reservations { goal: Goal, reef: String, read: Option<Stored<Candidate>>, list: Option<Tenants> },
    /// Writes the instance's status.
    Status { demand: Demand, version: u64, placement: Placement },
}

#[derive(Clone, Default)]
struct Operator {
    reefs: Reefs,
    tenants: Tenants,
    job: Option<Job>,
}

/// What happens next. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
enum Tick {
    SyncReefs(usize),
    SyncTenants(usize),
    Begin(usize, usize),
    Prune(usize, usize),
    Advance(usize),
    /// The operator forgets all but its caches: another takes its place.
    Crash(usize),
    /// A spec that is not placed yet is edited.
    Edit(usize),
    /// An instance is deleted and made again under its name.
    Recreate(usize),
    Cordon(usize),
    Doom(usize),
}

/// A reef with what the statuses of these instances say is on it.
fn counted(reef: &Candidate, tenants: &Tenants) -> Candidate {
    let mut seen = reef.clone();
    let here = |t: &&Stored<Tenant>| t.value.placement.as_ref().is_some_and(|p| p.reef == reef.name);
    for Tenant { demand, placement } in tenants.values().filter(here).map(|t| &t.value) {
        let placement = placement.as_ref().unwrap();
        for (dimension, gauge) in &mut seen.room {
            gauge.used += demand.ask.needs(*dimension);
        }
        for pool in seen.pools.iter_mut().filter(|p| Some(&p.name) == placement.pool.as_ref()) {
            pool.databases.as_mut().unwrap().used += 1;
            pool.storage.as_mut().unwrap().used += demand.ask.size.database;
        }
        for account in seen.accounts.iter_mut().filter(|a| a.name == placement.account) {
            account.shares.as_mut().unwrap().used += 1;
            account.storage.used += demand.ask.size.share;
        }
        seen.groups.extend(demand.group());
        seen.holds_dedicated |= demand.ask.tiers.reef == Tier::Dedicated;
        seen.counted.insert(demand.instance.clone());
    }
    seen
}

impl World {
    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn edit_tenant(&mut self, which: usize, change: impl Fn(&mut Tenant, u64)) {
        let version = self.next();
        let count = self.tenants.len();
        let stored = self.tenants.values_mut().nth(which % count).unwrap();
        change(&mut stored.value, version);
        stored.version = version;
    }

    fn edit_reef(&mut self, which: usize, change: impl Fn(&mut Candidate)) {
        let version = self.next();
        let count = self.reefs.len();
        let stored = self.reefs.values_mut().nth(which % count).unwrap();
        change(&mut stored.value);
        stored.version = version;
    }

    fn now(&self) -> i64 {
        i64::try_from(self.version).unwrap()
    }

    /// Replaces the reservations of a reef, unless it was changed since it was read.
    fn write_reservations(&mut self, read: &Stored<Candidate>, list: Vec<Reservation>) -> bool {
        let version = self.next();
        let stored = self.reefs.get_mut(&read.value.name).unwrap();
        let current = stored.version == read.version;
        if current && stored.value.reservations != list {
            *stored = Stored { version, value: Candidate { reservations: list, ..stored.value.clone() } };
        }
        current
    }

    fn write_status(&mut self, demand: &Demand, read: u64, placement: Placement) {
        let version = self.next();
        let stored = self.tenants.get_mut(&demand.instance).unwrap();
        if stored.version == read {
            assert_eq!(stored.value.placement, None, "placed twice");
            *stored =
                Stored { version, value: Tenant { placement: Some(placement), ..stored.value.clone() } };
        }
    }

    /// All promised or used amounts against the hard limits, counted without the code under test.
    fn check(&self) -> Result<(), String> {
        for Stored { value: reef, .. } in self.reefs.values() {
            // Who is or is about to be here: namely in which pool and account.
            let mut here: Vec<Here<'_>> = Vec::new();
            for tenant in self.tenants.values().map(|t| &t.value) {
                if let Some(p) = tenant.placement.as_ref().filter(|p| p.reef == reef.name) {
                    here.push((&tenant.demand, p.pool.clone(), p.account.clone()));
                }
            }
            let placed: BTreeSet<_> = here.iter().map(|(d, ..)| d.instance.clone()).collect();
            let pending = reef.reservations.iter().filter(|r| !placed.contains(&r.instance));
            let promised: Vec<_> =
                pending.map(|r| (as_demand(r), r.pool.clone(), r.account.clone())).collect();
            here.extend(promised.iter().map(|(d, pool, account)| (d, pool.clone(), account.clone())));
            check_reef(reef, &here)?;
        }
        Ok(())
    }
}

fn as_demand(reservation: &Reservation) -> Demand {
    Demand { instance: reservation.instance.clone(), ask: reservation.ask.clone(), ..demand("") }
}

fn seen(stored: &Stored<Tenant>) -> Observed<Seen> {
    let Tenant { demand, placement } = &stored.value;
    let (claim, placement) = (demand.claim.clone(), placement.clone());
    Observed::Present(Seen { claim, revision: demand.revision, placement })
}

type Here<'a> = (&'a Demand, Option<String>, String);

fn check_reef(reef: &Candidate, here: &[Here<'_>]) -> Result<(), String> {
    let within = |what: &str, gauge: Gauge, used: u64| {
        let sold = gauge.used + used;
        if sold <= gauge.limit { Ok(()) } else { Err(format!("{} {what}: {sold} sold", reef.name)) }
    };
    within("instances", reef.room[&Dimension::Instances], here.len() as u64)?;
    within("cpu", reef.room[&Dimension::Cpu], here.iter().map(|(d, ..)| d.ask.size.cpu).sum())?;
    for pool in &reef.pools {
        let inside: Vec<_> = here.iter().filter(|(_, p, _)| p.as_ref() == Some(&pool.name)).collect();
        within("databases", pool.databases.unwrap(), inside.len() as u64)?;
        let bytes = inside.iter().map(|(d, ..)| d.ask.size.database).sum();
        within("database storage", pool.storage.unwrap(), bytes)?;
    }
    for account in &reef.accounts {
        let inside: Vec<_> = here.iter().filter(|(.., a)| *a == account.name).collect();
        within("shares", account.shares.unwrap(), inside.len() as u64)?;
        within("share storage", account.storage, inside.iter().map(|(d, ..)| d.ask.size.share).sum())?;
    }
    let groups: Vec<Group> = here.iter().filter_map(|(d, ..)| d.group()).collect();
    if groups.iter().collect::<BTreeSet<_>>().len() < groups.len() {
        return Err(format!("{}: two of one group", reef.name));
    }
    let alone = here.iter().any(|(d, ..)| d.ask.tiers.reef == Tier::Dedicated);
    if alone && reef.dedicated_to.is_none() {
        return Err(format!("{}: a dedicated reef is for everybody", reef.name));
    }
    if reef.reservations.len() > super::MAX_RESERVATIONS {
        return Err(format!("{}: too many reservations", reef.name));
    }
    Ok(())
}

impl Operator {
    /// Decides by its own, perhaps old, view.
    fn begin(&mut self, which: usize) {
        let Some(stored) = self.tenants.values().nth(which % self.tenants.len().max(1)) else { return };
        if self.job.is_some() || stored.value.placement.is_some() {
            return;
        }
        let (demand, version) = (stored.value.demand.clone(), stored.version);
        let reefs: Vec<_> = self.reefs.values().map(|r| counted(&r.value, &self.tenants)).collect();
        let Some(chosen) = place(&demand, &reefs).chosen else { return };
        let (reserved, placement) = (chosen.is_reserved(), chosen.placement);
        let reef = placement.reef.clone();
        self.job = Some(if reserved {
            Job::Status { demand, version, placement }
        } else {
            let goal = Goal::Reserve { demand, version, placement };
            Job::Reservations { goal, reef, read: None, list: None }
        });
    }

    fn advance(&mut self, world: &mut World, order: Order) {
        match self.job.take() {
            None => {}
            Some(Job::Status { demand, version, placement }) => {
                world.write_status(&demand, version, placement);
            }
            Some(Job::Reservations { goal, reef, read, list }) => match (read, list) {
                (Some(read), Some(list)) => self.write(world, goal, &read, &list),
                (read, list) => {
                    let reef_now = read.is_none() && (order == Order::ReefFirst || list.is_some());
                    let read = if reef_now { Some(world.reefs[&reef].clone()) } else { read };
                    let list = if reef_now { list } else { Some(world.tenants.clone()) };
                    self.job = Some(Job::Reservations { goal, reef, read, list });
                }
            },
        }
    }

    fn write(&mut self, world: &mut World, goal: Goal, read: &Stored<Candidate>, list: &Tenants) {
        match goal {
            Goal::Reserve { demand, version, placement } => {
                let fresh = counted(&read.value, list);
                let own = seen(&list[&demand.instance]);
                if let Ok(list) = reserve(&demand, &fresh, &own, &placement, at(world.now()))
                    && world.write_reservations(read, list)
                {
                    self.job = Some(Job::Status { demand, version, placement });
                }
            }
            Goal::Prune => {
                let seen = list.iter().map(|(instance, stored)| (instance.clone(), seen(stored)));
                let stays = prune(&read.value.reservations, &seen.collect(), at(world.now()), GRACE);
                world.write_reservations(read, stays);
            }
        }
    }

    fn begin_prune(&mut self, world: &World, which: usize) {
        let reef = world.reefs.keys().nth(which % world.reefs.len()).cloned();
        if self.job.is_none() {
            self.job = reef.map(|reef| Job::Reservations { goal: Goal::Prune, reef, read: None, list: None });
        }
    }
}

fn tick(world: &mut World, operators: &mut [Operator], order: Order, tick: Tick) {
    let count = operators.len();
    match tick {
        Tick::SyncReefs(o) => operators[o % count].reefs = world.reefs.clone(),
        Tick::SyncTenants(o) => operators[o % count].tenants = world.tenants.clone(),
        Tick::Begin(o, which) => operators[o % count].begin(which),
        Tick::Prune(o, which) => operators[o % count].begin_prune(world, which),
        Tick::Advance(o) => operators[o % count].advance(world, order),
        Tick::Crash(o) => operators[o % count].job = None,
        Tick::Edit(which) => world.edit_tenant(which, |tenant, _| {
            if tenant.placement.is_none() {
                tenant.demand.ask.size.share += 10 * GI;
                tenant.demand.revision += 1;
            }
        }),
        Tick::Recreate(which) => world.edit_tenant(which, |tenant, version| {
            tenant.placement = None;
            tenant.demand.claim = format!("uid-{version}");
        }),
        Tick::Cordon(which) => world.edit_reef(which, |reef| {
            reef.cordoned = !reef.cordoned;
        }),
        Tick::Doom(which) => world.edit_reef(which, |reef| reef.deleting = true),
    }
}

/// One operator alone, with a view of what is: the leader after the storm.
fn calm(world: &mut World) {
    world.version += 1000;
    let mut leader = [Operator::default()];
    for _ in 0..4 {
        for which in 0..world.tenants.len() {
            for step in [Tick::SyncReefs(0), Tick::SyncTenants(0), Tick::Begin(0, which)] {
                tick(world, &mut leader, Order::ReefFirst, step);
            }
            (0..4).for_each(|_| tick(world, &mut leader, Order::ReefFirst, Tick::Advance(0)));
        }
        for which in 0..world.reefs.len() {
            tick(world, &mut leader, Order::ReefFirst, Tick::Prune(0, which));
            (0..3).for_each(|_| tick(world, &mut leader, Order::ReefFirst, Tick::Advance(0)));
        }
    }
}

fn small_reef(name: &str, instances: u64, databases: u64, shares: u64) -> Candidate {
    let mut reef = reef(name);
    reef.room.insert(Dimension::Instances, gauge(instances, 0));
    reef.pools = vec![pool("pool-1", databases, 0), pool("pool-2", 1, 0)];
    reef.accounts = vec![account("st1", shares, 0), account("st2", 1, 0)];
    reef
}

fn world_of(reefs: impl IntoIterator<Item = Candidate>, demands: impl IntoIterator<Item = Demand>) -> World {
    let stored = |value| Stored { version: 0, value };
    let reefs = reefs.into_iter().map(|r| (r.name.clone(), stored(r))).collect();
    let tenants = demands.into_iter().map(|demand| {
        (demand.instance.clone(), Stored { version: 0, value: Tenant { demand, placement: None } })
    });
    World { version: 0, reefs, tenants: tenants.collect() }
}

fn worlds() -> impl Strategy<Value = World> {
    let reefs = prop::collection::vec((1u64..5, 1u64..4, 1u64..4, any::<bool>()), 1..4);
    let demands = prop::collection::vec((0u8..8, 1u64..30), 2..8);
    (reefs, demands).prop_map(|(reefs, demands)| {
        let reefs = reefs.into_iter().enumerate().map(|(n, (i, d, s, kept))| {
            let dedicated_to = kept.then(|| ["tenant".to_owned()].into());
            Candidate { dedicated_to, ..small_reef(&format!("r{n}"), i, d, s) }
        });
        let demands = demands.into_iter().enumerate().map(|(n, (kind, cpu))| {
            let mut demand = demand(&format!("i{n}"));
            demand.ask.size.cpu = cpu * 1000;
            match kind {
                0 => demand.ask.tiers.reef = Tier::Dedicated,
                1 => demand.ask.tiers.database = Tier::Dedicated,
                2 | 3 => return apart(demand, "blue"),
                _ => {}
            }
            demand
        });
        world_of(reefs, demands)
    })
}

fn ticks() -> impl Strategy<Value = Tick> {
    prop_oneof![
        4 => any::<usize>().prop_map(Tick::SyncReefs),
        4 => any::<usize>().prop_map(Tick::SyncTenants),
        12 => any::<(usize, usize)>().prop_map(|(o, i)| Tick::Begin(o, i)),
        4 => any::<(usize, usize)>().prop_map(|(o, r)| Tick::Prune(o, r)),
        30 => any::<usize>().prop_map(Tick::Advance),
        2 => any::<usize>().prop_map(Tick::Crash),
        4 => any::<usize>().prop_map(Tick::Edit),
        1 => any::<usize>().prop_map(Tick::Recreate),
        1 => any::<usize>().prop_map(Tick::Cordon),
        1 => (0usize..30).prop_map(|n| if n == 0 { Tick::Doom(n) } else { Tick::Crash(n) }),
    ]
}

/// What each instance without a placement was promised for its present spec, where that still stands.
fn promises(world: &World) -> BTreeMap<Instance, Placement> {
    let open = world.tenants.iter().filter(|(_, t)| t.value.placement.is_none());
    let promised = open.filter_map(|(instance, tenant)| {
        let demand = &tenant.value.demand;
        let reefs = world.reefs.values().map(|r| &r.value).filter(|r| !r.deleting);
        let made = reefs.flat_map(|reef| reef.reservations.iter().map(move |held| (reef, held)));
        let mine = made.filter(|(_, r)| {
            r.instance == *instance
                && r.claim == demand.claim
                && r.revision == demand.revision
                && r.generation == 1
        });
        let (reef, held) = mine.min_by_key(|(reef, held)| (held.at, reef.name.clone()))?;
        let (pool, account) = (held.pool.clone(), held.account.clone());
        Some((instance.clone(), Placement { reef: reef.name.clone(), pool, account, generation: 1 }))
    });
    promised.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn capacity_is_never_sold_twice(mut world in worlds(), operators in 2usize..4, schedule in prop::collection::vec(ticks(), 0..250)) {
        let start = Operator { reefs: world.reefs.clone(), tenants: world.tenants.clone(), job: None };
        let mut operators = vec![start; operators];
        for step in schedule {
            tick(&mut world, &mut operators, Order::ReefFirst, step);
            prop_assert_eq!(world.check(), Ok(()), "after {:?}", step);
        }
        let promised = promises(&world);
        calm(&mut world);
        prop_assert_eq!(world.check(), Ok(()));
        for (instance, placement) in promised {
            prop_assert_eq!(world.tenants[&instance].value.placement.as_ref(), Some(&placement));
        }
        // All that fit are placed, and nothing stays promised; see `prune` for reefs that are being deleted.
        let reefs: Vec<_> = world.reefs.values().map(|r| counted(&r.value, &world.tenants)).collect();
        prop_assert!(reefs.iter().all(|r| r.reservations.is_empty() || r.deleting));
        for tenant in world.tenants.values().filter(|t| t.value.placement.is_none()) {
            prop_assert!(place(&tenant.value.demand, &reefs).chosen.is_none());
        }
    }
}

/// One place, two operators: the first places, writes the status and drops the reservation while the second is
/// between its two reads.
fn last_place(order: Order) -> Result<(), String> {
    let mut reef = small_reef("r", 1, 1, 1);
    (reef.pools, reef.accounts) = (vec![pool("pool-1", 1, 0)], vec![account("st1", 1, 0)]);
    let mut world = world_of([reef], [demand("a"), demand("b")]);
    let start = Operator { reefs: world.reefs.clone(), tenants: world.tenants.clone(), job: None };
    let mut operators = [start.clone(), start];
    let mut schedule = vec![Tick::Begin(1, 1), Tick::Advance(1), Tick::Begin(0, 0)];
    schedule.extend([Tick::Advance(0); 4]);
    schedule.push(Tick::Prune(0, 0));
    schedule.extend([Tick::Advance(0); 3]);
    schedule.extend([Tick::Advance(1); 3]);
    for step in schedule {
        tick(&mut world, &mut operators, order, step);
    }
    assert!(world.tenants[&instance("a")].value.placement.is_some());
    world.check()
}

#[test]
fn the_order_of_the_two_reads_matters() {
    assert_eq!(last_place(Order::ReefFirst), Ok(()));
    assert!(last_place(Order::InstancesFirst).is_err(), "the check would not see a place sold twice");
}
