//! Plan, report and teardown of a Reef: each situation with what is written and what its user sees.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use proptest::prelude::*;
use reef_crds::{
    Reef, ReefStatus,
    condition::{ConditionType, Reason},
};
use serde_json::{Value, json};

use super::{
    bodies::Inputs,
    in_cluster::InCluster,
    names::{self, TAG_CLAIM},
    parts::Part,
    plan::{Facts, Failure, Plan, Seen, Verdict, plan},
    report::{held, report},
};
use crate::{
    azure::{ArmError, Unless},
    controller::{Policy, trouble::Trouble},
    observed::Observed,
};

const POLICY: Policy = Policy {
    resync: Duration::from_secs(600),
    progress_deadline: Duration::from_secs(1800),
    azure_poll: Duration::from_secs(15),
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(super) fn inputs() -> Inputs {
    Inputs {
        fleet: "f".to_owned(),
        region: "g".to_owned(),
        reef: "r".to_owned(),
        uid: "u".to_owned(),
        location: "westeurope".to_owned(),
        subscription: "s".to_owned(),
        tenant: "t".to_owned(),
        zone: "/subscriptions/s/resourceGroups/p/providers/Microsoft.Network/dnsZones/a.example".to_owned(),
        ttl: 300,
        address_space: "10.0.0.0/16".to_owned(),
        subnet: "10.0.0.0/20".to_owned(),
        sql_server: "sql".to_owned(),
        storage_accounts: vec!["account".to_owned()],
        pools: 1,
        class: serde_json::from_value(json!({
            "cluster": { "kubernetesVersion": "1.36", "nodePools": [
                { "name": "system", "mode": "System", "vmSize": "v", "minCount": 1, "maxCount": 3 },
                { "name": "extra", "mode": "User", "vmSize": "v", "minCount": 1, "maxCount": 3 },
            ] },
            "sql": { "pool": { "sku": "StandardPool", "capacity": 50, "perDatabase": { "min": 0, "max": "50" } } },
            "storage": { "sku": "Standard_ZRS", "softDeleteDays": 14 },
        }))
        .unwrap(),
        operator: Some("operator".to_owned()),
        gateway: Some("203.0.113.9".to_owned()),
    }
}

fn seen(state: Observed<Value>) -> Seen {
    Seen { state, operation: None, failure: None }
}

type World = BTreeMap<Part, Seen>;

fn nothing() -> World {
    inputs().parts().into_iter().map(|part| (part, seen(Observed::Absent))).collect()
}

/// What Azure shows of a part after our PUT.
fn made(part: Part, body: &Value) -> Value {
    let mut found = body.clone();
    match part {
        Part::SqlServer | Part::SqlNetworkRule | Part::Pool(_) => {
            found["properties"]["state"] = json!("Ready");
        }
        Part::Record => {}
        _ => found["properties"]["provisioningState"] = json!("Succeeded"),
    }
    if matches!(part, Part::AgentIdentity | Part::ClusterIdentity) {
        found["properties"] = json!({ "principalId": "p", "clientId": "c" });
    }
    if part == Part::Cluster {
        found["properties"]["oidcIssuerProfile"]["issuerURL"] = json!("https://i/");
        found["properties"]["fqdn"] = json!("host");
    }
    found
}

struct Given {
    seen: World,
    had_data: BTreeSet<Part>,
    may_adopt: bool,
    may_recreate: bool,
}

impl Given {
    fn new(seen: World) -> Self {
        Self { seen, had_data: BTreeSet::new(), may_adopt: false, may_recreate: false }
    }

    fn plan(&self) -> Plan {
        plan(&Facts {
            inputs: &inputs(),
            seen: &self.seen,
            had_data: &self.had_data,
            may_adopt: self.may_adopt,
            may_recreate: self.may_recreate,
            now: at(1000),
        })
    }

    fn writes(&self) -> Vec<Part> {
        self.plan().writes.iter().map(|w| w.part).collect()
    }
}

/// Does what plans say, one round after the other, until nothing is left to do; the rounds.
fn build(given: &mut Given) -> Vec<Vec<Part>> {
    let mut rounds = Vec::new();
    loop {
        let plan = given.plan();
        if plan.writes.is_empty() {
            return rounds;
        }
        assert!(rounds.len() < 20, "it never ends: {rounds:?}");
        for write in &plan.writes {
            given.seen.insert(write.part, seen(Observed::Present(made(write.part, &write.body))));
        }
        rounds.push(plan.writes.into_iter().map(|w| w.part).collect());
    }
}

fn complete() -> Given {
    let mut given = Given::new(nothing());
    build(&mut given);
    given
}

#[test]
fn an_empty_subscription_is_filled_in_few_rounds_and_then_nothing_is_written() {
    let mut given = Given::new(nothing());
    let rounds = build(&mut given);
    assert_eq!(rounds[0], [Part::Group], "the claim comes first, alone");
    assert!(rounds.len() <= 8, "as much at once as there can be: {rounds:?}");
    let all: Vec<_> = rounds.concat();
    let once: BTreeSet<_> = all.iter().collect();
    assert_eq!((all.len(), once.len()), (inputs().parts().len(), inputs().parts().len()), "each part once");
    assert!(given.plan().verdicts.values().all(|v| *v == Verdict::Good));
}

fn change(given: &mut Given, part: Part, change: impl Fn(&mut Value)) {
    let Some(Seen { state: Observed::Present(value), .. }) = given.seen.get_mut(&part) else {
        panic!("{part:?}")
    };
    change(value);
}

#[test]
fn what_was_changed_by_hand_is_put_back_and_the_rest_is_left_alone() {
    for (part, edit) in [
        (Part::SecurityGroup, json!({ "properties": { "securityRules": [] } })),
        (Part::Network, json!({ "properties": { "subnets": [] } })),
        (Part::Pool(1), json!({ "sku": { "capacity": 100 } })),
        (Part::StorageAccount(1), json!({ "properties": { "networkAcls": { "defaultAction": "Allow" } } })),
        (Part::Cluster, json!({ "properties": { "disableLocalAccounts": false } })),
        (Part::NodePool(1), json!({ "properties": { "maxCount": 9 } })),
        (Part::SqlServer, json!({ "properties": { "minimalTlsVersion": "1.0" } })),
    ] {
        let mut given = complete();
        change(&mut given, part, |value| {
            merge(value, &edit);
            value["theirs"] = json!("kept");
        });
        let writes = given.plan().writes;
        assert_eq!(writes.iter().map(|w| w.part).collect::<Vec<_>>(), [part]);
        assert_eq!(writes[0].body["theirs"], "kept", "{part:?}");
    }
    let mut given = complete();
    change(&mut given, Part::Cluster, |c| {
        c["properties"]["agentPoolProfiles"] =
            json!([{ "name": "other" }, c["properties"]["agentPoolProfiles"][0]]);
    });
    change(&mut given, Part::NodePool(1), |p| p["properties"]["count"] = json!(7));
    assert!(given.writes().is_empty(), "other pools and the autoscaler's count are not ours");
}

pub(super) fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (name, value) in change {
                merge(target.entry(name).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

#[test]
fn what_was_not_seen_is_never_written() {
    for part in inputs().parts() {
        let mut given = complete();
        given.seen.insert(part, seen(Observed::Unknown("no answer".to_owned())));
        assert!(given.writes().is_empty(), "{part:?}");
        assert!(matches!(given.plan().verdicts[&part], Verdict::Unknown(_)));
    }
    let mut given = Given::new(nothing());
    given.seen.insert(Part::Group, seen(Observed::Unknown("no answer".to_owned())));
    assert!(given.writes().is_empty(), "nothing is made in a group that was not seen");
}

#[test]
fn a_part_with_a_running_operation_is_left_alone() {
    let mut given = complete();
    given
        .seen
        .insert(Part::Pool(1), Seen { operation: Some("InProgress".to_owned()), ..seen(Observed::Absent) });
    assert!(given.writes().is_empty());
    for state in ["Creating", "Updating", "Deleting", "a new word"] {
        let mut given = complete();
        change(&mut given, Part::Cluster, |c| c["properties"]["provisioningState"] = json!(state));
        assert!(given.writes().is_empty(), "{state}");
    }
    let mut given = complete();
    change(&mut given, Part::Cluster, |c| c["properties"]["provisioningState"] = json!("Failed"));
    assert_eq!(given.writes(), [Part::Cluster], "what failed is asked for again");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    for part in inputs().parts().into_iter().filter(|p| p.has_tags() || *p == Part::Record) {
        let mut given = complete();
        change(&mut given, part, |value| {
            value["tags"] = json!({});
            value["properties"]["metadata"] = json!({});
            value["sku"] = json!({ "capacity": 1 });
        });
        let plan = given.plan();
        assert!(plan.writes.is_empty(), "{part:?}");
        let Verdict::Blocked(trouble) = &plan.verdicts[&part] else {
            panic!("{part:?}: {:?}", plan.verdicts[&part])
        };
        assert_eq!(trouble.reason, Reason::NameTaken);
    }
}

#[test]
fn another_objects_reef_is_taken_over_only_when_that_is_confirmed() {
    let mut given = complete();
    change(&mut given, Part::Group, |group| group["tags"][TAG_CLAIM] = json!("earlier"));
    // Something else is amiss too: it is not touched before the claim is ours.
    change(&mut given, Part::Pool(1), |pool| pool["sku"]["capacity"] = json!(100));
    let plan = given.plan();
    assert!(plan.writes.is_empty());
    let Verdict::Blocked(trouble) = &plan.verdicts[&Part::Group] else { panic!("blocked") };
    assert_eq!(trouble.reason, Reason::AdoptionRequired);
    given.may_adopt = true;
    let writes = given.plan().writes;
    assert_eq!(writes.iter().map(|w| w.part).collect::<Vec<_>>(), [Part::Group], "the claim first, alone");
    assert_eq!(writes[0].body["tags"][TAG_CLAIM], "u");
}

#[test]
fn what_held_data_and_is_gone_is_not_made_again_by_itself() {
    for part in [Part::SqlServer, Part::StorageAccount(1)] {
        let mut given = complete();
        given.seen.insert(part, seen(Observed::Absent));
        given.had_data.insert(part);
        let plan = given.plan();
        assert!(plan.writes.is_empty());
        assert!(
            matches!(&plan.verdicts[&part], Verdict::Blocked(t) if t.reason == Reason::DataResourceMissing)
        );
        given.may_recreate = true;
        assert_eq!(given.writes(), [part]);
    }
    // What holds none is made again.
    let mut given = complete();
    given.seen.insert(Part::NatGateway, seen(Observed::Absent));
    assert_eq!(given.writes(), [Part::NatGateway]);
}

#[test]
fn a_failed_write_waits_its_time() {
    let failed = |code: &str, retry_at: i64| {
        let error = ArmError::from_answer(409, None, format!(r#"{{"code":"{code}"}}"#).as_bytes());
        Seen { failure: Some(Failure { error, count: 1, retry_at: at(retry_at) }), ..seen(Observed::Absent) }
    };
    let mut given = complete();
    given.seen.insert(Part::Pool(1), failed("ConflictingServerOperation", 1001));
    assert!(given.writes().is_empty());
    assert!(
        matches!(&given.plan().verdicts[&Part::Pool(1)], Verdict::Failed(t) if t.reason == Reason::AzureConflict)
    );
    given.seen.insert(Part::Pool(1), failed("ConflictingServerOperation", 1000));
    assert_eq!(given.writes(), [Part::Pool(1)]);
    given.seen.insert(Part::Pool(1), failed("InvalidParameter", 1001));
    assert!(
        matches!(&given.plan().verdicts[&Part::Pool(1)], Verdict::Blocked(t) if t.reason == Reason::AzureRejected)
    );
}

#[test]
fn a_record_is_made_only_where_none_is_and_changed_only_as_it_was_read() {
    let mut given = complete();
    given.seen.insert(Part::Record, seen(Observed::Absent));
    assert_eq!(given.plan().writes[0].unless, Unless::Exists);
    let mut given = complete();
    change(&mut given, Part::Record, |record| {
        record["etag"] = json!("e");
        record["properties"]["ARecords"][0]["ipv4Address"] = json!("203.0.113.1");
    });
    assert_eq!(given.plan().writes[0].unless, Unless::Changed("e".to_owned()));
}

pub(super) fn reef(change: &Value) -> Reef {
    let mut reef = json!({
        "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "Reef",
        "metadata": { "name": "r", "uid": "u", "generation": 1 },
        "spec": { "regionRef": { "name": "g" }, "classRef": { "name": "c" }, "deletionPolicy": "Delete" },
    });
    merge(&mut reef, change);
    serde_json::from_value(reef).unwrap()
}

fn in_service() -> InCluster {
    InCluster { objects: Verdict::Good, gateway: Verdict::Good, address: Some("203.0.113.9".to_owned()) }
}

fn status(reef: &Reef, given: &Given, cluster: &InCluster, now: i64) -> ReefStatus {
    report(reef, &inputs(), &given.plan(), &given.seen, cluster, &POLICY, at(now))
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
    blind.seen.insert(Part::Network, seen(Observed::Unknown("no answer".to_owned())));
    let was_good = Reef { status: Some(good.clone()), ..reef(&json!({})) };
    let now = status(&was_good, &blind, &in_service(), 30);
    is(&now, Ready, ("True", "ReconcileSucceeded"));
    is(&now, NetworkReady, ("Unknown", "AzureUnavailable"));
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

#[test]
fn names_in_a_new_management_cluster_are_the_same() {
    assert_eq!(names::group("f", "r"), "reef-f-r");
    let ids: Vec<_> = inputs().parts().into_iter().map(|part| inputs().id(part)).collect();
    let again: Vec<_> = Inputs { uid: "another".to_owned(), ..inputs() }
        .parts()
        .into_iter()
        .map(|p| Inputs { uid: "another".to_owned(), ..inputs() }.id(p))
        .collect();
    assert_eq!(ids, again);
    let different: BTreeSet<_> = ids.iter().map(|id| id.to_lowercase()).collect();
    assert_eq!(different.len(), ids.len(), "no two parts have one id");
}

fn state() -> impl Strategy<Value = u8> {
    0u8..5
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
                1 => entry.state = Observed::Unknown("x".to_owned()),
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
