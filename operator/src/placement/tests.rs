//! Placement: each verdict alone, and each thing that decides between reefs that fit.

use std::collections::BTreeSet;

use super::{
    Candidate, Demand, Dimension, Group, Lack, MAX_RESERVATIONS, Readiness, Refusal, Tier, Why, place,
    verdict,
    world::{GI, account, apart, demand, gauge, instance, labels, pool, reef, reservation, used},
};

type Change = fn(&mut Demand, &mut Candidate);

/// All that speaks against a reef after a change to it or to the demand.
fn refusals(change: Change) -> Vec<Refusal> {
    let (mut demand, mut reef) = (demand("a"), reef("r"));
    change(&mut demand, &mut reef);
    let verdict = verdict(&demand, &reef);
    assert_eq!(verdict.offer.is_some(), verdict.refusals.is_empty());
    verdict.refusals
}

fn kept_for(name: &str) -> BTreeSet<String> {
    BTreeSet::from([name.to_owned()])
}

fn group(namespace: &str) -> Group {
    Group { namespace: namespace.to_owned(), name: "blue".to_owned() }
}

#[test]
fn an_instance_fits_on_an_empty_reef() {
    let decision = place(&demand("a"), &[reef("r")]);
    let chosen = decision.chosen.unwrap();
    assert_eq!(chosen.placement, super::world::placement("r"));
    assert_eq!(chosen.why, Why::OnlyOne);
    assert!(!chosen.is_reserved());
    assert!(place(&demand("a"), &[]).chosen.is_none());
}

#[test]
fn a_reef_that_is_not_described_takes_nobody() {
    let unknown = Candidate { name: "r".to_owned(), ..Candidate::default() };
    assert_eq!(verdict(&demand("a"), &unknown).refusals, [Refusal::NotReady("Unknown".to_owned())]);
    let ready = Candidate { ready: Readiness::Ready, ..unknown };
    let refusals = verdict(&demand("a"), &ready).refusals;
    for dimension in Dimension::OF_REEF {
        assert!(refusals.contains(&Refusal::Lacks(Lack::Unknown(dimension))), "{dimension}");
    }
    assert!(refusals.contains(&Refusal::NoPool(vec![])) && refusals.contains(&Refusal::NoAccount(vec![])));
}

#[test]
fn state_and_wishes_each_refuse_alone() {
    let cases: [(Change, Refusal); 9] = [
        (|d, _| d.reef = Some("other".to_owned()), Refusal::NotAskedFor),
        (|d, _| d.labels = labels("ring", "early"), Refusal::NotSelected),
        (|_, r| r.deleting = true, Refusal::Deleting),
        (|d, r| d.refused_on.extend([r.name.clone()]), Refusal::NoRoomInAzure),
        (|_, r| r.cordoned = true, Refusal::Cordoned),
        (
            |_, r| r.ready = Readiness::NotReady("Provisioning".to_owned()),
            Refusal::NotReady("Provisioning".to_owned()),
        ),
        (|_, r| r.dedicated_to = Some(kept_for("other")), Refusal::KeptForOthers),
        (|_, r| r.dedicated_to = Some(BTreeSet::new()), Refusal::KeptForOthers),
        (
            |d, r| {
                d.generation = 2;
                r.counted.insert(instance("a"));
            },
            Refusal::HoldsIt,
        ),
    ];
    for (change, expect) in cases {
        assert_eq!(refusals(change), [expect]);
    }
}

#[test]
fn wishes_that_are_met_refuse_nothing() {
    let cases: [Change; 4] = [
        |d, _| d.reef = Some("r".to_owned()),
        |d, _| d.labels = labels("ring", "late"),
        |_, r| r.dedicated_to = Some(kept_for("tenant")),
        // Groups of other namespaces are other groups.
        |d, r| {
            *d = apart(d.clone(), "blue");
            r.groups.insert(group("elsewhere"));
        },
    ];
    for change in cases {
        assert_eq!(refusals(change), []);
    }
}

#[test]
fn company_refuses() {
    let cases: [(Change, Refusal); 5] = [
        (
            |d, r| {
                *d = apart(d.clone(), "blue");
                r.groups.insert(group("tenant"));
            },
            Refusal::GroupPresent("blue".to_owned()),
        ),
        (
            |d, r| {
                *d = apart(d.clone(), "blue");
                r.reservations.push(reservation(&apart(demand("b"), "blue"), 0));
            },
            Refusal::GroupPresent("blue".to_owned()),
        ),
        (|d, _| d.ask.tiers.reef = Tier::Dedicated, Refusal::NotDedicated),
        (|_, r| r.holds_dedicated = true, Refusal::HeldAlone),
        (
            |_, r| {
                let mut other = demand("b");
                other.ask.tiers.reef = Tier::Dedicated;
                r.reservations.push(reservation(&other, 0));
            },
            Refusal::HeldAlone,
        ),
    ];
    for (change, expect) in cases {
        assert_eq!(refusals(change), [expect]);
    }
    // A dedicated instance joins its namespace's others on the reef that is kept for them.
    let family: Change = |d, r| {
        d.ask.tiers.reef = Tier::Dedicated;
        r.dedicated_to = Some(kept_for("tenant"));
        r.counted.insert(instance("b"));
        r.holds_dedicated = true;
    };
    assert_eq!(refusals(family), []);
}

#[test]
fn every_limit_of_a_reef_is_hard_and_needed_only_where_it_matters() {
    let demand = demand("a");
    for dimension in Dimension::OF_REEF {
        let need = demand.ask.needs(dimension);
        let limit = reef("r").room[&dimension].limit;
        let verdict_at = |amount| verdict(&demand, &used(reef("r"), dimension, amount)).refusals;
        assert_eq!(verdict_at(limit - need), [], "{dimension}");
        let gauge = gauge(limit, limit - need + 1);
        assert_eq!(verdict_at(gauge.used), [Refusal::Lacks(Lack::Full { dimension, gauge, need })]);
        let mut unknown = reef("r");
        unknown.room.remove(&dimension);
        assert_eq!(verdict(&demand, &unknown).refusals, [Refusal::Lacks(Lack::Unknown(dimension))]);
    }
    // Numbers near the end of their range do not wrap.
    let full = used(reef("r"), Dimension::Memory, u64::MAX);
    assert!(verdict(&demand, &full).offer.is_none());
}

#[test]
fn what_is_dedicated_is_not_taken_from_what_is_shared() {
    let mut demand = demand("a");
    demand.ask.tiers.database = Tier::Dedicated;
    let mut reef = reef("r");
    reef.pools.clear();
    let chosen = place(&demand, &[reef]).chosen.unwrap();
    assert_eq!((chosen.placement.pool, chosen.placement.account.as_str()), (None, "st1"));
}

#[test]
fn a_reef_that_is_not_ready_says_only_that_of_its_own_state() {
    let found = refusals(|_, r| {
        r.ready = Readiness::NotReady("Provisioning".to_owned());
        (r.pools, r.accounts) = (vec![], vec![]);
        r.room.clear();
    });
    assert_eq!(found, [Refusal::NotReady("Provisioning".to_owned())]);
}

#[test]
fn pools_and_accounts_each_say_why_not() {
    let full = |dimension, limit, used, need| Lack::Full { dimension, gauge: gauge(limit, used), need };
    let cases: [(Change, Lack); 5] = [
        (|_, r| r.pools[0].ready = false, Lack::NotReady),
        (|_, r| r.pools[0].databases = Some(gauge(100, 100)), full(Dimension::PoolDatabases, 100, 100, 1)),
        (|_, r| r.pools[0].databases = None, Lack::Unknown(Dimension::PoolDatabases)),
        (
            |_, r| r.pools[0].storage = Some(gauge(7 * GI, 3 * GI)),
            full(Dimension::PoolStorage, 7 * GI, 3 * GI, 5 * GI),
        ),
        (
            |_, r| {
                r.pools[0].guarantee = 10_000;
                r.pools[0].databases = Some(gauge(100, 10));
            },
            full(Dimension::PoolGuarantee, 100_000, 100_000, 10_000),
        ),
    ];
    for (change, lack) in cases {
        assert_eq!(refusals(change), [Refusal::NoPool(vec![("pool-1".to_owned(), vec![lack])])]);
    }
    let cases: [(Change, Lack); 4] = [
        (|_, r| r.accounts[0].ready = false, Lack::NotReady),
        (|_, r| r.accounts[0].shares = Some(gauge(50, 50)), full(Dimension::Shares, 50, 50, 1)),
        (|_, r| r.accounts[0].shares = None, Lack::Unknown(Dimension::Shares)),
        (
            |_, r| r.accounts[0].storage = gauge(60 * GI, 20 * GI),
            full(Dimension::ShareStorage, 60 * GI, 20 * GI, 50 * GI),
        ),
    ];
    for (change, lack) in cases {
        assert_eq!(refusals(change), [Refusal::NoAccount(vec![("st1".to_owned(), vec![lack])])]);
    }
    // A class without a size of its pools sets no limit.
    assert_eq!(refusals(|_, r| r.pools[0].storage = None), []);
}

#[test]
fn all_that_speaks_against_a_reef_is_said() {
    let found = refusals(|d, r| {
        d.reef = Some("other".to_owned());
        r.cordoned = true;
        *r = used(r.clone(), Dimension::Cpu, 64_000);
        r.pools = vec![pool("pool-2", 3, 3), pool("pool-1", 100, 100)];
        r.accounts.clear();
    });
    assert_eq!(found.len(), 5, "{found:?}");
    assert!(matches!(&found[3], Refusal::NoPool(pools) if pools[0].0 == "pool-1" && pools.len() == 2));
}

#[test]
fn reservations_count_as_use_once() {
    let mut full = reef("r");
    full.pools = vec![pool("pool-1", 1, 0)];
    full.reservations.push(reservation(&demand("b"), 0));
    let refused = verdict(&demand("a"), &full).refusals;
    assert!(matches!(&refused[..], [Refusal::NoPool(_)]), "{refused:?}");
    // Its instance is in the numbers by now.
    full.counted.insert(instance("b"));
    assert_eq!(verdict(&demand("a"), &full).refusals, []);
    // Its own, made for an older spec, does not stand in its way.
    full.counted.clear();
    full.reservations = vec![reservation(&demand("a"), 0)];
    let mut changed = demand("a");
    (changed.revision, changed.ask.size.share) = (2, 60 * GI);
    assert_eq!(verdict(&changed, &full).refusals, []);
    // The list is full of others', also of those counted already.
    let mut busy = reef("r");
    for n in 0..MAX_RESERVATIONS {
        let other = demand(&format!("b{n}"));
        busy.counted.insert(other.instance.clone());
        busy.reservations.push(reservation(&other, 0));
    }
    assert_eq!(verdict(&demand("a"), &busy).refusals, [Refusal::TooManyReservations]);
}

/// Which of two reefs is chosen and why, after a change to both; `a` is the first by name.
fn duel(change: fn(&mut Demand, &mut Candidate, &mut Candidate)) -> (String, Why) {
    let (mut demand, mut a, mut b) = (demand("i"), reef("a"), reef("b"));
    change(&mut demand, &mut a, &mut b);
    let chosen = place(&demand, &[a, b]).chosen.unwrap();
    (chosen.placement.reef, chosen.why)
}

#[test]
fn each_thing_that_decides_between_two_reefs() {
    let (reef, why) = duel(|_, _, _| {});
    assert!(reef == "a" && matches!(why, Why::FirstByName(_)), "{why:?}");
    let (reef, why) = duel(|_, a, _| *a = used(a.clone(), Dimension::Cpu, 32_000));
    assert!(reef == "b" && matches!(why, Why::Emptiest(_, 20, 502)), "{why:?}");
    // What is kept for it is used first.
    let (reef, why) = duel(|_, a, b| {
        b.dedicated_to = Some(kept_for("tenant"));
        *b = used(b.clone(), Dimension::Cpu, 32_000);
        assert!(a.dedicated_to.is_none());
    });
    assert!(reef == "b" && matches!(why, Why::KeptForIt(_)), "{why:?}");
    // But not beyond the soft limit.
    let (reef, why) = duel(|_, a, b| {
        a.dedicated_to = Some(kept_for("tenant"));
        *a = used(a.clone(), Dimension::Instances, 270);
        *b = used(b.clone(), Dimension::Instances, 269);
    });
    assert!(reef == "b" && matches!(why, Why::WithinSoftLimit(_)), "{why:?}");
}

#[test]
fn the_soft_limit_never_refuses_and_counts_in_each_dimension() {
    let beyond = |reef: Candidate| verdict(&demand("a"), &reef).offer.unwrap().score.beyond_soft_limit;
    assert!(!beyond(reef("r")));
    let mut small = reef("r");
    small.pools = vec![pool("pool-1", 100, 90)];
    assert!(beyond(small.clone()));
    small.reserve_percent = 9;
    assert!(!beyond(small));
    let mut shares = reef("r");
    shares.accounts = vec![account("st1", 50, 45)];
    assert!(beyond(shares.clone()));
    for (percent, expect) in [(0, false), (100, true), (255, true)] {
        shares.reserve_percent = percent;
        assert_eq!(beyond(shares.clone()), expect);
    }
}

#[test]
fn the_emptiest_pool_and_account_that_fit_are_taken() {
    let mut reef = reef("r");
    reef.pools = vec![pool("pool-1", 100, 20), pool("pool-2", 200, 30), pool("pool-3", 500, 0)];
    reef.pools[2].ready = false;
    reef.accounts = vec![account("st2", 50, 3), account("st1", 50, 3), account("st3", 50, 4)];
    let chosen = place(&demand("a"), &[reef.clone()]).chosen.unwrap();
    assert_eq!(chosen.placement.pool.as_deref(), Some("pool-2"));
    assert_eq!(chosen.placement.account, "st1");
    // What is reserved in them counts.
    for n in 0..12 {
        reef.reservations.push(super::Reservation {
            pool: Some("pool-2".to_owned()),
            ..reservation(&demand(&format!("b{n}")), 0)
        });
    }
    let chosen = place(&demand("a"), &[reef]).chosen.unwrap();
    assert_eq!(chosen.placement.pool.as_deref(), Some("pool-1"));
    assert_eq!(chosen.placement.account, "st2");
}
