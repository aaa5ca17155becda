//! Faults that are planted in a world at rest: what looks for them has to find each.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use jiff::Timestamp;
use kube::{ResourceExt, api::ListParams};
use reef_crds::CloudInstance;
use serde_json::json;

use super::{
    check::{azure, namespaces, oversold, serves},
    state::{Life, World},
};
use crate::{
    harness::{eventually, ok},
    instance_harness::{CUSTOMERS, instances},
};

/// Makes something in a life other than it is.
type Plant = fn(&mut Life);

/// Plants one after the other, each in what the driver knows: the world is then not what it was told to be. Asserts that
/// each is found, and that nothing is found without it.
pub async fn are_found(world: &World) {
    let all = instances(&world.client).list(&ListParams::default()).await.expect("the instances").items;
    let marked = |i: &&CloudInstance| {
        let mut state = world.state();
        state.life(&i.name_any()).is_some_and(|l| l.marked && l.tag.is_some() && l.may_go.is_none())
    };
    let lives = all.iter().find(marked).expect("an instance that lives and has data");
    let name = lives.name_any();
    serves(world, lives).await.expect("nothing is wrong with it");
    let plants: [(Plant, &str); 3] = [
        (|life| life.installation = Some(json!("another")), "its server was"),
        (|life| life.keys = Some("another".to_owned()), "its keys were made again"),
        (|life| life.tag = Some("another".to_owned()), "its keys are others"),
    ];
    for (plant, expect) in plants {
        let before = world.state().life(&name).expect("its life").clone();
        plant(world.state().life(&name).expect("its life"));
        let found = serves(world, lives).await.expect_err(expect);
        assert!(found.contains(expect), "{expect}: {found}");
        *world.state().life(&name).expect("its life") = before;
    }
    assert!(oversold(world, world.most).await.is_none());
    oversold(world, 0).await.expect("more than no instance is more than are allowed");

    let all = world.state().lives.insert(name.clone(), Vec::new()).expect("its lives");
    let late = std::mem::take(&mut world.state().late);
    let found = azure(world).expect_err("data of one that never lived");
    world.state().late = late;
    world.state().lives.insert(name.clone(), all);
    assert!(found.contains("in 0 lives"), "{found}");

    let gone = take_away(world, lives).await;
    azure(world).expect("nothing was deleted that may not go");
    namespaces(world).expect("no namespace was deleted that may not go");
    let allow = |may| world.state().lives.get_mut(&name).expect("its lives")[gone].may_go = may;
    let allowed = world.state().lives[&name][gone].may_go;
    allow(None);
    let found = (azure(world), namespaces(world));
    allow(allowed);
    let found = (found.0.expect_err("what went in Azure"), found.1.expect_err("the namespace that went"));
    assert!(found.0.contains("is not to go") && found.1.contains("was deleted at"), "{found:?}");
}

/// Deletes an instance as the driver does, and waits until it is gone; the number of its life.
async fn take_away(world: &World, instance: &CloudInstance) -> usize {
    let name = instance.name_any();
    let at = {
        let mut state = world.state();
        let life = state.life(&name).expect("its life");
        (life.deleted, life.may_go) = (Some(Timestamp::now()), Some(Timestamp::now()));
        state.lives[&name].len() - 1
    };
    let confirm = "confirmation.cloud.octopus.com/deletion=true";
    ok(&world.sandbox.kubectl(&["-n", CUSTOMERS, "annotate", "--overwrite", "ci", &name, confirm]));
    ok(&world.sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", &name, "--wait=false"]));
    let api = instances(&world.client);
    eventually("it is gone", || async { api.get_opt(&name).await.ok()?.is_none().then_some(()) }).await;
    at
}
