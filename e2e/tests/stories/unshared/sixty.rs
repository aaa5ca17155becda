//! Story: sixty instances at once on two reefs: all come into service, no limit is passed, and then it is quiet: routine
//! looks cost calls for each reef, not for each instance, and no write.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::Instant,
};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Event, Namespace},
};
use kube::{Api, Client, ResourceExt, api::ListParams};
use reef_crds::{CloudInstance, CloudInstanceStatus, Reef};
use reef_e2e::{
    harness::{Sandbox, eventually, eventually_within, ok},
    install::NAMESPACE,
    instance_harness::{CUSTOMERS, call, instances},
    reef_harness::{azure_writes, cluster, cluster_writes, looks, ready, set, settled},
};
use serde_json::Value;

const SAMPLES: [&str; 3] = [
    include_str!("../../../../docs/samples/10-region.yaml"),
    include_str!("../../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../../docs/samples/30-reefs.yaml"),
];

/// How many; `REEF_INSTANCES` asks for another number, which has to be even.
fn count() -> usize {
    std::env::var("REEF_INSTANCES").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

/// How long all may take, seconds: so long for sixty and fewer, and longer with their number.
fn within(for_sixty: u64) -> u64 {
    for_sixty * u64::try_from(count()).unwrap().max(60) / 60
}

/// Most on a reef.
fn most() -> usize {
    count() / 2 + 2
}

/// Cycles of routine looks during which nothing may happen.
const CYCLES: f64 = 20.0;

/// Length of a cycle, seconds. With more instances each look has as much time as with sixty.
fn resync() -> f64 {
    5.0 * f64::from(u32::try_from(count()).unwrap().max(60)) / 60.0
}

fn manifests() -> String {
    let mut text = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {CUSTOMERS}\n");
    for n in 0..count() {
        write!(
            text,
            "---\napiVersion: cloud.octopus.com/v1alpha1\nkind: CloudInstance\nmetadata:\n  name: i{n}\n  namespace: {CUSTOMERS}\n\
             spec:\n  regionRef: {{ name: westeurope }}\n  subdomain: i{n}\n  release: {{ version: 2026.2.4213 }}\n  taskCap: 5\n\
             \u{20} quota: {{ share: 10Gi, database: 1Gi }}\n  deletionPolicy: Delete\n  deletionProtection: false\n"
        )
        .unwrap();
    }
    text
}

#[tokio::test]
async fn sixty_instances_come_and_then_it_is_quiet() {
    let sandbox =
        Sandbox::start_alone(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=200"]);
    let client = sandbox.client().await;
    // So few on a reef that all have room, and hardly more.
    let class = format!("{}\n  capacity:\n    maxInstances: {}\n", SAMPLES[1].trim_end(), most());
    for sample in [SAMPLES[0], &class, SAMPLES[2]] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let reefs = [ready(&client, "weu-1").await, ready(&client, "weu-2").await];
    let empty = sandbox.azure_ids();
    let before = Calls::of(&sandbox, &client).await;
    let began = Instant::now();
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &manifests()));
    let all = all_ready(&client).await;
    println!("{} instances Ready {:.0} s after they were applied", count(), began.elapsed().as_secs_f64());
    Calls::of(&sandbox, &client).await.since(&before).print("making one instance", count());
    they_are_spread(&client, &all).await;
    each_is_itself(&sandbox, &client, &all).await;
    then_it_is_quiet(&sandbox, &client).await;
    let before = Calls::of(&sandbox, &client).await;
    let began = Instant::now();
    ok(&sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", "--all", "--wait=false"]));
    eventually_within(within(600), "all are gone", || async {
        let left = instances(&client).list_metadata(&ListParams::default()).await.ok()?.items;
        left.is_empty().then_some(())
    })
    .await;
    println!("{} instances gone after {:.0} s", count(), began.elapsed().as_secs_f64());
    Calls::of(&sandbox, &client).await.since(&before).print("deleting one instance", count());
    assert_eq!(sandbox.azure_ids(), empty, "in Azure is what was there before");
    for reef in &reefs {
        let cluster = sandbox.reef_client(&cluster(reef)).await;
        let all = Api::<Namespace>::all(cluster).list(&ListParams::default()).await.unwrap();
        let left: Vec<_> =
            all.iter().map(ResourceExt::name_any).filter(|name| name.starts_with("oct-")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

async fn all_ready(client: &Client) -> Vec<CloudInstance> {
    eventually_within(within(900), "all are Ready", || async {
        let all = instances(client).list(&ListParams::default()).await.ok()?.items;
        let ready = |i: &&CloudInstance| {
            let conditions = i.status.iter().flat_map(|s| &s.conditions);
            conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        (all.iter().filter(ready).count() == count()).then_some(all)
    })
    .await
}

fn status(instance: &CloudInstance) -> &CloudInstanceStatus {
    instance.status.as_ref().unwrap()
}

/// Half of them on each reef, as the score has it for reefs that are alike, and no account over its limit.
async fn they_are_spread(client: &Client, all: &[CloudInstance]) {
    let mut on = BTreeMap::<_, usize>::new();
    let mut within = BTreeMap::<_, usize>::new();
    for instance in all {
        let place = status(instance).placement.as_ref().unwrap();
        *on.entry(place.reef.clone()).or_default() += 1;
        *within.entry(place.storage_account.clone()).or_default() += 1;
    }
    println!("on reefs {on:?}, in storage accounts {within:?}");
    assert!(on.len() == 2 && on.values().all(|there| *there <= most()), "{on:?}");
    // Who was placed while the other reef did not answer, or had not answered lately, had no choice.
    let about = ListParams::default().fields("reason=Scheduled,involvedObject.kind=CloudInstance");
    let events = Api::<Event>::all(client.clone()).list(&about).await.unwrap();
    let notes = events.items.iter().filter_map(|event| event.message.as_deref());
    let forced =
        notes.filter(|note| note.contains("CircuitOpen") || note.contains("AzureUnavailable")).count();
    let apart = on.values().max().unwrap() - on.values().min().unwrap();
    println!("{apart} apart, {forced} placed without a choice");
    assert!(apart <= 2 * forced, "half of them on each: {on:?}");
    eventually_within(60, "places that are taken are not kept any more", || async {
        let reefs = Api::<Reef>::all(client.clone()).list(&ListParams::default()).await.ok()?;
        let mut kept = reefs.iter().filter_map(|reef| reef.status.as_ref());
        kept.all(|status| status.reservations.is_empty()).then_some(())
    })
    .await;
}

async fn each_is_itself(sandbox: &Sandbox, client: &Client, all: &[CloudInstance]) {
    let mut ids = BTreeSet::new();
    for instance in all {
        let (code, root) = call(sandbox, client, status(instance), ("GET", "/api"), None, &Value::Null).await;
        assert_eq!(code, 200, "{}", instance.name_any());
        assert!(ids.insert(root["InstallationId"].to_string()), "{} is another", instance.name_any());
    }
}

/// Invariant 7, and what a cycle of routine looks costs.
async fn then_it_is_quiet(sandbox: &Sandbox, client: &Client) {
    let resync = resync();
    set(sandbox, &format!("resyncSeconds={resync:.0}"));
    // The new leader looks at all of them first.
    let all = f64::from(u32::try_from(count()).unwrap());
    let writes = async || {
        let calls = Calls::of(sandbox, client).await;
        calls.azure_writes + calls.management_writes + calls.reef_writes
    };
    settled(client, "cloud-instance", 2.0 * all, writes).await;
    all_ready(client).await;
    let before = Calls::of(sandbox, client).await;
    let (began, first) = (Instant::now(), looks(client, "cloud-instance").await);
    let found = eventually_within(within(600), "routine looks at all instances", || async {
        let now = looks(client, "cloud-instance").await;
        (now >= first + CYCLES * all && began.elapsed().as_secs_f64() >= CYCLES * resync).then_some(now)
    })
    .await;
    let calls = Calls::of(sandbox, client).await.since(&before);
    let cycles = began.elapsed().as_secs_f64() / resync;
    let each = (found - first) / all / cycles;
    println!("quiet for {cycles:.0} cycles of {resync:.0} s, {each:.2} looks at each instance in a cycle");
    assert!(each < 2.0, "{each} looks at each instance in a cycle");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number above zero")]
    let cycles = cycles as usize;
    calls.print("a reef and cycle", cycles * 2);
    assert_eq!(
        (calls.azure_writes, calls.management_writes, calls.reef_writes),
        (0, 0, 0),
        "writes in routine looks"
    );
    // Some twenty-five parts of each reef, the lists of what is on it, and four credentials, however many instances there
    // are: one more call for each of them would be thirty more for a reef.
    let per_reef = calls.azure_reads / cycles / 2;
    assert!(per_reef < 45, "{per_reef} reads of Azure for a reef in a cycle");
    println!("{}", process(client).await);
}

/// The metrics of the leader. Right after an upgrade the old one has given the Lease back, and for a moment nobody holds it.
async fn metrics(client: &Client) -> String {
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    eventually("one leads and tells its metrics", || async {
        let leader =
            leases.get("reef-operator").await.ok()?.spec?.holder_identity.filter(|h| !h.is_empty())?;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{leader}:8080/proxy/metrics");
        client.request_text(http::Request::get(path).body(Vec::new()).ok()?).await.ok()
    })
    .await
}

/// What the leader says about itself.
async fn process(client: &Client) -> String {
    let text = metrics(client).await;
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or_default()
    };
    format!(
        "leader: {:.0} MiB resident, {:.0} s of CPU",
        value("process_resident_memory_bytes") / 1_048_576.0,
        value("process_cpu_seconds_total")
    )
}

/// Calls so far.
struct Calls {
    azure_reads: usize,
    azure_writes: usize,
    management_reads: usize,
    management_writes: usize,
    reef_reads: usize,
    reef_writes: usize,
}

impl Calls {
    async fn of(sandbox: &Sandbox, client: &Client) -> Self {
        let journal = sandbox.azure_journal();
        let azure_reads = journal.iter().filter(|entry| entry["method"] == "GET").count();
        let ours = |entry: &&Value| {
            entry["user"]["username"] == "system:serviceaccount:reef-operator:reef-operator"
                && entry["objectRef"]["resource"] != "leases"
        };
        let audit = sandbox.audit();
        let text = metrics(client).await;
        let read = |reef: bool| {
            let lines = text.lines().filter(|line| {
                line.starts_with("rest_client_requests_total{")
                    && line.contains("method=\"GET\"")
                    && line.contains("host=\"management\"") != reef
            });
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
        };
        let reefs = Api::<Reef>::all(client.clone()).list(&ListParams::default()).await.unwrap();
        let statuses: Vec<_> = reefs.items.into_iter().filter_map(|reef| reef.status).collect();
        Self {
            azure_reads,
            azure_writes: azure_writes(sandbox).len(),
            management_reads: read(false),
            management_writes: audit.iter().filter(ours).count(),
            reef_reads: read(true),
            reef_writes: statuses.iter().map(|status| cluster_writes(sandbox, status)).sum(),
        }
    }

    /// Reads of API servers are counted by the leader itself: if another leads by now, they cannot be told.
    fn since(self, before: &Self) -> Self {
        Self {
            azure_reads: self.azure_reads.saturating_sub(before.azure_reads),
            azure_writes: self.azure_writes.saturating_sub(before.azure_writes),
            management_reads: self.management_reads.saturating_sub(before.management_reads),
            management_writes: self.management_writes.saturating_sub(before.management_writes),
            reef_reads: self.reef_reads.saturating_sub(before.reef_reads),
            reef_writes: self.reef_writes.saturating_sub(before.reef_writes),
        }
    }

    fn print(&self, of: &str, count: usize) {
        let number = |n: usize| f64::from(u32::try_from(n).unwrap());
        let each = |calls: usize| number(calls) / number(count);
        println!(
            "{of}: Azure {:.1} reads and {:.1} writes; management API server {:.1} and {:.1}; reef's API server {:.1} and {:.1}",
            each(self.azure_reads),
            each(self.azure_writes),
            each(self.management_reads),
            each(self.management_writes),
            each(self.reef_reads),
            each(self.reef_writes)
        );
    }
}
