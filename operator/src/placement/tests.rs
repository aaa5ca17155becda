//! Placement: each reason alone, each tie, and what must always hold.

use proptest::prelude::*;

use super::*;

fn reef(name: &str) -> Candidate {
    Candidate {
        name: name.to_owned(),
        pools: vec!["pool-1".to_owned()],
        accounts: vec!["account1".to_owned()],
        limits: Some(Limits { instances: 4, databases: 3, shares: 3, reserve_percent: 25 }),
        ..Candidate::default()
    }
}

fn tenant(uid: &str) -> Tenant {
    let (pool, account) = (Some("pool-1".to_owned()), "account1".to_owned());
    Tenant { uid: uid.to_owned(), group: None, pool, account }
}

fn demand() -> Demand {
    Demand { uid: "me".to_owned(), namespace: "acme".to_owned(), pool: true, ..Demand::default() }
}

fn chosen(decision: &Decision) -> Option<&str> {
    decision.choice.as_ref().map(|c| c.reef.as_str())
}

/// A demand and a reef that do not fit for one reason.
type Row = ((Demand, Candidate), Verdict);

fn with(change: &dyn Fn(&mut Demand, &mut Candidate)) -> (Demand, Candidate) {
    let (mut demand, mut reef) = (demand(), reef("a"));
    change(&mut demand, &mut reef);
    (demand, reef)
}

fn others(count: usize) -> Vec<Tenant> {
    (0..count).map(|n| tenant(&format!("t{n}"))).collect()
}

fn wishes_and_states() -> Vec<Row> {
    vec![
        (with(&|d, _| d.reef = Some("b".to_owned())), Verdict::NotAsked),
        (with(&|d, _| d.labels = [("tier".to_owned(), "gold".to_owned())].into()), Verdict::LabelsDiffer),
        (with(&|_, r| r.dedicated_to = Some(vec!["other".to_owned()])), Verdict::DedicatedToOthers),
        (with(&|d, _| d.dedicated_reef = true), Verdict::NotDedicated),
        (
            with(&|d, r| {
                d.group = Some("g".to_owned());
                r.placed = vec![Tenant { group: Some("g".to_owned()), ..tenant("t") }];
            }),
            Verdict::AntiAffinity,
        ),
        (with(&|_, r| r.deleting = true), Verdict::Deleting),
        (with(&|_, r| r.cordoned = true), Verdict::Cordoned),
        (
            with(&|_, r| r.unready = Some("Provisioning".to_owned())),
            Verdict::NotReady("Provisioning".to_owned()),
        ),
        (with(&|_, r| r.limits = None), Verdict::CapacityUnknown),
    ]
}

fn limits() -> Vec<Row> {
    vec![
        (
            with(&|_, r| {
                r.limits = Some(Limits { instances: 99, databases: 99, shares: 99, reserve_percent: 0 });
                r.reserved = others(MOST_RESERVATIONS);
            }),
            Verdict::Reservations,
        ),
        (
            with(&|_, r| {
                r.pools.push("pool-2".to_owned());
                r.accounts.push("account2".to_owned());
                r.placed = others(2);
                r.reserved = [("r1", "pool-2", "account2"), ("r2", "pool-2", "account2")]
                    .map(|(uid, pool, account)| Tenant {
                        pool: Some(pool.to_owned()),
                        account: account.to_owned(),
                        ..tenant(uid)
                    })
                    .into();
            }),
            Verdict::Instances(4),
        ),
        (
            with(&|_, r| {
                r.accounts.push("account2".to_owned());
                r.placed = others(3);
            }),
            Verdict::Databases(3),
        ),
        (
            with(&|d, r| {
                d.pool = false;
                r.placed = others(3);
            }),
            Verdict::Shares(3),
        ),
    ]
}

#[test]
fn each_reason_alone_keeps_a_reef_from_being_chosen() {
    for ((demand, reef), expect) in wishes_and_states().into_iter().chain(limits()) {
        let decision = place(&demand, std::slice::from_ref(&reef));
        assert_eq!(decision.verdicts["a"], std::slice::from_ref(&expect), "{expect:?}");
        assert_eq!(decision.choice, None, "{expect:?}");
        assert!(decision.summary().contains(&expect.to_string()), "{}", decision.summary());
    }
    assert_eq!(chosen(&place(&demand(), &[reef("a")])), Some("a"));
}

#[test]
fn all_reasons_are_told_at_once() {
    let bad = Candidate { cordoned: true, deleting: true, limits: None, ..reef("a") };
    let decision = place(&demand(), &[bad]);
    assert_eq!(decision.verdicts["a"], [Verdict::Deleting, Verdict::Cordoned, Verdict::CapacityUnknown]);
    assert_eq!(decision.summary(), "none of 1 reefs fits: 1 being deleted, 1 capacity not known, 1 cordoned");
    assert_eq!(place(&demand(), &[]).summary(), "the region has no reef");
}

#[test]
fn the_emptiest_reef_is_chosen_and_its_emptiest_parts() {
    let full = Candidate { placed: vec![tenant("t")], ..reef("a") };
    let mut wide = reef("b");
    wide.pools.push("pool-2".to_owned());
    wide.reserved = vec![tenant("r")];
    let decision = place(&demand(), &[full.clone(), wide.clone()]);
    assert_eq!(chosen(&decision), Some("a"), "equally full: the name decides");
    wide.reserved.clear();
    let decision = place(&demand(), &[full, wide]);
    assert_eq!(chosen(&decision), Some("b"));
    assert_eq!(decision.choice.as_ref().unwrap().pool.as_deref(), Some("pool-1"));
    assert_eq!(decision.reason(), "the emptiest of 2 reefs that fit");
    assert_eq!(decision.event(), "Reef b: the emptiest of 2 reefs that fit; a: fits");
}

#[test]
fn a_reserve_is_used_last() {
    let limits = Limits { instances: 10, databases: 10, shares: 10, reserve_percent: 50 };
    let beyond = Candidate {
        limits: Some(limits),
        placed: (0..5).map(|n| tenant(&format!("t{n}"))).collect(),
        ..reef("a")
    };
    let fuller = Candidate {
        limits: Some(Limits { reserve_percent: 0, ..limits }),
        placed: (0..8).map(|n| tenant(&format!("u{n}"))).collect(),
        ..reef("b")
    };
    let decision = place(&demand(), &[beyond.clone(), fuller]);
    assert_eq!(chosen(&decision), Some("b"), "fuller, and yet within what may be used");
    let decision = place(&demand(), &[beyond]);
    assert_eq!(chosen(&decision), Some("a"), "rather than nowhere");
    assert!(decision.reason().contains("reserve"));
}

#[test]
fn a_place_that_is_kept_stays() {
    let kept = Candidate { reserved: vec![tenant("me")], cordoned: true, ..reef("z") };
    let decision = place(&demand(), &[reef("a"), kept.clone()]);
    assert_eq!((chosen(&decision), decision.reason().as_str()), (Some("z"), "the place was kept"));
    let leaving = Candidate { deleting: true, ..kept };
    assert_eq!(chosen(&place(&demand(), &[reef("a"), leaving])), Some("a"));
}

#[test]
fn who_is_placed_and_reserved_counts_once() {
    let both = Candidate { placed: vec![tenant("t")], reserved: vec![tenant("t"), tenant("r")], ..reef("a") };
    assert_eq!(both.tenants().count(), 2);
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let tenants = |prefix: &'static str| {
        prop::collection::vec((0..6u8, any::<bool>(), 1..3u8), 0..4).prop_map(move |list| {
            list.into_iter()
                .map(|(uid, pooled, n)| Tenant {
                    uid: format!("{prefix}{uid}"),
                    group: None,
                    pool: pooled.then(|| format!("pool-{n}")),
                    account: format!("account{n}"),
                })
                .collect::<Vec<_>>()
        })
    };
    (0..5u8, any::<[bool; 3]>(), tenants("p"), tenants("r"), 1..6u32, 0..60u32).prop_map(
        |(name, [cordoned, unready, wide], placed, reserved, limit, reserve_percent)| Candidate {
            cordoned,
            unready: unready.then(|| "Provisioning".to_owned()),
            pools: (1..=1 + u8::from(wide)).map(|n| format!("pool-{n}")).collect(),
            accounts: (1..=1 + u8::from(wide)).map(|n| format!("account{n}")).collect(),
            limits: Some(Limits { instances: limit, databases: limit, shares: limit, reserve_percent }),
            placed,
            reserved,
            ..reef(&format!("reef-{name}"))
        },
    )
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec(candidate(), 0..5).prop_map(|mut list| {
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list.dedup_by(|a, b| a.name == b.name);
        list
    })
}

proptest! {
    #[test]
    fn the_order_of_reefs_does_not_matter_and_what_is_chosen_fits(list in candidates(), pool in any::<bool>()) {
        let demand = Demand { pool, ..demand() };
        let decision = place(&demand, &list);
        let mut reversed = list.clone();
        reversed.reverse();
        prop_assert_eq!(&decision, &place(&demand, &reversed));
        prop_assert_eq!(decision.verdicts.len(), list.len());
        let fits = decision.verdicts.values().filter(|v| v.is_empty()).count();
        prop_assert_eq!(decision.choice.is_some(), fits > 0);
        if let Some(choice) = &decision.choice {
            prop_assert!(decision.verdicts[&choice.reef].is_empty());
            prop_assert_eq!(choice.pool.is_some(), pool);
        }
        prop_assert!(decision.event().chars().count() <= 1000);
    }

    /// Invariant 6. Several allocators with views of any age write by compare-and-swap: nothing is oversold, and
    /// nobody gets two places.
    #[test]
    fn a_compare_and_swap_never_oversells(
        schedule in prop::collection::vec((0..3usize, 0..8u8, any::<bool>()), 1..60),
        limit in 1..4u32,
    ) {
        let mut world: Vec<(u64, Candidate)> = ["a", "b"]
            .map(|name| {
                let limits = Limits { instances: limit, databases: limit, shares: limit, reserve_percent: 0 };
                (0, Candidate { limits: Some(limits), ..reef(name) })
            })
            .into();
        let mut views = vec![world.clone(); 3];
        for (who, uid, refresh) in schedule {
            if refresh {
                views[who] = world.clone();
            }
            let uid = format!("i{uid}");
            // What stands in the instance's own status is read after the reefs, so it is never older.
            if world.iter().any(|(_, reef)| reef.placed.iter().any(|t| t.uid == uid)) {
                continue;
            }
            let seen: Vec<_> = views[who].iter().map(|(_, reef)| reef.clone()).collect();
            let wish = Demand { uid: uid.clone(), ..demand() };
            let Some(choice) = place(&wish, &seen).choice else { continue };
            let at = world.iter().position(|(_, reef)| reef.name == choice.reef).unwrap();
            if world[at].0 != views[who][at].0 {
                // The version differs: the API server refuses, and all is read anew.
                views[who] = world.clone();
                continue;
            }
            let tenant = Tenant { uid: uid.clone(), group: None, pool: choice.pool, account: choice.account };
            world[at].0 += 1;
            world[at].1.reserved.retain(|t| t.uid != uid);
            world[at].1.reserved.push(tenant.clone());
            world[at].0 += 1;
            world[at].1.reserved.retain(|t| t.uid != uid);
            world[at].1.placed.push(tenant);
        }
        let mut all = Vec::new();
        for (_, reef) in &world {
            prop_assert!(reef.tenants().count() <= usize::try_from(limit).unwrap());
            all.extend(reef.tenants().map(|t| t.uid.clone()));
        }
        let count = all.len();
        all.sort();
        all.dedup();
        prop_assert_eq!(all.len(), count, "one place each");
    }
}
