//! What has to come of a random world when all trouble is over, and how it is emptied for the next seed.
#![expect(clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use reef_crds::{CloudInstance, CloudInstanceStatus, Reef, RetainedInstance};
use serde_json::json;

use super::{
    act::{delete, heal},
    check::{look, nothing_is_wrong},
    state::{Life, World, firm},
};
use crate::{
    harness::Sandbox,
    instance_harness::{instances, retained},
    reef_harness::{azure_writes, looks},
};

/// How long a world may take to come to rest, seconds: operations that hang are given up after minutes.
const REST: u64 = 400;

/// How long it may take to be emptied: data whose making a leader had begun when it was killed may come for a quarter of
/// an hour, and its instance does not go before.
const EMPTY: u64 = 1000;

/// What an instance says that waits for that.
const MAY_COME: &str = "making it was begun, and whether it comes is not known yet";

/// Said of such an instance for as long as it may wait. Nothing else is to be done for it, so the world rests.
const AWAITS: &str = "waiting for data that may come";

/// Ends all trouble and waits for what has to come of it.
pub async fn comes_to_rest(world: &Arc<World>, seed: u64) {
    let began = Instant::now();
    heal(world).await;
    let mut why = vec!["nobody has looked".to_owned()];
    while !why.is_empty() {
        nothing_is_wrong(world, seed);
        assert!(
            began.elapsed() < Duration::from_secs(REST),
            "REEF_SEED={seed}: does not come to rest: {why:#?}"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
        why = unrest(world).await;
        why.retain(|why| !why.contains(AWAITS));
    }
    println!("at rest after {:.1} s", began.elapsed().as_secs_f32());
    // What is said is so: each serves, with its data.
    let found = look(world).await;
    assert!(found.is_ok(), "REEF_SEED={seed}: {found:?}");
    nothing_is_wrong(world, seed);
    quiet(world, seed).await;
}

/// What is not yet as it has to be in the end.
async fn unrest(world: &World) -> Vec<String> {
    let list = ListParams::default();
    let (Ok(all), Ok(kept)) = (
        instances(&world.client).list(&list).await,
        Api::<RetainedInstance>::all(world.client.clone()).list(&list).await,
    ) else {
        return vec!["the management cluster does not answer".to_owned()];
    };
    let lives: BTreeMap<String, Life> = world
        .state()
        .lives
        .iter()
        .filter_map(|(name, lives)| Some((name.clone(), lives.last()?.clone())))
        .collect();
    let mut why = Vec::new();
    for (name, life) in &lives {
        let found = all.items.iter().find(|instance| instance.name_any() == *name);
        why.extend(verdict(world, name, life, found, (&all.items, &kept.items)));
    }
    why.extend(left_in_azure(world, &all.items, &kept.items));
    why.extend(left_on_reefs(world, &all.items).await);
    why
}

/// Whether an instance is as it has to be: gone, or asking for what is missing, or in service with its data.
fn verdict(
    world: &World,
    name: &str,
    life: &Life,
    found: Option<&CloudInstance>,
    (all, kept): (&[CloudInstance], &[RetainedInstance]),
) -> Option<String> {
    let Some(found) = found else {
        return life.may_go.is_none().then(|| format!("{name} is gone, and nobody deleted it"));
    };
    let status = found.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
    let (reason, message) = ready.map(|c| (c.reason.as_str(), c.message.as_str())).unwrap_or_default();
    if life.may_go.is_some() {
        let waits = message.contains(MAY_COME) && was_begun_lately(&status);
        return Some(format!("{name} is {}: {reason}: {message}", if waits { AWAITS } else { "not gone" }));
    }
    let old = kept.iter().any(|k| k.spec.origin.name == name && k.spec.origin.uid != life.uid);
    let expect = if life.deleted.is_some() {
        "DeletionUnconfirmed"
    } else if old {
        "RetainedExists"
    } else if status.placement.is_none() && nowhere_to_go(world, name, life, (all, kept)) {
        "NoReefFits"
    } else {
        "ReconcileSucceeded"
    };
    let current = status.observed_generation == found.metadata.generation;
    if reason != expect || !current {
        return Some(format!("{name} is to say {expect} and says {reason}: {message}"));
    }
    // Its data is looked for by every look; here it only has to have been there.
    (expect == "ReconcileSucceeded" && !life.marked).then(|| format!("{name} has taken no data yet"))
}

/// Whether data was begun so lately that it may come, with a minute for the operator to look.
fn was_begun_lately(status: &CloudInstanceStatus) -> bool {
    let database = status.database.as_ref().and_then(|database| database.begun_at.as_ref());
    let share = status.share.as_ref().and_then(|share| share.begun_at.as_ref());
    let now = Timestamp::now().as_second();
    database.into_iter().chain(share).any(|at| now - at.0.as_second() < 960)
}

/// Whether no reef can take an instance: full, or with one of its group.
fn nowhere_to_go(
    world: &World,
    name: &str,
    life: &Life,
    (all, kept): (&[CloudInstance], &[RetainedInstance]),
) -> bool {
    let on = |i: &CloudInstance| i.status.as_ref()?.placement.as_ref().map(|p| p.reef.clone());
    let group = |i: &CloudInstance| i.spec.placement.as_ref()?.anti_affinity_group.clone();
    world.reefs.iter().all(|reef| {
        let there: Vec<_> =
            all.iter().filter(|i| i.name_any() != name && on(i).as_ref() == Some(&reef.name)).collect();
        let kept = kept.iter().filter(|k| k.spec.reef_ref.name == reef.name).count();
        let mate = life.new.group.is_some_and(|own| there.iter().any(|i| group(i).as_deref() == Some(own)));
        there.len() + kept >= world.most || mate
    })
}

/// What is in Azure of names that nobody has, and that no `RetainedInstance` names.
fn left_in_azure(world: &World, all: &[CloudInstance], kept: &[RetainedInstance]) -> Vec<String> {
    let hashes = world.state().hashes.clone();
    let here = |name: &str| {
        all.iter().any(|i| i.name_any() == name && i.status.as_ref().is_some_and(|s| s.placement.is_some()))
    };
    let is_kept = |id: &str| {
        kept.iter()
            .any(|k| k.spec.database.id.eq_ignore_ascii_case(id) || k.spec.share.id.eq_ignore_ascii_case(id))
    };
    let mut left = Vec::new();
    for id in world.sandbox.azure_ids() {
        let owner = hashes.iter().find(|(name, hash)| {
            id.contains(hash.as_str()) || id.to_lowercase().ends_with(&format!("/cname/{name}"))
        });
        if owner.is_some_and(|(name, _)| !here(name)) && !is_kept(&id) {
            left.push(format!("left in Azure: {id}"));
        }
    }
    left
}

/// Namespaces on reefs whose instance is not there.
async fn left_on_reefs(world: &World, all: &[CloudInstance]) -> Vec<String> {
    let mut left = Vec::new();
    for reef in &world.reefs {
        let list = Api::<Namespace>::all(reef.client.clone()).list(&ListParams::default()).await;
        let Ok(list) = list else { return vec![format!("{} does not answer", reef.name)] };
        for namespace in list.items.iter().map(ResourceExt::name_any).filter(|n| n.starts_with("oct-")) {
            let is_its = |i: &CloudInstance| {
                i.status.as_ref().is_some_and(|s| {
                    s.namespace.as_ref() == Some(&namespace)
                        && s.placement.as_ref().is_some_and(|p| p.reef == reef.name)
                })
            };
            if !all.iter().any(is_its) {
                left.push(format!("left on {}: {namespace}", reef.name));
            }
        }
    }
    left
}

/// Writes of the operator so far: in the management cluster, on the reefs, in Azure.
fn writes(world: &World) -> Vec<String> {
    let users = |entry: &serde_json::Value| {
        let user = entry["user"]["username"].as_str().unwrap_or_default();
        user == "system:serviceaccount:reef-operator:reef-operator"
            || (user.len() == 36 && !user.contains(':'))
    };
    let sandbox: &Sandbox = &world.sandbox;
    let mut all = sandbox.audit();
    all.extend(world.reefs.iter().flat_map(|reef| sandbox.audit_of(&reef.slot)));
    all.retain(|entry| users(entry) && entry["objectRef"]["resource"] != "leases");
    all.extend(azure_writes(sandbox));
    all.iter()
        .map(|entry| {
            let of = &entry["objectRef"];
            format!(
                "{} {}{} {}{}",
                entry["verb"].as_str().or(entry["method"].as_str()).unwrap_or_default(),
                of["resource"].as_str().unwrap_or_default(),
                of["subresource"].as_str().map(|s| format!("/{s}")).unwrap_or_default(),
                of["name"].as_str().unwrap_or_default(),
                entry["path"].as_str().unwrap_or_default(),
            )
        })
        .collect()
}

/// Two cycles of routine looks without any write; it may take a few to get there.
async fn quiet(world: &World, seed: u64) {
    let count =
        instances(&world.client).list(&ListParams::default()).await.map_or(0, |list| list.items.len());
    if count == 0 {
        println!("nothing is left that could be noisy");
        return;
    }
    let cycle = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let mut noise = Vec::new();
    let mut windows = 0;
    let deadline = Instant::now() + Duration::from_secs(REST);
    let (mut before, mut first) = (writes(world).len(), 0.0);
    let mut last = 0.0;
    while windows < 4 {
        assert!(Instant::now() < deadline, "REEF_SEED={seed}: nobody looks at the instances: {noise:#?}");
        nothing_is_wrong(world, seed);
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = looks(&world.client, "cloud-instance").await;
        // On a busy machine a leader may lose its lease; another counts from zero.
        if now < last || first == 0.0 {
            (before, first) = (writes(world).len(), now);
        }
        last = now;
        if first > 0.0 && now >= first + 2.0 * cycle {
            noise = writes(world).split_off(before);
            if noise.is_empty() {
                println!("quiet with {count} instances");
                return;
            }
            (before, first, windows) = (writes(world).len(), now, windows + 1);
        }
    }
    assert!(noise.is_empty(), "REEF_SEED={seed}: writes in routine looks: {noise:#?}");
}

/// Deletes everything with its data and waits until it is gone.
pub async fn emptied(world: &Arc<World>, seed: u64) {
    let began = Instant::now();
    let api = instances(&world.client);
    let (list, how) = (ListParams::default(), PatchParams::default());
    let away = Patch::Merge(json!({ "spec": { "deletionPolicy": "Delete" } }));
    for instance in firm("list", || api.list(&list)).await.map(|list| list.items).unwrap_or_default() {
        let name = instance.name_any();
        if let Some(life) = world.state().life(&name) {
            life.new.retain = false;
        }
        let _ = firm("patch", || api.patch(&name, &how, &away)).await;
        delete(world, &name, true).await;
    }
    let names: Vec<_> = world.state().lives.keys().cloned().collect();
    let purged = Api::<RetainedInstance>::all(world.client.clone());
    let confirm = Patch::Merge(
        json!({ "metadata": { "annotations": { "confirmation.cloud.octopus.com/deletion": "true" } } }),
    );
    let delete = kube::api::DeleteParams::default();
    loop {
        for kept in retained(&world.client).await {
            world.state().purged.insert(kept.spec.origin.name.clone());
            let name = kept.name_any();
            if kept.metadata.deletion_timestamp.is_none() {
                let _ = firm("confirm", || purged.patch(&name, &how, &confirm)).await;
                let _ = firm("purge", || purged.delete(&name, &delete)).await;
            }
        }
        let mut why = unrest(world).await;
        why.extend(
            retained(&world.client).await.iter().map(|kept| format!("still kept: {}", kept.name_any())),
        );
        let reserved = Api::<Reef>::all(world.client.clone()).list(&list).await;
        let held = reserved.map_or(1, |l| {
            l.items.iter().filter_map(|r| r.status.as_ref()).map(|s| s.reservations.len()).sum()
        });
        if held > 0 {
            why.push(format!("{held} places are kept for nobody"));
        }
        nothing_is_wrong(world, seed);
        if why.is_empty() {
            println!("{} names emptied after {:.1} s", names.len(), began.elapsed().as_secs_f32());
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(EMPTY), "REEF_SEED={seed}: is not emptied: {why:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
