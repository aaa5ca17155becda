//! Reservations: what is written, what is refused and what may be dropped.

use std::collections::BTreeMap;

use super::{
    Candidate, Demand, Dimension, MAX_RESERVATIONS, Placement, Refusal, Refused, Reservation, Seen, Tier,
    place, prune, reserve,
    world::{at, demand, gauge, instance, labels, placement, pool, reef, reservation, seen, used},
};
use crate::observed::Observed;

#[test]
fn a_reservation_is_added_and_an_older_one_of_the_same_instance_replaced() {
    let mut fresh = reef("r");
    fresh.reservations = vec![reservation(&demand("b"), 1)];
    let list = reserve(&demand("a"), &fresh, &seen(&demand("a"), None), &placement("r"), at(5)).unwrap();
    assert_eq!(list, [reservation(&demand("a"), 5), reservation(&demand("b"), 1)]);
    // The same once more: nothing to write, and it is as old as it was.
    fresh.reservations.clone_from(&list);
    assert_eq!(
        reserve(&demand("a"), &fresh, &seen(&demand("a"), None), &placement("r"), at(9)).unwrap(),
        list
    );
    // For a new spec, or for a new object of the same name: in place of the old one.
    let mut changed = demand("a");
    (changed.revision, changed.ask.size.cpu) = (2, 300);
    let mut recreated = demand("a");
    recreated.claim = "another".to_owned();
    for demand in [changed, recreated] {
        let list = reserve(&demand, &fresh, &seen(&demand, None), &placement("r"), at(9)).unwrap();
        assert_eq!(list[0], reservation(&demand, 9));
        assert_eq!(list.len(), 2);
    }
}

#[test]
fn what_fits_no_longer_is_refused() {
    let refused = |fresh: Candidate, placement: &Placement| {
        reserve(&demand("a"), &fresh, &seen(&demand("a"), None), placement, at(5)).unwrap_err()
    };
    let here = placement("r");
    let full = used(reef("r"), Dimension::Instances, 300);
    assert!(matches!(refused(full, &here), Refused::DoesNotFit(_)));
    let mut cordoned = reef("r");
    cordoned.cordoned = true;
    let error = refused(cordoned, &here);
    let Refused::DoesNotFit(verdict) = &error else { panic!("{error}") };
    assert_eq!(verdict.refusals, [Refusal::Cordoned]);
    assert_eq!(error.to_string(), "it fits no longer: not r: Cordoned");
    // The pool has filled, another would do: that is another placement.
    let mut moved = reef("r");
    moved.pools = vec![pool("pool-1", 100, 100), pool("pool-2", 100, 0)];
    assert_eq!(refused(moved, &here), Refused::PartDoesNotFit("r".to_owned()));
    for odd in [
        Placement { pool: None, ..here.clone() },
        Placement { pool: Some("gone".to_owned()), ..here.clone() },
        Placement { account: "gone".to_owned(), ..here.clone() },
    ] {
        assert_eq!(refused(reef("r"), &odd), Refused::PartDoesNotFit("r".to_owned()));
    }
    assert_eq!(refused(reef("other"), &here), Refused::Mistaken);
    assert_eq!(refused(reef("r"), &Placement { generation: 2, ..here.clone() }), Refused::Mistaken);
    let mut busy = reef("r");
    busy.reservations = (0..MAX_RESERVATIONS).map(|n| reservation(&demand(&format!("b{n}")), 0)).collect();
    assert!(matches!(refused(busy.clone(), &here), Refused::DoesNotFit(_)));
    busy.reservations.pop();
    assert_eq!(
        reserve(&demand("a"), &busy, &seen(&demand("a"), None), &here, at(5)).unwrap().len(),
        MAX_RESERVATIONS
    );
}

#[test]
fn tiers_of_the_placement_have_to_be_those_of_the_demand() {
    let mut own = demand("a");
    own.ask.tiers.database = Tier::Dedicated;
    let apart = Placement { pool: None, ..placement("r") };
    let list = reserve(&own, &reef("r"), &seen(&own, None), &apart, at(5)).unwrap();
    assert_eq!((list[0].pool.as_deref(), list[0].account.as_str()), (None, "st1"));
    let mixed = reserve(&own, &reef("r"), &seen(&own, None), &placement("r"), at(5));
    assert_eq!(mixed, Err(Refused::PartDoesNotFit("r".to_owned())));
}

#[test]
fn an_old_demand_replaces_nothing() {
    let fresh = reef("r");
    let mut edited = demand("a");
    edited.revision = 2;
    let mut recreated = demand("a");
    recreated.claim = "another".to_owned();
    for own in [
        seen(&edited, None),
        seen(&recreated, None),
        seen(&demand("a"), Some(placement("other"))),
        Observed::Absent,
        Observed::Unknown("timeout".into()),
    ] {
        let refused = reserve(&demand("a"), &fresh, &own, &placement("r"), at(5));
        assert_eq!(refused, Err(Refused::OutOfDate), "{own:?}");
    }
    // A move has the placement before it in its status.
    let mut moving = demand("a");
    moving.generation = 2;
    let target = Placement { generation: 2, ..placement("r") };
    let own = seen(&moving, Some(placement("other")));
    assert_eq!(reserve(&moving, &fresh, &own, &target, at(5)), Ok(vec![reservation(&moving, 5)]));
}

#[test]
fn what_another_operator_reserved_for_the_same_demand_is_not_moved() {
    let mut fresh = reef("r");
    fresh.pools.push(pool("pool-2", 100, 0));
    fresh.reservations =
        vec![Reservation { pool: Some("pool-2".to_owned()), ..reservation(&demand("a"), 1) }];
    let other = Placement { pool: Some("pool-2".to_owned()), ..placement("r") };
    let refused = reserve(&demand("a"), &fresh, &seen(&demand("a"), None), &placement("r"), at(5));
    assert_eq!(refused, Err(Refused::Reserved(other.clone())));
    assert_eq!(place(&demand("a"), &[fresh]).chosen.unwrap().placement, other);
}

#[test]
fn a_reservation_binds_its_demand_and_no_other() {
    let mut held = reef("b");
    held.cordoned = true;
    held.pools[0].databases = Some(gauge(1, 1));
    held.reservations = vec![reservation(&demand("i"), 7)];
    let mut older = held.clone();
    older.name = "c".to_owned();
    older.reservations[0].at = at(3);
    let chosen = |demand: &Demand, reefs: &[Candidate]| {
        place(demand, reefs).chosen.map(|c| (c.placement.reef.clone(), c))
    };
    let (reef_name, found) = chosen(&demand("i"), &[reef("a"), held.clone()]).unwrap();
    assert!(reef_name == "b" && found.is_reserved() && found.score.is_none());
    // Two operators reserved on two reefs: all take the older one.
    assert_eq!(chosen(&demand("i"), &[held.clone(), older]).unwrap().0, "c");
    let mut changes = vec![demand("i"); 5];
    changes[0].revision += 1;
    changes[1].claim = "another".to_owned();
    changes[2].generation = 2;
    changes[3].reef = Some("a".to_owned());
    changes[4].labels = labels("ring", "early");
    for demand in changes {
        let mut free = reef("a");
        free.labels.insert("ring".to_owned(), "early".to_owned());
        assert_eq!(chosen(&demand, &[free, held.clone()]).unwrap().0, "a", "{demand:?}");
    }
    held.deleting = true;
    assert_eq!(chosen(&demand("i"), &[reef("a"), held]).unwrap().0, "a");
}

#[test]
fn an_instance_that_a_reef_counts_is_not_placed_a_second_time() {
    let mut holder = reef("b");
    holder.counted.insert(instance("i"));
    let decision = place(&demand("i"), &[reef("a"), holder.clone()]);
    assert_eq!((decision.chosen, decision.held_by.as_deref()), (None, Some("b")));
    // A move looks for another reef than the one that it leaves.
    let mut moving = demand("i");
    moving.generation = 2;
    let decision = place(&moving, &[reef("c"), holder]);
    assert_eq!(decision.held_by, None);
    let placement = decision.chosen.unwrap().placement;
    assert_eq!((placement.reef.as_str(), placement.generation), ("c", 2));
}

#[test]
fn only_reservations_that_have_done_their_work_are_dropped() {
    let held = reservation(&demand("a"), 100);
    let of_spec = |revision, claim: &str, placement| {
        Observed::Present(Seen { claim: claim.to_owned(), revision, placement })
    };
    let of_claim = |claim: &str, placement| of_spec(1, claim, placement);
    let elsewhere = |generation| Some(Placement { generation, ..placement("other") });
    let cases = [
        ("its status says so", Some(of_claim("uid-a", Some(placement("r")))), 100, false),
        ("not yet in its status", Some(of_claim("uid-a", None)), 9999, true),
        ("a move is reserved", Some(of_claim("uid-a", elsewhere(0))), 9999, true),
        ("lost to another operator", Some(of_claim("uid-a", elsewhere(1))), 100, false),
        ("moved on", Some(of_claim("uid-a", elsewhere(2))), 100, false),
        ("its spec was changed since", Some(of_spec(2, "uid-a", None)), 100, false),
        ("not known", Some(Observed::Unknown("timeout".into())), 9999, true),
        ("not looked at", None, 9999, true),
        ("gone, just reserved", Some(Observed::Absent), 129, true),
        ("gone", Some(Observed::Absent), 130, false),
        ("made again, just reserved", Some(of_claim("new", Some(placement("r")))), 129, true),
        ("made again", Some(of_claim("new", None)), 130, false),
        ("the clock went back", Some(Observed::Absent), 0, true),
    ];
    for (case, known, now, stays) in cases {
        let known = known.map(|known| (instance("a"), known)).into_iter().collect::<BTreeMap<_, _>>();
        let left = prune(std::slice::from_ref(&held), &known, at(now), 30);
        assert_eq!(!left.is_empty(), stays, "{case}");
    }
}
