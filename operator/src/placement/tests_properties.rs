//! Placement: what holds in every world.

use proptest::prelude::*;

use super::{
    Candidate, Demand, Dimension, Gauge, Readiness, Refusal, Tier, place, verdict,
    world::{account, apart, demand, instance, labels, pool, reef, reservation, seen},
};

fn tier() -> impl Strategy<Value = Tier> {
    prop_oneof![4 => Just(Tier::Shared), 1 => Just(Tier::Dedicated)]
}

fn demands() -> impl Strategy<Value = Demand> {
    (tier(), tier(), any::<bool>(), prop::option::of(0u8..6), 0u64..40).prop_map(
        |(dedicated, database, group, asked, size)| {
            let mut demand = demand("a");
            (demand.ask.tiers.reef, demand.ask.tiers.database) = (dedicated, database);
            demand.ask.size.cpu = size * 500;
            match asked {
                Some(0) => demand.reef = Some("r1".to_owned()),
                Some(1) => demand.labels = labels("ring", "late"),
                _ => {}
            }
            if group { apart(demand, "blue") } else { demand }
        },
    )
}

/// A reef in some state; its name is given later.
fn reefs() -> impl Strategy<Value = Candidate> {
    let parts = (prop::collection::vec(0u64..=20, 0..3), prop::collection::vec(0u64..=10, 0..3));
    let fills = prop::collection::vec(0u64..=100, Dimension::OF_REEF.len());
    (parts, fills, 0u8..20, 0usize..4, 0u8..30).prop_map(
        |((pools, accounts), fills, state, pending, reserve)| {
            let mut reef = reef("");
            reef.reserve_percent = reserve;
            for (gauge, fill) in reef.room.values_mut().zip(fills) {
                gauge.used = gauge.limit * fill / 100;
            }
            reef.pools = (1..).zip(pools).map(|(n, used)| pool(&format!("pool-{n}"), 20, used)).collect();
            reef.accounts =
                (1..).zip(accounts).map(|(n, used)| account(&format!("st{n}"), 10, used)).collect();
            for n in 0..pending {
                let other = demand(&format!("b{n}"));
                let other = if n == 2 { apart(other, "blue") } else { other };
                reef.reservations.push(reservation(&other, 0));
                if state % 2 == 0 {
                    reef.counted.insert(instance(&format!("b{n}")));
                }
            }
            match state {
                0 => reef.cordoned = true,
                1 => reef.ready = Readiness::NotReady("Provisioning".to_owned()),
                2 => reef.deleting = true,
                3 => reef.dedicated_to = Some(["other".to_owned()].into()),
                4 => reef.labels.clear(),
                5 => reef.holds_dedicated = true,
                6 => drop(reef.room.remove(&Dimension::Cpu)),
                7 | 8 => reef.dedicated_to = Some(["tenant".to_owned()].into()),
                _ => {}
            }
            reef
        },
    )
}

fn worlds() -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec(reefs(), 0..6).prop_map(|mut reefs| {
        for (n, reef) in reefs.iter_mut().enumerate() {
            reef.name = format!("r{n}");
        }
        reefs
    })
}

/// Uses more of one thing of a reef.
fn use_more(reef: &mut Candidate, what: usize, amount: u64) {
    let room = reef.room.values_mut();
    let pools = reef.pools.iter_mut().flat_map(|p| [&mut p.databases, &mut p.storage]).flatten();
    let accounts = reef.accounts.iter_mut().flat_map(|a| a.shares.iter_mut().chain([&mut a.storage]));
    let mut all: Vec<_> = room.chain(pools).chain(accounts).collect();
    let count = all.len();
    let gauge: &mut Gauge = all[what % count];
    gauge.used += gauge.limit * amount / 100;
}

proptest! {
    /// The order of the candidates changes nothing, not even a word.
    #[test]
    fn order_does_not_matter(demand in demands(), reefs in worlds(), seed in prop::collection::vec(any::<u32>(), 6)) {
        let mut keyed: Vec<_> = seed.into_iter().zip(reefs.clone()).collect();
        keyed.sort_by_key(|(key, _)| *key);
        let mut shuffled: Vec<_> = keyed.into_iter().map(|(_, reef)| reef).collect();
        for reef in &mut shuffled {
            reef.pools.reverse();
            reef.accounts.reverse();
            reef.reservations.reverse();
        }
        let (one, other) = (place(&demand, &reefs), place(&demand, &shuffled));
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(one.event(), other.event());
    }

    /// Every reef has a complete verdict; what is chosen has nothing against it and is no worse than any other.
    #[test]
    fn verdicts_are_complete_and_the_best_wins(demand in demands(), reefs in worlds()) {
        let decision = place(&demand, &reefs);
        prop_assert_eq!(decision.verdicts.len(), reefs.len());
        for (verdict, reef) in decision.verdicts.iter().zip(&reefs) {
            prop_assert_eq!(&verdict.reef, &reef.name);
            prop_assert_eq!(verdict.offer.is_some(), verdict.refusals.is_empty());
            prop_assert_eq!(verdict, &super::verdict(&demand, reef));
        }
        let best = decision.verdicts.iter().filter_map(|v| v.offer.as_ref()).min_by_key(|o| o.score.clone());
        let chosen = decision.chosen.as_ref();
        prop_assert_eq!(chosen.map(|c| &c.placement.reef), best.map(|o| &o.score.reef));
        if let Some(placement) = chosen.map(|c| &c.placement) {
            prop_assert_eq!(placement.pool.is_some(), demand.ask.tiers.database == Tier::Shared);
        }
        prop_assert!(decision.event().len() <= 1024 && decision.reason().len() <= 256);
        prop_assert_eq!(decision.summary().is_empty(), chosen.is_some());
    }

    /// A reef that is out of the question changes no choice.
    #[test]
    fn what_does_not_fit_does_not_matter(demand in demands(), reefs in worlds(), mut odd in reefs(), name in "[a-z]") {
        odd.name = name;
        odd.cordoned = true;
        let before = place(&demand, &reefs).chosen;
        let mut more = reefs;
        more.push(odd);
        prop_assert_eq!(before, place(&demand, &more).chosen);
    }

    /// The more of a reef is used, the fuller it is and the more speaks against it.
    #[test]
    fn use_makes_no_reef_better(demand in demands(), mut reef in reefs(), what in any::<usize>(), amount in 0u64..50) {
        let before = verdict(&demand, &reef);
        use_more(&mut reef, what, amount);
        let after = verdict(&demand, &reef);
        if let Some(after) = &after.offer {
            let before = before.offer.as_ref();
            prop_assert!(before.is_some(), "more use made it fit");
            prop_assert!(before.is_some_and(|b| b.score <= after.score));
        }
        let kinds = |refusals: &[Refusal]| refusals.iter().map(std::mem::discriminant).collect::<Vec<_>>();
        let after = kinds(&after.refusals);
        prop_assert!(kinds(&before.refusals).iter().all(|kind| after.contains(kind)));
    }

    /// What was reserved is found again, whatever else has changed since.
    #[test]
    fn a_reservation_is_found_again(demand in demands(), mut reefs in worlds(), others in worlds(), which in any::<usize>()) {
        let Some(chosen) = place(&demand, &reefs).chosen else { return Ok(()) };
        let reef = reefs.iter_mut().find(|r| r.name == chosen.placement.reef).unwrap();
        reef.reservations = super::reserve(&demand, reef, &seen(&demand, None), &chosen.placement, super::world::at(1)).unwrap();
        let held = reef.clone();
        let mut later = others;
        later.retain(|r| r.name != held.name);
        let place_of_it = which % (later.len() + 1);
        later.insert(place_of_it, Candidate { cordoned: true, ready: Readiness::default(), ..held });
        let again = place(&demand, &later).chosen.unwrap();
        prop_assert!(again.is_reserved());
        prop_assert_eq!(again.placement, chosen.placement);
    }
}
