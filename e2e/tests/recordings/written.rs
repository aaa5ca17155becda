//! What Azure makes of what the operator writes is never a reason to write again.

use std::collections::BTreeMap;

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use reef_crds::{ReefClass, ReefClassSpec};
use reef_e2e::azure::{Cloud, Response, SUBSCRIPTION, TENANT, providers, roles, slots::Slot};
use reef_operator::{
    azure::{compare, operation::is_terminal},
    controllers::{
        cloud_instance::{self, parts::Part as InstancePart},
        reef::{self, parts::Part},
    },
    resources::{Write, decide::Wanted, state},
};
use serde_json::{Value, json};

use super::sent::{OWNER, request};

/// Worlds that are tried.
const WORLDS: usize = 60;

/// Longer than anything takes, milliseconds.
const LONG: u64 = 3_600_000;

/// An hour is over after each write.
struct World {
    cloud: Cloud,
    now: u64,
    writes: usize,
}

/// What differs between worlds.
#[derive(Clone, Debug)]
struct Given {
    pool: (&'static str, u32, &'static str, &'static str),
    storage: &'static str,
    tier: &'static str,
    nodes: Vec<(u32, u32)>,
    soft_delete: u32,
    location: &'static str,
    pools: u8,
    accounts: u8,
    database: (Option<&'static str>, i64),
    share: i64,
    ttl: u32,
}

fn given() -> impl Strategy<Value = Given> {
    let pool = prop::sample::select(vec![
        ("StandardPool", 200, "0", "100"),
        ("StandardPool", 50, "10", "50"),
        ("PremiumPool", 250, "0", "250"),
        ("GP_Gen5", 8, "0", "2"),
        ("GP_Gen5", 4, "250m", "4"),
        ("BC_Gen5", 8, "500m", "8"),
    ]);
    let storage = prop::sample::select(vec!["Standard_ZRS", "Standard_LRS"]);
    let tier = prop::sample::select(vec!["Free", "Standard", "Premium"]);
    let nodes = prop::collection::vec((1u32..5, 5u32..50), 1..3);
    let location = prop::sample::select(vec!["westeurope", "eastus2", "australiaeast"]);
    let sku = prop::option::of(prop::sample::select(vec!["S0", "S3", "P1", "GP_Gen5_2", "BC_Gen5_4"]));
    let sizes = (sku, 1i64..500, 1i64..1024, 30u32..3600, 1u32..365);
    (pool, storage, tier, nodes, location, 1u8..3, 1u8..3, sizes).prop_map(
        |(pool, storage, tier, nodes, location, pools, accounts, (sku, gib, share, ttl, soft_delete))| {
            Given {
                pool,
                storage,
                tier,
                nodes,
                soft_delete,
                location,
                pools,
                accounts,
                database: (sku, gib << 30),
                share,
                ttl,
            }
        },
    )
}

fn class(given: &Given) -> ReefClassSpec {
    let (sku, capacity, min, max) = given.pool;
    let user = |(n, (min, max)): (usize, &(u32, u32))| json!({ "name": format!("user{n}"), "mode": "User", "vmSize": "Standard_D8s_v5", "minCount": min, "maxCount": max });
    let mut pools = vec![
        json!({ "name": "system", "mode": "System", "vmSize": "Standard_D4s_v5", "minCount": 2, "maxCount": 5 }),
    ];
    pools.extend(given.nodes.iter().enumerate().map(user));
    let class = json!({
        "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "ReefClass", "metadata": { "name": "c" },
        "spec": {
            "cluster": { "kubernetesVersion": "1.36", "tier": given.tier, "nodePools": pools },
            "sql": { "pool": { "sku": sku, "capacity": capacity, "perDatabase": { "min": min, "max": max } } },
            "storage": { "sku": given.storage, "softDeleteDays": given.soft_delete },
        },
    });
    serde_json::from_value::<ReefClass>(class).unwrap().spec
}

fn reef(given: &Given, zone: &str) -> reef::bodies::Inputs {
    let text = str::to_owned;
    reef::bodies::Inputs {
        fleet: text("f"),
        region: text("weu"),
        reef: text("weu-1"),
        uid: text("uid"),
        location: text(given.location),
        subscription: text(SUBSCRIPTION),
        tenant: text(TENANT),
        zone: text(zone),
        ttl: given.ttl,
        address_space: text("10.1.0.0/16"),
        subnet: text("10.1.0.0/20"),
        sql_server: text("f-weu-1-abc"),
        storage_accounts: (1..=given.accounts).map(|n| format!("reefabc{n}")).collect(),
        pools: given.pools,
        revision: text("c-1"),
        class: class(given),
        operator: Some(text("00000000-0000-4000-8000-0000000000ab")),
        gateway: Some(text("203.0.113.7")),
        agent_client: None,
    }
}

fn instance(given: &Given, of: &reef::bodies::Inputs) -> cloud_instance::bodies::Inputs {
    let text = str::to_owned;
    let (sku, bytes) = given.database;
    cloud_instance::bodies::Inputs {
        fleet: of.fleet.clone(),
        region: of.region.clone(),
        reef: of.reef.clone(),
        instance_namespace: text("customers"),
        instance_name: text("acme"),
        uid: text("uid-2"),
        hash: text("0123456789abcdef"),
        location: of.location.clone(),
        group: of.group(),
        cloud: reef_operator::azure::Cloud::public(),
        tenant: of.tenant.clone(),
        address_space: text("10.0.0.0/8"),
        zone: (of.zone.clone(), text("octopus.example")),
        ttl: given.ttl,
        subdomain: text("acme"),
        gateway_host: text("weu-1.reefs.octopus.example"),
        sql_server: (of.sql_server.clone(), format!("{}.database.windows.net", of.sql_server)),
        pool: sku.is_none().then(|| text("pool-1")),
        sku: sku.map(text),
        database_bytes: bytes,
        incarnation: 1,
        account: of.storage_accounts[0].clone(),
        share_gib: given.share,
        issuer: text("https://issuer.example/"),
        generation: 1,
        keys_hash: text("h"),
    }
}

impl World {
    fn new(zone: &str) -> Self {
        let mut cloud = Cloud::new("https://management.azure.com", 1, 1.0);
        cloud.grant((OWNER, roles::OWNER, &format!("/subscriptions/{SUBSCRIPTION}")));
        for provider in providers() {
            let path = format!("/subscriptions/{SUBSCRIPTION}/providers/{provider}/register");
            cloud.handle(&request("POST", &path, "2021-04-01", None), 0);
        }
        let group = zone.split("/providers/").next().unwrap();
        cloud.seed_resource(group, &json!({ "location": "westeurope" }));
        cloud.seed_resource(zone, &json!({ "location": "global" }));
        cloud.add_slot(Slot {
            name: "slot-1".to_owned(),
            port: 1,
            ca: String::new(),
            issuer: "https://issuer.example/".to_owned(),
            version: "1.36.3".to_owned(),
        });
        Self { cloud, now: 0, writes: 0 }
    }

    fn call(&mut self, method: &str, id: &str, api: &str, body: Option<Value>) -> Response {
        self.cloud.handle(&request(method, id, api, body), self.now)
    }

    /// Writes what is wanted, twice: as something new, and with what is there merged into it. Each time nothing may be
    /// left to write.
    fn write(&mut self, wanted: &Wanted) -> Value {
        let body = wanted.body.as_ref().unwrap();
        let mut found = Value::Null;
        for round in ["new", "update"] {
            let sent = if found.is_null() { body.clone() } else { merged(wanted, &found) };
            let answer = self.call("PUT", &wanted.id, wanted.api, Some(sent));
            assert!(answer.status < 300, "{round} {}: {:?}", wanted.id, answer.body);
            self.writes += 1;
            self.now += LONG;
            found = self.call("GET", &wanted.id, wanted.api, None).body.unwrap();
            assert!(is_terminal(state(&found)), "{}: {found}", wanted.id);
            let differs = compare::difference(body, &found);
            assert_eq!(differs, None, "{round} {}\nwanted {body}\nfound {found}", wanted.id);
        }
        found
    }
}

/// What the operator would send for something that exists.
fn merged(wanted: &Wanted, found: &Value) -> Value {
    let write = Write {
        part: (),
        id: wanted.id.clone(),
        api: wanted.api,
        body: wanted.body.clone().unwrap(),
        found: None,
        unless: wanted.unless.clone(),
        whole: None,
        grows: &[],
        why: String::new(),
    };
    write.body_for(found)
}

#[test]
fn what_is_written_is_not_written_again() {
    let zone = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/platform/providers/Microsoft.Network/dnsZones/octopus.example"
    );
    let mut runner = TestRunner::deterministic();
    let mut writes = 0;
    for _ in 0..WORLDS {
        let given = given().new_tree(&mut runner).unwrap().current();
        let mut world = World::new(&zone);
        let of = reef(&given, &zone);
        let mut seen: BTreeMap<Part, Value> = BTreeMap::new();
        let all = of.parts();
        while seen.len() < all.len() {
            let next = all.iter().copied().find(|part| {
                !seen.contains_key(part) && part.needs().iter().all(|need| seen.contains_key(need))
            });
            let part = next.unwrap_or_else(|| panic!("what of {all:?} comes after {:?}", seen.keys()));
            let wanted = of.wanted(part, &seen);
            let found = world.write(&wanted);
            seen.insert(part, found);
        }
        let instance = instance(&given, &of);
        for part in [
            InstancePart::Identity,
            InstancePart::Federation,
            InstancePart::Database,
            InstancePart::Share,
            InstancePart::Record,
        ] {
            world.write(&instance.wanted(part));
        }
        writes += world.writes;
    }
    println!("{WORLDS} worlds, {writes} writes: none is a reason for another");
}
