//! What the allocator is told: each input from the objects that it comes from.

use jiff::Timestamp;
use reef_crds::{CloudInstance, Reef, ReefClassSpec, RetainedInstance, reef::ReservationStatus};
use serde_json::{Value, json};

use super::{candidate::candidate, reservations, used::Used};
use crate::{
    observed::Observed,
    placement::{
        Candidate, Demand, Dimension, Gauge, Instance, Lack, Readiness, Refusal, place, reserve, verdict,
    },
};

const GI: u64 = 1 << 30;
const UID: &str = "00000000-0000-0000-0000-00000000000";

fn demand(instance: &CloudInstance) -> Demand {
    super::demand::demand(instance, now())
}

fn now() -> Timestamp {
    Timestamp::from_second(10_000).unwrap()
}

/// The first with what the second says otherwise.
fn with(mut object: Value, change: Value) -> Value {
    match (&mut object, change) {
        (Value::Object(object), Value::Object(change)) => {
            for (key, value) in change {
                let old = object.remove(&key).unwrap_or(Value::Null);
                object.insert(key, with(old, value));
            }
        }
        (_, change) => object = change,
    }
    object
}

fn class_spec(change: Value) -> ReefClassSpec {
    let spec = json!({
        "cluster": { "kubernetesVersion": "1.36", "nodePools": [
            { "name": "system", "mode": "System", "vmSize": "Standard_D4s_v5", "minCount": 2, "maxCount": 5 },
            { "name": "instances", "mode": "User", "vmSize": "Standard_D8s_v5", "minCount": 1, "maxCount": 50 },
        ]},
        "sql": { "pool": { "sku": "StandardPool", "capacity": 200, "perDatabase": { "min": "0", "max": "100" } } },
        "storage": { "sku": "Standard_ZRS", "softDeleteDays": 14 },
    });
    serde_json::from_value(with(spec, change)).unwrap()
}

fn reef_of(change: Value) -> Reef {
    let ready = json!({ "type": "Ready", "status": "True", "reason": "ReconcileSucceeded", "message": "",
        "lastTransitionTime": "2020-01-01T00:00:00Z" });
    let reef = json!({
        "metadata": { "name": "weu-1", "labels": { "ring": "late" } },
        "spec": { "regionRef": { "name": "weu" }, "classRef": { "name": "standard" } },
        "status": {
            "conditions": [ready],
            "pools": [{ "name": "pool-1", "ready": true }, { "name": "pool-2", "ready": false }],
            "storageAccounts": [{ "name": "st1", "ready": true }],
        },
    });
    serde_json::from_value(with(reef, change)).unwrap()
}

fn instance_of(number: u8, change: Value) -> CloudInstance {
    let instance = json!({
        "metadata": { "name": format!("i{number}"), "namespace": "customers", "uid": format!("{UID}{number}"), "generation": 3 },
        "spec": {
            "regionRef": { "name": "weu" }, "subdomain": "acme", "release": { "version": "2026.2.1" }, "taskCap": 20,
            "quota": { "share": "50Gi", "database": "5Gi" },
        },
    });
    serde_json::from_value(with(instance, change)).unwrap()
}

fn on(pool: Option<&str>) -> Value {
    let place = json!({ "reef": "weu-1", "storageAccount": "st1", "generation": 1, "reason": "" });
    let place = pool.map_or(place.clone(), |pool| with(place, json!({ "pool": pool })));
    json!({ "status": { "placement": place } })
}

fn retained_of(number: u8, database: Value) -> RetainedInstance {
    let account = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/st1";
    let database = with(json!({ "id": "/d", "name": "db", "isolation": { "tier": "Shared" } }), database);
    let spec = json!({
        "origin": { "namespace": "customers", "name": "gone", "uid": format!("{UID}{number}") },
        "regionRef": { "name": "weu" }, "reefRef": { "name": "weu-1" }, "database": database,
        "share": { "id": format!("{account}/fileServices/default/shares/fs"), "name": "fs",
            "quota": { "share": "30Gi", "database": "2Gi" } },
        "keysSecretRef": { "name": "k" }, "version": "2026.2.1", "subdomain": "gone",
    });
    serde_json::from_value(json!({ "metadata": { "name": "gone" }, "spec": spec })).unwrap()
}

fn seen(reef: &Reef, used: &Used) -> Candidate {
    candidate(reef, Some(&class_spec(json!({}))), used, now())
}

fn gauge(limit: u64, used: u64) -> Gauge {
    Gauge { limit, used }
}

#[test]
fn a_demand_says_what_the_spec_asks_for() {
    let plain = demand(&instance_of(1, json!({})));
    assert_eq!((plain.claim.as_str(), plain.revision, plain.generation), (&*format!("{UID}1"), 3, 1));
    assert_eq!(plain.instance, Instance { namespace: "customers".to_owned(), name: "i1".to_owned() });
    let size = plain.ask.size;
    assert_eq!((size.pods, size.cpu, size.memory), (1, 1000, 3000 << 20));
    assert_eq!((size.database, size.share), (5 * GI, 50 * GI));
    assert!(plain.reef.is_none() && plain.labels.is_empty() && plain.group().is_none());
    let wishes = json!({ "spec": {
        "placement": { "reefRef": { "name": "weu-2" }, "reefSelector": { "matchLabels": { "ring": "early" } },
            "antiAffinityGroup": "blue" },
        "isolation": { "database": { "tier": "Dedicated", "sku": "S3" }, "reef": { "tier": "Dedicated" } },
    }});
    let picky = demand(&instance_of(1, wishes));
    assert_eq!((picky.reef.as_deref(), picky.labels["ring"].as_str()), (Some("weu-2"), "early"));
    assert_eq!(picky.group().unwrap().namespace, "customers");
    assert_eq!(picky.ask.needs(Dimension::PoolDatabases), 0);
    let found = verdict(&picky, &seen(&reef_of(json!({})), &Used::default())).refusals;
    assert_eq!(found, [Refusal::NotAskedFor, Refusal::NotSelected, Refusal::NotDedicated]);
}

#[test]
fn a_reef_whose_cluster_cannot_be_reached_takes_nobody_new() {
    let condition = |type_: &str, status: &str, reason: &str| {
        json!({ "type": type_, "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2020-01-01T00:00:00Z" })
    };
    for (status, expect) in
        [("True", Readiness::Ready), ("Unknown", Readiness::NotReady("ClusterUnreachable".to_owned()))]
    {
        let conditions = json!([
            condition("Ready", "True", "ReconcileSucceeded"),
            condition("ClusterReachable", status, "ClusterUnreachable"),
        ]);
        let reef = reef_of(json!({ "status": { "conditions": conditions } }));
        assert_eq!(seen(&reef, &Used::default()).ready, expect, "{status}");
    }
}

#[test]
fn an_empty_reef_has_what_its_class_and_azure_give() {
    let reef = seen(&reef_of(json!({})), &Used::default());
    let expect = [
        (Dimension::Instances, gauge(300, 0)),
        (Dimension::Identities, gauge(800, 2)),
        (Dimension::Databases, gauge(5000, 0)),
        (Dimension::Pods, gauge(50 * 225, 0)),
        (Dimension::Cpu, gauge(50 * 7038, 0)),
    ];
    for (dimension, gauge) in expect {
        assert_eq!(reef.room[&dimension], gauge, "{dimension}");
    }
    assert_eq!(reef.room[&Dimension::Memory].limit / 50 / GI, 24);
    assert_eq!((reef.pools[0].databases, reef.pools[0].storage), (Some(gauge(100, 0)), None));
    assert_eq!((reef.pools[0].ready, reef.pools[1].ready), (true, false));
    assert_eq!((reef.accounts[0].shares, reef.accounts[0].storage), (Some(gauge(200, 0)), gauge(5 << 50, 0)));
    assert_eq!((reef.reserve_percent, reef.ready), (10, Readiness::Ready));
}

#[test]
fn what_the_class_says_of_its_pools_is_a_limit() {
    let pool = json!({ "sql": { "pool": { "maxSize": "6Gi", "maxDatabases": 7, "perDatabase": { "min": "50500m" } } } });
    let reef = candidate(&reef_of(json!({})), Some(&class_spec(pool)), &Used::default(), now());
    let first = &reef.pools[0];
    assert_eq!((first.databases, first.storage), (Some(gauge(7, 0)), Some(gauge(6 * GI, 0))));
    assert_eq!((first.capacity, first.guarantee), (200_000, 50_500));
}

#[test]
fn what_is_not_known_is_not_free() {
    let demand = demand(&instance_of(1, json!({})));
    let unknown = candidate(&reef_of(json!({})), None, &Used::default(), now());
    let found = verdict(&demand, &unknown).refusals;
    assert_eq!(found[0], Refusal::Lacks(Lack::Unknown(Dimension::Instances)));
    assert!(matches!(found[..], [.., Refusal::NoPool(_), Refusal::NoAccount(_)]), "{found:?}");
    let node =
        json!({ "name": "i", "mode": "User", "vmSize": "Standard_M8ms", "minCount": 1, "maxCount": 2 });
    let class = class_spec(json!({ "cluster": { "nodePools": [node] } }));
    let found =
        verdict(&demand, &candidate(&reef_of(json!({})), Some(&class), &Used::default(), now())).refusals;
    assert_eq!(found, [Dimension::Cpu, Dimension::Memory].map(|d| Refusal::Lacks(Lack::Unknown(d))));
}

#[test]
fn a_reef_says_its_state() {
    let not_ready = json!([{ "type": "Ready", "status": "False", "reason": "Provisioning", "message": "",
        "lastTransitionTime": "2020-01-01T00:00:00Z" }]);
    let cases = [
        (json!({ "status": { "conditions": not_ready } }), Refusal::NotReady("Provisioning".to_owned())),
        (json!({ "status": null }), Refusal::NotReady("not looked at yet".to_owned())),
        (json!({ "spec": { "scheduling": "Cordoned" } }), Refusal::Cordoned),
        (json!({ "spec": { "dedicatedTo": { "namespaces": ["other"] } } }), Refusal::KeptForOthers),
        (json!({ "metadata": { "deletionTimestamp": "2020-01-01T00:00:00Z" } }), Refusal::Deleting),
    ];
    let demand = demand(&instance_of(1, json!({})));
    for (change, expect) in cases {
        let reef = candidate(&reef_of(change), None, &Used::default(), now());
        let found = verdict(&demand, &reef).refusals;
        assert!(found.contains(&expect), "{found:?}");
        if matches!(expect, Refusal::NotReady(_)) {
            assert_eq!(found.len(), 1, "only that: {found:?}");
        }
    }
}

#[test]
fn instances_count_where_they_are_also_while_they_go() {
    let mut used = Used::default();
    used.add(&instance_of(1, json!({})));
    used.add(&instance_of(2, on(Some("pool-1"))));
    let going = with(on(None), json!({ "metadata": { "deletionTimestamp": "2020-01-01T00:00:00Z" } }));
    used.add(&instance_of(3, with(going, json!({ "spec": {
        "isolation": { "database": { "tier": "Dedicated", "sku": "S3" }, "reef": { "tier": "Dedicated" } },
        "placement": { "antiAffinityGroup": "blue" },
    }}))));
    used.add(&instance_of(4, with(on(None), json!({ "status": { "placement": { "reef": "weu-2" } } }))));
    let reef = seen(&reef_of(json!({})), &used);
    assert_eq!(reef.counted.len(), 2);
    assert_eq!(reef.room[&Dimension::Instances].used, 2);
    assert_eq!(reef.room[&Dimension::Identities].used, 4);
    assert_eq!(reef.room[&Dimension::Databases].used, 2);
    assert_eq!(reef.room[&Dimension::Cpu].used, 2000);
    assert_eq!(reef.pools[0].databases.unwrap().used, 1);
    assert_eq!((reef.accounts[0].shares.unwrap().used, reef.accounts[0].storage.used), (2, 100 * GI));
    assert!(reef.holds_dedicated && reef.groups.len() == 1);
    // An old view of one that is placed by now: it is not placed again.
    let decision = place(&demand(&instance_of(2, json!({}))), &[reef]);
    assert_eq!((decision.chosen, decision.held_by.as_deref()), (None, Some("weu-1")));
}

#[test]
fn what_is_kept_uses_a_database_and_a_share() {
    let dedicated = json!({ "isolation": { "tier": "Dedicated", "sku": "S3" } });
    let cases = [
        ("in a pool", json!({ "pool": "pool-1" }), (1, 0)),
        ("with its own compute", dedicated, (0, 0)),
        ("not known in which pool", json!({}), (1, 1)),
    ];
    for (case, database, (first, second)) in cases {
        let mut used = Used::default();
        used.add_kept(&retained_of(9, database));
        let reef = seen(&reef_of(json!({})), &used);
        assert_eq!(reef.room[&Dimension::Databases].used, 1, "{case}");
        assert_eq!(reef.room[&Dimension::Instances].used, 0, "{case}");
        let databases = [0, 1].map(|n: usize| reef.pools[n].databases.unwrap().used);
        assert_eq!(databases, [first, second], "{case}");
        assert_eq!(
            (reef.accounts[0].shares.unwrap().used, reef.accounts[0].storage.used),
            (1, 30 * GI),
            "{case}"
        );
    }
    // It is written down before the instance is gone: then it counts once.
    let mut used = Used::default();
    used.add(&instance_of(1, on(Some("pool-1"))));
    used.add_kept(&retained_of(1, json!({ "pool": "pool-1" })));
    let reef = seen(&reef_of(json!({})), &used);
    assert_eq!((reef.room[&Dimension::Databases].used, reef.accounts[0].shares.unwrap().used), (1, 1));
}

fn reserved(demand: &Demand, reef: &Candidate, used: &Used) -> Vec<ReservationStatus> {
    let placement = place(demand, std::slice::from_ref(reef)).chosen.unwrap().placement;
    let list = reserve(demand, reef, &used.seen(&demand.instance), &placement, now()).unwrap();
    list.iter().map(reservations::write).collect()
}

#[test]
fn a_reservation_stands_in_the_reef_as_it_was_made() {
    let instance = instance_of(1, json!({ "spec": { "placement": { "antiAffinityGroup": "blue" } } }));
    let mut used = Used::default();
    used.add(&instance);
    let demand = demand(&instance);
    let list = reserved(&demand, &seen(&reef_of(json!({})), &used), &used);
    let text = json!({
        "uid": format!("{UID}1"), "namespace": "customers", "name": "i1", "revision": 3, "generation": 1,
        "pool": "pool-1", "storageAccount": "st1", "at": "1970-01-01T02:46:40Z",
        "ask": { "pods": 1, "cpuMillicores": 1000, "memoryBytes": 3000u64 << 20, "databaseBytes": 5 * GI,
            "shareBytes": 50 * GI, "dedicatedReef": false, "dedicatedDatabase": false, "antiAffinityGroup": "blue" },
    });
    assert_eq!(serde_json::to_value(&list).unwrap(), json!([text]));
    // It is found again, counts for others, and those of its group do not come.
    let reef = seen(&reef_of(json!({ "status": { "reservations": list } })), &used);
    assert!(place(&demand, std::slice::from_ref(&reef)).chosen.unwrap().is_reserved());
    let blue = json!({ "spec": { "placement": { "antiAffinityGroup": "blue" } } });
    let other = super::demand::demand(&instance_of(2, blue), now());
    assert_eq!(verdict(&other, &reef).refusals, [Refusal::GroupPresent("blue".to_owned())]);
}

#[test]
fn reservations_that_are_of_no_use_are_not_seen() {
    let held = |number: u8, revision: i64, at: &str| {
        json!({ "uid": format!("{UID}{number}"), "namespace": "customers", "name": format!("i{number}"),
            "revision": revision, "generation": 1, "pool": "pool-1", "storageAccount": "st1", "at": at })
    };
    let (now_text, long_ago) = ("1970-01-01T02:46:40Z", "1970-01-01T02:36:40Z");
    let mut old_release = held(1, 0, now_text);
    old_release.as_object_mut().unwrap().remove("revision");
    let cases = [
        ("waits for its status", held(1, 3, long_ago), true),
        ("is in its status", held(2, 3, now_text), false),
        ("was made for an earlier spec", held(1, 2, now_text), false),
        ("an earlier release wrote it", old_release, false),
        ("is of one that was there just now", held(9, 1, now_text), true),
        ("is of one that is long gone", held(9, 1, long_ago), false),
    ];
    let mut used = Used::default();
    used.add(&instance_of(1, json!({})));
    used.add(&instance_of(2, on(Some("pool-1"))));
    for (case, held, stays) in cases {
        let reef = seen(&reef_of(json!({ "status": { "reservations": [held] } })), &used);
        assert_eq!(!reef.reservations.is_empty(), stays, "{case}");
    }
    assert_eq!(used.seen(&demand(&instance_of(9, json!({}))).instance), Observed::Absent);
}

#[test]
fn an_instance_that_cannot_be_read_takes_its_room_all_the_same() {
    let raw = json!({
        "metadata": { "name": "garbled", "namespace": "tenant", "uid": "u", "generation": 4 },
        "spec": { "taskCap": "many" },
        "status": { "placement": { "reef": "weu-1", "pool": "pool-1", "storageAccount": "a", "generation": 2 } },
    });
    let mut used = Used::default();
    used.add_unreadable(&raw);
    used.add_unreadable(&json!({ "metadata": {} }));
    let instance = Instance { namespace: "tenant".to_owned(), name: "garbled".to_owned() };
    let Observed::Present(seen) = used.seen(&instance) else { panic!("it is there") };
    assert_eq!((seen.claim.as_str(), seen.revision), ("u", 4));
    assert_eq!(seen.placement.unwrap().generation, 2);
    let room = [
        (Dimension::Instances, Gauge { limit: 9, used: 0 }),
        (Dimension::Cpu, Gauge { limit: 9000, used: 0 }),
    ];
    let mut reef = Candidate { name: "weu-1".to_owned(), room: room.into(), ..Candidate::default() };
    used.count_on(&mut reef);
    assert!(reef.counted.contains(&instance), "it is not placed a second time");
    assert_eq!((reef.room[&Dimension::Instances].used, reef.room[&Dimension::Cpu].used), (1, 3500));
}
