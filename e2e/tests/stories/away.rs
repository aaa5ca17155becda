//! Story: what instances do not need to serve is switched off, one after the other and together, for long by the clock of
//! Azure. They serve, start again and start on a machine that was lost; and when it is back, nothing is set in motion.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use reef_crds::{CloudInstanceStatus, ReefStatus};
use reef_e2e::{
    azure::{PLATFORM_GROUP, SUBSCRIPTION},
    canaries::Canaries,
    harness::{PATIENCE, Sandbox, eventually, ok, ready_pods},
    install::NAMESPACE,
    instance_harness::{api_key, cluster_of, instance_ready},
    reef_harness::{azure_writes, looks, ready, set, shows},
};
use serde_json::{Value, json};

const REGION: &str = include_str!("../../../docs/samples/10-region.yaml");
const CLASS: &str = include_str!("../../../docs/samples/20-reefclass.yaml");
const REEFS: &str = include_str!("../../../docs/samples/30-reefs.yaml");
const INSTANCES: &str = include_str!("../../../docs/samples/40-instances.yaml");

/// How many times faster than Azure its emulation is.
const SCALE: u32 = 200;

/// Life of Entra's tokens in most of the story, seconds of the wall. They are signed with its time, so this is what makes
/// them end while the story looks on: an hour of theirs takes this long.
const LIFE: u64 = 6;

/// What is switched off.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Operator,
    Management,
    Arm,
    Dns,
}

/// A server as a customer knows it, without asking the management cluster.
struct Server {
    name: &'static str,
    host: String,
    key: String,
    namespace: String,
    client_id: String,
}

struct Story {
    sandbox: Sandbox,
    client: Client,
    reef: Client,
    aks: String,
    slot: String,
    ca: String,
    servers: Vec<Server>,
}

/// Which pods there are, by UID, and how often their containers were started again.
type Pods = BTreeMap<String, i32>;

#[tokio::test]
async fn instances_need_nothing_of_what_made_them() {
    let scale = format!("--time-scale={SCALE}");
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=1", &scale]);
    let client = sandbox.client().await;
    let canaries = Canaries::begin(&client);
    set(&sandbox, "resyncSeconds=10");
    let weu_1 = REEFS.split("---").find(|reef| reef.contains("weu-1")).unwrap();
    for sample in [REGION, CLASS, weu_1] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let status = ready(&client, "weu-1").await;
    let two: Vec<_> = INSTANCES.split("---").take(3).collect();
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &two.join("---")));
    let acme = instance_ready(&client, "acme").await;
    let globex = instance_ready(&client, "globex").await;
    let story = Story::new(sandbox, client, &status, [("acme", &acme), ("globex", &globex)]).await;

    story.entra_is_away_for_less_than_a_token_lives().await;
    story.sandbox.token_life(LIFE);
    story.start_all_again().await;
    for parts in [
        &[Part::Operator][..],
        &[Part::Management],
        &[Part::Arm],
        &[Part::Dns],
        &[Part::Operator, Part::Management, Part::Arm, Part::Dns],
    ] {
        story.away(parts).await;
    }
    story.entra_is_away_for_longer().await;
    canaries.do_not_show(&story.sandbox, &story.client).await;
}

/// A name for a project that was never used.
fn fresh(why: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{why} {}", now.as_micros())
}

impl Story {
    async fn new(
        sandbox: Sandbox,
        client: Client,
        reef: &ReefStatus,
        instances: [(&'static str, &CloudInstanceStatus); 2],
    ) -> Self {
        let aks = cluster_of(&client, instances[0].1).await.unwrap();
        let issuer = reef.cluster.as_ref().unwrap().issuer.as_ref().unwrap();
        let slot = issuer.rsplit('/').nth(1).unwrap().to_owned();
        let ca = std::fs::read_to_string(sandbox.folder().join("run/public-ca.crt")).unwrap();
        let mut servers = Vec::new();
        for (name, status) in instances {
            servers.push(Server {
                name,
                host: status.url.as_ref().unwrap().trim_start_matches("https://").to_owned(),
                key: api_key(&client, status).await,
                namespace: status.namespace.clone().unwrap(),
                client_id: status.identity.as_ref().unwrap().client_id.clone().unwrap(),
            });
        }
        let reef = sandbox.reef_client(&aks).await;
        Self { sandbox, client, reef, aks, slot, ca, servers }
    }

    /// Makes a project in a server, through its public address: the status, if there is an answer.
    fn write(&self, server: &Server, name: &str) -> Option<u16> {
        let call = self.sandbox.https(&self.aks, &server.host, &self.ca)?;
        let headers = [("X-Octopus-ApiKey", server.key.as_str()), ("Content-Type", "application/json")];
        let body = json!({ "Name": name }).to_string();
        call.exchange("POST", "/api/projects", &headers, body.as_bytes()).ok().map(|answer| answer.status)
    }

    async fn pods(&self) -> Pods {
        let mut all = Pods::new();
        for server in &self.servers {
            let pods = Api::<Pod>::namespaced(self.reef.clone(), &server.namespace);
            for pod in pods.list(&ListParams::default()).await.unwrap() {
                let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.clone());
                let restarts = statuses.iter().flatten().map(|c| c.restart_count).sum();
                all.insert(pod.uid().unwrap(), restarts);
            }
        }
        all
    }

    /// The records of the zone, as ARM tells them; asked while it answers.
    fn records(&self) -> Vec<Value> {
        let zone = format!(
            "/subscriptions/{SUBSCRIPTION}/resourceGroups/{PLATFORM_GROUP}/providers/Microsoft.Network/dnsZones/octopus.example"
        );
        let ids = self.sandbox.azure_ids();
        let records =
            ids.iter().filter(|id| id.to_lowercase().starts_with(&format!("{}/", zone.to_lowercase())));
        let mut found: Vec<_> = records
            .map(|id| {
                let (status, record) = self.sandbox.arm("GET", id, None);
                assert_eq!(status, 200, "{id}");
                record
            })
            .collect();
        found.sort_by_key(Value::to_string);
        found
    }

    /// How often Entra gave a server's identity a token.
    fn tokens(&self, server: &Server) -> usize {
        let journal = self.sandbox.azure_journal();
        let mut given =
            journal.iter().filter(|e| e["status"] == 200 && e["client"] == server.client_id.as_str());
        given.by_ref().filter(|e| e["path"].as_str().is_some_and(|p| p.ends_with("/token"))).count()
    }

    /// Every server takes a write in the end.
    async fn all_serve(&self, why: &str) {
        for server in &self.servers {
            eventually(&format!("{} serves: {why}", server.name), || async {
                (self.write(server, &fresh(why)) == Some(201)).then_some(())
            })
            .await;
        }
    }

    /// Every write of every server is taken, although its connections to the database end again and again, until each
    /// has signed in with a new token twice.
    async fn all_serve_past_their_tokens(&self) -> usize {
        let before: Vec<_> = self.servers.iter().map(|s| self.tokens(s)).collect();
        let mut writes = 0;
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.sandbox.end_sql_sessions();
            for server in &self.servers {
                assert_eq!(self.write(server, &fresh("past its token")), Some(201), "{}", server.name);
                writes += 1;
            }
            let renewed = self.servers.iter().zip(&before).all(|(s, before)| self.tokens(s) >= before + 2);
            if renewed {
                return writes;
            }
            assert!(Instant::now() < deadline, "no new tokens");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Deletes the first server's pod; it comes back as another.
    async fn a_pod_starts_again(&self) {
        let pods = Api::<Pod>::namespaced(self.reef.clone(), &self.servers[0].namespace);
        let before = pods.get("octopus-0").await.unwrap().uid();
        pods.delete("octopus-0", &DeleteParams::default()).await.unwrap();
        eventually("another pod is Ready", || async {
            let found = ready_pods(&self.reef, &self.servers[0].namespace).await;
            found.iter().any(|pod| pod.uid() != before).then_some(())
        })
        .await;
    }

    /// All servers at once lose the machine's processes under them.
    async fn the_machine_is_lost(&self) {
        let before = self.pods().await;
        self.sandbox.lose_pods("octopus-");
        eventually("each container was started again, in its old pod", || async {
            let now = self.pods().await;
            let again = now.iter().all(|(uid, restarts)| before.get(uid).is_some_and(|b| restarts > b));
            (now.len() == before.len() && again).then_some(())
        })
        .await;
    }

    async fn start_all_again(&self) {
        for server in &self.servers {
            let pods = Api::<Pod>::namespaced(self.reef.clone(), &server.namespace);
            let before = pods.get("octopus-0").await.unwrap().uid();
            pods.delete("octopus-0", &DeleteParams::default()).await.unwrap();
            eventually("another pod is Ready", || async {
                ready_pods(&self.reef, &server.namespace)
                    .await
                    .iter()
                    .any(|p| p.uid() != before)
                    .then_some(())
            })
            .await;
        }
        self.all_serve("started again").await;
        for server in &self.servers {
            instance_ready(&self.client, server.name).await;
        }
    }

    fn switch_off(&self, part: Part) {
        let dns = |kind: &str| {
            let answer = json!({ "answer": { "status": 503, "code": "ServiceUnavailable" } });
            self.sandbox.azure_fault(&json!({ "type": kind, "fault": answer }));
        };
        match part {
            Part::Operator => self.scale(0),
            Part::Management => self.sandbox.management(false),
            Part::Arm => self.sandbox.azure_fault(&json!({ "fault": "hang" })),
            Part::Dns => {
                for kind in ["", "/A", "/CNAME"] {
                    dns(&format!("Microsoft.Network/dnsZones{kind}"));
                }
            }
        }
    }

    fn switch_on(&self, part: Part) {
        match part {
            Part::Operator => self.scale(2),
            Part::Management => self.sandbox.management(true),
            Part::Arm | Part::Dns => self.sandbox.azure_healed(),
        }
    }

    fn scale(&self, replicas: u8) {
        let replicas = format!("--replicas={replicas}");
        ok(&self.sandbox.kubectl(&["-n", NAMESPACE, "scale", "deployment/reef-operator", &replicas]));
    }

    async fn away(&self, parts: &[Part]) {
        let (records, resources) = (self.records(), self.sandbox.azure_ids());
        let (began, before) = (Instant::now(), self.pods().await);
        let azure = self.to_azure().len();
        for part in parts {
            self.switch_off(*part);
        }
        if parts.contains(&Part::Operator) && !parts.contains(&Part::Management) {
            eventually("no operator runs", || async {
                let list =
                    Api::<Pod>::namespaced(self.client.clone(), NAMESPACE).list(&ListParams::default()).await;
                list.ok()?.items.is_empty().then_some(())
            })
            .await;
        }
        let writes = self.all_serve_past_their_tokens().await;
        assert_eq!(self.pods().await, before, "{parts:?}: the same pods, not started again");
        self.a_pod_starts_again().await;
        self.all_serve("after a pod was started again").await;
        self.the_machine_is_lost().await;
        self.all_serve("after the machine was lost").await;
        for server in &self.servers {
            eventually("its pod is Ready", || async {
                (ready_pods(&self.reef, &server.namespace).await.len() == 1).then_some(())
            })
            .await;
        }
        let (away, pods) = (began.elapsed(), self.pods().await);
        let mut marks = self.marks();
        for part in parts.iter().rev() {
            self.switch_on(*part);
        }
        self.operator_looked_at_everything().await;
        // What was held back goes on only now.
        for part in ["AzureReachable", "ClusterReachable"] {
            shows(&self.client, "weu-1", part, "True", "ReconcileSucceeded").await;
        }
        self.operator_looked_at_everything().await;
        let written = self.written_since(&mut marks);
        println!(
            "{parts:?} away for {:.0} s ({:.0} min by Azure's clock, {:.1} lives of a token): {writes} writes taken, \
             pods untouched, one restart and one lost machine served again; on return: {written}",
            away.as_secs_f32(),
            (away * SCALE).as_secs_f32() / 60.0,
            away.div_duration_f32(Duration::from_secs(LIFE)),
        );
        assert_eq!(self.pods().await, pods, "{parts:?}: the return restarted nothing");
        assert_eq!((self.records(), self.sandbox.azure_ids()), (records, resources), "{parts:?}");
        assert_eq!(self.to_azure().len(), azure, "{parts:?}: nothing was written to Azure");
        self.all_serve("after the return").await;
        for server in &self.servers {
            instance_ready(&self.client, server.name).await;
        }
    }

    /// Numbers of what was written so far: by the operator in the management cluster and on the reef, and in Azure.
    fn marks(&self) -> [usize; 3] {
        [self.by_operator().len(), self.by_entra().len(), self.to_azure().len()]
    }

    /// Writes to Azure.
    fn to_azure(&self) -> Vec<Value> {
        azure_writes(&self.sandbox)
    }

    fn by_operator(&self) -> Vec<Value> {
        let mut all = self.sandbox.audit();
        all.retain(|e| {
            e["user"]["username"] == "system:serviceaccount:reef-operator:reef-operator"
                && e["objectRef"]["resource"] != "leases"
        });
        all
    }

    /// Users of Entra are the operator and the agents; everybody else's names have colons or are words.
    fn by_entra(&self) -> Vec<Value> {
        let mut all = self.sandbox.audit_of(&self.slot);
        all.retain(|e| e["user"]["username"].as_str().is_some_and(|u| u.len() == 36 && !u.contains(':')));
        all
    }

    /// What came since: nothing in Azure; on the reef only the sizes of pods that were started meanwhile; in the management cluster at most what tells that a part of
    /// Azure is known again.
    fn written_since(&self, marks: &mut [usize; 3]) -> String {
        let management = self.by_operator().split_off(marks[0]);
        let reef = self.by_entra().split_off(marks[1]);
        let azure = self.to_azure().split_off(marks[2]);
        let mut told = BTreeMap::<String, u32>::new();
        let mut seconds = BTreeMap::<String, u32>::new();
        for event in &management {
            let of = &event["objectRef"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let what =
                format!("{} {} {}", text(&event["verb"]), text(&of["resource"]), text(&of["subresource"]));
            *told.entry(what.trim().to_owned()).or_default() += 1;
            let at: String = text(&event["requestReceivedTimestamp"]).chars().take(19).collect();
            *seconds.entry(at).or_default() += 1;
            let harmless = of["subresource"] == "status" || of["resource"] == "events";
            assert!(harmless, "more than words on return: {event}");
        }
        // A pod that was started again meanwhile has the size for starting, which only the operator lowers.
        let resizes = reef.iter().filter(|e| e["objectRef"]["subresource"] == "resize").count();
        assert!(
            resizes == reef.len() && resizes <= self.servers.len(),
            "writes on the reef on return: {reef:#?}"
        );
        assert!(azure.is_empty(), "writes to Azure on return: {azure:#?}");
        // One Region, one Reef, two instances: each says what it knows again, in few steps, and that it serves.
        assert!(management.len() <= 12, "{} writes on return: {told:?}", management.len());
        let most = seconds.values().max().copied().unwrap_or(0);
        assert!(most <= 8, "{most} writes in a second on return: a status and an Event of each at most");
        format!(
            "0 writes to Azure, {resizes} pods resized on the reef, {} in the management cluster {told:?}, at most {most} in a second",
            management.len()
        )
    }

    /// Waits until one leader has looked at everything at least once more than it had when it was first seen to lead.
    async fn operator_looked_at_everything(&self) {
        let mut first: Option<(String, Vec<f64>)> = None;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let Some(leader) = self.leader().await else { continue };
            let mut counts = Vec::new();
            for controller in ["cloud-instance", "reef", "region"] {
                counts.push(looks(&self.client, controller).await);
            }
            match &first {
                // A process that was started again counts from zero.
                Some((known, before))
                    if *known == leader && counts.iter().zip(before).all(|(n, b)| n >= b) =>
                {
                    if counts
                        .iter()
                        .zip(before)
                        .zip([2.0, 1.0, 1.0])
                        .all(|((now, before), more)| now - before >= more)
                    {
                        return;
                    }
                }
                _ => first = Some((leader, counts)),
            }
        }
        panic!("nobody looked at everything");
    }

    /// Who leads, and is Ready.
    async fn leader(&self) -> Option<String> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), NAMESPACE);
        let holder = leases.get("reef-operator").await.ok()?.spec?.holder_identity?;
        ready_pods(&self.client, NAMESPACE).await.iter().any(|p| p.name_any() == holder).then_some(holder)
    }

    /// Entra does not answer, and connections to the databases end: the tokens that servers hold sign them in again.
    async fn entra_is_away_for_less_than_a_token_lives(&self) {
        let before = self.pods().await;
        self.sandbox.entra(false);
        for _ in 0..3 {
            self.sandbox.end_sql_sessions();
            for server in &self.servers {
                assert_eq!(self.write(server, &fresh("without Entra")), Some(201), "{}", server.name);
            }
        }
        self.sandbox.entra(true);
        assert_eq!(self.pods().await, before);
        println!("Entra away for less than a token lives: every write taken, pods untouched");
    }

    /// For longer: what is connected goes on; who has to sign in cannot, does not die of it, and goes on when Entra does.
    /// Meanwhile the operator calls neither its credentials nor the instances bad for Entra's own trouble.
    async fn entra_is_away_for_longer(&self) {
        let (began, before) = (Instant::now(), self.pods().await);
        self.all_serve("before Entra goes").await;
        self.sandbox.entra(false);
        shows(&self.client, "weu-1", "Ready", "True", "ReconcileSucceeded").await;
        let first = &self.servers[0];
        let goes_on = self.write(first, &fresh("still connected"));
        assert_eq!(goes_on, Some(201), "a connection outlives its token");
        eventually("who has to sign in cannot", || async {
            self.sandbox.end_sql_sessions();
            let refused = self.write(first, &fresh("not connected")).is_none_or(|status| status >= 500);
            refused.then_some(())
        })
        .await;
        assert_eq!(self.pods().await, before, "no server was ended for it");
        eventually("the operator has noticed, and blames nobody", || async {
            let text = ok(&self.sandbox.kubectl(&["get", "regions", "westeurope", "-o=json"]));
            let region: Value = serde_json::from_str(&text).ok()?;
            let conditions = region["status"]["conditions"].as_array()?;
            let of =
                |type_: &str| conditions.iter().find(|c| c["type"] == type_).map(|c| c["status"].clone());
            assert_eq!(of("Ready"), Some(json!("True")), "{conditions:#?}");
            assert_ne!(of("CredentialsValid"), Some(json!("False")), "{conditions:#?}");
            (of("CredentialsValid") == Some(json!("Unknown"))).then_some(())
        })
        .await;
        self.sandbox.entra(true);
        self.all_serve("after Entra came back").await;
        assert_eq!(self.pods().await, before, "they went on by themselves");
        println!(
            "Entra away for longer than a token lives: what was connected went on, new connections failed, after {:.0} s \
             all went on without a restart",
            began.elapsed().as_secs_f32()
        );
    }
}
