//! Placement: the words of Events, statuses and conditions.

use super::{
    Candidate, Dimension, Readiness, place,
    world::{GI, account, apart, demand, gauge, instance, labels, pool, reef, reservation, used},
};

fn cordoned(name: &str) -> Candidate {
    Candidate { cordoned: true, ..reef(name) }
}

fn full(name: &str) -> Candidate {
    Candidate { pools: vec![pool("pool-1", 100, 100)], ..reef(name) }
}

#[test]
fn a_choice_says_why_there_and_why_not_elsewhere() {
    let reefs =
        [full("weu-1"), used(reef("weu-2"), Dimension::Memory, 128 * GI), reef("weu-3"), cordoned("weu-4")];
    let decision = place(&demand("a"), &reefs);
    insta::assert_snapshot!(decision.event(), @"reef weu-3, pool pool-1, storage account st1: emptiest, 2.0 % full against 50.5 % of weu-2, the next of 2 reefs that fit; weu-2 fits, 50.5 % full; not weu-1: pool-1 (databases: 100 of 100 used, 1 asked for); not weu-4: Cordoned");
    insta::assert_snapshot!(decision.reason(), @"emptiest, 2.0 % full against 50.5 % of weu-2, the next of 2 reefs that fit");
    assert_eq!(decision.summary(), "");
}

#[test]
fn each_reason_of_a_choice_has_its_words() {
    let mut words = Vec::new();
    let mut say = |demand: &_, reefs: &[Candidate]| words.push(place(demand, reefs).reason());
    let (a, b) = (reef("a"), reef("b"));
    say(&demand("i"), std::slice::from_ref(&a));
    say(&demand("i"), &[a.clone(), b.clone()]);
    say(&demand("i"), &[used(a.clone(), Dimension::Pods, 950), b.clone()]);
    let mut kept = b.clone();
    kept.dedicated_to = Some(["tenant".to_owned()].into());
    say(&demand("i"), &[a.clone(), kept]);
    let mut held = cordoned("c");
    held.reservations.push(reservation(&demand("i"), 0));
    say(&demand("i"), &[a, held]);
    insta::assert_snapshot!(words.join("\n"), @"
    the only reef that fits
    first by name, as good as b, the next of 2 reefs that fit
    within its soft limits, unlike a, the next of 2 reefs that fit
    kept for this namespace, unlike a, the next of 2 reefs that fit
    reserved before
    ");
}

#[test]
fn a_summary_counts_what_decides() {
    let reefs = [cordoned("weu-1"), cordoned("weu-2"), full("weu-3")];
    let decision = place(&demand("a"), &reefs);
    insta::assert_snapshot!(decision.summary(), @"0 of 3 reefs of region westeurope fit: 2 Cordoned; 1 pool-1 (full with 100 databases)");
    insta::assert_snapshot!(decision.event(), @"0 of 3 reefs of region westeurope fit: 2 Cordoned; 1 pool-1 (full with 100 databases); not weu-1: Cordoned; not weu-2: Cordoned; not weu-3: pool-1 (databases: 100 of 100 used, 1 asked for)");
    assert_eq!(decision.reason(), decision.summary());
    assert_eq!(place(&demand("a"), &[]).summary(), "region westeurope has no reef");
    assert_eq!(place(&demand("a"), &[]).event(), "region westeurope has no reef");
    let mut holder = reef("weu-1");
    holder.counted.insert(instance("a"));
    let held = place(&demand("a"), &[holder, reef("weu-2")]);
    insta::assert_snapshot!(held.summary(), @"reef weu-1 holds the instance already: it is not placed again");
}

/// The words of all that speaks against a reef after a change, long and short.
fn words_after(change: fn(&mut super::Demand, &mut Candidate)) -> Vec<String> {
    let (mut demand, mut reef) = (demand("a"), reef("r"));
    demand.generation = 2;
    change(&mut demand, &mut reef);
    let refusals = super::verdict(&demand, &reef).refusals;
    refusals.iter().map(|refusal| format!("{refusal} | {}", refusal.brief())).collect()
}

#[test]
fn each_refusal_has_its_words() {
    let mut words = Vec::new();
    let mut say = |change| words.extend(words_after(change));
    say(|d, r| {
        d.reef = Some("x".to_owned());
        d.labels = labels("ring", "early");
        r.dedicated_to = Some(["other".to_owned()].into());
    });
    say(|d, r| {
        d.ask.tiers.reef = super::Tier::Dedicated;
        *d = apart(d.clone(), "blue");
        r.reservations.push(reservation(&apart(demand("b"), "blue"), 0));
        r.holds_dedicated = true;
    });
    say(|_, r| {
        r.deleting = true;
        r.counted.insert(instance("a"));
        r.cordoned = true;
        r.ready = Readiness::NotReady("Provisioning".to_owned());
    });
    say(|_, r| {
        *r = used(used(r.clone(), Dimension::Instances, 300), Dimension::Cpu, 63_900);
        r.room.insert(Dimension::Memory, gauge(GI, 0));
        r.room.remove(&Dimension::Identities);
        r.pools[0] = super::Pool { ready: false, storage: Some(gauge(0, 0)), ..pool("pool-1", 100, 7) };
        r.pools.push(super::Pool { guarantee: 10_500, capacity: 20_500, ..pool("pool-2", 9, 1) });
        r.accounts = vec![account("st1", 50, 50), account("st2", 51, 52)];
    });
    say(|_, r| {
        (r.pools, r.accounts) = (vec![], vec![]);
        r.reservations = (0..32).map(|n| reservation(&demand(&format!("b{n}")), 0)).collect();
    });
    insta::assert_snapshot!(words.join("\n"), @"
    not the reef asked for | not the reef asked for
    lacks a label that was asked for | lacks a label that was asked for
    kept for other namespaces | kept for other namespaces
    not dedicated to the namespace | not dedicated to the namespace
    holds an instance that asked for a dedicated reef | holds an instance that asked for a dedicated reef
    anti-affinity group blue is there | anti-affinity group blue is there
    being deleted | being deleted
    holds the instance already | holds the instance already
    Cordoned | Cordoned
    not Ready (Provisioning) | not Ready
    instances: 300 of 300 used, 1 asked for | full with 300 instances
    identities: not known | identities: not known
    CPU: 63900m of 64000m used, 150m asked for | too little CPU
    memory: 0 of 1Gi used, 1536Mi asked for | less memory in all than is asked for
    pool-1 (not ready, database storage: 0 of 0 used, 5Gi asked for), pool-2 (guaranteed capacity: 10.5 of 20.5 used, 10.5 asked for) | pool-1 (not ready, less database storage in all than is asked for), pool-2 (too little guaranteed capacity)
    st1 (shares: 50 of 50 used, 1 asked for), st2 (shares: 52 of 51 used, 1 asked for) | st1 (full with 50 shares), st2 (full with 51 shares)
    no elastic pool | no elastic pool
    no storage account | no storage account
    32 reservations pending | 32 reservations pending
    ");
}

/// Other instances come and go on full reefs: the message of the condition stays.
#[test]
fn a_summary_does_not_follow_numbers_that_do_not_matter() {
    let summary = |cpu, shares| {
        let mut reef = used(reef("weu-1"), Dimension::Cpu, cpu);
        reef.accounts = vec![account("st1", 50, shares)];
        place(&demand("a"), &[reef]).summary()
    };
    assert_eq!(summary(63_900, 10), summary(63_990, 20));
    assert_eq!(summary(63_900, 10), "0 of 1 reef of region westeurope fit: 1 too little CPU");
}

#[test]
fn events_name_at_most_ten_others_and_keep_within_their_bytes() {
    let mut reefs: Vec<_> = (0..40).map(|n| cordoned(&format!("weu-{n:02}"))).collect();
    let event = place(&demand("a"), &reefs).event();
    assert_eq!(event.matches("not weu-").count(), 10);
    assert!(event.ends_with("; 30 other reefs"), "{event}");
    for (n, reef) in reefs.iter_mut().enumerate() {
        reef.pools = (0..100).map(|m| pool(&format!("pool-{n}-{m}"), 1, 1)).collect();
        reef.cordoned = false;
        reef.name = format!("{}-{n}", "é".repeat(200));
    }
    let decision = place(&demand("a"), &reefs);
    assert!(decision.event().len() <= 1024 && decision.event().len() > 500);
    assert!(decision.summary().len() <= 1024 && decision.reason().len() <= 256);
    reefs.push(reef("free"));
    let event = place(&demand("a"), &reefs).event();
    assert!(event.starts_with("reef free, pool pool-1, storage account st1: the only reef that fits"));
    assert!(event.len() <= 1024);
}
