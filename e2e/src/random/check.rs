//! What holds at every moment of a random world. Each look asks what there is and compares it with what the driver did;
//! what cannot be asked now is asked at the next look.
#![expect(clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt, api::ListParams};
use reef_crds::{CloudInstance, CloudInstanceStatus, Reef};
use serde_json::{Value, json};

use super::state::{Life, World};
use crate::{install::NAMESPACE, instance_harness::instances, probe};

/// How long an instance may say Ready without serving, generous because the machine may be busy.
const GRACE: Duration = Duration::from_secs(45);

/// Who the driver is for Azure.
const DRIVER: &str = "00000000-0000-4000-8000-0000000000ff";

/// Tag of a database with the hash of its keys.
const TAG_KEYS: &str = "reef-operator-keys";

/// Looks again and again until something is not as it has to be.
pub async fn watch(world: Arc<World>) {
    loop {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let looked = tokio::time::timeout(Duration::from_secs(15), look(&world)).await;
        let mut state = world.state();
        match looked {
            Ok(Ok(())) => state.looks += 1,
            Ok(Err(violation)) => {
                state.violation.get_or_insert(violation);
            }
            // An API server stands still.
            Err(_) => {}
        }
    }
}

/// One look; what is wrong, if anything is.
pub async fn look(world: &World) -> Result<(), String> {
    capacity(world).await?;
    let all = instances(&world.client).list(&ListParams::default()).await;
    for instance in all.map(|list| list.items).unwrap_or_default() {
        names(world, &instance);
        serves(world, &instance).await?;
    }
    azure(world)?;
    namespaces(world)
}

/// Fails the story if a look found something wrong.
pub fn nothing_is_wrong(world: &World, seed: u64) {
    let violation = world.state().violation.clone();
    assert!(violation.is_none(), "REEF_SEED={seed}: {}", violation.unwrap_or_default());
}

fn names(world: &World, instance: &CloudInstance) {
    let identity = instance.status.as_ref().and_then(|s| s.identity.as_ref());
    if let Some(hash) = identity.and_then(|identity| identity.name.strip_prefix("id-")) {
        world.state().hashes.insert(instance.name_any(), hash.to_owned());
    }
}

/// No reef has more instances, placed or with a place kept for them, than its class allows.
async fn capacity(world: &World) -> Result<(), String> {
    if let Some(over) = oversold(world, world.most).await {
        // The lists are not of one moment: only what shows twice is so.
        tokio::time::sleep(Duration::from_secs(1)).await;
        if oversold(world, world.most).await.is_some() {
            return Err(over);
        }
    }
    Ok(())
}

pub(super) async fn oversold(world: &World, most: usize) -> Option<String> {
    let reefs = Api::<Reef>::all(world.client.clone()).list(&ListParams::default()).await.ok()?;
    let all = instances(&world.client).list(&ListParams::default()).await.ok()?;
    let place = |i: &CloudInstance| i.status.as_ref()?.placement.as_ref().map(|p| p.reef.clone());
    for reef in reefs {
        let name = reef.name_any();
        let kept = reef.status.map(|s| s.reservations).unwrap_or_default();
        let is_kept = |uid: &String| kept.iter().any(|r| r.uid == *uid);
        let on: BTreeSet<_> = all
            .iter()
            .filter(|i| match place(i) {
                Some(at) => at == name,
                None => i.uid().as_ref().is_some_and(is_kept),
            })
            .map(ResourceExt::name_any)
            .collect();
        if on.len() > most {
            return Some(format!("{name} takes {most} instances and has {on:?}"));
        }
    }
    None
}

/// Whether an instance that says Ready serves, with its own data and keys.
pub(super) async fn serves(world: &World, instance: &CloudInstance) -> Result<(), String> {
    let name = instance.name_any();
    let (Some(status), Some(uid)) = (&instance.status, instance.uid()) else { return Ok(()) };
    let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let current = status.observed_generation == instance.metadata.generation;
    let ours = |world: &World| world.state().life(&name).is_some_and(|l| l.uid == uid && l.may_go.is_none());
    if !ready || !ours(world) {
        note(world, &name, |life| life.mute = None);
        return Ok(());
    }
    let root = call(world, status, ("GET", "/api"), None, &Value::Null).await;
    let health = call(world, status, ("GET", "/api/serverstatus/health"), None, &Value::Null).await;
    if let Some((418, health)) = &health
        && health["Description"].as_str().is_some_and(|d| d.contains("corrupted"))
    {
        return Err(format!("{name}: two servers wrote its database: {health}"));
    }
    let Some((200, root)) = root else { return mute(world, &name, current) };
    let mut changed = None;
    note(world, &name, |life| {
        life.mute = None;
        life.served = true;
        let first = life.installation.get_or_insert_with(|| root["InstallationId"].clone());
        if *first != root["InstallationId"] {
            changed = Some(format!("{name}: its server was {first} and is {}", root["InstallationId"]));
        }
    });
    if let Some(changed) = changed.filter(|_| ours(world)) {
        return Err(changed);
    }
    match keys(world, &name, &uid).await? {
        Some(key) if ours(world) => data(world, &name, status, &uid, &key).await,
        _ => Ok(()),
    }
}

/// It says Ready and does not serve: for how long already?
fn mute(world: &World, name: &str, current: bool) -> Result<(), String> {
    let mut state = world.state();
    let trouble = state.frozen > 0 || !current;
    let Some(life) = state.life(name) else { return Ok(()) };
    if trouble {
        life.mute = None;
        return Ok(());
    }
    let since = life.mute.get_or_insert_with(Instant::now).elapsed();
    if since > GRACE {
        return Err(format!("{name} has said Ready for {} s and does not serve", since.as_secs()));
    }
    Ok(())
}

fn note(world: &World, name: &str, change: impl FnOnce(&mut Life)) {
    if let Some(life) = world.state().life(name) {
        change(life);
    }
}

/// The key of its API; the Secret with it and the master key stays the same one.
async fn keys(world: &World, name: &str, uid: &str) -> Result<Option<String>, String> {
    let Some(hash) = world.state().hashes.get(name).cloned() else { return Ok(None) };
    let secrets = Api::<Secret>::namespaced(world.client.clone(), NAMESPACE);
    let secret = format!("instance-{hash}-{}", uid.get(..8).unwrap_or_default());
    let Ok(Some(found)) = secrets.get_opt(&secret).await else { return Ok(None) };
    let id = found.uid().unwrap_or_default();
    let mut state = world.state();
    let Some(life) = state.life(name).filter(|life| life.uid == uid && life.may_go.is_none()) else {
        return Ok(None);
    };
    let first = life.keys.get_or_insert_with(|| id.clone());
    if *first != id {
        return Err(format!("{name}: its keys were made again: Secret {secret} was {first} and is {id}"));
    }
    let key = found.data.as_ref().and_then(|data| data.get("api-key"));
    Ok(key.and_then(|key| String::from_utf8(key.0.clone()).ok()))
}

/// A project with the object's UID is written once, and found ever after.
async fn data(
    world: &World,
    name: &str,
    status: &CloudInstanceStatus,
    uid: &str,
    key: &str,
) -> Result<(), String> {
    tag(world, name, status)?;
    let marked = world.state().life(name).is_some_and(|life| life.marked);
    let Some((200, projects)) = call(world, status, ("GET", "/api/projects"), Some(key), &Value::Null).await
    else {
        return Ok(());
    };
    let items = projects["Items"].as_array().cloned().unwrap_or_default();
    let found = items.iter().any(|project| project["Name"] == uid);
    if marked && !found {
        return Err(format!("{name}: what was written is lost, there is {items:?}"));
    }
    if let Some(other) = items.iter().find(|project| project["Name"] != uid) {
        return Err(format!("{name}: it has data of another: {other}"));
    }
    let body = json!({ "Name": uid });
    if found
        || call(world, status, ("POST", "/api/projects"), Some(key), &body).await.is_some_and(|a| a.0 == 201)
    {
        note(world, name, |life| life.marked |= life.uid == uid);
    }
    Ok(())
}

/// The hash of the keys in the database's tags, while Azure answers.
fn tag(world: &World, name: &str, status: &CloudInstanceStatus) -> Result<(), String> {
    let Some(database) = status.database.as_ref().filter(|_| !world.state().faults) else { return Ok(()) };
    let end = format!("/databases/{}", database.name);
    let Some(id) = world.sandbox.azure_ids().into_iter().find(|id| id.ends_with(&end)) else { return Ok(()) };
    let (200, found) = world.sandbox.arm("GET", &id, None) else { return Ok(()) };
    let Some(tag) = found["tags"][TAG_KEYS].as_str() else {
        return Err(format!("{id} has no hash of its keys"));
    };
    let mut state = world.state();
    let Some(life) = state.life(name) else { return Ok(()) };
    let first = life.tag.get_or_insert_with(|| tag.to_owned());
    if first == tag { Ok(()) } else { Err(format!("{name}: its keys are others: {first} became {tag}")) }
}

/// Calls an instance as a customer would; none if nobody answers.
async fn call(
    world: &World,
    status: &CloudInstanceStatus,
    (method, path): (&'static str, &'static str),
    key: Option<&str>,
    body: &Value,
) -> Option<(u16, Value)> {
    let reef = world.reef(&status.placement.as_ref()?.reef)?;
    let host = status.url.as_ref()?.trim_start_matches("https://").to_owned();
    let ca = std::fs::read_to_string(world.sandbox.folder().join("run/public-ca.crt")).ok()?;
    let address = world.sandbox.https(&reef.aks, &host, &ca)?.address;
    let key = key.map(str::to_owned);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = tokio::task::spawn_blocking(move || {
        let call = probe::Call { address, host: &host, ca: &ca };
        let mut headers: Vec<_> = key.iter().map(|key| ("X-Octopus-ApiKey", key.as_str())).collect();
        if !body.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        call.exchange(method, path, &headers, body.as_bytes()).ok()
    });
    let answer = answer.await.ok()??;
    Some((answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null)))
}

/// Nothing is made twice in Azure, data once for each life, and nothing is deleted there that may not go.
pub(super) fn azure(world: &World) -> Result<(), String> {
    let from = *world.journal_from.lock().unwrap_or_else(PoisonError::into_inner);
    let journal = world.sandbox.azure_control("GET", "/journal", "");
    let mut made = BTreeSet::new();
    // The head of the answer is counted in `from` too.
    for line in journal.lines().skip(from) {
        if !line.contains("\"DELETE\"") && !line.contains(":201,") && !line.contains(":201}") {
            continue;
        }
        let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
        let path = entry["path"].as_str().unwrap_or_default().to_owned();
        if entry["method"] == "DELETE" {
            // What was in it went with it; what was refused is as it was.
            if [0, 200, 202, 204].iter().any(|status| entry["status"] == *status) {
                let within = format!("{path}/");
                made.retain(|other: &String| *other != path && !other.starts_with(&within));
            }
            if entry["client"] != DRIVER {
                may_be_deleted(world, &path, &entry["time"])?;
            }
        } else if entry["method"] == "PUT" && !made.insert(path.clone()) {
            return Err(format!("made twice: {path}"));
        }
    }
    data_is_made_once(world)
}

/// The journal does not show it of databases, which are accepted and made later, nor of answers that were lost. What was
/// accepted and failed later is made again, and nothing else.
fn data_is_made_once(world: &World) -> Result<(), String> {
    let from = *world.made_from.lock().unwrap_or_else(PoisonError::into_inner);
    let mut made = BTreeMap::<String, usize>::new();
    for path in world.sandbox.azure_made().into_iter().skip(from) {
        *made.entry(path).or_default() += 1;
    }
    let state = world.state();
    for (name, hash) in &state.hashes {
        let lives = state.lives.get(name).map_or(0, Vec::len);
        let is_its = |path: &&String| {
            path.contains(&format!("/databases/db-{hash}-")) || path.contains(&format!("/shares/fs-{hash}-"))
        };
        for path in made.keys().filter(is_its) {
            let times = made[path];
            if times > lives + state.late {
                return Err(format!("made {times} times in {lives} lives: {path}"));
            }
        }
    }
    Ok(())
}

fn may_be_deleted(world: &World, path: &str, time: &Value) -> Result<(), String> {
    let state = world.state();
    let is_of = |name: &str, hash: Option<&String>| {
        path.to_lowercase().ends_with(&format!("/cname/{name}"))
            || hash.is_some_and(|hash| path.contains(hash))
    };
    let Some(name) = state.lives.keys().find(|name| is_of(name, state.hashes.get(*name))) else {
        return Ok(());
    };
    let is_data = path.contains("/db-") || path.contains("/fs-");
    if is_data && state.purged.contains(name) {
        return Ok(());
    }
    let Some((life, may_go)) = life_at(&state.lives, name, time) else { return Ok(()) };
    if !may_go {
        return Err(format!("deleted in Azure, and {name} is not to go: {path} at {time}"));
    }
    if is_data && life.new.retain && life.served {
        return Err(format!("deleted in Azure, and the data of {name} is to be kept: {path} at {time}"));
    }
    Ok(())
}

/// The life that a name had at a time, and whether it might go by then; the driver notes what it does before it does it.
fn life_at<'a>(lives: &'a BTreeMap<String, Vec<Life>>, name: &str, time: &Value) -> Option<(&'a Life, bool)> {
    let time: Timestamp = time.as_str()?.parse().ok()?;
    let life = lives.get(name)?.iter().rfind(|life| life.began <= time)?;
    Some((life, life.may_go.is_some_and(|may| may <= time)))
}

/// Nobody but the driver deletes the namespace of an instance that is not to go.
pub(super) fn namespaces(world: &World) -> Result<(), String> {
    for reef in &world.reefs {
        let path = world.sandbox.folder().join(format!("logs/{}-audit.log", reef.slot));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines =
            text.lines().filter(|l| l.contains("\"verb\":\"delete\"") && l.contains("\"namespaces\""));
        for event in lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let by_us = event["user"]["username"].as_str().is_some_and(|u| u.len() == 36 && !u.contains(':'));
            if !by_us || event["objectRef"]["resource"] != "namespaces" {
                continue;
            }
            let namespace = event["objectRef"]["name"].as_str().unwrap_or_default();
            let Some((name, _)) = namespace.strip_prefix("oct-").and_then(|n| n.rsplit_once('-')) else {
                continue;
            };
            let state = world.state();
            let time = &event["requestReceivedTimestamp"];
            if life_at(&state.lives, name, time).is_some_and(|(_, may_go)| !may_go) {
                return Err(format!("{name} is not to go, and {namespace} was deleted at {time}"));
            }
        }
    }
    Ok(())
}
