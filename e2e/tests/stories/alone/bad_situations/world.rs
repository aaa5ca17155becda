//! The world in which the rows happen, and what they do in it.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use reef_crds::{CloudInstanceStatus, ReefStatus, meta::RECONCILE_REQUESTED_AT};
use reef_e2e::{
    azure::{PLATFORM_GROUP, SUBSCRIPTION},
    harness::{Sandbox, eventually},
    instance_harness::{CUSTOMERS, instances},
    reef_harness::get,
};
use reef_operator::controllers::cloud_instance::names::hash;
use serde_json::{Value, json};

use super::history::{History, Shown};

/// An object of ours, by its name; instances are in the namespace `customers`.
#[derive(Clone, Copy)]
pub enum Object {
    Region(&'static str),
    Reef(&'static str),
    ReefClass(&'static str),
    Instance(&'static str),
    /// One whose status speaks of an earlier spec.
    InstanceAsItWas(&'static str),
    /// One whose name turns out on the way.
    InstanceThat(fn() -> &'static str),
}

impl Object {
    /// Whether all rows live on it.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Reef("weu-1" | "weu-2"))
    }

    fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Region(name) => ("Region", "regions", name),
            Self::Reef(name) => ("Reef", "reefs", name),
            Self::ReefClass(name) => ("ReefClass", "reefclasses", name),
            Self::Instance(name) | Self::InstanceAsItWas(name) => ("CloudInstance", "cloudinstances", name),
            Self::InstanceThat(is) => ("CloudInstance", "cloudinstances", is()),
        }
    }

    fn api(self, client: &Client) -> Api<DynamicObject> {
        let (kind, plural, _) = self.parts();
        let kind = GroupVersionKind::gvk("cloud.octopus.com", "v1alpha1", kind);
        let kind = ApiResource::from_gvk_with_plural(&kind, plural);
        match self {
            Self::Instance(_) | Self::InstanceAsItWas(_) | Self::InstanceThat(_) => {
                Api::namespaced_with(client.clone(), CUSTOMERS, &kind)
            }
            _ => Api::all_with(client.clone(), &kind),
        }
    }
}

/// A part of an instance in Azure, and where its calls go.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Identity,
    Credential,
    Database,
    Share,
}

impl Part {
    /// The end of its path; `*` stands for anything.
    pub fn path(self, instance: &str) -> String {
        let hash = hash("sandbox", CUSTOMERS, instance);
        match self {
            Self::Identity => format!("*/userAssignedIdentities/id-{hash}"),
            Self::Credential => format!("*/id-{hash}/federatedIdentityCredentials/octopus"),
            Self::Database => format!("*/databases/db-{hash}-1"),
            Self::Share => format!("*/shares/fs-{hash}-1"),
        }
    }
}

/// A call to Azure.
pub struct Call {
    pub at: Timestamp,
    pub status: u16,
}

pub struct World {
    pub sandbox: Sandbox,
    pub client: Client,
    /// What is in Azure without any of the rows.
    before: Vec<String>,
    nonce: AtomicU32,
    /// From when on Events and what was shown count, by the name of their object.
    since: Mutex<HashMap<String, (Timestamp, usize)>>,
    history: History,
}

impl World {
    pub async fn new(sandbox: Sandbox, client: Client) -> Self {
        let before = sandbox.azure_ids();
        let (nonce, history) = (AtomicU32::new(0), History::begin(&client));
        let world = Self { sandbox, client, before, nonce, since: Mutex::default(), history };
        world.namespace(CUSTOMERS).await;
        world
    }

    pub async fn namespace(&self, name: &str) {
        self.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })).await;
    }

    /// Applies a manifest of a kind of ours, or a Namespace.
    pub async fn apply(&self, manifest: &Value) {
        self.try_apply(manifest).await.unwrap();
    }

    async fn try_apply(&self, manifest: &Value) -> Result<(), kube::Error> {
        let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (group, version) = text("/apiVersion").split_once('/').unwrap_or(("", text("/apiVersion")));
        let kind = GroupVersionKind::gvk(group, version, text("/kind"));
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match text("/metadata/namespace") {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        let parameters = PatchParams::apply("rows").force();
        api.patch(text("/metadata/name"), &parameters, &Patch::Apply(manifest)).await.map(drop)
    }

    /// Makes an instance that may go at once; `more` is merged into its spec.
    pub async fn instance(&self, name: &str, more: Value) {
        self.instance_in(CUSTOMERS, name, more).await;
    }

    /// The same in another namespace.
    pub async fn instance_in(&self, namespace: &str, name: &str, more: Value) {
        self.apply(&manifest(namespace, name, &more)).await;
    }

    /// The same as [`World::instance`], unless it is refused.
    pub async fn try_instance(&self, name: &str, more: Value) -> Result<(), kube::Error> {
        self.try_apply(&manifest(CUSTOMERS, name, &more)).await
    }

    /// Makes a Region like the sample; `more` is merged into its spec.
    pub async fn region(&self, name: &str, more: Value) {
        let mut spec = json!({
            "location": "westeurope",
            "azure": { "tenantId": reef_e2e::azure::TENANT, "subscriptionId": SUBSCRIPTION },
            "dns": { "zoneId": zone() },
            "tls": { "secretRef": { "namespace": reef_e2e::install::NAMESPACE, "name": "wildcard-tls" } },
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metadata = json!({ "name": name });
        self.apply(&json!({ "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "Region", "metadata": metadata, "spec": spec })).await;
    }

    /// Merges into an object.
    pub async fn patch(&self, object: Object, patch: Value) {
        self.try_patch(object, patch).await.unwrap();
    }

    /// The same, unless it is refused.
    pub async fn try_patch(&self, object: Object, patch: Value) -> Result<(), kube::Error> {
        let api = object.api(&self.client);
        api.patch(object.parts().2, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    /// Asks for a look.
    pub async fn look(&self, object: Object) {
        let nonce = self.nonce.fetch_add(1, Ordering::Relaxed).to_string();
        let annotations = json!({ "cloud.octopus.com/reconcile-requested-at": nonce });
        self.patch(object, json!({ "metadata": { "annotations": annotations } })).await;
    }

    /// Waits until an object has shown a condition with these words in its message since [`World::events_from_now`], also
    /// if it stands no more.
    pub async fn saw(&self, object: Object, condition: (&str, &str, &str), says: &[&str]) {
        if !matches!(object, Object::Instance(_) | Object::InstanceAsItWas(_)) {
            self.says(object, condition, says).await;
            return;
        }
        let ((type_, status, reason), (_, _, name)) = (condition, object.parts());
        let since = self.since.lock().unwrap().get(name).map_or(0, |(_, shown)| *shown);
        eventually(&format!("{name} has shown {condition:?} with {says:?}"), || async {
            let fits = |shown: &Shown| {
                let is = |field: &str, value: &str| shown.condition[field] == value;
                let message = shown.condition["message"].as_str().unwrap_or_default();
                shown.of == (CUSTOMERS.to_owned(), name.to_owned())
                    && (shown.is_current || matches!(object, Object::InstanceAsItWas(_)))
                    && is("type", type_)
                    && is("status", status)
                    && is("reason", reason)
                    && says.iter().all(|words| message.contains(words))
            };
            self.history.has(since, fits).then_some(())
        })
        .await;
    }

    /// Waits until a condition of the newest spec stands like this; its message.
    pub async fn shows(&self, object: Object, condition: (&str, &str, &str)) -> String {
        self.says(object, condition, &[]).await
    }

    /// The same, and its message has these words.
    pub async fn says(
        &self,
        object: Object,
        (type_, status, reason): (&str, &str, &str),
        says: &[&str],
    ) -> String {
        let (kind, _, name) = object.parts();
        let api = object.api(&self.client);
        eventually(&format!("{kind} {name} shows {type_} {status} {reason} with {says:?}"), || async {
            let found = api.get_opt(name).await.ok()??;
            let current = found.data["status"]["observedGeneration"].as_i64() == found.metadata.generation;
            let conditions = found.data["status"]["conditions"].as_array()?;
            let condition = conditions
                .iter()
                .find(|c| c["type"] == type_ && c["status"] == status && c["reason"] == reason)?;
            let counts = current || matches!(object, Object::InstanceAsItWas(_));
            let message = condition["message"].as_str().unwrap_or_default();
            (counts && says.iter().all(|words| message.contains(words))).then(|| message.to_owned())
        })
        .await
    }

    /// Asks an instance for looks, not all the time, until it has this place.
    pub async fn asked_until_placed(&self, name: &'static str, generation: i64) {
        // Each edit is a conflict for who is about to write the status.
        let asked_at = Mutex::new(None::<Instant>);
        eventually(&format!("{name} has place {generation}"), || async {
            let found = instances(&self.client).get(name).await.ok()?;
            let (asked, status) = (found.annotations().get(RECONCILE_REQUESTED_AT), found.status.as_ref()?);
            let lately = asked_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some_and(|at| at.elapsed() < Duration::from_secs(2));
            if asked == status.last_handled_reconcile_at.as_ref() && !lately {
                *asked_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                self.look(Object::Instance(name)).await;
            }
            (status.placement.as_ref()?.generation == generation).then_some(())
        })
        .await;
    }

    pub async fn ready(&self, object: Object) {
        self.shows(object, ("Ready", "True", "ReconcileSucceeded")).await;
    }

    /// Events about an object that were before do not count.
    pub fn events_from_now(&self, object: Object) {
        // Which of two it is turns out later.
        if !matches!(object, Object::InstanceThat(_)) {
            let now = (Timestamp::now(), self.history.len());
            self.since.lock().unwrap().insert(object.parts().2.to_owned(), now);
        }
    }

    /// Waits for an Event about an object with this reason and these words in its note, of which something was heard since
    /// [`World::events_from_now`].
    pub async fn event(&self, object: Object, reason: &str, words: &[&str]) {
        let (kind, _, name) = object.parts();
        let about = format!("involvedObject.kind={kind},involvedObject.name={name}");
        eventually(&format!("{kind} {name} has an Event {reason} with {words:?}"), || async {
            let events = Api::<Event>::all(self.client.clone());
            let events = events.list(&ListParams::default().fields(&about)).await.ok()?;
            let since = self.since.lock().unwrap().get(name).map_or(Timestamp::UNIX_EPOCH, |(at, _)| *at);
            let fits = |event: &Event| {
                let note = event.message.as_deref().unwrap_or_default();
                let heard = event.series.as_ref().and_then(|s| s.last_observed_time.as_ref().map(|at| at.0));
                let heard = heard.into_iter().chain(event.event_time.as_ref().map(|at| at.0)).max();
                heard.is_some_and(|at| at >= since)
                    && event.reason.as_deref() == Some(reason)
                    && words.iter().all(|words| note.contains(words))
            };
            events.items.iter().any(fits).then_some(())
        })
        .await;
    }

    /// Deletes an object, if it is there; does not wait.
    pub async fn delete(&self, object: Object) {
        let _ = object.api(&self.client).delete(object.parts().2, &DeleteParams::default()).await;
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, object: Object) {
        let (kind, _, name) = object.parts();
        let api = object.api(&self.client);
        eventually(&format!("{kind} {name} is gone"), || async {
            api.get_opt(name).await.ok()?.is_none().then_some(())
        })
        .await;
    }

    pub async fn status(&self, instance: &str) -> CloudInstanceStatus {
        instances(&self.client).get(instance).await.unwrap().status.unwrap()
    }

    pub async fn reef(&self, name: &str) -> ReefStatus {
        get(&self.client, name).await.unwrap().status.unwrap()
    }

    /// The administrator of a reef's cluster.
    pub async fn cluster(&self, reef: &str) -> Client {
        self.sandbox.reef_client(&self.reef(reef).await.cluster.unwrap().name).await
    }

    /// Lets the next writes of a part of an instance fail; all of them without a count.
    pub fn refuse(&self, instance: &str, part: Part, count: Option<u32>, fault: &Value) {
        let mut rule =
            json!({ "label": instance, "method": "PUT", "path": part.path(instance), "fault": fault });
        if let Some(count) = count {
            rule["count"] = json!(count);
        }
        self.sandbox.azure_fault(&rule);
    }

    /// Writes of a part of an instance, from the first.
    pub fn writes(&self, instance: &str, part: Part) -> Vec<Call> {
        self.calls("PUT", part.path(instance).trim_start_matches('*'))
    }

    /// Calls with this method whose path ends like this.
    pub fn calls(&self, method: &str, end: &str) -> Vec<Call> {
        let journal = self.sandbox.azure_journal();
        let ours = journal.iter().filter(|call| {
            call["method"] == method && call["path"].as_str().is_some_and(|path| path.ends_with(end))
        });
        ours.map(|call| Call {
            at: call["time"].as_str().unwrap().parse().unwrap(),
            status: u16::try_from(call["status"].as_u64().unwrap()).unwrap(),
        })
        .collect()
    }

    /// Ids of what is in Azure for an instance.
    pub fn made(&self, instance: &str) -> Vec<String> {
        let hash = hash("sandbox", CUSTOMERS, instance);
        self.sandbox.azure_ids().into_iter().filter(|id| id.contains(&hash)).collect()
    }

    /// After all that: no row left anything in Azure.
    pub async fn nothing_is_left(&self) {
        eventually("no row has left anything in Azure", || async {
            let left: Vec<_> =
                self.sandbox.azure_ids().into_iter().filter(|id| !self.before.contains(id)).collect();
            if left.is_empty() {
                return Some(());
            }
            println!("left: {left:?}");
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            None
        })
        .await;
    }
}

/// An instance that may go at once; `more` is merged into its spec.
fn manifest(namespace: &str, name: &str, more: &Value) -> Value {
    let mut spec = json!({
        "regionRef": { "name": "westeurope" }, "subdomain": name, "release": { "version": "2026.2.4213" }, "taskCap": 5,
        "deletionPolicy": "Delete", "deletionProtection": false,
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let metadata = json!({ "name": name, "namespace": namespace });
    json!({ "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "CloudInstance", "metadata": metadata, "spec": spec })
}

/// An answer of Azure that is an error.
pub fn answer(status: u16, code: &str) -> Value {
    json!({ "answer": { "status": status, "code": code } })
}

/// Id of the DNS zone of the samples.
pub fn zone() -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{PLATFORM_GROUP}/providers/Microsoft.Network/dnsZones/octopus.example"
    )
}
