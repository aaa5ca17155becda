//! Applies a step to the sandbox. A step that makes no sense as things stand is skipped, and says so.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use reef_crds::{CloudInstance, Reef, Region, meta::PAUSED};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    plan::{Lost, New, Piece, Server, Step},
    state::{Life, World, firm},
};
use crate::{
    azure::{PLATFORM_GROUP, SUBSCRIPTION},
    cluster::MANAGEMENT,
    harness::send,
    install::NAMESPACE,
    instance_harness::{CUSTOMERS, instances},
};

/// Confirms a deletion.
const CONFIRM: &str = "confirmation.cloud.octopus.com/deletion";

/// Applies a step; what came of it, in few words.
pub async fn act(world: &Arc<World>, step: &Step) -> String {
    match step {
        Step::Create(name, new) => create(world, name, new).await,
        Step::Edit(name, cap, share, database) => {
            let quota = json!({ "share": format!("{share}Gi"), "database": format!("{database}Gi") });
            edit(world, name, &json!({ "spec": { "taskCap": cap, "quota": quota } })).await
        }
        Step::Delete(name, confirmed) => delete(world, name, *confirmed).await,
        Step::Ask(name) => {
            annotate(world, name, "cloud.octopus.com/reconcile-requested-at", &Timestamp::now().into_json())
                .await
        }
        Step::Pause(name, seconds) => {
            let until = seconds.map_or_else(|| json!("true"), |seconds| soon(seconds).into_json());
            annotate(world, name, PAUSED, &until).await
        }
        Step::Unpause(name) => annotate(world, name, PAUSED, &Value::Null).await,
        Step::Cordon(reef) => schedule(world, reef, "Cordoned").await,
        Step::Uncordon(reef) => schedule(world, reef, "Active").await,
        Step::Break(name, piece) => broken(world, name, *piece).await,
        Step::Lose(name, lost) => lose(world, name, *lost),
        Step::Fault(rule) => {
            let late = rule["fault"]["failLate"].is_object().then(|| rule["count"].as_u64()).flatten();
            let late = late.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
            let mut state = world.state();
            (state.faults, state.late) = (true, state.late + late);
            drop(state);
            world.sandbox.azure_fault(rule);
            "Azure fails".to_owned()
        }
        Step::Heal => {
            world.sandbox.azure_healed();
            world.state().faults = false;
            "Azure is well".to_owned()
        }
        Step::Stop(verb, seconds) => {
            let stops =
                json!([{ "verb": verb, "reason": "a random world", "until": soon(*seconds).into_json() }]);
            stop_region(world, &stops).await
        }
        Step::Lift => stop_region(world, &Value::Null).await,
        Step::Kill => kill(world).await,
        Step::Freeze(millis) => freeze(world, *millis).await,
        Step::Outage(server, millis) => outage(world, *server, *millis),
        Step::Settle(name, seconds) => settle(world, name, *seconds).await,
        Step::Wait(millis) => {
            tokio::time::sleep(Duration::from_millis(u64::from(*millis))).await;
            "waited".to_owned()
        }
    }
}

/// A time as annotations and fields have it: whole seconds.
trait IntoJson {
    fn into_json(self) -> Value;
}

impl IntoJson for Timestamp {
    fn into_json(self) -> Value {
        Timestamp::from_second(self.as_second()).unwrap_or(self).to_string().into()
    }
}

fn soon(seconds: u16) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_secs(i64::from(seconds))).expect("a time")
}

fn said<T>(answer: Result<T, kube::core::Status>) -> String {
    answer.map_or_else(|refusal| format!("refused: {}", refusal.message), |_| "done".to_owned())
}

async fn create(world: &World, name: &str, new: &New) -> String {
    let mut spec = json!({
        "regionRef": { "name": "westeurope" },
        "subdomain": name,
        "release": { "version": "2026.2.4213" },
        "taskCap": new.task_cap,
        "quota": { "share": format!("{}Gi", new.share), "database": format!("{}Gi", new.database) },
        "deletionPolicy": if new.retain { "Retain" } else { "Delete" },
        "deletionProtection": new.protected,
    });
    if let Some(group) = new.group {
        spec["placement"] = json!({ "antiAffinityGroup": group });
    }
    let instance: CloudInstance = serde_json::from_value(
        json!({ "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "CloudInstance", "metadata": { "name": name }, "spec": spec }),
    )
    .expect("an instance");
    let api = instances(&world.client);
    let post = PostParams::default();
    let made = match firm("create", || api.create(&post, &instance)).await {
        // It may be ours: the answer to an earlier try was lost.
        Err(refusal) if refusal.code == 409 => firm("get", || api.get(name)).await,
        other => other,
    };
    let made = match made {
        Ok(made) => made,
        Err(refusal) => return format!("skipped: {}", refusal.message),
    };
    let uid = made.uid().expect("a UID");
    if world.state().life(name).is_some_and(|life| life.uid == uid) {
        return "skipped: it is still there".to_owned();
    }
    let life = Life {
        new: new.clone(),
        uid,
        began: Timestamp::now(),
        deleted: None,
        may_go: None,
        served: false,
        marked: false,
        installation: None,
        keys: None,
        tag: None,
        mute: None,
    };
    world.state().lives.entry(name.to_owned()).or_default().push(life);
    "created".to_owned()
}

async fn edit(world: &World, name: &str, patch: &Value) -> String {
    if world.state().life(name).is_none_or(|life| life.deleted.is_some()) {
        return "skipped: it is not there, or being deleted".to_owned();
    }
    let (api, how, patch) = (instances(&world.client), PatchParams::default(), Patch::Merge(patch));
    said(firm("edit", || api.patch(name, &how, &patch)).await)
}

async fn annotate(world: &World, name: &str, annotation: &str, value: &Value) -> String {
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { annotation: value } } }));
    let (api, how) = (instances(&world.client), PatchParams::default());
    said(firm("annotate", || api.patch(name, &how, &patch)).await)
}

/// Deletes an instance as its owner would, with a confirmation or without.
pub async fn delete(world: &World, name: &str, confirmed: bool) -> String {
    let before = {
        let mut state = world.state();
        let Some(life) = state.life(name) else { return "skipped: it never was".to_owned() };
        if life.may_go.is_some() {
            return "skipped: it is being deleted".to_owned();
        }
        let now = Timestamp::now();
        if confirmed || !life.new.protected {
            life.may_go = Some(now);
        }
        let before = life.deleted;
        life.deleted.get_or_insert(now);
        before
    };
    let mut words = Vec::new();
    if confirmed {
        words.push(annotate(world, name, CONFIRM, &json!("true")).await);
    }
    let (api, how) = (instances(&world.client), DeleteParams::default());
    let answer = firm("delete", || api.delete(name, &how)).await;
    // The policy that was taken away acts for a moment more: then nothing was deleted, nor asked of the operator.
    let is_refused = matches!(&answer, Err(refusal) if refusal.code == 403);
    if let Some(life) = world.state().life(name).filter(|life| is_refused && life.may_go.is_none()) {
        life.deleted = before;
    }
    // The operator had not seen it yet: nobody asks for a confirmation of what never was anything.
    let is_gone = matches!(&answer, Ok(what) if what.is_right());
    if let Some(life) = world.state().life(name).filter(|life| is_gone && life.tag.is_none()) {
        life.may_go = life.may_go.or(life.deleted);
    }
    words.push(said(answer));
    words.join(", ")
}

async fn schedule(world: &World, reef: &str, how: &str) -> String {
    let api = Api::<Reef>::all(world.client.clone());
    let patch = Patch::Merge(json!({ "spec": { "scheduling": how } }));
    let params = PatchParams::default();
    said(firm("cordon", || api.patch(reef, &params, &patch)).await)
}

async fn stop_region(world: &World, stop: &Value) -> String {
    let api = Api::<Region>::all(world.client.clone());
    let patch = Patch::Merge(json!({ "spec": { "emergencyStop": stop } }));
    let params = PatchParams::default();
    said(firm("stop", || api.patch("westeurope", &params, &patch)).await)
}

async fn broken(world: &World, name: &str, piece: Piece) -> String {
    let api = instances(&world.client);
    let Ok(Some(instance)) = firm("get", || api.get_opt(name)).await else { return "skipped".to_owned() };
    let status = instance.status.unwrap_or_default();
    let reef = status.placement.as_ref().and_then(|p| world.reef(&p.reef));
    let (Some(reef), Some(namespace)) = (reef, status.namespace) else {
        return "skipped: it has no place".to_owned();
    };
    let (group, kind, plural, object) = match piece {
        Piece::Pod => ("", "Pod", "pods", Some("octopus-0")),
        Piece::Service => ("", "Service", "services", Some("octopus")),
        Piece::NetworkPolicy => {
            ("networking.k8s.io", "NetworkPolicy", "networkpolicies", Some("default-deny"))
        }
        Piece::Secret => ("", "Secret", "secrets", Some("octopus")),
        Piece::Route => ("gateway.networking.k8s.io", "HTTPRoute", "httproutes", None),
        Piece::Namespace => ("", "Namespace", "namespaces", Some(namespace.as_str())),
    };
    let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
    let api: Api<DynamicObject> = match piece {
        Piece::Namespace => Api::all_with(reef.client.clone(), &kind),
        _ => Api::namespaced_with(reef.client.clone(), &namespace, &kind),
    };
    let (how, list) = (DeleteParams::default(), ListParams::default());
    match object {
        Some(object) => said(firm("break", || api.delete(object, &how)).await),
        None => said(firm("break", || api.delete_collection(&how, &list)).await),
    }
}

fn lose(world: &World, name: &str, lost: Lost) -> String {
    let hash = world.state().hashes.get(name).cloned();
    let (Some(hash), false) = (hash, world.state().faults) else {
        return "skipped: it has no names yet, or Azure is not well".to_owned();
    };
    let record = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{PLATFORM_GROUP}/providers/Microsoft.Network/dnsZones/octopus.example/CNAME/{name}"
    );
    let is_meant = |id: &String| match lost {
        Lost::Record => id.eq_ignore_ascii_case(&record),
        Lost::Credential => id.contains(&format!("/id-{hash}/")),
    };
    match world.sandbox.azure_ids().into_iter().find(is_meant) {
        None => "skipped: it is not there".to_owned(),
        Some(id) => format!("{} {id}", world.sandbox.arm("DELETE", &id, None).0),
    }
}

/// The leader's pod, and its process if it runs.
async fn leader(world: &World) -> Option<(String, Option<u32>)> {
    let leases = Api::<Lease>::namespaced(world.client.clone(), NAMESPACE);
    let lease = firm("lease", || leases.get("reef-operator")).await.ok()?;
    let pod = lease.spec?.holder_identity.filter(|holder| !holder.is_empty())?;
    let variable = format!("POD_NAME={pod}\0");
    let process = world
        .sandbox
        .processes()
        .into_iter()
        .find(|p| p.command.starts_with("/reef-operator\0run") && p.environment.contains(&variable));
    Some((pod, process.map(|process| process.pid)))
}

async fn kill(world: &World) -> String {
    let Some((pod, process)) = leader(world).await else { return "skipped: nobody leads".to_owned() };
    if let Some(process) = process {
        send(process, Signal::KILL);
    }
    // A new pod instead of the old one's back-off.
    let now = DeleteParams::default().grace_period(0);
    let pods = Api::<Pod>::namespaced(world.client.clone(), NAMESPACE);
    let _ = firm("delete the pod", || pods.delete(&pod, &now)).await;
    pod
}

async fn freeze(world: &Arc<World>, millis: u16) -> String {
    let Some((pod, Some(process))) = leader(world).await else { return "skipped: nobody leads".to_owned() };
    send(process, Signal::STOP);
    goes_on_after(world, millis, move |_| send(process, Signal::CONT));
    pod
}

fn outage(world: &Arc<World>, server: Server, millis: u16) -> String {
    let name = match server {
        Server::Management => MANAGEMENT.to_owned(),
        Server::Reef(reef) => world.reef(reef).expect("a reef of this world").slot.clone(),
    };
    world.sandbox.api_server(&name, false);
    goes_on_after(world, millis, move |world| world.sandbox.api_server(&name, true));
    "stands still".to_owned()
}

fn goes_on_after(world: &Arc<World>, millis: u16, go_on: impl FnOnce(&World) + Send + 'static) {
    world.state().frozen += 1;
    let of = Arc::clone(world);
    let task = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(u64::from(millis))).await;
        go_on(&of);
        of.state().frozen -= 1;
    });
    world.later.lock().unwrap_or_else(PoisonError::into_inner).push(task);
}

async fn settle(world: &World, name: &str, seconds: u16) -> String {
    let ready = async {
        loop {
            let instance = instances(&world.client).get_opt(name).await.ok().flatten();
            let status = instance.and_then(|i| i.status).unwrap_or_default();
            if status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let within = Duration::from_secs(u64::from(seconds));
    tokio::time::timeout(within, ready).await.map_or("not Ready", |()| "Ready").to_owned()
}

/// Ends every trouble that the driver made: whoever stood still goes on, Azure is well, nothing is stopped, paused or
/// cordoned.
pub async fn heal(world: &Arc<World>) {
    act(world, &Step::Heal).await;
    let later = std::mem::take(&mut *world.later.lock().unwrap_or_else(PoisonError::into_inner));
    for task in later {
        task.await.expect("it goes on");
    }
    act(world, &Step::Lift).await;
    for reef in super::plan::REEFS {
        act(world, &Step::Uncordon(reef)).await;
    }
    let all = Api::<CloudInstance>::namespaced(world.client.clone(), CUSTOMERS);
    let list = ListParams::default();
    for instance in firm("list", || all.list(&list)).await.expect("instances").items {
        annotate(world, &instance.name_any(), PAUSED, &Value::Null).await;
    }
}
