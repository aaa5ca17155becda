//! Story: what goes wrong with instances, and what is done about it: a namespace that is deleted by hand, a database
//! that is gone, a type of resource that nobody can read in Azure, objects that claim data which is in use, a reef that is
//! to go while somebody lives on it.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Namespace, PersistentVolume, Pod, Secret},
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams},
    core::{ApiResource, GroupVersionKind},
};
use reef_crds::CloudInstanceStatus;
use reef_e2e::{
    harness::{Sandbox, eventually, ok, refused},
    install::NAMESPACE,
    instance_harness::{
        CUSTOMERS, api_key, call, cluster_of, hash_of, instance_gone, instance_ready, instance_shows,
        retained,
    },
    reef_harness::{azure_writes, ready, set, shows},
};
use serde_json::{Value, json};

use crate::blind::{World, one_type_at_a_time, the_reefs_cluster_refuses_all};

const SAMPLES: [&str; 3] = [
    include_str!("../../../docs/samples/10-region.yaml"),
    include_str!("../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../docs/samples/30-reefs.yaml"),
];

const INSTANCES: &str = include_str!("../../../docs/samples/40-instances.yaml");

const CONFIRM: &str = "confirmation.cloud.octopus.com/deletion=true";

struct Story {
    sandbox: Sandbox,
    client: Client,
    /// The reef's cluster.
    cluster: Client,
}

#[tokio::test]
async fn what_goes_wrong_is_told_and_nothing_is_lost() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=1", "--time-scale=200"]);
    let client = sandbox.client().await;
    // Nothing of what follows is to wait for a routine look.
    set(&sandbox, "resyncSeconds=3600");
    for sample in &SAMPLES[..2] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let reefs: Vec<_> = SAMPLES[2].split("---").filter(|reef| reef.contains("weu-1")).collect();
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], reefs[0]));
    ready(&client, "weu-1").await;
    let two: Vec<_> = INSTANCES.split("---").take(3).collect();
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &two.join("---")));
    let acme = instance_ready(&client, "acme").await;
    let globex = instance_ready(&client, "globex").await;
    let cluster = sandbox.reef_client(&cluster_of(&client, &acme).await.unwrap()).await;
    let story = Story { sandbox, client, cluster };

    let key = api_key(&story.client, &acme).await;
    let (all, reef) = (["westeurope", "weu-1", "acme"], &story.cluster);
    let world = World { sandbox: &story.sandbox, client: &story.client, cluster: reef, names: all };
    one_type_at_a_time(&world).await;
    the_reefs_cluster_refuses_all(&world).await;
    let project = json!({ "Name": "of acme" });
    assert_eq!(story.call(&acme, ("POST", "/api/projects"), Some(&key), &project).await.0, 201);
    story.a_server_that_stops_is_noticed_at_once(&acme).await;
    story.a_route_that_is_deleted_comes_back_at_once(&acme).await;
    story.a_namespace_that_is_deleted_comes_back_with_its_data(&acme, &key).await;
    story.nobody_else_says_what_is_kept(&acme).await;
    story.a_database_that_is_gone_is_made_again_only_when_confirmed(&globex).await;
    story.nothing_stays_when_the_namespace_went_first(&globex).await;
    story.deletion_by_force_leaves_a_tombstone().await;
    story.a_reef_stays_while_somebody_lives_on_it(&acme, &key).await;
}

impl Story {
    async fn call(
        &self,
        status: &CloudInstanceStatus,
        what: (&str, &str),
        key: Option<&str>,
        body: &Value,
    ) -> (u16, Value) {
        call(&self.sandbox, &self.client, status, what, key, body).await
    }

    fn annotate(&self, name: &str, annotation: &str) {
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "annotate", "--overwrite", "ci", name, annotation]));
    }

    /// Asks for a look at Azure.
    fn look(&self, name: &str, nonce: u32) {
        self.annotate(name, &format!("cloud.octopus.com/reconcile-requested-at={nonce}"));
    }

    /// When Ready last became what it is.
    async fn ready_since(&self, name: &str) -> jiff::Timestamp {
        let status = instance_ready(&self.client, name).await;
        status.conditions.iter().find(|c| c.type_ == "Ready").unwrap().last_transition_time.0
    }

    async fn a_server_that_stops_is_noticed_at_once(&self, acme: &CloudInstanceStatus) {
        let before = self.ready_since("acme").await;
        let pods = Api::<Pod>::namespaced(self.cluster.clone(), acme.namespace.as_ref().unwrap());
        pods.delete("octopus-0", &DeleteParams::default()).await.unwrap();
        eventually("that it does not serve is told, and that it serves again", || async {
            (self.ready_since("acme").await > before).then_some(())
        })
        .await;
    }

    async fn a_route_that_is_deleted_comes_back_at_once(&self, acme: &CloudInstanceStatus) {
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
        let kind = ApiResource::from_gvk_with_plural(&kind, "httproutes");
        let namespace = acme.namespace.as_ref().unwrap();
        let routes = Api::<DynamicObject>::namespaced_with(self.cluster.clone(), namespace, &kind);
        routes.delete("octopus", &DeleteParams::default()).await.unwrap();
        eventually("it serves again", || async {
            let there = routes.get_opt("octopus").await.ok()?.is_some();
            (there && self.call(acme, ("GET", "/api"), None, &Value::Null).await.0 == 200).then_some(())
        })
        .await;
    }

    async fn a_namespace_that_is_deleted_comes_back_with_its_data(
        &self,
        acme: &CloudInstanceStatus,
        key: &str,
    ) {
        let namespaces = Api::<Namespace>::all(self.cluster.clone());
        let name = acme.namespace.as_ref().unwrap();
        let uid = namespaces.get(name).await.unwrap().metadata.uid;
        namespaces.delete(name, &DeleteParams::default()).await.unwrap();
        eventually("the namespace is another one", || async {
            let found = namespaces.get_opt(name).await.ok()??;
            (found.metadata.uid != uid).then_some(())
        })
        .await;
        eventually("the server serves what it had", || async {
            instance_ready(&self.client, "acme").await;
            let (code, projects) = self.call(acme, ("GET", "/api/projects"), Some(key), &Value::Null).await;
            (code == 200 && projects["Items"][0]["Name"] == "of acme").then_some(())
        })
        .await;
    }

    /// With a RetainedInstance goes what it names, so it is believed to nobody while the instance lives.
    async fn nobody_else_says_what_is_kept(&self, acme: &CloudInstanceStatus) {
        let uid =
            self.sandbox.kubectl(&["-n", CUSTOMERS, "get", "ci", "acme", "-o", "jsonpath={.metadata.uid}"]);
        let hash = hash_of(acme);
        let ids = self.sandbox.azure_ids();
        let id =
            |part: &str| ids.iter().find(|id| id.ends_with(&format!("{part}-{hash}-1"))).unwrap().clone();
        let isolation = json!({ "tier": "Shared" });
        let forged = json!({
            "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "RetainedInstance",
            "metadata": { "name": "forged" },
            "spec": {
                "origin": { "namespace": CUSTOMERS, "name": "acme", "uid": ok(&uid) },
                "regionRef": { "name": "westeurope" }, "reefRef": { "name": "weu-1" },
                "database": { "id": id("db"), "name": format!("db-{hash}-1"), "isolation": isolation },
                "share": { "id": id("fs"), "name": format!("fs-{hash}-1"), "quota": { "share": "100Gi", "database": "10Gi" } },
                "keysSecretRef": { "name": "k" }, "version": "2026.2.4213", "subdomain": "acme",
            },
        });
        let create = |object: &Value| {
            self.sandbox.kubectl_with(&["create", "-f", "-"], &serde_json::to_string(object).unwrap())
        };
        let why = refused(&create(&forged));
        assert!(why.contains("made by the operator"), "{why}");
        let mut confirmed = forged;
        confirmed["metadata"]["annotations"] = json!({
            "confirmation.cloud.octopus.com/adoption": "true", "confirmation.cloud.octopus.com/deletion": "true",
        });
        ok(&create(&confirmed));
        ok(&self.sandbox.kubectl(&["wait", "ri", "forged", "--for=condition=Stalled", "--timeout=180s"]));
        let writes = azure_writes(&self.sandbox).len();
        ok(&self.sandbox.kubectl(&["delete", "ri", "forged", "--wait=false"]));
        let message = eventually("the deletion is looked at", || async {
            let out = self.sandbox.kubectl(&["get", "ri", "forged", "-o", "json"]);
            let found: Value = serde_json::from_str(&ok(&out)).ok()?;
            let ready = found["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready")?;
            (found["metadata"]["deletionTimestamp"].is_string() && ready["reason"] == "NameTaken")
                .then(|| ready["message"].as_str().unwrap_or_default().to_owned())
        })
        .await;
        assert!(message.contains("CloudInstance customers/acme lives"), "{message}");
        assert_eq!(azure_writes(&self.sandbox).len(), writes, "nothing is removed");
        let release = r#"{"metadata":{"finalizers":null}}"#;
        ok(&self.sandbox.kubectl(&["patch", "ri", "forged", "--type=merge", "-p", release]));
        assert_eq!(self.call(acme, ("GET", "/api"), None, &Value::Null).await.0, 200);
    }

    async fn a_database_that_is_gone_is_made_again_only_when_confirmed(&self, globex: &CloudInstanceStatus) {
        let (hash, ids) = (hash_of(globex), self.sandbox.azure_ids());
        let id =
            |part: &str| ids.iter().find(|id| id.ends_with(&format!("{part}-{hash}-1"))).unwrap().clone();
        let installation = async || self.call(globex, ("GET", "/api"), None, &Value::Null).await.1;
        let first = installation().await["InstallationId"].clone();
        assert!(self.sandbox.arm("DELETE", &id("db"), None).0 < 300);
        eventually("the database is gone", || async {
            (self.sandbox.arm("GET", &id("db"), None).0 == 404).then_some(())
        })
        .await;
        self.look("globex", 1);
        let lost = ("Stalled", "True", "DataResourceMissing");
        instance_shows(&self.client, "globex", lost.0, lost.1, lost.2).await;
        assert_eq!(self.sandbox.arm("GET", &id("db"), None).0, 404);
        let confirm = "confirmation.cloud.octopus.com/recreation";
        self.annotate("globex", &format!("{confirm}=true"));
        eventually("an empty one serves, with the settings of the cloud", || async {
            instance_ready(&self.client, "globex").await;
            let second = installation().await["InstallationId"].clone();
            let key = api_key(&self.client, globex).await;
            let nodes =
                self.call(globex, ("GET", "/api/octopusservernodes"), Some(&key), &Value::Null).await.1;
            let settled = nodes["Items"][0]["MaxConcurrentTasks"] == 20;
            (second.is_string() && second != first && settled).then_some(())
        })
        .await;
        // The annotation was for that loss and for no other.
        assert_eq!(self.sandbox.arm("DELETE", &id("fs"), None).0, 200);
        self.look("globex", 2);
        let stalled = instance_shows(&self.client, "globex", lost.0, lost.1, lost.2).await;
        assert!(
            stalled.conditions[0].message.contains("remove the annotation"),
            "{}",
            stalled.conditions[0].message
        );
        self.annotate("globex", &format!("{confirm}-"));
        eventually("the confirmation is taken back", || async {
            let found = reef_e2e::instance_harness::instances(&self.client).get("globex").await.ok()?;
            (!found.status?.recreation_spent).then_some(())
        })
        .await;
        self.annotate("globex", &format!("{confirm}=true"));
        instance_ready(&self.client, "globex").await;
    }

    async fn nothing_stays_when_the_namespace_went_first(&self, globex: &CloudInstanceStatus) {
        let hash = hash_of(globex);
        let edit = r#"{"spec":{"deletionPolicy":"Delete","deletionProtection":false}}"#;
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "patch", "ci", "globex", "--type=merge", "-p", edit]));
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", "globex", "--wait=false"]));
        let namespaces = Api::<Namespace>::all(self.cluster.clone());
        // It may be gone by itself already.
        let _ = namespaces.delete(globex.namespace.as_ref().unwrap(), &DeleteParams::default()).await;
        instance_gone(&self.client, "globex").await;
        let ours = ListParams::default().labels(&format!("cloud.octopus.com/instance={hash}"));
        let volumes = Api::<PersistentVolume>::all(self.cluster.clone()).list(&ours).await.unwrap();
        let jobs = Api::<Job>::namespaced(self.cluster.clone(), "reef-system").list(&ours).await.unwrap();
        assert_eq!((volumes.items.len(), jobs.items.len()), (0, 0), "nothing of it is left in the cluster");
        assert!(!self.sandbox.azure_ids().iter().any(|id| id.contains(&hash)));
    }

    /// While the reef's cluster cannot be reached a deletion waits; by force it goes on, and what is left is removed
    /// later.
    async fn deletion_by_force_leaves_a_tombstone(&self) {
        ok(&self.sandbox.kubectl_with(&["apply", "-f", "-"], INSTANCES.split("---").nth(3).unwrap()));
        let hash = hash_of(&instance_ready(&self.client, "initech").await);
        let unavailable = json!({ "answer": { "status": 503, "code": "ServiceUnavailable" } });
        self.sandbox.azure_fault(&json!({ "method": "POST", "fault": unavailable }));
        // Another operator, which has no connection to the clusters yet.
        set(&self.sandbox, "resyncSeconds=30");
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "annotate", "ci", "initech", CONFIRM]));
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", "initech", "--wait=false"]));
        instance_shows(&self.client, "initech", "Ready", "False", "ClusterUnreachable").await;
        let database = format!("db-{hash}-1");
        let is_there = || self.sandbox.azure_ids().iter().any(|id| id.ends_with(&database));
        assert!(is_there(), "it waits");
        self.annotate("initech", "confirmation.cloud.octopus.com/force-deletion=true");
        instance_gone(&self.client, "initech").await;
        let left = retained(&self.client).await;
        assert_eq!(left.len(), 1);
        assert!(left[0].spec.tombstone.is_some() && left[0].spec.origin.name == "initech");
        assert!(is_there(), "nothing is forgotten");
        self.sandbox.azure_healed();
        eventually("what was left is removed, and the tombstone with it", || async {
            let none = retained(&self.client).await.is_empty();
            (none && !self.sandbox.azure_ids().iter().any(|id| id.contains(&hash))).then_some(())
        })
        .await;
        let left = Api::<Namespace>::all(self.cluster.clone()).list(&ListParams::default()).await.unwrap();
        assert!(!left.items.iter().any(|n| n.metadata.name.as_ref().unwrap().starts_with("oct-initech-")));
    }

    async fn a_reef_stays_while_somebody_lives_on_it(&self, acme: &CloudInstanceStatus, key: &str) {
        ok(&self.sandbox.kubectl(&["annotate", "reef", "weu-1", CONFIRM]));
        ok(&self.sandbox.kubectl(&["delete", "reef", "weu-1", "--wait=false"]));
        let blocked = shows(&self.client, "weu-1", "Stalled", "True", "DeletionBlocked").await;
        let message = &blocked.conditions[0].message;
        assert!(message.contains("CloudInstance customers/acme"), "{message}");
        assert_eq!(self.call(acme, ("GET", "/api"), None, &Value::Null).await.0, 200, "it serves on");
        // The keys in the management cluster are lost: the ones in its namespace are the last, and must not go with it.
        ok(&self.sandbox.kubectl(&[
            "-n",
            NAMESPACE,
            "delete",
            "secrets",
            "-l",
            "app.kubernetes.io/component=keys",
        ]));
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "annotate", "ci", "acme", CONFIRM]));
        ok(&self.sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", "acme", "--wait=false"]));
        instance_gone(&self.client, "acme").await;
        let copies = Api::<Secret>::namespaced(self.cluster.clone(), "reef-system");
        let copy = copies.get(&format!("kept-{}", hash_of(acme))).await.unwrap().data.unwrap();
        assert_eq!(copy["api-key"].0, key.as_bytes(), "they stay with its data");
        eventually("what is kept holds the reef too", || async {
            let kept = shows(&self.client, "weu-1", "Stalled", "True", "DeletionBlocked").await;
            kept.conditions[0].message.contains("RetainedInstance").then_some(())
        })
        .await;
    }
}
