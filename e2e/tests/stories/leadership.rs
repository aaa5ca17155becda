//! Story: six instances come where four fit, while the leader is cut off from its API server, then while it stands still
//! past its lease, and at last while two operators believe that they lead. Who lost the claim writes nothing more, no room
//! is sold twice, nothing is made twice, and another goes on within seconds.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod, rbac::v1::Role};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use reef_crds::{CloudInstance, Reef};
use reef_e2e::{
    canaries::Canaries,
    harness::{Sandbox, eventually, ok, processes, ready_pods, send},
    install::NAMESPACE,
    instance_harness::{CUSTOMERS, call, instance_gone, instances},
    net::cut::CUT_OFF,
    reef_harness::ready,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

const REGION: &str = include_str!("../../../docs/samples/10-region.yaml");
const CLASS: &str = include_str!("../../../docs/samples/20-reefclass.yaml");
const REEFS: &str = include_str!("../../../docs/samples/30-reefs.yaml");

/// Most instances on each of the two reefs: of the reef itself on one, of its pool and its storage account on the other.
const LIMIT: usize = 2;

/// How many find a place, and how many want one.
const PLACES: usize = 2 * LIMIT;
const WANTED: usize = PLACES + 2;

/// Longest time without a leader, with the default lease of 15 s. How soon it acts depends on the machine.
const FAIL_OVER_SECONDS: f64 = 20.0;

#[tokio::test]
async fn who_does_not_lead_writes_nothing_and_no_room_is_sold_twice() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=100"]);
    let client = sandbox.client().await;
    let canaries = Canaries::begin(&client);
    let narrow = CLASS
        .replace("name: standard", "name: narrow")
        .replace("      capacity: 200\n", &format!("      capacity: 200\n      maxDatabases: {LIMIT}\n"));
    let narrow = format!("{narrow}    sharesPerAccount: {LIMIT}\n");
    let few = CLASS.replace("\nspec:\n", &format!("\nspec:\n  capacity: {{ maxInstances: {LIMIT} }}\n"));
    let (first, second) = REEFS.split_once("---").unwrap();
    let second = second.replace("name: standard", "name: narrow");
    for manifest in [REGION, &few, &narrow, first, &second] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], manifest));
    }
    for reef in ["weu-1", "weu-2"] {
        ready(&client, reef).await;
    }
    ok(&sandbox.kubectl(&["create", "namespace", CUSTOMERS]));

    the_leader_is_cut_off(&sandbox, &client).await;
    the_leader_stands_still(&sandbox, &client).await;
    two_believe_that_they_lead(&sandbox, &client).await;
    canaries.do_not_show(&sandbox, &client).await;
}

/// In the middle of making things. Azure and the reefs stay reachable for it: only its own claim keeps it from writing.
async fn the_leader_is_cut_off(sandbox: &Sandbox, client: &Client) {
    let round = Round::begin(sandbox, client, "cut");
    let (old, pid) = leader_of(client).await;
    eventually("the first resource is being made", || async { (!round.made().is_empty()).then_some(()) })
        .await;
    cut_off(client, &old, true).await;
    let began = Timestamp::now();
    let new = another_leads(client, &old).await;
    eventually("the old leader's process ends by itself", || async {
        (operator_of(&old) != Some(pid)).then_some(())
    })
    .await;
    round.all_that_fit_are_ready().await;
    round.who_followed((&old, false), &new, began).await;
    cut_off(client, &old, false).await;
    eventually("two are Ready again", || async {
        (ready_pods(client, NAMESPACE).await.len() == 2).then_some(())
    })
    .await;
    round.end().await;
}

/// In the middle of placing, and it goes on with its old view of the reefs when another has filled them.
async fn the_leader_stands_still(sandbox: &Sandbox, client: &Client) {
    let round = Round::begin(sandbox, client, "still");
    let (old, pid) = leader_of(client).await;
    place_is_kept(client).await;
    send(pid, Signal::STOP);
    let began = Timestamp::now();
    let new = another_leads(client, &old).await;
    send(pid, Signal::CONT);
    eventually("the old leader's process ends", || async { (operator_of(&old) != Some(pid)).then_some(()) })
        .await;
    round.all_that_fit_are_ready().await;
    round.who_followed((&old, true), &new, began).await;
    round.end().await;
}

/// The worst that can happen to an election: another Lease, the same fleet.
async fn two_believe_that_they_lead(sandbox: &Sandbox, client: &Client) {
    start_another(client).await;
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    let other = eventually("another operator leads too", || async { holder(&leases, "two").await }).await;
    let first = leader_of(client).await.0;
    let round = Round::begin(sandbox, client, "both");
    round.all_that_fit_are_ready().await;
    for pod in [&first, &other] {
        let writes = round.writes_of(pod);
        println!("of two that lead, {pod} wrote {} times", writes.len());
        assert!(!writes.is_empty(), "{pod} took part");
    }
    round.end().await;
}

/// Six instances that want a place, and what is seen meanwhile.
struct Round<'a> {
    sandbox: &'a Sandbox,
    client: &'a Client,
    names: Vec<String>,
    began: Timestamp,
    /// How much had come into being in Azure before.
    made_before: usize,
    stop: watch::Sender<bool>,
    looks: JoinHandle<(u32, BTreeSet<String>)>,
}

impl<'a> Round<'a> {
    fn begin(sandbox: &'a Sandbox, client: &'a Client, prefix: &str) -> Self {
        let names: Vec<_> = (1..=WANTED).map(|n| format!("{prefix}-{n}")).collect();
        let (began, made_before) = (Timestamp::now(), sandbox.azure_made().len());
        let (stop, looks) = keep_looking(client.clone());
        let items: Vec<_> = names.iter().map(|name| instance(name)).collect();
        let all = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &all.to_string()));
        Self { sandbox, client, names, began, made_before, stop, looks }
    }

    /// Waits until as many as fit are in service and the others know that there is no room.
    async fn all_that_fit_are_ready(&self) {
        let ready = eventually("all have a place or none", || async {
            let list = instances(self.client).list(&ListParams::default()).await.ok()?;
            let says = |instance: &CloudInstance| {
                let status = instance.status.as_ref()?;
                let ready = status.conditions.iter().find(|c| c.type_ == "Ready")?;
                match (ready.status.as_str(), ready.reason.as_str()) {
                    ("True", _) => Some(true),
                    (_, "NoReefFits") => Some(false),
                    _ => None,
                }
            };
            let said: Vec<bool> = list.items.iter().filter_map(says).collect();
            (said.len() == WANTED).then(|| said.iter().filter(|ready| **ready).count())
        })
        .await;
        assert_eq!(ready, PLACES, "exactly as many as fit");
    }

    /// What came into being in Azure since the beginning.
    fn made(&self) -> Vec<String> {
        self.sandbox.azure_made().split_off(self.made_before)
    }

    /// All writes of a pod since the beginning, the election aside: to its API server, to the reefs', to Azure.
    fn writes_of(&self, pod: &str) -> Vec<(Timestamp, String)> {
        let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok()).unwrap();
        let event = |event: &Value| {
            let what =
                format!("{} {} {}", event["verb"], event["requestURI"], event["responseStatus"]["code"]);
            (time(&event["requestReceivedTimestamp"]), what)
        };
        let by = |event: &Value| {
            event["user"]["extra"]["authentication.kubernetes.io/pod-name"][0] == pod
                && event["objectRef"]["resource"] != "leases"
        };
        let mut all: Vec<_> = self.sandbox.audit().iter().filter(|e| by(e)).map(event).collect();
        let agent = format!("({pod})");
        for slot in self.sandbox.slots() {
            let audit = self.sandbox.audit_of(&slot);
            let of = audit.iter().filter(|e| e["userAgent"].as_str().is_some_and(|a| a.contains(&agent)));
            all.extend(of.map(event));
        }
        for entry in self.sandbox.azure_journal() {
            let agent = entry["agent"].as_str().unwrap_or_default().split(' ').next().unwrap_or_default();
            if agent.len() > 5
                && pod.ends_with(agent)
                && (entry["method"] == "PUT" || entry["method"] == "DELETE")
            {
                all.push((time(&entry["time"]), format!("{} {}", entry["method"], entry["path"])));
            }
        }
        all.retain(|(at, _)| *at >= self.began);
        all.sort();
        all
    }

    /// The old leader wrote before the new one led and not after, and the new one was soon at work.
    async fn who_followed(&self, (old, stood_still): (&str, bool), new: &str, began: Timestamp) {
        let leases = Api::<Lease>::namespaced(self.client.clone(), NAMESPACE);
        let lease = leases.get("reef-operator").await.unwrap().spec.unwrap();
        assert_eq!(lease.holder_identity.as_deref(), Some(new), "it led all the time");
        let acquired = lease.acquire_time.unwrap().0;
        let (before, after): (Vec<_>, Vec<_>) =
            self.writes_of(old).into_iter().partition(|(at, _)| *at < acquired);
        let of_new = self.writes_of(new);
        // A Lease is no fence: what had passed the last check when the process was stopped goes out when it goes on. A status
        // carries the version of the object that it is of, so it changes nothing that the new leader has changed.
        let is_harmless = |(at, what): &(Timestamp, String)| {
            let object =
                what.split_once("/status?").map(|(before, _)| before.rsplit('"').next().unwrap_or(""));
            let changed =
                |object: &str| of_new.iter().any(|(by_new, what)| by_new < at && what.contains(object));
            stood_still && object.is_some_and(|object| what.ends_with(" 409") || !changed(object))
        };
        let (late, after): (Vec<_>, Vec<_>) = after.into_iter().partition(is_harmless);
        assert!(after.is_empty(), "writes of one that does not lead: {after:#?}");
        // Of each of the six at most one had passed the check.
        assert!(late.len() <= WANTED, "{late:#?}");
        assert!(!before.is_empty(), "its writes are told apart");
        assert!(of_new.iter().all(|(at, _)| *at >= acquired), "nor did the other before it led");
        let seconds = |at: Timestamp| at.duration_since(began).as_secs_f64();
        let act = seconds(of_new.first().unwrap().0);
        println!(
            "from its loss: the old leader's last write after {:.1} s, another leads after {:.1} s, its first act after {act:.1} s",
            seconds(before.last().unwrap().0),
            seconds(acquired)
        );
        assert!(seconds(acquired) < FAIL_OVER_SECONDS, "{}", seconds(acquired));
    }

    /// What came of it, by the instances, by Azure, and by what they say themselves; then they go.
    async fn end(self) {
        self.stop.send_replace(true);
        let (looks, oversold) = self.looks.await.unwrap();
        println!("{looks} looks at what is promised");
        assert!(oversold.is_empty(), "{oversold:#?}");
        assert!(looks > 10, "it was looked all the time");
        let mut made = BTreeMap::new();
        for path in self.sandbox.azure_made().into_iter().skip(self.made_before) {
            *made.entry(path.to_lowercase()).or_insert(0) += 1;
        }
        let twice: Vec<_> = made.iter().filter(|(_, n)| **n > 1).collect();
        assert!(twice.is_empty() && made.len() >= PLACES, "{twice:?}");
        let mut ids = BTreeSet::new();
        for instance in instances(self.client).list(&ListParams::default()).await.unwrap() {
            let status = instance.status.clone().unwrap();
            if status.placement.is_some() {
                let (code, root) =
                    call(self.sandbox, self.client, &status, ("GET", "/api"), None, &Value::Null).await;
                assert_eq!(code, 200, "{}", instance.name_any());
                ids.insert(root["InstallationId"].to_string());
            }
        }
        assert_eq!(ids.len(), PLACES, "each is another");
        let there = self.sandbox.azure_ids();
        for part in ["/databases/db-", "/shares/fs-"] {
            for reef in ["weu-1", "weu-2"] {
                let group = format!("/resourceGroups/reef-sandbox-{reef}/");
                let count = there.iter().filter(|id| id.contains(part) && id.contains(&group)).count();
                assert_eq!(count, LIMIT, "{part} at {reef}");
            }
        }
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", "--all", "--wait=false"]));
        for name in &self.names {
            instance_gone(self.client, name).await;
        }
    }
}

fn instance(name: &str) -> Value {
    json!({
        "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "CloudInstance",
        "metadata": { "name": name, "namespace": CUSTOMERS },
        "spec": {
            "regionRef": { "name": "westeurope" }, "subdomain": name, "release": { "version": "2026.2.4213" },
            "taskCap": 5, "deletionPolicy": "Delete", "deletionProtection": false,
        },
    })
}

/// Looks again and again at what is promised, until told to stop: how often, and what was too much.
fn keep_looking(client: Client) -> (watch::Sender<bool>, JoinHandle<(u32, BTreeSet<String>)>) {
    let (stop, stopped) = watch::channel(false);
    let looks = tokio::spawn(async move {
        let (mut looks, mut oversold) = (0, BTreeSet::new());
        while !*stopped.borrow() {
            if let Some(promised) = promised(&client).await {
                looks += 1;
                let too_many = promised.into_iter().filter(|(_, who)| who.len() > LIMIT);
                oversold.extend(too_many.map(|(what, who)| format!("{what}: {who:?}")));
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        (looks, oversold)
    });
    (stop, looks)
}

/// The UIDs of the instances on each reef, pool and account: those that are there, and those for which room is kept and
/// that are nowhere else. Reefs are read first, so who is placed meanwhile is seen at least once.
async fn promised(client: &Client) -> Option<BTreeMap<String, BTreeSet<String>>> {
    let reefs = Api::<Reef>::all(client.clone()).list(&ListParams::default()).await.ok()?;
    let all = instances(client).list(&ListParams::default()).await.ok()?;
    let mut promised = BTreeMap::<String, BTreeSet<String>>::new();
    let mut add = |uid: &str, reef: &str, pool: Option<&str>, account: &str| {
        for what in
            [reef.to_owned(), format!("pool {reef}/{}", pool.unwrap_or("-")), format!("account {account}")]
        {
            promised.entry(what).or_default().insert(uid.to_owned());
        }
    };
    let mut placed = BTreeSet::new();
    for instance in &all.items {
        if let Some(place) = instance.status.as_ref().and_then(|status| status.placement.as_ref()) {
            let uid = instance.uid()?;
            add(&uid, &place.reef, place.pool.as_deref(), &place.storage_account);
            placed.insert(uid);
        }
    }
    for reef in &reefs.items {
        for held in reef.status.iter().flat_map(|status| &status.reservations) {
            if !placed.contains(&held.uid) && all.items.iter().any(|i| i.uid().as_ref() == Some(&held.uid)) {
                add(&held.uid, &reef.name_any(), held.pool.as_deref(), &held.storage_account);
            }
        }
    }
    Some(promised)
}

/// Waits until room is kept for one of the instances.
async fn place_is_kept(client: &Client) {
    eventually("a place is kept", || async {
        let reefs = Api::<Reef>::all(client.clone()).list(&ListParams::default()).await.ok()?;
        reefs
            .items
            .iter()
            .any(|r| r.status.as_ref().is_some_and(|s| !s.reservations.is_empty()))
            .then_some(())
    })
    .await;
}

/// Loses all packets between a pod and its API server, or lets them arrive again.
async fn cut_off(client: &Client, pod: &str, cut: bool) {
    let value = if cut { json!("true") } else { Value::Null };
    let patch = json!({ "metadata": { "annotations": { CUT_OFF: value } } });
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    pods.patch(pod, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn holder(leases: &Api<Lease>, name: &str) -> Option<String> {
    leases.get_opt(name).await.ok()??.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

/// The pod that leads, and its process.
async fn leader_of(client: &Client) -> (String, u32) {
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    eventually("one leads", || async {
        let pod = holder(&leases, "reef-operator").await?;
        let pid = operator_of(&pod)?;
        Some((pod, pid))
    })
    .await
}

async fn another_leads(client: &Client, old: &str) -> String {
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    eventually("another leads", || async { holder(&leases, "reef-operator").await.filter(|l| l != old) })
        .await
}

/// The process of an operator, by the name of its pod.
fn operator_of(pod: &str) -> Option<u32> {
    let variable = format!("POD_NAME={pod}\0");
    let mut all = processes().into_iter();
    all.find(|p| p.command.starts_with("/reef-operator\0run") && p.environment.contains(&variable))
        .map(|p| p.pid)
}

/// The chart refuses a second release. This is one all the same: like the first, with a Lease of its own.
async fn start_another(client: &Client) {
    let roles = Api::<Role>::namespaced(client.clone(), NAMESPACE);
    let mut role = roles.get("reef-operator").await.unwrap();
    for rule in role.rules.iter_mut().flatten() {
        if let Some(names) =
            rule.resource_names.as_mut().filter(|names| names.contains(&"reef-operator".to_owned()))
        {
            names.push("two".to_owned());
        }
    }
    roles.replace("reef-operator", &PostParams::default(), &role).await.unwrap();
    let deployments = Api::<Deployment>::namespaced(client.clone(), NAMESPACE);
    let first = serde_json::to_value(deployments.get("reef-operator").await.unwrap().spec.unwrap()).unwrap();
    let mut spec = first;
    spec["replicas"] = json!(1);
    for labels in ["/selector/matchLabels", "/template/metadata/labels"] {
        spec.pointer_mut(labels).unwrap()["app.kubernetes.io/instance"] = json!("two");
    }
    let variables = spec["template"]["spec"]["containers"][0]["env"].as_array_mut().unwrap();
    let lease = variables.iter_mut().find(|v| v["name"] == "REEF_OPERATOR_LEASE_NAME").unwrap();
    lease["value"] = json!("two");
    let second = serde_json::from_value(json!({ "metadata": { "name": "two" }, "spec": spec })).unwrap();
    deployments.create(&PostParams::default(), &second).await.unwrap();
}
