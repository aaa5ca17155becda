//! Story: Azure goes wrong for whole reefs, in each way that it can: throttling, errors, calls without an answer, answers
//! that are lost, operations that fail late, lists that leave things out, and calls that turn from synchronous to
//! asynchronous and back. Reefs are made, instances are made, resized and deleted meanwhile; all comes to its end, nothing is made twice or
//! deleted, other reefs go on, and nobody storms Azure when it is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use reef_crds::CloudInstanceStatus;
use reef_e2e::{
    harness::{Sandbox, eventually, ok},
    instance_harness::{CUSTOMERS, call, cluster_of, hash_of, instance_gone, instance_ready, instances},
    reef_harness::{azure_writes, get, ready, set},
};
use serde_json::{Value, json};

const REGION: &str = include_str!("../../../docs/samples/10-region.yaml");
const CLASS: &str = include_str!("../../../docs/samples/20-reefclass.yaml");
const REEFS: &str = include_str!("../../../docs/samples/30-reefs.yaml");

/// The reef that storms are about, and the other.
const STRUCK: &str = "weu-2";
const OTHER: &str = "weu-1";

/// What Azure takes a second in this story. More could have been saved up, and is not used.
const READS: usize = 100;
const WRITES: usize = 40;

/// Where a storm is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    /// In the resource group of one reef.
    Reef,
    /// In the whole subscription.
    Everywhere,
}

/// What Azure does.
struct Storm {
    name: &'static str,
    place: Where,
    /// Conditions of rules beside the place, and what happens.
    rules: fn() -> Vec<Value>,
    /// What a new instance of the struck reef says while it lasts; none if it becomes Ready all the same.
    says: Option<&'static [&'static str]>,
}

fn answer(status: u16, code: &str, retry_after: Option<u32>) -> Value {
    json!({ "answer": { "status": status, "code": code, "retryAfter": retry_after } })
}

fn storms() -> Vec<Storm> {
    let mut all = refusals();
    all.extend(surprises());
    all
}

/// Azure does not do what it is asked for.
fn refusals() -> Vec<Storm> {
    let storm = |name, place, rules, says| Storm { name, place, rules, says };
    vec![
        storm(
            "all calls are throttled and told until when",
            Where::Everywhere,
            || vec![json!({ "fault": answer(429, "SubscriptionRequestsThrottled", Some(3)) })],
            Some(&["AzureThrottled"]),
        ),
        storm(
            "a reef's calls are throttled and not told until when",
            Where::Reef,
            || vec![json!({ "fault": answer(429, "TooManyRequests", None) })],
            Some(&["AzureThrottled", "CircuitOpen"]),
        ),
        storm(
            "every tenth call fails",
            Where::Reef,
            || vec![json!({ "rate": 0.1, "fault": answer(500, "InternalServerError", None) })],
            None,
        ),
        storm(
            "every call fails",
            Where::Reef,
            || vec![json!({ "fault": answer(503, "ServiceUnavailable", None) })],
            // Or nobody new is placed on a reef whose calls are held back.
            Some(&["AzureUnavailable", "CircuitOpen", "NoReefFits"]),
        ),
    ]
}

/// Azure does it, and otherwise than one expects.
fn surprises() -> Vec<Storm> {
    let storm = |name, place, rules, says| Storm { name, place, rules, says };
    vec![
        storm(
            "reads have no answer for longer than anybody waits",
            Where::Reef,
            // Writes are waited for much longer; the story of bulkheads has them hang.
            || vec![json!({ "method": "GET", "count": 5, "fault": "hang" })],
            None,
        ),
        storm(
            "half of the answers to writes are lost",
            Where::Reef,
            || {
                // Some with the connection, others behind a gateway that gave up waiting.
                let cut = |method: &str| json!({ "method": method, "rate": 0.3, "fault": "lostAnswer" });
                let late =
                    json!({ "answer": { "status": 504, "code": "GatewayTimeout", "takesEffect": true } });
                let late = |method: &str| json!({ "method": method, "rate": 0.3, "fault": late });
                vec![cut("PUT"), cut("DELETE"), late("PUT"), late("DELETE")]
            },
            None,
        ),
        storm(
            "operations fail late",
            Where::Reef,
            || {
                let late = json!({ "failLate": { "code": "InternalServerError", "message": "An unexpected error occured." } });
                let late = |method: &str| json!({ "method": method, "rate": 0.4, "fault": late });
                vec![late("PUT"), late("DELETE")]
            },
            None,
        ),
        storm(
            "lists leave things out, or come in pages of two",
            Where::Everywhere,
            || {
                let pages = json!({ "method": "GET", "fault": { "pages": { "items": 2 } } });
                vec![json!({ "rate": 0.5, "fault": "omit" }), pages]
            },
            None,
        ),
        storm(
            "what is synchronous is asynchronous, and the other way round, from one call to the next",
            Where::Everywhere,
            || {
                let flip = |method: &str| json!({ "method": method, "rate": 0.5, "fault": "flip" });
                ["PUT", "DELETE", "POST"].into_iter().map(flip).collect()
            },
            None,
        ),
    ]
}

impl Storm {
    fn begin(&self, sandbox: &Sandbox) {
        for mut rule in (self.rules)() {
            rule["label"] = json!("storm");
            if self.place == Where::Reef {
                rule["path"] = json!(format!("*/resourceGroups/reef-sandbox-{STRUCK}*"));
            }
            sandbox.azure_fault(&rule);
        }
    }
}

struct Story {
    sandbox: Sandbox,
    client: Client,
    /// Instances that are there all the time, with the UIDs of their servers' pods.
    steady: BTreeMap<String, (CloudInstanceStatus, String)>,
}

/// `grown` is how many times its quotas grew.
fn manifest(name: &str, reef: &str, grown: usize) -> String {
    let task_cap = if grown.is_multiple_of(2) { 5 } else { 10 };
    format!(
        "apiVersion: cloud.octopus.com/v1alpha1\nkind: CloudInstance\nmetadata:\n  name: {name}\n  namespace: {CUSTOMERS}\n\
         spec:\n  regionRef: {{ name: westeurope }}\n  subdomain: {name}\n  release: {{ version: 2026.2.4213 }}\n\
         \u{20} taskCap: {task_cap}\n  placement: {{ reefRef: {{ name: {reef} }} }}\n  quota: {{ share: {}Gi, database: {}Gi }}\n\
         \u{20} deletionPolicy: Delete\n  deletionProtection: false\n",
        50 + 10 * grown,
        [1, 2, 5, 10, 20, 30, 40, 50, 100][grown.min(8)]
    )
}

#[tokio::test]
async fn azure_goes_wrong_in_every_way_and_nobody_is_worse_off() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=200"]);
    let client = sandbox.client().await;
    let limits = format!("azure.readsPerSecond={READS},azure.writesPerSecond={WRITES},resyncSeconds=10");
    set(&sandbox, &limits);
    // The reefs are made while calls change from synchronous to asynchronous: every type that the operator makes.
    let flips = storms().pop().unwrap();
    flips.begin(&sandbox);
    for sample in [REGION, CLASS, REEFS] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    ready(&client, OTHER).await;
    ready(&client, STRUCK).await;
    sandbox.azure_healed();
    let mut story = Story { sandbox, client, steady: BTreeMap::new() };
    story.settle_down().await;
    let storms = storms();
    for (n, storm) in storms.iter().enumerate() {
        story.go_through(n, storm).await;
    }
    for n in 0..storms.len() {
        instance_gone(&story.client, &format!("other-{n}")).await;
    }
}

impl Story {
    fn apply(&self, manifest: &str) {
        ok(&self.sandbox.kubectl_with(&["apply", "-f", "-"], manifest));
    }

    fn delete(&self, name: &str) {
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", name, "--wait=false"]));
    }

    /// One instance on each reef that stays, and one that goes in the first storm.
    async fn settle_down(&mut self) {
        self.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {CUSTOMERS}\n"));
        for (name, reef) in [("stays-a", OTHER), ("stays-b", STRUCK), ("new-0", STRUCK)] {
            self.apply(&manifest(name, reef, 0));
        }
        for name in ["stays-a", "stays-b"] {
            let status = instance_ready(&self.client, name).await;
            let pod = self.pod(&status).await;
            self.steady.insert(name.to_owned(), (status, pod));
        }
        instance_ready(&self.client, "new-0").await;
    }

    async fn pod(&self, status: &CloudInstanceStatus) -> String {
        let cluster = self.sandbox.reef_client(&cluster_of(&self.client, status).await.unwrap()).await;
        let pods = Api::<Pod>::namespaced(cluster, status.namespace.as_ref().unwrap());
        pods.get("octopus-0").await.unwrap().metadata.uid.unwrap()
    }

    async fn go_through(&self, n: usize, storm: &Storm) {
        let made = self.sandbox.azure_made().len();
        let writes = azure_writes(&self.sandbox).len();
        let there: BTreeSet<String> = self.sandbox.azure_ids().into_iter().collect();
        let began = Instant::now();
        storm.begin(&self.sandbox);
        // One is made on each reef, one resized, and the storm before's deleted.
        let (new, old, other) = (format!("new-{}", n + 1), format!("new-{n}"), format!("other-{n}"));
        self.apply(&manifest(&new, STRUCK, 0));
        self.apply(&manifest(&other, OTHER, 0));
        self.apply(&manifest("stays-b", STRUCK, n + 1));
        self.delete(&old);
        if storm.place == Where::Reef {
            // The other reef goes on while it lasts.
            instance_ready(&self.client, &other).await;
        }
        let meanwhile = began.elapsed();
        if let Some(says) = storm.says {
            self.is_told(&new, says).await;
            self.customers_notice_nothing().await;
            for reef in [STRUCK, OTHER] {
                let status = get(&self.client, reef).await.unwrap().status.unwrap();
                let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
                assert_eq!(ready.status, "True", "{reef} is as it was: {:?}", status.conditions);
            }
        } else {
            self.ends(&new, &old).await;
        }
        self.sandbox.azure_healed();
        let healed = Timestamp::now();
        self.ends(&new, &old).await;
        instance_ready(&self.client, &other).await;
        self.customers_notice_nothing().await;
        let most = self.nobody_storms(healed);
        self.nothing_twice(made);
        self.only_that_is_deleted(writes, &old, &there);
        println!(
            "{}: over after {:.0} s, the other reef's instance was Ready after {:.0} s, then at most {} reads and {} writes in a second",
            storm.name,
            began.elapsed().as_secs_f64(),
            meanwhile.as_secs_f64(),
            most.0,
            most.1
        );
        self.delete(&other);
    }

    /// All that was asked for has come to its end.
    async fn ends(&self, new: &str, old: &str) {
        instance_ready(&self.client, new).await;
        instance_ready(&self.client, "stays-b").await;
        instance_gone(&self.client, old).await;
    }

    async fn is_told(&self, name: &str, says: &[&str]) {
        eventually(&format!("{name} says one of {says:?}"), || async {
            let status = instances(&self.client).get_opt(name).await.ok()??.status?;
            let is_said = |reason: &str| says.contains(&reason);
            status.conditions.iter().any(|c| c.status != "True" && is_said(&c.reason)).then_some(())
        })
        .await;
    }

    /// Servers that were there answer, and are the same processes as ever.
    async fn customers_notice_nothing(&self) {
        for (name, (status, pod)) in &self.steady {
            let (code, _) =
                call(&self.sandbox, &self.client, status, ("GET", "/api"), None, &Value::Null).await;
            assert_eq!(code, 200, "{name}");
            assert_eq!(self.pod(status).await, *pod, "{name}");
        }
    }

    /// Reads and writes of the busiest second since a moment.
    fn nobody_storms(&self, since: Timestamp) -> (usize, usize) {
        let mut seconds: BTreeMap<i64, (usize, usize)> = BTreeMap::new();
        for entry in self.sandbox.azure_journal() {
            let Some(at) = entry["time"].as_str().and_then(|time| time.parse::<Timestamp>().ok()) else {
                continue;
            };
            if at < since || at > since.saturating_add(SignedDuration::from_secs(60)).unwrap_or(since) {
                continue;
            }
            let of = seconds.entry(at.as_second()).or_default();
            if entry["method"] == "GET" { of.0 += 1 } else { of.1 += 1 }
        }
        let most = seconds.values().fold((0, 0), |most, of| (most.0.max(of.0), most.1.max(of.1)));
        assert!(most.0 <= READS && most.1 <= WRITES, "{most:?}");
        most
    }

    /// Each resource came into being once.
    fn nothing_twice(&self, made_before: usize) {
        let mut made = BTreeMap::new();
        for path in self.sandbox.azure_made().into_iter().skip(made_before) {
            *made.entry(path.to_lowercase()).or_insert(0) += 1;
        }
        let twice: Vec<_> = made.iter().filter(|(_, n)| **n > 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }

    /// What was there is there, but for what was to go; and nobody asked for the deletion of anything else.
    fn only_that_is_deleted(&self, writes_before: usize, old: &str, there: &BTreeSet<String>) {
        let kept: Vec<String> = self.steady.values().map(|(status, _)| hash_of(status)).collect();
        let now: BTreeSet<String> = self.sandbox.azure_ids().into_iter().collect();
        for id in there.difference(&now) {
            let is_steady = kept.iter().any(|hash| id.contains(hash)) || id.contains("/stays-");
            assert!(!is_steady, "{id} is gone");
        }
        for entry in azure_writes(&self.sandbox).into_iter().skip(writes_before) {
            let path = entry["path"].as_str().unwrap_or_default();
            let is_of = kept.iter().any(|hash| path.contains(hash)) || !is_of_an_instance(path);
            assert!(entry["method"] != "DELETE" || !is_of, "{path} was not to go, {old} was");
        }
    }
}

/// Whether a path names something that an instance has for itself.
fn is_of_an_instance(path: &str) -> bool {
    ["/databases/db-", "/shares/fs-", "/userAssignedIdentities/id-", "/CNAME/", "/TXT/"]
        .iter()
        .any(|part| path.contains(part))
}
