//! Plan and teardown of a CloudInstance: each situation with what is written, and what must always hold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use reef_crds::{condition::Reason, reef::DeletionPolicy};
use serde_json::{Value, json};

use super::{
    bodies::Inputs,
    names::{self, TAG_CLAIM, TAG_KEYS},
    parts::Part,
    plan::{Facts, Plan, missing, plan},
    teardown::{Remains, Step, next},
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
    let text = |text: &str| text.to_owned();
    Inputs {
        fleet: text("f"),
        region: text("g"),
        reef: text("r"),
        instance_namespace: text("customers"),
        instance_name: text("acme"),
        uid: text("u"),
        hash: names::hash("f", "customers", "acme"),
        location: text("westeurope"),
        group: text("/subscriptions/s/resourceGroups/reef-f-r"),
        cloud: crate::azure::Cloud::public(),
        tenant: text("t"),
        address_space: text("10.0.0.0/8"),
        zone: (text("/z/dnsZones/a.example"), text("a.example")),
        ttl: 300,
        subdomain: text("acme"),
        gateway_host: text("r.f.reefs.a.example"),
        sql_server: (text("sql"), text("sql.database.windows.net")),
        pool: Some(text("pool-1")),
        sku: None,
        database_bytes: 10 << 30,
        incarnation: 1,
        account: text("account1"),
        share_gib: 100,
        issuer: text("https://issuer/"),
        generation: 1,
        keys_hash: text("k"),
    }
}

fn seen(state: Observed<Value>) -> Seen {
    Seen { state, operation: None, blind: None, failure: None }
}

struct Given {
    inputs: Inputs,
    seen: BTreeMap<Part, Seen>,
    had: (bool, bool),
    may_adopt: bool,
    may_recreate: bool,
    unpublished: Option<&'static str>,
}

impl Given {
    fn nothing() -> Self {
        Self {
            inputs: inputs(),
            seen: Part::ALL.into_iter().map(|part| (part, seen(Observed::Absent))).collect(),
            had: (false, false),
            may_adopt: false,
            may_recreate: false,
            unpublished: Some("the server"),
        }
    }

    /// Everything as it is wanted.
    fn complete() -> Self {
        let mut given = Self::nothing();
        let all = Part::ALL.map(|part| (part, seen(Observed::Present(found(&given.inputs, part)))));
        given.seen = all.into();
        given.unpublished = None;
        given
    }

    fn plan(&self) -> Plan {
        plan(&Facts {
            taken_for_good: None,
            inputs: &self.inputs,
            seen: &self.seen,
            had: self.had,
            may_adopt: self.may_adopt,
            may_recreate: self.may_recreate,
            is_spent: false,
            unpublished: self.unpublished,
            now: at(1000),
        })
    }

    fn writes(&self) -> Vec<Part> {
        self.plan().writes.iter().map(|write| write.part).collect()
    }

    fn change(&mut self, part: Part, change: impl FnOnce(&mut Value)) {
        let Observed::Present(value) = &mut self.seen.get_mut(&part).unwrap().state else {
            panic!("{part:?}")
        };
        change(value);
    }

    fn blocked(&self, part: Part) -> Option<Reason> {
        match &self.plan().verdicts[&part] {
            Verdict::Blocked(trouble) => Some(trouble.reason),
            _ => None,
        }
    }
}

/// A part as Azure shows it after our write.
fn found(inputs: &Inputs, part: Part) -> Value {
    let mut body = inputs.wanted(part).body.unwrap();
    match part {
        Part::Identity => body["properties"] = json!({ "clientId": "c", "principalId": "p" }),
        Part::Database => body["properties"]["status"] = json!("Online"),
        _ => {}
    }
    body
}

#[test]
fn it_is_made_step_by_step_and_the_record_comes_last() {
    let mut given = Given::nothing();
    for expect in [vec![Part::Identity], vec![Part::Federation, Part::Database, Part::Share], vec![]] {
        assert_eq!(given.writes(), expect);
        for part in expect {
            let value = found(&given.inputs, part);
            given.seen.insert(part, seen(Observed::Present(value)));
        }
    }
    assert_eq!(missing(&given.plan(), false), None);
    assert!(
        matches!(&given.plan().verdicts[&Part::Record], Verdict::Waiting(what) if what.contains("the server"))
    );
    given.unpublished = None;
    let plan = given.plan();
    assert_eq!(
        plan.writes.iter().map(|w| (w.part, w.unless.clone())).collect::<Vec<_>>(),
        [(Part::Record, Unless::Exists)]
    );
    let complete = Given::complete().plan();
    assert!(
        complete.writes.is_empty() && complete.verdicts.values().all(|v| *v == Verdict::Good),
        "{complete:?}"
    );
}

#[test]
fn what_differs_is_put_back_and_what_is_not_ours_stays() {
    for (part, pointer, value) in [
        (Part::Federation, "/properties/issuer", json!("https://other/")),
        (Part::Database, "/properties/maxSizeBytes", json!(1)),
        (Part::Share, "/properties/shareQuota", json!(1)),
        (Part::Record, "/properties/CNAMERecord/cname", json!("elsewhere.example")),
        (Part::Record, "/properties/TTL", json!(1)),
    ] {
        let mut given = Given::complete();
        given.change(part, |found| {
            *found.pointer_mut(pointer).unwrap() = value;
            found["properties"]["theirs"] = json!(1);
        });
        let plan = given.plan();
        assert_eq!(plan.writes.len(), 1, "{pointer}");
        let Observed::Present(live) = &given.seen[&part].state else { panic!("present") };
        assert_eq!(plan.writes[0].body_for(live)["properties"]["theirs"], 1, "{pointer}");
    }
}

#[test]
fn data_never_gets_less_room_than_it_has() {
    for (part, pointer) in
        [(Part::Database, "/properties/maxSizeBytes"), (Part::Share, "/properties/shareQuota")]
    {
        let mut given = Given::complete();
        let larger =
            json!(given.inputs.wanted(part).body.unwrap().pointer(pointer).unwrap().as_i64().unwrap() * 5);
        given.change(part, |found| *found.pointer_mut(pointer).unwrap() = larger.clone());
        assert!(given.writes().is_empty(), "{part:?}: somebody gave it more by hand");
        // Something else is to be changed, and it grew once more since it was read.
        let other = if part == Part::Database { "collation" } else { "accessTier" };
        given.change(part, |found| found["properties"][other] = json!("another"));
        let plan = given.plan();
        let write = plan.writes.iter().find(|write| write.part == part).unwrap();
        let Observed::Present(found) = &given.seen[&part].state else { panic!("present") };
        assert_eq!(write.body_for(found).pointer(pointer), Some(&larger), "{part:?}");
        let mut now = found.clone();
        *now.pointer_mut(pointer).unwrap() = json!(i64::MAX);
        assert_eq!(write.body_for(&now).pointer(pointer), Some(&json!(i64::MAX)), "{part:?}");
    }
}

#[test]
fn data_that_was_there_and_is_gone_is_not_made_again() {
    for (part, had) in [(Part::Database, (true, false)), (Part::Share, (false, true))] {
        let mut given = Given::complete();
        given.seen.insert(part, seen(Observed::Absent));
        given.had = had;
        assert_eq!((given.blocked(part), given.writes()), (Some(Reason::DataResourceMissing), vec![]));
        given.may_recreate = true;
        assert_eq!(given.writes(), [part]);
        given.had = (false, false);
        given.may_recreate = false;
        assert_eq!(given.writes(), [part], "it was never there");
    }
}

#[test]
fn what_belongs_to_others_is_left_alone() {
    for part in [Part::Identity, Part::Database, Part::Share, Part::Record] {
        let tag = |name: &str| if part == Part::Share { name.replace('-', "_") } else { name.to_owned() };
        let marks = |found: &mut Value, name: &str, value: &str| {
            let place = match part {
                Part::Share | Part::Record => &mut found["properties"]["metadata"],
                _ => &mut found["tags"],
            };
            place[tag(name)] = json!(value);
        };
        let mut given = Given::complete();
        given.change(part, |found| marks(found, names::TAG_INSTANCE, "customers/globex"));
        assert_eq!((given.blocked(part), given.writes()), (Some(Reason::NameTaken), vec![]), "{part:?}");

        let mut given = Given::complete();
        given.change(part, |found| marks(found, TAG_CLAIM, "earlier"));
        assert_eq!(
            (given.blocked(part), given.writes()),
            (Some(Reason::AdoptionRequired), vec![]),
            "{part:?}"
        );
        given.may_adopt = true;
        assert_eq!(given.writes(), [part], "{part:?}: only the claim is written");
    }
    let mut given = Given::complete();
    given.change(Part::Record, |found| found["properties"]["metadata"] = Value::Null);
    assert_eq!(given.blocked(Part::Record), Some(Reason::NameTaken), "a record that somebody made");
}

#[test]
fn other_keys_than_the_databases_stall() {
    let mut given = Given::complete();
    given.change(Part::Database, |found| found["tags"][TAG_KEYS] = json!("other"));
    assert_eq!((given.blocked(Part::Database), given.writes()), (Some(Reason::KeysDiffer), vec![]));
    given.may_adopt = true;
    assert_eq!(given.blocked(Part::Database), Some(Reason::KeysDiffer), "not even by adoption");
}

#[test]
fn a_database_has_a_pool_or_compute_of_its_own() {
    let given = Given::complete();
    let body = given.inputs.wanted(Part::Database).body.unwrap();
    assert!(body["properties"]["elasticPoolId"].as_str().unwrap().ends_with("/elasticPools/pool-1"));
    assert_eq!(body["sku"], Value::Null);
    let own = Inputs { pool: None, sku: Some("S3".to_owned()), ..inputs() };
    let body = own.wanted(Part::Database).body.unwrap();
    assert_eq!((&body["sku"]["name"], &body["sku"]["capacity"]), (&json!("Standard"), &json!(100)));
    assert_eq!(body["properties"]["elasticPoolId"], Value::Null);
    let neither = Inputs { pool: None, ..inputs() };
    assert_eq!(neither.wanted(Part::Database).body, None, "Azure would choose an expensive one");
}

#[test]
fn a_failed_write_waits() {
    let mut given = Given::nothing();
    let error = ArmError::from_answer(429, None, br#"{"code":"TooManyRequests"}"#);
    let failure = |retry_at| Some(Failure { error: error.clone(), count: 1, retry_at });
    given.seen.get_mut(&Part::Identity).unwrap().failure = failure(at(1001));
    assert_eq!(given.writes(), []);
    given.seen.get_mut(&Part::Identity).unwrap().failure = failure(at(999));
    assert_eq!(given.writes(), [Part::Identity]);
}

pub fn all_there() -> Remains {
    let inputs = inputs();
    let there = |part| Observed::Present(found(&inputs, part));
    let namespace = json!({ "metadata": {
        "labels": { "cloud.octopus.com/fleet": "f", "cloud.octopus.com/instance": inputs.hash },
        "annotations": { "cloud.octopus.com/claim": "u" },
    } });
    Remains {
        record: there(Part::Record),
        namespace: Observed::Present(namespace),
        identity: there(Part::Identity),
        database: there(Part::Database),
        share: there(Part::Share),
        is_retained: false,
        has_leftovers: true,
        is_second_look: false,
        may_come: None,
    }
}

/// Runs a deletion to its end, doing what each step says.
fn steps(policy: DeletionPolicy) -> Vec<Step> {
    let (mut remains, mut all) = (all_there(), Vec::new());
    loop {
        let step = next(policy, &inputs(), &remains);
        match &step {
            Step::Delete(Part::Record) => remains.record = Observed::Absent,
            Step::Delete(Part::Identity) => remains.identity = Observed::Absent,
            Step::Delete(Part::Database) => remains.database = Observed::Absent,
            Step::Delete(Part::Share) => remains.share = Observed::Absent,
            Step::DeleteWorkload if remains.namespace == Observed::Absent => remains.has_leftovers = false,
            Step::DeleteWorkload => remains.namespace = Observed::Absent,
            Step::LookAgain => remains.is_second_look = true,
            Step::MakeRetained => remains.is_retained = true,
            other => panic!("{other:?}"),
        }
        all.push(step);
        if let done @ Step::Done(_) = next(policy, &inputs(), &remains) {
            all.push(done);
            return all;
        }
    }
}

#[test]
fn it_goes_from_the_outside_to_its_data() {
    assert_eq!(
        steps(DeletionPolicy::Retain),
        [
            Step::Delete(Part::Record),
            Step::DeleteWorkload,
            Step::DeleteWorkload,
            Step::MakeRetained,
            Step::Delete(Part::Identity),
            Step::Done("what it stored is kept"),
        ]
    );
    assert_eq!(
        steps(DeletionPolicy::Delete),
        [
            Step::Delete(Part::Record),
            Step::DeleteWorkload,
            Step::DeleteWorkload,
            Step::Delete(Part::Identity),
            Step::Delete(Part::Database),
            Step::Delete(Part::Share),
            Step::LookAgain,
            Step::Done("nothing of it is left"),
        ]
    );
}

#[test]
fn a_server_that_runs_is_cared_for_unless_its_own_parts_are_lost() {
    let mut given = Given::complete();
    let blind = seen(Observed::Unknown("no answer".into()));
    let foreign = |value: &mut Value| value["tags"][names::TAG_INSTANCE] = json!("customers/other");
    given.seen.insert(Part::Share, blind);
    assert_eq!(missing(&given.plan(), false), Some(Part::Share), "it does not start on what was not seen");
    assert_eq!(missing(&given.plan(), true), None);
    given.change(Part::Record, |record| {
        record["properties"]["metadata"][names::TAG_INSTANCE] = json!("customers/other");
    });
    assert_eq!(given.blocked(Part::Record), Some(Reason::NameTaken));
    assert_eq!(missing(&given.plan(), true), None, "its name is taken, its server is not");
    given.change(Part::Database, foreign);
    assert_eq!(missing(&given.plan(), true), Some(Part::Database));
}

#[test]
fn what_may_still_come_is_waited_for() {
    let mut remains = all_there();
    (remains.record, remains.namespace, remains.has_leftovers) = (Observed::Absent, Observed::Absent, false);
    (remains.database, remains.may_come) = (Observed::Absent, Some(Part::Database));
    for policy in [DeletionPolicy::Retain, DeletionPolicy::Delete] {
        let step = next(policy, &inputs(), &remains);
        assert!(matches!(&step, Step::Wait(what) if what.contains("database")), "{step:?}");
    }
}

#[test]
fn who_cannot_have_its_name_makes_nothing() {
    let mut given = Given::nothing();
    let theirs = json!({ "properties": { "metadata": { names::TAG_INSTANCE: "customers/other" } } });
    given.seen.insert(Part::Record, seen(Observed::Present(theirs)));
    assert_eq!(given.blocked(Part::Record), Some(Reason::NameTaken));
    assert_eq!(given.writes(), [], "neither identity nor data");
}

#[test]
fn a_namespace_that_is_going_is_waited_for() {
    let mut remains = all_there();
    remains.record = Observed::Absent;
    let Observed::Present(namespace) = &mut remains.namespace else { panic!("present") };
    namespace["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(matches!(next(DeletionPolicy::Delete, &inputs(), &remains), Step::Wait(_)));
}

#[test]
fn what_this_object_never_took_over_is_not_its_to_delete() {
    let earlier = Inputs { uid: "earlier".to_owned(), ..inputs() };
    let mut remains = all_there();
    (remains.has_leftovers, remains.is_second_look) = (false, true);
    for policy in [DeletionPolicy::Retain, DeletionPolicy::Delete] {
        assert!(matches!(next(policy, &earlier, &remains), Step::Done(_)), "{policy:?}");
    }
}

fn state() -> impl Strategy<Value = u8> {
    0..4u8
}

proptest! {
    /// Nothing is written or deleted without a certain look at it, and nothing of another's.
    #[test]
    fn only_what_was_seen_and_is_ours_is_touched(
        states in prop::array::uniform6(state()),
        had in any::<(bool, bool)>(),
        keeps in any::<bool>(),
        is_retained in any::<bool>(),
        (has_leftovers, is_second_look) in any::<(bool, bool)>(),
    ) {
        let inputs = inputs();
        let look = |part: Part, state: u8| match state {
            0 => Observed::Absent,
            1 => Observed::Unknown("no answer".into()),
            2 => Observed::Present(found(&inputs, part)),
            _ => Observed::Present(json!({ "tags": {}, "properties": {} })),
        };
        let mut given = Given::nothing();
        given.had = had;
        given.unpublished = None;
        for (part, state) in Part::ALL.into_iter().zip(states) {
            given.seen.insert(part, seen(look(part, state)));
        }
        for write in given.plan().writes {
            match &given.seen[&write.part].state {
                Observed::Absent => prop_assert!(write.found.is_none()),
                Observed::Present(_) => prop_assert_eq!(write.part, Part::Federation, "the others are ours or foreign"),
                Observed::Unknown(_) => prop_assert!(false, "{:?} was not seen", write.part),
            }
            let lost = (write.part == Part::Database && had.0) || (write.part == Part::Share && had.1);
            prop_assert!(!lost, "{:?}", write.part);
        }
        let [identity, federation, database, share, record, namespace] = states;
        let _ = federation;
        let remains = Remains {
            record: look(Part::Record, record),
            identity: look(Part::Identity, identity),
            database: look(Part::Database, database),
            share: look(Part::Share, share),
            namespace: match namespace {
                0 => Observed::Absent,
                1 => Observed::Unknown("no answer".into()),
                2 => all_there().namespace,
                _ => Observed::Present(json!({ "metadata": {} })),
            },
            is_retained,
            has_leftovers,
            is_second_look,
            may_come: None,
        };
        let policy = if keeps { DeletionPolicy::Retain } else { DeletionPolicy::Delete };
        let step = next(policy, &inputs, &remains);
        let certain = [identity, database, share, record, namespace].iter().all(|state| *state != 1);
        match step {
            Step::Delete(part @ (Part::Database | Part::Share)) => {
                prop_assert!(certain && !keeps);
                prop_assert_eq!(if part == Part::Database { database } else { share }, 2);
                prop_assert!(record != 2 && namespace != 2 && identity != 2, "its data goes last");
            }
            Step::Delete(Part::Identity) => prop_assert!(certain && identity == 2 && namespace != 2),
            Step::Done(_) => {
                prop_assert!(certain && record != 2 && namespace != 2 && identity != 2);
                prop_assert!(is_second_look || (keeps && (database == 2 || share == 2)), "absences are seen twice");
                prop_assert!(namespace != 0 || !has_leftovers);
            }
            Step::MakeRetained => prop_assert!(keeps && !is_retained && (database == 2 || share == 2)),
            Step::Delete(_) | Step::DeleteWorkload | Step::LookAgain | Step::Wait(_) | Step::Held(_) => {}
        }
    }
}
