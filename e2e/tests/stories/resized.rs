//! Story: a server changes its size while it runs. It may use more CPU while it starts, its task cap and its quotas grow
//! and shrink live, what its node cannot give is told, and nothing restarts.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Event, Pod, ResourceQuota},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use reef_crds::{CloudInstanceStatus, quantity};
use reef_e2e::{
    harness::{Sandbox, eventually, ok, processes, refused, send, toolbox_pod},
    instance_harness::{
        CUSTOMERS, api_key, call, cluster_of, hash_of, instance_ready, instance_shows, instances,
    },
    reef_harness::{azure_writes, cluster_writes, ready, set},
};
use rustix::process::Signal;
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
    /// The reef's cluster.
    cluster: Client,
    acme: CloudInstanceStatus,
    key: String,
    /// UID of the server's pod.
    pod: String,
}

#[tokio::test]
async fn a_server_changes_its_size_while_it_runs() {
    let arguments = ["--reef-slots=1", "--time-scale=200", "--node-cpus=3"];
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &arguments);
    let client = sandbox.client().await;
    // Nothing of what follows is to wait for a routine look.
    set(&sandbox, "resyncSeconds=3600");
    for sample in &SAMPLES[..2] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let reef = SAMPLES[2].split("---").find(|reef| reef.contains("weu-1")).unwrap();
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], reef));
    ready(&client, "weu-1").await;
    let acme = INSTANCES.split("---").take(2).collect::<Vec<_>>().join("---");
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &acme.replace("taskCap: 5", "taskCap: 10")));
    let acme = instance_ready(&client, "acme").await;
    let cluster = sandbox.reef_client(&cluster_of(&client, &acme).await.unwrap()).await;
    let key = api_key(&client, &acme).await;
    let pods = Api::<Pod>::namespaced(cluster.clone(), acme.namespace.as_ref().unwrap());
    let pod = pods.get(POD).await.unwrap().metadata.uid.unwrap();
    let story = Story { sandbox, client, cluster, acme, key, pod };

    story.what_it_had_to_start_with_is_gone_when_it_is_ready().await;
    story.its_task_cap_grows_and_shrinks().await;
    story.what_no_node_of_this_size_has_is_told_and_taken_back().await;
    story.what_others_have_comes_when_they_go().await;
    story.its_quotas_grow_and_never_shrink().await;
    story.then_nothing_is_written().await;
    story.nothing_restarted().await;
    story.a_container_that_starts_again_has_more_cpu_again().await;
}

/// Limits and requests of CPU and memory: millicores and MiB.
type Size = [i64; 4];

/// The sizes of task caps, as the server has them when it is ready.
const OF_10: Size = [150, 1000, 1500, 3000];
const OF_40: Size = [1250, 2500, 4000, 8000];

#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
fn size(resources: &Value) -> Option<Size> {
    let cpu = |of: &str| Some((quantity::number(resources[of]["cpu"].as_str()?)? * 1000.0).round() as i64);
    let memory = |of: &str| Some(quantity::bytes(resources[of]["memory"].as_str()?)? >> 20);
    Some([cpu("requests")?, cpu("limits")?, memory("requests")?, memory("limits")?])
}

impl Story {
    fn namespace(&self) -> &str {
        self.acme.namespace.as_ref().unwrap()
    }

    async fn pod(&self) -> Option<Pod> {
        Api::<Pod>::namespaced(self.cluster.clone(), self.namespace()).get_opt(POD).await.ok()?
    }

    /// What the pod asks for, and what it has.
    async fn sizes(&self) -> Option<(Size, Size)> {
        let pod = serde_json::to_value(self.pod().await?).unwrap();
        let asked = size(&pod["spec"]["containers"][0]["resources"])?;
        Some((asked, size(&pod["status"]["containerStatuses"][0]["resources"])?))
    }

    async fn has(&self, wanted: Size) {
        eventually(&format!("the server has {wanted:?}"), || async {
            (self.sizes().await? == (wanted, wanted)).then_some(())
        })
        .await;
    }

    fn edit(&self, spec: &Value) {
        let patch = json!({ "spec": spec }).to_string();
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "patch", "ci", "acme", "--type=merge", "-p", &patch]));
    }

    async fn tasks_at_once(&self, wanted: u64) {
        eventually(&format!("the server runs {wanted} tasks at once"), || async {
            let nodes = ("GET", "/api/octopusservernodes");
            let answer =
                call(&self.sandbox, &self.client, &self.acme, nodes, Some(&self.key), &Value::Null).await;
            (answer.1["Items"][0]["MaxConcurrentTasks"] == wanted).then_some(())
        })
        .await;
    }

    async fn resized(&self) {
        instance_shows(&self.client, "acme", "Resized", "True", "ReconcileSucceeded").await;
        instance_ready(&self.client, "acme").await;
    }

    /// The instance is Ready and says that the size does not come; the words.
    async fn waits(&self, reason: &str) -> String {
        instance_shows(&self.client, "acme", "Resized", "False", reason).await;
        // Ready again, where it got a few tasks more.
        let status = instance_ready(&self.client, "acme").await;
        let resized = status.conditions.iter().find(|c| c.type_ == "Resized").unwrap();
        assert_eq!((resized.status.as_str(), resized.reason.as_str()), ("False", reason));
        resized.message.clone()
    }

    /// Has the operator look at Azure and at the cluster.
    async fn look(&self, nonce: &str) {
        let annotation = format!("cloud.octopus.com/reconcile-requested-at={nonce}");
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "annotate", "--overwrite", "ci", "acme", &annotation]));
        eventually("the operator has looked", || async {
            let status = instances(&self.client).get_opt("acme").await.ok()??.status?;
            (status.last_handled_reconcile_at.as_deref() == Some(nonce)).then_some(())
        })
        .await;
    }

    async fn what_it_had_to_start_with_is_gone_when_it_is_ready(&self) {
        let sets = Api::<StatefulSet>::namespaced(self.cluster.clone(), self.namespace());
        let set = serde_json::to_value(sets.get("octopus").await.unwrap()).unwrap();
        let first = size(&set["spec"]["template"]["spec"]["containers"][0]["resources"]).unwrap();
        assert_eq!(first, [150, 2000, 1500, 3000], "with twice the limit of CPU it starts");
        self.has(OF_10).await;
        self.resized().await;
        self.tasks_at_once(10).await;
    }

    async fn its_task_cap_grows_and_shrinks(&self) {
        self.edit(&json!({ "taskCap": 40 }));
        self.has(OF_40).await;
        self.tasks_at_once(40).await;
        self.resized().await;
        self.edit(&json!({ "taskCap": 5 }));
        // A heap that was sized by the larger limit may need it.
        self.has([150, 1000, 1500, 8000]).await;
        self.tasks_at_once(5).await;
        self.resized().await;
    }

    async fn what_no_node_of_this_size_has_is_told_and_taken_back(&self) {
        self.edit(&json!({ "taskCap": 160 }));
        let words = self.waits("ResizeInfeasible").await;
        assert!(words.contains("3500m CPU") && words.contains("requested: 3500"), "{words}");
        let (asked, has) = self.sizes().await.unwrap();
        assert_eq!((asked[0], has[0]), (150, 150), "it keeps what it has");
        // As many tasks as this size is for, and no more.
        self.tasks_at_once(10).await;
        eventually("people are told once", || async {
            let events = Api::<Event>::namespaced(self.client.clone(), CUSTOMERS);
            let events = events.list(&ListParams::default()).await.ok()?.items;
            let told = events.iter().filter(|e| e.reason.as_deref() == Some("ResizeInfeasible")).count();
            assert!(told < 2);
            (told == 1).then_some(())
        })
        .await;
        self.edit(&json!({ "taskCap": 10 }));
        self.resized().await;
        self.has([150, 1000, 1500, 8000]).await;
    }

    async fn what_others_have_comes_when_they_go(&self) {
        let neighbours = Api::<Pod>::namespaced(self.cluster.clone(), "default");
        let container = json!({ "name": "toolbox", "image": "reef-toolbox", "args": ["sleep"],
            "resources": { "requests": { "cpu": "2" } } });
        let neighbour = toolbox_pod(
            "neighbour",
            &[],
            &json!({ "containers": [container], "terminationGracePeriodSeconds": 0 }),
        );
        neighbours.create(&PostParams::default(), &neighbour).await.unwrap();
        eventually("the neighbour is on the node", || async {
            let pod = neighbours.get_opt("neighbour").await.ok()??;
            let statuses = pod.status?.container_statuses?;
            statuses.first()?.state.as_ref()?.running.as_ref().map(drop)
        })
        .await;
        self.edit(&json!({ "taskCap": 40 }));
        let words = self.waits("ResizeDeferred").await;
        assert!(words.contains("1250m CPU") && words.contains("others leave"), "{words}");
        neighbours.delete("neighbour", &DeleteParams::default()).await.unwrap();
        self.has(OF_40).await;
        self.resized().await;
        self.tasks_at_once(40).await;
    }

    async fn its_quotas_grow_and_never_shrink(&self) {
        let (hash, ids) = (hash_of(&self.acme), self.sandbox.azure_ids());
        let id =
            |part: &str| ids.iter().find(|id| id.ends_with(&format!("{part}-{hash}-1"))).unwrap().clone();
        let (database, share) = (id("db"), id("fs"));
        let azure = |id: &str, field: &str| self.sandbox.arm("GET", id, None).1["properties"][field].clone();
        self.edit(&json!({ "quota": { "share": "200Gi", "database": "20Gi" } }));
        eventually("Azure gives it more room", || async {
            let is = azure(&share, "shareQuota") == 200;
            (is && azure(&database, "maxSizeBytes").as_f64() == Some(20.0 * f64::from(1 << 30))).then_some(())
        })
        .await;
        self.resized().await;
        let smaller = r#"{"spec":{"quota":{"share":"150Gi"}}}"#;
        let why = refused(&self.sandbox.kubectl(&[
            "-n",
            CUSTOMERS,
            "patch",
            "ci",
            "acme",
            "--type=merge",
            "-p",
            smaller,
        ]));
        assert!(why.contains("can only grow"), "{why}");
        // Somebody helps with the portal; a later edit asks for less than there is by then.
        let mut body = self.sandbox.arm("GET", &share, None).1;
        body["properties"]["shareQuota"] = json!(500);
        assert!(self.sandbox.arm("PUT", &share, Some(&body)).0 < 300);
        self.edit(&json!({ "quota": { "share": "300Gi" } }));
        self.look("after-the-portal").await;
        self.resized().await;
        assert_eq!(azure(&share, "shareQuota"), 500, "what there is may be in use");
    }

    async fn then_nothing_is_written(&self) {
        let reef = ready(&self.client, "weu-1").await;
        let writes = || (azure_writes(&self.sandbox).len(), cluster_writes(&self.sandbox, &reef));
        let before = writes();
        self.look("quiet").await;
        assert_eq!(writes(), before);
        let quotas = Api::<ResourceQuota>::namespaced(self.cluster.clone(), self.namespace());
        let quota = serde_json::to_value(quotas.get("instance").await.unwrap()).unwrap();
        let hard = |name: &str| quota["spec"]["hard"][name].clone();
        assert_eq!((hard("requests.cpu"), hard("limits.cpu")), (json!("2500m"), json!("10")));
    }

    async fn nothing_restarted(&self) {
        let pod = self.pod().await.unwrap();
        let restarts = pod.status.unwrap().container_statuses.unwrap()[0].restart_count;
        assert_eq!((pod.metadata.uid.unwrap(), restarts), (self.pod.clone(), 0));
    }

    async fn a_container_that_starts_again_has_more_cpu_again(&self) {
        let boosted = [OF_40[0], 2 * OF_40[1], OF_40[2], OF_40[3]];
        eventually("it starts with more CPU", || async {
            // Again and again, so that it does not serve before it was looked at.
            let folder = self.sandbox.folder().to_str().unwrap();
            let its = |command: &str| {
                ["\0pod\0", "\"hostname\":\"octopus-0\"", folder].iter().all(|s| command.contains(s))
            };
            processes().iter().filter(|p| its(&p.command)).for_each(|p| send(p.pid, Signal::KILL));
            (self.sizes().await?.0 == boosted).then_some(())
        })
        .await;
        self.has(OF_40).await;
        self.resized().await;
        assert_eq!(self.pod().await.unwrap().metadata.uid.unwrap(), self.pod, "the pod is the same");
    }
}
