//! The objects of a run in the management cluster: made, followed, and taken away again.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    apps::v1::ControllerRevision,
    core::v1::{Namespace, Secret},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use reef_crds::{
    CloudInstance, Reef, ReefClass, Region, RetainedInstance,
    meta::{CONFIRM_DELETION, CONFIRM_FORCE_DELETION, GROUP, LABEL_CLASS},
};
use reef_e2e::kstatus::{State, state};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    say,
    settings::{PREFIX, Settings},
};

/// Label of all objects that the suite makes: the run's name.
pub const RUN: &str = "test-azure/run";

/// Annotation of a Secret with keys: the instance that they are of, with its namespace.
const KEYS_OF: &str = "reef-operator-instance";

/// How long an object may be Stalled.
const STALLED: Duration = Duration::from_secs(600);

/// What a kind has to be.
pub trait Kind: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize {}
impl<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize> Kind for K {}

/// Makes or changes an object of a run.
pub async fn apply<K: Kind>(api: &Api<K>, run: &str, mut object: Value) -> Result<(), String> {
    object["metadata"]["labels"] = json!({ RUN: run });
    object["apiVersion"] = K::api_version(&()).into();
    object["kind"] = K::kind(&()).into();
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let params = PatchParams::apply("test-azure").force();
    let applied = api.patch(&name, &params, &Patch::Apply(&object)).await;
    applied.map(drop).map_err(|error| format!("{} {name}: {error}", K::kind(&())))
}

/// The Region, class and Reef of a run, by its name.
pub fn region(settings: &Settings, name: &str) -> Value {
    let mut azure = json!({ "tenantId": settings.tenant, "subscriptionId": settings.subscription });
    if settings.cloud_name != "AzurePublic" {
        azure["cloud"] = settings.cloud_name.as_str().into();
    }
    if let Some(client) = &settings.operator_client {
        azure["clientId"] = client.as_str().into();
    }
    let (namespace, secret) = &settings.tls;
    json!({ "metadata": { "name": name }, "spec": {
        "location": settings.location,
        "azure": azure,
        "dns": { "zoneId": settings.zone, "ttlSeconds": 60 },
        "tls": { "secretRef": { "namespace": namespace, "name": secret } },
    } })
}

/// The smallest class that an instance can live on.
pub fn class(settings: &Settings, name: &str) -> Value {
    let pool = |name: &str, mode: &str| json!({ "name": name, "mode": mode, "vmSize": settings.vm_size, "minCount": 1, "maxCount": 3 });
    json!({ "metadata": { "name": name }, "spec": {
        "cluster": { "kubernetesVersion": settings.kubernetes, "tier": "Standard", "nodePools": [pool("system", "System"), pool("instances", "User")] },
        "sql": { "pool": { "sku": "StandardPool", "capacity": super::bill::EDTU, "perDatabase": { "min": 0, "max": super::bill::EDTU } } },
        "storage": { "sku": "Standard_LRS", "softDeleteDays": 1 },
    } })
}

/// The Reef.
pub fn reef(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": {
        "regionRef": { "name": name }, "classRef": { "name": name }, "deletionPolicy": "Delete",
    } })
}

/// The instance, with so many GiB for its database and its share.
pub fn instance(settings: &Settings, name: &str, (database, share): (u32, u32)) -> Value {
    json!({ "metadata": { "name": name, "namespace": name }, "spec": {
        "regionRef": { "name": name },
        "subdomain": name,
        "release": { "version": settings.release },
        "taskCap": 5,
        "quota": { "database": format!("{database}Gi"), "share": format!("{share}Gi") },
    } })
}

/// Follows an object until it is Ready with the spec that it has now, and says each change.
pub async fn ready<K: Kind>(api: &Api<K>, name: &str, patience: Duration) -> Result<K, String> {
    let (deadline, mut last, mut stalled) = (Instant::now() + patience, String::new(), None::<Instant>);
    loop {
        let (found, now, text) = match api.get(name).await {
            Ok(object) => {
                let (now, text) = standing(&object)?;
                (Some(object), now, text)
            }
            // One that cannot be read now is read later.
            Err(error) => (None, State::Underway, error.to_string()),
        };
        let text = format!("{} {name}  {text}", K::kind(&()));
        if text != last {
            say(&text);
            last = text;
        }
        match (now, found) {
            (State::Ready, Some(object)) => return Ok(object),
            (State::Stalled, _) => {
                // What takes longer than usual is called so too, and may still come.
                let since = *stalled.get_or_insert_with(Instant::now);
                if since.elapsed() > STALLED.min(patience) {
                    return Err(format!("{last} (Stalled)"));
                }
            }
            _ => stalled = None,
        }
        if Instant::now() > deadline {
            return Err(format!("not Ready after {} minutes: {last}", patience.as_secs() / 60));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// How an object stands, and what it says of that.
fn standing<K: Serialize>(object: &K) -> Result<(State, String), String> {
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    let (state, said) = state(&value);
    Ok((state, said.unwrap_or_else(|| "-".into())))
}

/// Deletes an object, with the confirmation, and waits until it is gone.
pub async fn delete<K>(api: &Api<K>, kind: &str, name: &str, deadline: Instant) -> Result<(), String>
where
    K: Clone + Debug + DeserializeOwned + Serialize + ResourceExt,
{
    let mut confirmed = json!({ "metadata": { "annotations": { CONFIRM_DELETION: "true" } } });
    if kind == "Reef" {
        // What was deleted on it could still be restored; it was a run's.
        confirmed["metadata"]["annotations"][CONFIRM_FORCE_DELETION] = "true".into();
    }
    let mut last = String::new();
    loop {
        // The order of deletions is the objects' own: a Region waits for its Reefs, a Reef for its instances.
        let asked = async {
            let Some(object) = api.get_opt(name).await? else { return Ok(None) };
            if object.meta().deletion_timestamp.is_none() {
                api.patch(name, &PatchParams::default(), &Patch::Merge(&confirmed)).await?;
                api.delete(name, &DeleteParams::default()).await?;
            }
            Ok::<_, kube::Error>(Some(object))
        };
        let text = match asked.await {
            Ok(None) => return Ok(()),
            Ok(Some(object)) => standing(&object)?.1,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => error.to_string(),
        };
        if text != last {
            say(&format!("deleting {kind} {name}  {text}"));
            last = text;
        }
        if Instant::now() > deadline {
            return Err(format!("{kind} {name} is still there: {last}"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Names whose objects are asked for, in the order in which they are deleted: what another one waits for comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Instances,
    Retained,
    Reefs,
    Classes,
    Regions,
    Revisions,
    Keys,
    Namespaces,
}

const ALL: [What; 8] = [
    What::Instances,
    What::Retained,
    What::Reefs,
    What::Classes,
    What::Regions,
    What::Revisions,
    What::Keys,
    What::Namespaces,
];

impl What {
    fn resource(self) -> ApiResource {
        match self {
            Self::Instances => ApiResource::erase::<CloudInstance>(&()),
            Self::Retained => ApiResource::erase::<RetainedInstance>(&()),
            Self::Reefs => ApiResource::erase::<Reef>(&()),
            Self::Classes => ApiResource::erase::<ReefClass>(&()),
            Self::Regions => ApiResource::erase::<Region>(&()),
            Self::Revisions => ApiResource::erase::<ControllerRevision>(&()),
            Self::Keys => ApiResource::erase::<Secret>(&()),
            Self::Namespaces => ApiResource::erase::<Namespace>(&()),
        }
    }

    /// Whether an object is of one of these runs. Those that the suite makes have its label; the operator makes the others
    /// for them.
    fn is_of(self, object: &DynamicObject, runs: &BTreeSet<String>) -> bool {
        let labels = object.metadata.labels.as_ref();
        let label = |name: &str| labels.and_then(|labels| labels.get(name));
        let run = match self {
            Self::Retained => object.data["spec"]["regionRef"]["name"].as_str(),
            Self::Revisions => label(LABEL_CLASS).map(String::as_str),
            Self::Keys => object.annotations().get(KEYS_OF).and_then(|of| of.split('/').next()),
            _ => label(RUN).map(String::as_str),
        };
        run.is_some_and(|run| runs.contains(run))
    }
}

/// The objects of runs.
pub struct Objects<'a> {
    pub client: &'a Client,
    /// The operator's namespace.
    pub namespace: &'a str,
}

impl Objects<'_> {
    /// The objects of one sort, by namespace and name, that are of these runs.
    async fn list(&self, what: What, runs: &BTreeSet<String>) -> Result<Vec<DynamicObject>, String> {
        let resource = what.resource();
        let client = self.client.clone();
        let api = match what {
            What::Keys | What::Revisions => {
                Api::<DynamicObject>::namespaced_with(client, self.namespace, &resource)
            }
            _ => Api::all_with(client, &resource),
        };
        match api.list(&ListParams::default()).await {
            Ok(list) => Ok(list.items.into_iter().filter(|one| what.is_of(one, runs)).collect()),
            // Its definition is not installed (any more).
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
            Err(error) => Err(format!("list of {}: {error}", resource.plural)),
        }
    }

    /// The runs of which there are objects, whose names begin like this.
    async fn runs(&self, which: &str) -> Result<BTreeSet<String>, String> {
        let mut runs = BTreeSet::new();
        if which != PREFIX {
            runs.insert(which.to_owned());
        }
        for what in [What::Namespaces, What::Regions, What::Reefs, What::Classes, What::Instances] {
            let api = Api::<DynamicObject>::all_with(self.client.clone(), &what.resource());
            let found = match api.list(&ListParams::default().labels(RUN)).await {
                Ok(list) => list.items,
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(error) => return Err(format!("{what:?}: {error}")),
            };
            let names = found.iter().filter_map(|one| one.labels().get(RUN).cloned());
            runs.extend(names.filter(|run| run.starts_with(which)));
        }
        Ok(runs)
    }

    /// All objects of the runs whose names begin like this, one line for each.
    pub async fn lines(&self, which: &str) -> Result<Vec<String>, String> {
        let (runs, mut lines) = (self.runs(which).await?, Vec::new());
        for what in ALL {
            let found = self.list(what, &runs).await?;
            lines.extend(found.iter().map(|one| format!("  {} {}", what.resource().kind, full_name(one))));
        }
        Ok(lines)
    }

    fn api(&self, what: What, object: &DynamicObject) -> Api<DynamicObject> {
        match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &what.resource()),
            None => Api::all_with(self.client.clone(), &what.resource()),
        }
    }

    /// Deletes all objects of the runs whose names begin like this, and waits for each until then. What is still there is
    /// in the error; its deletion is asked for all the same.
    pub async fn delete(&self, which: &str, deadline: Instant) -> Result<(), String> {
        let (runs, mut wrong) = (self.runs(which).await?, Vec::new());
        for what in ALL {
            match self.list(what, &runs).await {
                Ok(found) => {
                    for object in found {
                        let name = object.name_any();
                        let kind = what.resource().kind;
                        wrong.extend(delete(&self.api(what, &object), &kind, &name, deadline).await.err());
                    }
                }
                Err(error) => wrong.push(error),
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    /// Whether the deletion of each object of these runs was asked for: an operator that comes back makes nothing again.
    pub async fn are_going(&self, which: &str) -> Result<bool, String> {
        let runs = self.runs(which).await?;
        for what in ALL {
            let found = self.list(what, &runs).await?;
            if found.iter().any(|object| object.metadata.deletion_timestamp.is_none()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The resource groups of the Reefs of these runs, as their objects name them.
    pub async fn groups(&self, which: &str, fleet: &str, subscription: &str) -> Result<Vec<String>, String> {
        let runs = self.runs(which).await?;
        let group = |reef: &DynamicObject| {
            let text = |of: &str, member: &str| reef.data[of][member].as_str().map(str::to_owned);
            let of_reef = text("status", "subscriptionId").or_else(|| text("spec", "subscriptionId"));
            let subscription = of_reef.unwrap_or_else(|| subscription.to_owned());
            let name = text("status", "resourceGroup");
            let name = name.unwrap_or_else(|| format!("reef-{fleet}-{}", reef.name_any()));
            format!("/subscriptions/{subscription}/resourceGroups/{name}")
        };
        Ok(self.list(What::Reefs, &runs).await?.iter().map(group).collect())
    }

    /// Lets go of objects that wait for the operator, once nothing of them is left in Azure. Those that nobody deletes are
    /// left alone.
    pub async fn release(&self, which: &str) -> Result<(), String> {
        let runs = self.runs(which).await?;
        for what in ALL {
            for object in self.list(what, &runs).await? {
                if object.metadata.deletion_timestamp.is_none() {
                    continue;
                }
                let kept: Vec<&String> = object
                    .finalizers()
                    .iter()
                    .filter(|name| !name.starts_with(&format!("{GROUP}/")))
                    .collect();
                if kept.len() == object.finalizers().len() {
                    continue;
                }
                let name = object.name_any();
                say(&format!("{} {name} waits for nobody any more", what.resource().kind));
                let without = json!({ "metadata": { "finalizers": kept } });
                let api = self.api(what, &object);
                match api.patch(&name, &PatchParams::default(), &Patch::Merge(&without)).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => return Err(format!("{} {name}: {error}", what.resource().kind)),
                }
            }
        }
        Ok(())
    }
}

fn full_name(object: &DynamicObject) -> String {
    object.namespace().map_or_else(|| object.name_any(), |of| format!("{of}/{}", object.name_any()))
}

#[test]
fn only_objects_with_a_runs_mark_are_its_own() {
    let object = |metadata: Value, spec: Value| -> DynamicObject {
        serde_json::from_value(json!({ "apiVersion": "v1", "kind": "X", "metadata": metadata, "spec": spec }))
            .unwrap()
    };
    let runs = BTreeSet::from(["test-azure-1".to_owned()]);
    let named = |labels: Value| object(json!({ "name": "test-azure-1", "labels": labels }), Value::Null);
    for (what, object, expect) in [
        (What::Namespaces, named(json!({})), false),
        (What::Namespaces, named(json!({ RUN: "test-azure-1" })), true),
        (What::Namespaces, named(json!({ RUN: "test-azure-2" })), false),
        (What::Instances, named(json!({})), false),
        (What::Regions, named(json!({ RUN: "test-azure-1" })), true),
        (What::Revisions, named(json!({ LABEL_CLASS: "test-azure-1" })), true),
        (What::Revisions, named(json!({ LABEL_CLASS: "standard" })), false),
        (What::Retained, object(json!({}), json!({ "regionRef": { "name": "test-azure-1" } })), true),
        (What::Retained, object(json!({}), json!({ "regionRef": { "name": "westeurope" } })), false),
        (
            What::Keys,
            object(json!({ "annotations": { KEYS_OF: "test-azure-1/test-azure-1" } }), json!({})),
            true,
        ),
        (What::Keys, object(json!({ "annotations": { KEYS_OF: "test-azure-10/x" } }), json!({})), false),
        (What::Keys, object(json!({ "name": "test-azure-1" }), json!({})), false),
    ] {
        assert_eq!(what.is_of(&object, &runs), expect, "{what:?} {object:?}");
    }
}
