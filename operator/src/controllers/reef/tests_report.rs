//! Report of a Reef: each situation with what its user sees, and the contract with kstatus.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use reef_crds::{
    Reef, ReefStatus,
    condition::{ConditionType, Reason},
};
use serde_json::json;

use super::{
    in_cluster::InCluster,
    look::again,
    names::{self, TAG_CLAIM},
    parts::Part,
    report::{Around, held, report},
    tests::{Given, build, complete, inputs, nothing, reef, seen},
};
use crate::{
    azure::{
        Begun,
        operation::{Answer, begun},
    },
    controller::{Policy, trouble::Trouble},
    observed::Observed,
    resources::{
        Pauses, Verdict,
        memory::{Memory, Read},
    },
};

const POLICY: Policy = Policy {
    resync: Duration::from_secs(600),
    progress_deadline: Duration::from_secs(1800),
    azure_poll: Duration::from_secs(15),
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn in_service() -> InCluster {
    InCluster { objects: Verdict::Good, gateway: Verdict::Good, address: Some("203.0.113.9".to_owned()) }
}

fn status(reef: &Reef, given: &Given, cluster: &InCluster, now: i64) -> ReefStatus {
    status_after(false, reef, given, cluster, now)
}

/// `was_good` says whether all in Azure was good when it was last seen.
fn status_after(was_good: bool, reef: &Reef, given: &Given, cluster: &InCluster, now: i64) -> ReefStatus {
    let around = Around { in_cluster: cluster, held_back: &[], was_good };
    report(reef, &inputs(), &given.plan(), &given.seen, around, &POLICY, at(now))
}

fn condition(status: &ReefStatus, type_: ConditionType) -> Option<(String, String)> {
    let found = status.conditions.iter().find(|c| c.type_ == type_.as_str())?;
    Some((found.status.clone(), found.reason.clone()))
}

fn is(status: &ReefStatus, type_: ConditionType, expect: (&str, &str)) {
    let found = condition(status, type_);
    let found = found.as_ref().map(|(s, r)| (s.as_str(), r.as_str()));
    assert_eq!(found, Some(expect), "{type_:?} in {:?}", status.conditions);
}

#[test]
fn a_reef_is_ready_when_all_of_it_is_and_says_what_is_missing_before() {
    use ConditionType::{ClusterReady, NetworkReady, Ready, Reconciling, SqlReady, Stalled};
    let empty = Given::new(nothing());
    let first = status(&reef(&json!({})), &empty, &InCluster::waiting("x"), 10);
    is(&first, Ready, ("False", "Provisioning"));
    is(&first, Reconciling, ("True", "Provisioning"));
    is(&first, SqlReady, ("False", "WaitingForDependency"));
    let good = status(&reef(&json!({})), &complete(), &in_service(), 20);
    is(&good, Ready, ("True", "ReconcileSucceeded"));
    assert_eq!(condition(&good, Reconciling), None);
    // A good reef stays Ready while Azure does not answer, and shows what is not known.
    let mut blind = complete();
    blind.seen.insert(Part::Network, seen(Observed::Unknown("no answer".into())));
    let was_good = Reef { status: Some(good.clone()), ..reef(&json!({})) };
    let now = status(&was_good, &blind, &in_service(), 30);
    is(&now, Ready, ("True", "ReconcileSucceeded"));
    is(&now, NetworkReady, ("Unknown", "AzureUnavailable"));
    // So does one that was unready for something else meanwhile.
    let mut away = reef(&json!({}));
    away.status = Some(status(&was_good, &blind, &InCluster::waiting("x"), 31));
    is(away.status.as_ref().unwrap(), Ready, ("False", "WaitingForDependency"));
    is(&status(&away, &blind, &in_service(), 32), Ready, ("False", "AzureUnavailable"));
    is(&status_after(true, &away, &blind, &in_service(), 32), Ready, ("True", "ReconcileSucceeded"));
    // A new reef is not Ready on what nobody saw.
    let now = status(&reef(&json!({})), &blind, &in_service(), 30);
    is(&now, Ready, ("False", "AzureUnavailable"));
    // What only a human can help with stalls at once.
    let mut gone = complete();
    gone.seen.insert(Part::SqlServer, seen(Observed::Absent));
    gone.had_data.insert(Part::SqlServer);
    let now = status(&was_good, &gone, &in_service(), 40);
    is(&now, Ready, ("False", "DataResourceMissing"));
    is(&now, Stalled, ("True", "DataResourceMissing"));
    assert_eq!(condition(&now, Reconciling), None);
    is(&now, ClusterReady, ("True", "ReconcileSucceeded"));
    assert_eq!(now.sql_server, good.sql_server, "what was known is kept");
}

#[test]
fn a_reef_without_progress_stalls_and_goes_on_when_something_moves() {
    use ConditionType::{Reconciling, Stalled};
    let mut given = Given::new(nothing());
    let first = status(&reef(&json!({})), &given, &InCluster::waiting("x"), 10);
    let with = |status: &ReefStatus| Reef { status: Some(status.clone()), ..reef(&json!({})) };
    let early = status(&with(&first), &given, &InCluster::waiting("x"), 10 + 1799);
    assert!(condition(&early, Reconciling).is_some());
    let late = status(&with(&first), &given, &InCluster::waiting("x"), 10 + 1800);
    is(&late, Stalled, ("True", "Provisioning"));
    let still = status(&with(&late), &given, &InCluster::waiting("x"), 10 + 1900);
    assert!(condition(&still, Stalled).is_some() && condition(&still, Reconciling).is_none());
    build(&mut given);
    let moved = status(&with(&still), &given, &InCluster::waiting("x"), 10 + 2000);
    assert!(condition(&moved, Stalled).is_none() && condition(&moved, Reconciling).is_some());
}

#[test]
fn a_good_reef_whose_references_cannot_be_read_stays_as_it_is() {
    let good = status(&reef(&json!({})), &complete(), &in_service(), 20);
    let was_good = Reef { status: Some(good.clone()), ..reef(&json!({})) };
    let trouble = Trouble::new(Reason::ReferenceNotFound, "gone");
    assert_eq!(held(&was_good, &trouble, false, &POLICY, at(30)), good);
    let now = held(&was_good, &trouble, true, &POLICY, at(30));
    is(&now, ConditionType::Ready, ("False", "ReferenceNotFound"));
    is(&now, ConditionType::SqlReady, ("True", "ReconcileSucceeded"));
}

/// The rule of the whole design: not knowing is no news.
#[test]
fn a_good_reef_stays_ready_whatever_cannot_be_looked_at() {
    let good = status(&reef(&json!({})), &complete(), &in_service(), 20);
    let was_good = Reef { status: Some(good), ..reef(&json!({})) };
    for part in inputs().parts() {
        let mut given = complete();
        given.seen.insert(part, seen(Observed::Unknown("no answer".into())));
        let now = status(&was_good, &given, &in_service(), 30);
        is(&now, ConditionType::Ready, ("True", "ReconcileSucceeded"));
        assert_eq!(condition(&now, part.condition()).unwrap().0, "Unknown", "{part:?}");
    }
}

fn state() -> impl Strategy<Value = u8> {
    0u8..5
}

/// A look that comes too soon again and again is a loop that nobody sees.
#[test]
fn a_good_reef_rests_and_a_running_operation_is_waited_for() {
    let pauses = Pauses { poll: Duration::from_secs(15), resync: Duration::from_secs(600) };
    let given = complete();
    let mut memory = Memory::default();
    let next = |memory: &Memory| {
        again(&given.plan(), &in_service(), memory, &given.seen, false, pauses, at(1000)).as_secs()
    };
    let read = |again_at| Read { state: Observed::Absent, again_at, blind: None, listed: false };
    memory.read.insert("a".to_owned(), read(at(1590)));
    assert_eq!(next(&memory), 590);
    // What an operation runs on is due to be read, but not before the operation ends.
    memory.read.insert("b".to_owned(), read(Timestamp::MIN));
    assert_eq!(next(&memory), 0, "what is due is read at once");
    let answer = Answer { status: 202, ..Answer::default() };
    let Begun::Running(operation) = begun(&answer, &crate::azure::Cloud::public()) else {
        panic!("an operation")
    };
    memory.began("b", operation, pauses.poll, at(1000));
    assert_eq!(next(&memory), 15);
}

proptest! {
    /// Whatever was seen: no write without a certain look at it and at the group, none into what is not ours,
    /// and conditions that kstatus understands.
    #[test]
    fn no_world_leads_to_a_wrong_write(states in prop::collection::vec(state(), 24), claim in prop::bool::ANY, now in 0i64..5000) {
        let mut given = complete();
        let parts = inputs().parts();
        for (part, state) in parts.iter().zip(&states) {
            let entry = given.seen.get_mut(part).unwrap();
            match state {
                0 => entry.state = Observed::Absent,
                1 => entry.state = Observed::Unknown("x".into()),
                2 => entry.operation = Some("Running".to_owned()),
                3 => if let Observed::Present(value) = &mut entry.state { value["tags"] = json!({}); value["properties"]["metadata"] = json!({}); },
                _ => {}
            }
        }
        if claim && let Observed::Present(group) = &mut given.seen.get_mut(&Part::Group).unwrap().state {
            group["tags"][TAG_CLAIM] = json!("earlier");
        }
        let plan = given.plan();
        for write in &plan.writes {
            let seen = &given.seen[&write.part];
            prop_assert!(!matches!(seen.state, Observed::Unknown(_)) && seen.operation.is_none());
            prop_assert!(write.part == Part::Group || plan.verdicts[&Part::Group] == Verdict::Good);
            prop_assert!(write.part.needs().iter().all(|need| plan.verdicts[need] == Verdict::Good));
            if let Observed::Present(found) = &seen.state && write.part.has_tags() {
                prop_assert!(names::marked(&found["tags"], &inputs().tags()));
            }
        }
        let status = status(&reef(&json!({})), &given, &in_service(), now);
        let has = |t: ConditionType| condition(&status, t).is_some_and(|(s, _)| s == "True");
        let (ready, working, stalled) = (has(ConditionType::Ready), has(ConditionType::Reconciling), has(ConditionType::Stalled));
        prop_assert!(!(working && stalled) && ready != (working || stalled));
        prop_assert_eq!(ready, plan.verdicts.values().all(|v| *v == Verdict::Good));
    }
}
