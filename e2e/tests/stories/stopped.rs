//! Story: an emergency stop of a region and the pause of an object hold back what they say and nothing else, they are
//! seen, and work goes on by itself when they are over.

use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::{
    core::v1::{self, Service},
    events::v1::Event,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use reef_crds::{CloudInstanceStatus, Region};
use reef_e2e::{
    harness::{Sandbox, eventually, ok},
    instance_harness::{
        CUSTOMERS, call, cluster_of, instance_gone, instance_ready, instance_shows, instances, retained,
    },
    reef_harness::{azure_writes, cluster_writes, get, gone, message, metrics, ready, set, shows},
};
use serde_json::{Value, json};

const SAMPLES: [&str; 3] = [
    include_str!("../../../docs/samples/10-region.yaml"),
    include_str!("../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../docs/samples/30-reefs.yaml"),
];

const INSTANCES: &str = include_str!("../../../docs/samples/40-instances.yaml");

const CONFIRM: &str = "confirmation.cloud.octopus.com/deletion=true";

const PAUSED: &str = "cloud.octopus.com/paused";

struct Story {
    sandbox: Sandbox,
    client: Client,
    /// The reef's cluster.
    cluster: Client,
}

#[tokio::test]
async fn what_is_stopped_waits_is_told_and_goes_on_by_itself() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=1", "--time-scale=200"]);
    let client = sandbox.client().await;
    // Nothing of what follows is to wait for a routine look.
    set(&sandbox, "resyncSeconds=3600");
    for sample in &SAMPLES[..2] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &reef("weu-1")));
    ready(&client, "weu-1").await;
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &instance("acme")));
    let acme = instance_ready(&client, "acme").await;
    let cluster = sandbox.reef_client(&cluster_of(&client, &acme).await.unwrap()).await;
    let story = Story { sandbox, client, cluster };

    story.nothing_new_is_made_and_what_serves_is_cared_for(&acme).await;
    story.nothing_is_deleted_until_the_stop_is_lifted(&acme).await;
    let globex = instance_ready(&story.client, "globex").await;
    story.nothing_is_written_until_the_stop_ends(&globex).await;
    story.a_paused_instance_is_left_alone_until_the_pause_ends(&globex).await;
    story.a_deletion_under_pause_is_told_and_goes_on(&globex).await;
    story.what_is_kept_and_a_reef_can_be_paused_too().await;
}

/// One of the samples' reefs.
fn reef(name: &str) -> String {
    SAMPLES[2].split("---").find(|reef| reef.contains(name)).unwrap().to_owned()
}

/// The namespace of the samples' instances and one of them.
fn instance(name: &str) -> String {
    let namespace = INSTANCES.split("---").next().unwrap();
    let instance = INSTANCES.split("---").find(|one| one.contains(&format!("name: {name}\n"))).unwrap();
    format!("{namespace}---{instance}")
}

/// A moment soon, as an annotation or a field says it.
fn soon() -> String {
    let at = Timestamp::now().checked_add(3.seconds()).unwrap();
    Timestamp::from_second(at.as_second()).unwrap().to_string()
}

impl Story {
    /// Replaces the emergency stops of the Region, and waits until they are seen.
    async fn stop(&self, stops: &Value) {
        let patch = json!({ "spec": { "emergencyStop": stops } }).to_string();
        ok(&self.sandbox.kubectl(&["patch", "region", "westeurope", "--type=merge", "-p", &patch]));
        let generation = self.region().await.metadata.generation;
        let verb = stops[0]["verb"].as_str().unwrap_or_default();
        eventually("the Region shows its stops", || async {
            let status = self.region().await.status?;
            let shown = status.conditions.iter().find(|c| c.type_ == "EmergencyStopped");
            let fits = shown.map_or(verb.is_empty(), |c| c.message.contains(&format!("stopped: {verb} ")));
            (status.observed_generation == generation && fits).then_some(())
        })
        .await;
    }

    async fn region(&self) -> Region {
        Api::all(self.client.clone()).get("westeurope").await.unwrap()
    }

    fn annotate(&self, kind: &str, name: &str, annotation: &str) {
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "annotate", "--overwrite", kind, name, annotation]));
    }

    fn delete(&self, kind: &str, name: &str) {
        self.annotate(kind, name, CONFIRM);
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "delete", kind, name, "--wait=false"]));
    }

    fn patch(&self, name: &str, spec: &Value) {
        let patch = json!({ "spec": spec }).to_string();
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "patch", "ci", name, "--type=merge", "-p", &patch]));
    }

    async fn serves(&self, status: &CloudInstanceStatus) -> bool {
        call(&self.sandbox, &self.client, status, ("GET", "/api"), None, &Value::Null).await.0 == 200
    }

    fn services(&self, of: &CloudInstanceStatus) -> Api<Service> {
        Api::namespaced(self.cluster.clone(), of.namespace.as_ref().unwrap())
    }

    async fn service_is_back(&self, of: &CloudInstanceStatus) {
        eventually("the Service is there and leads to the server", || async {
            let there = self.services(of).get_opt("octopus").await.ok()?.is_some();
            (there && self.serves(of).await).then_some(())
        })
        .await;
    }

    async fn drop_service(&self, of: &CloudInstanceStatus) {
        self.services(of).delete("octopus", &DeleteParams::default()).await.unwrap();
    }

    /// Waits for an Event about an object.
    async fn event(&self, about: &str, namespace: &str, reason: &str) -> Event {
        let events = Api::<Event>::namespaced(self.client.clone(), namespace);
        let fields = ListParams::default().fields(&format!("regarding.name={about},reason={reason}"));
        eventually(&format!("Event {reason} of {about}"), || async {
            events.list(&fields).await.ok()?.items.pop()
        })
        .await
    }

    fn deletions(&self) -> usize {
        azure_writes(&self.sandbox).iter().filter(|call| call["method"] == "DELETE").count()
    }

    async fn nothing_new_is_made_and_what_serves_is_cared_for(&self, acme: &CloudInstanceStatus) {
        self.stop(&json!([{ "verb": "Provision", "reason": "INC-1: no room" }])).await;
        let writes = azure_writes(&self.sandbox).len();
        ok(&self.sandbox.kubectl_with(&["apply", "-f", "-"], &reef("weu-2")));
        ok(&self.sandbox.kubectl_with(&["apply", "-f", "-"], &instance("globex")));
        let second = shows(&self.client, "weu-2", "Ready", "False", "EmergencyStop").await;
        assert!(message(&second, "Ready").contains("emergency stop Provision of Region westeurope"));
        assert_eq!(second.resource_group, None, "it is not begun");
        let waits = instance_shows(&self.client, "globex", "Ready", "False", "EmergencyStop").await;
        assert!(waits.conditions[0].message.contains("(INC-1: no room)"), "{:?}", waits.conditions);
        assert_eq!(waits.placement, None);
        self.drop_service(acme).await;
        self.service_is_back(acme).await;
        assert_eq!(azure_writes(&self.sandbox).len(), writes, "nothing is made in Azure");
        assert!(get(&self.client, "weu-1").await.unwrap().status.unwrap().reservations.is_empty());
        let warned = self.event("westeurope", "default", "EmergencyStop").await;
        assert_eq!(warned.type_.as_deref(), Some("Warning"));
        let text = metrics(&self.client).await;
        let gauge = "reef_operator_emergency_stop{region=\"westeurope\",verb=\"Provision\"} 1";
        assert!(text.contains(gauge), "{text}");
        let listed = ok(&self.sandbox.kubectl(&["get", "regions"]));
        assert!(listed.contains("STOPPED"), "{listed}");
        // What was not begun may go.
        self.delete("reef", "weu-2");
        gone(&self.client, "weu-2").await;
    }

    async fn nothing_is_deleted_until_the_stop_is_lifted(&self, acme: &CloudInstanceStatus) {
        self.patch("acme", &json!({ "deletionPolicy": "Delete" }));
        self.stop(&json!([{ "verb": "Delete", "reason": "INC-2" }])).await;
        // What waited for the other stop goes on at once.
        instance_ready(&self.client, "globex").await;
        self.delete("ci", "acme");
        let waits = instance_shows(&self.client, "acme", "Ready", "False", "EmergencyStop").await;
        let words = &waits.conditions[0].message;
        assert!(words.contains("emergency stop Delete") && words.contains("INC-2"), "{words}");
        self.event("acme", CUSTOMERS, "EmergencyStop").await;
        assert_eq!(self.deletions(), 0, "nothing is deleted in Azure");
        assert!(self.serves(acme).await, "it serves on");
        self.stop(&json!(null)).await;
        instance_gone(&self.client, "acme").await;
        assert!(self.deletions() > 0);
        assert!(!metrics(&self.client).await.contains("reef_operator_emergency_stop{"));
    }

    async fn nothing_is_written_until_the_stop_ends(&self, globex: &CloudInstanceStatus) {
        self.stop(&json!([{ "verb": "All", "reason": "INC-3" }])).await;
        let reef = get(&self.client, "weu-1").await.unwrap().status.unwrap();
        let before = (azure_writes(&self.sandbox).len(), cluster_writes(&self.sandbox, &reef));
        self.drop_service(globex).await;
        let told =
            instance_shows(&self.client, "globex", "WorkloadAvailable", "False", "EmergencyStop").await;
        let words = &told.conditions[0].message;
        assert!(words.contains("Service octopus") && words.contains("INC-3"), "{words}");
        assert!(self.services(globex).get_opt("octopus").await.unwrap().is_none(), "it is not put back");
        let after = (azure_writes(&self.sandbox).len(), cluster_writes(&self.sandbox, &reef));
        assert_eq!(before, after, "nothing is written");
        // From here on nobody does anything.
        let patch =
            json!({ "spec": { "emergencyStop": [{ "verb": "All", "reason": "INC-3", "until": soon() }] } });
        let patch = patch.to_string();
        ok(&self.sandbox.kubectl(&["patch", "region", "westeurope", "--type=merge", "-p", &patch]));
        self.service_is_back(globex).await;
        instance_ready(&self.client, "globex").await;
        eventually("the Region shows no stop any more", || async {
            let status = self.region().await.status?;
            (!status.conditions.iter().any(|c| c.type_ == "EmergencyStopped")).then_some(())
        })
        .await;
        self.event("westeurope", "default", "Resumed").await;
        assert_eq!(self.region().await.spec.emergency_stop.len(), 1, "the spec is the user's");
    }

    async fn a_paused_instance_is_left_alone_until_the_pause_ends(&self, globex: &CloudInstanceStatus) {
        self.annotate("ci", "globex", &format!("{PAUSED}=true"));
        let paused = instance_shows(&self.client, "globex", "Paused", "True", "Paused").await;
        let ready = paused.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.status, "True", "it tells how it really stands");
        let text = metrics(&self.client).await;
        let gauge = "reef_operator_paused_since_seconds{kind=\"CloudInstance\",namespace=\"customers\",name=\"globex\"}";
        assert!(text.contains(gauge), "{text}");
        self.event("globex", CUSTOMERS, "Paused").await;
        self.drop_service(globex).await;
        let told = instance_shows(&self.client, "globex", "Ready", "False", "Paused").await;
        assert!(
            told.conditions[0].message.contains("cloud.octopus.com/paused=true"),
            "{:?}",
            told.conditions
        );
        assert!(self.services(globex).get_opt("octopus").await.unwrap().is_none());
        self.annotate("ci", "globex", &format!("{PAUSED}={}", soon()));
        self.service_is_back(globex).await;
        let resumed = instance_ready(&self.client, "globex").await;
        assert!(!resumed.conditions.iter().any(|c| c.type_ == "Paused"));
        self.event("globex", CUSTOMERS, "Resumed").await;
    }

    async fn a_deletion_under_pause_is_told_and_goes_on(&self, globex: &CloudInstanceStatus) {
        let deletions = self.deletions();
        self.annotate("ci", "globex", &format!("{PAUSED}=until noon"));
        let unreadable = instance_shows(&self.client, "globex", "Paused", "True", "Paused").await;
        let words = &unreadable.conditions.last().unwrap().message;
        assert!(words.contains("until noon") && words.contains("correct it"), "{words}");
        self.delete("ci", "globex");
        let told = instance_shows(&self.client, "globex", "Ready", "False", "Paused").await;
        assert!(told.conditions[0].message.contains("remove the annotation"), "{:?}", told.conditions);
        assert!(self.serves(globex).await && self.deletions() == deletions, "nothing is done");
        self.annotate("ci", "globex", &format!("{PAUSED}-"));
        instance_gone(&self.client, "globex").await;
        assert!(instances(&self.client).list(&ListParams::default()).await.unwrap().items.is_empty());
    }

    async fn what_is_kept_and_a_reef_can_be_paused_too(&self) {
        let name = retained(&self.client).await[0].metadata.name.clone().unwrap();
        self.annotate("ri", &name, &format!("{PAUSED}=true"));
        self.delete("ri", &name);
        let deletions = self.deletions();
        let told =
            ["wait", "ri", &name, "--for=jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}=Paused"];
        ok(&self.sandbox.kubectl(&[&told[..], &["--timeout=90s"]].concat()));
        assert_eq!(self.deletions(), deletions);
        self.annotate("ri", &name, &format!("{PAUSED}-"));
        eventually("nothing is kept any more", || async {
            retained(&self.client).await.is_empty().then_some(())
        })
        .await;
        self.annotate("reef", "weu-1", &format!("{PAUSED}=true"));
        let deletions = self.deletions();
        self.delete("reef", "weu-1");
        let told = shows(&self.client, "weu-1", "Ready", "False", "Paused").await;
        assert!(message(&told, "Ready").contains("remove the annotation"));
        assert_eq!(self.deletions(), deletions);
        let namespaces = Api::<v1::Namespace>::all(self.cluster.clone());
        assert!(namespaces.get_opt("reef-system").await.unwrap().is_some());
        self.annotate("reef", "weu-1", &format!("{PAUSED}-"));
        gone(&self.client, "weu-1").await;
    }
}
