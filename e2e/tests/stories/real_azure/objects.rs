//! The objects of a run in the management cluster: made, followed, and taken away again.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use reef_crds::{
    CloudInstance, Reef, ReefClass, Region, RetainedInstance,
    meta::{CONFIRM_DELETION, CONFIRM_FORCE_DELETION},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{say, settings::Settings};

/// Annotation of a Secret with keys: the instance that they are of.
const KEYS_OF: &str = "reef-operator-instance";

/// What a kind has to be.
pub trait Kind: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize {}
impl<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize> Kind for K {}

/// Makes or changes an object.
pub async fn apply<K: Kind>(api: &Api<K>, mut object: Value) -> Result<(), String> {
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
    let (deadline, mut last) = (Instant::now() + patience, String::new());
    loop {
        // One that cannot be read now is read later.
        if let Ok(Some(object)) = api.get_opt(name).await {
            let value = serde_json::to_value(&object).map_err(|error| error.to_string())?;
            let (state, text) = state(&value);
            let text = format!("{} {name}  {text}", K::kind(&()));
            if text != last {
                say(&text);
                last = text;
            }
            match state {
                State::Ready => return Ok(object),
                State::Stalled => return Err(format!("{last} (Stalled)")),
                State::Underway => {}
            }
        }
        if Instant::now() > deadline {
            return Err(format!("not Ready after {} minutes: {last}", patience.as_secs() / 60));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Ready,
    Stalled,
    Underway,
}

/// How an object stands, and its reason and message.
fn state(object: &Value) -> (State, String) {
    let status = &object["status"];
    let none = Vec::new();
    let conditions = status["conditions"].as_array().unwrap_or(&none);
    let is = |type_: &str| conditions.iter().any(|c| c["type"] == type_ && c["status"] == "True");
    let ready = conditions.iter().find(|c| c["type"] == "Ready");
    let word = |name: &str| ready.and_then(|c| c[name].as_str()).unwrap_or("-").to_owned();
    let is_current = status["observedGeneration"] == object["metadata"]["generation"];
    let state = match (is_current, is("Ready"), is("Stalled")) {
        (true, _, true) => State::Stalled,
        (true, true, false) => State::Ready,
        _ => State::Underway,
    };
    (state, format!("{}  {}", word("reason"), word("message")))
}

/// Deletes an object, with the confirmation, and waits until it is gone.
pub async fn delete<K: Kind>(api: &Api<K>, name: &str, patience: Duration) -> Result<(), String> {
    let what = format!("{} {name}", K::kind(&()));
    let mut confirmed = json!({ "metadata": { "annotations": { CONFIRM_DELETION: "true" } } });
    if K::kind(&()) == "Reef" {
        // What was deleted on it could still be restored; it was a run's.
        confirmed["metadata"]["annotations"][CONFIRM_FORCE_DELETION] = "true".into();
    }
    let (deadline, mut last) = (Instant::now() + patience, String::new());
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
            Ok(Some(object)) => state(&serde_json::to_value(&object).map_err(|e| e.to_string())?).1,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => error.to_string(),
        };
        if text != last {
            say(&format!("deleting {what}  {text}"));
            last = text;
        }
        if Instant::now() > deadline {
            return Err(format!("{what} is still there after {} minutes: {last}", patience.as_secs() / 60));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Names of the objects of runs.
async fn names<K: Kind>(api: &Api<K>, is_ours: impl Fn(&K) -> bool) -> Result<Vec<String>, String> {
    let list = api.list(&ListParams::default()).await;
    let list = list.map_err(|error| format!("list of {}: {error}", K::plural(&())))?;
    Ok(list.items.iter().filter(|one| is_ours(one)).map(ResourceExt::name_any).collect())
}

fn by_name<K: Kind>(which: &str) -> impl Fn(&K) -> bool {
    move |object| object.name_any().starts_with(which)
}

/// Deletes all objects of the runs whose names begin like this: instances, what is kept of them, reefs, classes, regions,
/// namespaces, keys. What cannot be deleted is in the error; the others are deleted all the same.
pub async fn delete_all(
    client: &Client,
    settings: &Settings,
    which: &str,
    patience: Duration,
) -> Result<(), String> {
    let mut wrong = Vec::new();
    let mut note = |result: Result<(), String>| wrong.extend(result.err());
    let namespaces = Api::<Namespace>::all(client.clone());
    let ours = names(&namespaces, by_name(which)).await?;
    for namespace in &ours {
        let instances = Api::<CloudInstance>::namespaced(client.clone(), namespace);
        for name in names(&instances, |_| true).await? {
            note(delete(&instances, &name, patience).await);
        }
    }
    let retained = Api::<RetainedInstance>::all(client.clone());
    for name in names(&retained, |kept| kept.spec.origin.namespace.starts_with(which)).await? {
        note(delete(&retained, &name, patience).await);
    }
    let reefs = Api::<Reef>::all(client.clone());
    for name in names(&reefs, by_name(which)).await? {
        note(delete(&reefs, &name, patience).await);
    }
    let classes = Api::<ReefClass>::all(client.clone());
    for name in names(&classes, by_name(which)).await? {
        note(delete(&classes, &name, patience).await);
    }
    let regions = Api::<Region>::all(client.clone());
    for name in names(&regions, by_name(which)).await? {
        note(delete(&regions, &name, patience).await);
    }
    let secrets = Api::<Secret>::namespaced(client.clone(), &settings.namespace);
    let is_keys = |secret: &Secret| secret.annotations().get(KEYS_OF).is_some_and(|of| of.starts_with(which));
    for name in names(&secrets, is_keys).await? {
        note(delete(&secrets, &name, patience).await);
    }
    for name in &ours {
        note(delete(&namespaces, name, patience).await);
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// The objects of runs by which a run begins and ends.
pub async fn left(client: &Client, which: &str) -> Result<Vec<String>, String> {
    let namespaces = names(&Api::<Namespace>::all(client.clone()), by_name(which)).await?;
    let regions = names(&Api::<Region>::all(client.clone()), by_name(which)).await?;
    let reefs = names(&Api::<Reef>::all(client.clone()), by_name(which)).await?;
    let of = |kind: &str, names: Vec<String>| -> Vec<String> {
        names.into_iter().map(|name| format!("{kind} {name}")).collect()
    };
    Ok([of("Namespace", namespaces), of("Region", regions), of("Reef", reefs)].concat())
}

#[test]
fn only_what_is_said_of_the_present_spec_counts() {
    let object = |observed: i64, type_: &str| {
        json!({ "metadata": { "generation": 2 }, "status": { "observedGeneration": observed, "conditions": [
            { "type": type_, "status": "True", "reason": "R", "message": "m" },
        ] } })
    };
    for (observed, type_, expect) in [
        (2, "Ready", State::Ready),
        (1, "Ready", State::Underway),
        (2, "Stalled", State::Stalled),
        (1, "Stalled", State::Underway),
        (2, "Reconciling", State::Underway),
    ] {
        assert_eq!(state(&object(observed, type_)).0, expect, "{observed} {type_}");
    }
    assert_eq!(state(&json!({ "metadata": { "generation": 1 } })).0, State::Underway);
}
