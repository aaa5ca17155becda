//! Plan of a Reef: each situation with what is written.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use reef_crds::{Reef, condition::Reason};
use serde_json::{Value, json};

use super::{
    bodies::Inputs,
    names::{self, TAG_CLAIM},
    parts::Part,
    plan::{Facts, Plan, plan},
};
use crate::{
    azure::{ArmError, Unless},
    observed::Observed,
    resources::{Failure, Seen, Verdict},
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
        revision: "c-1".to_owned(),
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
        agent_client: None,
    }
}

pub(super) fn seen(state: Observed<Value>) -> Seen {
    Seen { state, operation: None, blind: None, failure: None }
}

type World = BTreeMap<Part, Seen>;

pub(super) fn nothing() -> World {
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

pub(super) struct Given {
    pub(super) seen: World,
    pub(super) had_data: BTreeSet<Part>,
    may_adopt: bool,
    may_recreate: bool,
}

impl Given {
    pub(super) fn new(seen: World) -> Self {
        Self { seen, had_data: BTreeSet::new(), may_adopt: false, may_recreate: false }
    }

    pub(super) fn plan(&self) -> Plan {
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
pub(super) fn build(given: &mut Given) -> Vec<Vec<Part>> {
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

pub(super) fn complete() -> Given {
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
        let Observed::Present(found) = &given.seen[&part].state else { panic!("{part:?}") };
        assert_eq!(writes[0].body_for(found)["theirs"], "kept", "{part:?}");
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
        given.seen.insert(part, seen(Observed::Unknown("no answer".into())));
        assert!(given.writes().is_empty(), "{part:?}");
        assert!(matches!(given.plan().verdicts[&part], Verdict::Unknown(_)));
    }
    let mut given = Given::new(nothing());
    given.seen.insert(Part::Group, seen(Observed::Unknown("no answer".into())));
    assert!(given.writes().is_empty(), "nothing is made in a group that was not seen");
}

#[test]
fn a_security_rule_that_somebody_added_goes() {
    let mut given = complete();
    change(&mut given, Part::SecurityGroup, |group| {
        let rules = group["properties"]["securityRules"].as_array_mut().unwrap();
        rules.push(json!({ "name": "open", "properties": { "access": "Allow" } }));
    });
    let writes = given.plan().writes;
    assert_eq!(writes.len(), 1);
    let Observed::Present(found) = &given.seen[&Part::SecurityGroup].state else { panic!("present") };
    let body = writes[0].body_for(found);
    assert_eq!(body["properties"]["securityRules"].as_array().unwrap().len(), 1);
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
    for part in [Part::SqlServer, Part::StorageAccount(1), Part::Cluster] {
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
    // Nor is anything when the whole group is gone.
    let mut given = Given::new(nothing());
    given.had_data.insert(Part::SqlServer);
    assert!(given.writes().is_empty());
    assert!(
        matches!(&given.plan().verdicts[&Part::Group], Verdict::Blocked(t) if t.reason == Reason::DataResourceMissing)
    );
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
