//! Story: a server whose node cannot give it its size is moved to one that can, in its maintenance window and not before.
//! Its tasks end first, and it takes tasks again whatever happens.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use reef_crds::CloudInstanceStatus;
use reef_e2e::{
    harness::{Sandbox, eventually, ok, toolbox_pod},
    install::NAMESPACE,
    instance_harness::{CUSTOMERS, api_key, call, cluster_of, instance_ready, instance_shows, instances},
    reef_harness::{ready, set},
};
use serde_json::{Value, json};

const SAMPLES: [&str; 3] = [
    include_str!("../../../docs/samples/10-region.yaml"),
    include_str!("../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../docs/samples/30-reefs.yaml"),
];

const INSTANCES: &str = include_str!("../../../docs/samples/40-instances.yaml");

const POD: &str = "octopus-0";

struct Story {
    sandbox: Sandbox,
    client: Client,
    /// The reef's cluster, with two nodes of three CPUs.
    cluster: Client,
    acme: CloudInstanceStatus,
    key: String,
    /// UID of the server's pod, and its node.
    first: (String, String),
    /// Jobs for drains that were to be by now.
    begun: usize,
}

#[tokio::test]
async fn a_server_that_needs_another_node_gets_it_in_its_window() {
    let arguments = ["--reef-slots=1", "--time-scale=200", "--node-cpus=3", "--reef-nodes=2"];
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &arguments);
    let client = sandbox.client().await;
    set(&sandbox, "resyncSeconds=10");
    for sample in &SAMPLES[..2] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let reef = SAMPLES[2].split("---").find(|reef| reef.contains("weu-1")).unwrap();
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], reef));
    ready(&client, "weu-1").await;
    let acme = INSTANCES.split("---").take(2).collect::<Vec<_>>().join("---");
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &acme));
    let acme = instance_ready(&client, "acme").await;
    let cluster = sandbox.reef_client(&cluster_of(&client, &acme).await.unwrap()).await;
    let key = api_key(&client, &acme).await;
    let mut story = Story { sandbox, client, cluster, acme, key, first: <_>::default(), begun: 0 };
    story.first = story.place().await.unwrap();

    story.without_a_window_it_stays().await;
    story.outside_its_window_it_stays().await;
    story.without_room_elsewhere_it_stays().await;
    story.it_takes_tasks_again_when_its_window_goes_away().await;
    story.in_its_window_its_tasks_end_and_it_moves().await;
    story.it_moved_once().await;
    story.a_drain_that_nobody_remembers_ends_with_its_namespace().await;
}

impl Story {
    fn servers(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.clone(), self.acme.namespace.as_ref().unwrap())
    }

    /// UID and node of the server's pod.
    async fn place(&self) -> Option<(String, String)> {
        let pod = self.servers().get_opt(POD).await.ok()??;
        Some((pod.uid()?, pod.spec?.node_name?))
    }

    fn edit(&self, spec: &Value) {
        let patch = json!({ "spec": spec }).to_string();
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "patch", "ci", "acme", "--type=merge", "-p", &patch]));
    }

    /// A window of two hours that begins so many hours from now.
    fn window(&self, hours: i64) {
        let at = Timestamp::now() + SignedDuration::from_hours(hours);
        let start = at.to_zoned(TimeZone::UTC).strftime("%H:%M").to_string();
        self.edit(&json!({ "maintenanceWindow": { "start": start, "durationSeconds": 7200 } }));
    }

    /// Waits until what is said of its size has these words.
    async fn says(&self, reason: &str, words: &str) {
        eventually(&format!("Resized says {reason}: {words}"), || async {
            let instance = instances(&self.client).get_opt("acme").await.ok()??;
            let status = instance.status?;
            let resized = status.conditions.iter().find(|c| c.type_ == "Resized")?;
            let current = status.observed_generation == instance.metadata.generation;
            (current && resized.reason == reason && resized.message.contains(words)).then_some(())
        })
        .await;
    }

    /// Has the operator look, and finds the server's pod as it was.
    async fn stays(&self, nonce: &str) {
        let annotation = format!("cloud.octopus.com/reconcile-requested-at={nonce}");
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "annotate", "--overwrite", "ci", "acme", &annotation]));
        eventually("the operator has looked", || async {
            let status = instances(&self.client).get_opt("acme").await.ok()??.status?;
            (status.last_handled_reconcile_at.as_deref() == Some(nonce)).then_some(())
        })
        .await;
        assert_eq!(self.place().await.unwrap(), self.first);
        assert_eq!(self.drains(), self.begun, "nobody told it to take no tasks");
    }

    /// Jobs that were begun so far to tell the server whether it takes tasks.
    fn drains(&self) -> usize {
        let audit = self.sandbox.audit_of("slot-1");
        let of =
            |entry: &&Value| entry["objectRef"]["name"].as_str().unwrap_or_default().starts_with("drain-");
        let jobs = audit.iter().filter(|entry| entry["objectRef"]["resource"] == "jobs").filter(of);
        jobs.filter(|entry| entry["verb"] == "patch" || entry["verb"] == "create").count()
    }

    async fn neighbour(&self, name: &str, node: &str) {
        let neighbours = Api::<Pod>::namespaced(self.cluster.clone(), "default");
        let container = json!({ "name": "toolbox", "image": "reef-toolbox", "args": ["sleep"],
            "resources": { "requests": { "cpu": "2" } } });
        let selector = json!({ "kubernetes.io/hostname": node });
        let spec = json!({ "containers": [container], "terminationGracePeriodSeconds": 0, "nodeSelector": selector });
        neighbours.create(&PostParams::default(), &toolbox_pod(name, &[], &spec)).await.unwrap();
        eventually(&format!("{name} is on {node}"), || async {
            let pod = neighbours.get_opt(name).await.ok()??;
            let statuses = pod.status?.container_statuses?;
            statuses.first()?.state.as_ref()?.running.as_ref().map(drop)
        })
        .await;
    }

    async fn octopus(&self, what: (&str, &str), body: &Value) -> (u16, Value) {
        call(&self.sandbox, &self.client, &self.acme, what, Some(&self.key), body).await
    }

    /// Gives the server a task that takes so long; its id, when it runs.
    async fn task(&self, seconds: u32) -> String {
        let task = json!({ "Name": "Deploy", "Arguments": { "Seconds": seconds } });
        let (status, task) = self.octopus(("POST", "/api/tasks"), &task).await;
        assert_eq!(status, 201, "{task}");
        let id = task["Id"].as_str().unwrap().to_owned();
        self.is(&id, "Executing").await;
        id
    }

    async fn is(&self, task: &str, state: &str) {
        eventually(&format!("task {task} is {state}"), || async {
            let (_, found) = self.octopus(("GET", &format!("/api/tasks/{task}")), &Value::Null).await;
            assert_ne!(found["State"], "Canceled", "nobody's task is cut off");
            (found["State"] == state).then_some(())
        })
        .await;
    }

    async fn takes_tasks(&self, takes: bool) {
        eventually(&format!("the server takes tasks: {takes}"), || async {
            let (_, nodes) = self.octopus(("GET", "/api/octopusservernodes"), &Value::Null).await;
            (nodes["Items"][0]["IsInMaintenanceMode"] == !takes).then_some(())
        })
        .await;
    }

    async fn without_a_window_it_stays(&self) {
        self.neighbour("neighbour", &self.first.1).await;
        // Two CPUs: its node has one left, the other node has three.
        self.edit(&json!({ "taskCap": 80 }));
        instance_shows(&self.client, "acme", "Resized", "False", "ResizeDeferred").await;
        self.stays("no-window").await;
    }

    async fn outside_its_window_it_stays(&self) {
        self.window(12);
        self.says("ResizeDeferred", "in its maintenance window, at ").await;
        self.stays("closed").await;
    }

    async fn without_room_elsewhere_it_stays(&self) {
        let nodes = Api::<Node>::all(self.cluster.clone());
        let nodes = nodes.list(&ListParams::default()).await.unwrap().items;
        let other = nodes.iter().map(ResourceExt::name_any).find(|name| *name != self.first.1).unwrap();
        self.neighbour("other", &other).await;
        self.window(-1);
        self.says("ResizeDeferred", "none of the 1 other nodes of the reef has room").await;
        self.stays("no-room").await;
        self.takes_tasks(true).await;
        self.window(12);
        self.says("ResizeDeferred", "in its maintenance window, at ").await;
        let neighbours = Api::<Pod>::namespaced(self.cluster.clone(), "default");
        neighbours.delete("other", &DeleteParams::default()).await.unwrap();
        eventually("the other node is free", || async {
            neighbours.get_opt("other").await.ok()?.is_none().then_some(())
        })
        .await;
    }

    async fn it_takes_tasks_again_when_its_window_goes_away(&mut self) {
        let task = self.task(3600).await;
        self.window(-1);
        self.says("ResizeMoving", "its tasks end first").await;
        self.takes_tasks(false).await;
        // Nobody has to remember it but the reef. And people change their minds.
        ok(&self.sandbox.kubectl(&[
            "-n",
            NAMESPACE,
            "delete",
            "pod",
            "--all",
            "--grace-period=0",
            "--force",
        ]));
        self.edit(&json!({ "maintenanceWindow": null }));
        self.takes_tasks(true).await;
        self.says("ResizeDeferred", "").await;
        self.begun = self.drains();
        assert!(self.begun >= 2, "one to take none, one to take them again");
        self.stays("changed-mind").await;
        self.is(&task, "Executing").await;
        let cancel = format!("/api/tasks/{task}/cancel");
        assert_eq!(self.octopus(("POST", &cancel), &json!({})).await.0, 200);
    }

    async fn in_its_window_its_tasks_end_and_it_moves(&self) {
        let task = self.task(15).await;
        self.window(-1);
        eventually("the server is on the other node", || async {
            let (uid, node) = self.place().await?;
            (uid != self.first.0 && node != self.first.1).then_some(())
        })
        .await;
        instance_shows(&self.client, "acme", "Resized", "True", "ReconcileSucceeded").await;
        instance_ready(&self.client, "acme").await;
        self.is(&task, "Success").await;
        self.takes_tasks(true).await;
        eventually("it runs as many tasks as it has the size for", || async {
            let (_, nodes) = self.octopus(("GET", "/api/octopusservernodes"), &Value::Null).await;
            (nodes["Items"][0]["MaxConcurrentTasks"] == 80).then_some(())
        })
        .await;
        let pod = serde_json::to_value(self.servers().get(POD).await.unwrap()).unwrap();
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "2");
    }

    async fn it_moved_once(&self) {
        let place = self.place().await.unwrap();
        let nonce = "cloud.octopus.com/reconcile-requested-at=after";
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "annotate", "--overwrite", "ci", "acme", nonce]));
        eventually("the operator has looked", || async {
            let status = instances(&self.client).get_opt("acme").await.ok()??.status?;
            (status.last_handled_reconcile_at.as_deref() == Some("after")).then_some(())
        })
        .await;
        assert_eq!(self.place().await.unwrap(), place);
        let audit = self.sandbox.audit_of("slot-1");
        let ended = audit.iter().filter(|entry| {
            let of = &entry["objectRef"];
            entry["verb"] == "delete" && of["resource"] == "pods" && of["name"] == POD
                // The operator, by the id of its identity; the node removes the object as itself.
                && !entry["user"]["username"].as_str().unwrap_or_default().starts_with("system:")
        });
        assert_eq!(ended.count(), 1, "its pod was ended once");
        let events = Api::<Event>::namespaced(self.client.clone(), CUSTOMERS);
        let told = events.list(&ListParams::default()).await.unwrap().items;
        let moving: Vec<_> = told.iter().filter(|e| e.reason.as_deref() == Some("ResizeMoving")).collect();
        assert!(!moving.is_empty() && moving.iter().all(|e| e.type_.as_deref() == Some("Normal")));
    }

    async fn a_drain_that_nobody_remembers_ends_with_its_namespace(&self) {
        let (_, nodes) = self.octopus(("GET", "/api/octopusservernodes"), &Value::Null).await;
        let mut node = nodes["Items"][0].clone();
        node["IsInMaintenanceMode"] = json!(true);
        let path = format!("/api/octopusservernodes/{}", node["Id"].as_str().unwrap());
        assert_eq!(self.octopus(("PUT", &path), &node).await.0, 200);
        self.takes_tasks(false).await;
        let namespace = self.acme.namespace.as_ref().unwrap();
        let all = Api::<Namespace>::all(self.cluster.clone());
        let before = all.get(namespace).await.unwrap().uid();
        all.delete(namespace, &DeleteParams::default()).await.unwrap();
        eventually("the namespace is another", || async {
            (all.get_opt(namespace).await.ok()??.uid() != before).then_some(())
        })
        .await;
        instance_ready(&self.client, "acme").await;
        self.takes_tasks(true).await;
    }
}
