//! Story: random worlds. Edits, faults, kills and waits in an order that a seed gives; all the while nothing may be made
//! twice, lost, oversold or deleted that nobody asked to delete, and in the end all is complete and quiet.
//!
//! `REEF_SEED=123` repeats one plan; `REEF_SEEDS=20` tries so many new ones; otherwise the seeds that are kept and a new
//! one. Moments differ from run to run even with one seed.

use std::{sync::Arc, time::Instant};

use reef_e2e::{
    crash::matrix::seed,
    harness::{Sandbox, ok},
    instance_harness::CUSTOMERS,
    random::{
        act::act,
        check::{nothing_is_wrong, watch},
        end::{comes_to_rest, emptied},
        plan::{REEFS, plan},
        planted,
        state::World,
    },
    reef_harness::{ready, set},
};

const REGION: &str = include_str!("../../../docs/samples/10-region.yaml");
const CLASS: &str = include_str!("../../../docs/samples/20-reefclass.yaml");
const REEF_SAMPLES: &str = include_str!("../../../docs/samples/30-reefs.yaml");

/// Seeds that are kept, one a line, with a comment why.
const KEPT: &str = include_str!("random_worlds.seeds");

/// Steps of a plan, and the most instances at once in it.
const STEPS: usize = 28;
const INSTANCES: usize = 7;

/// Most instances on a reef: so few that places are scarce.
const MOST: usize = 5;

#[tokio::test]
async fn random_worlds_come_to_rest() {
    let seeds = seeds();
    println!("seeds: {seeds:?}");
    let world = Arc::new(world().await);
    for (at, seed) in seeds.iter().enumerate() {
        // One of four is larger. The seed alone decides, so that it repeats the plan.
        let (steps, instances) = if seed % 4 == 3 { (2 * STEPS, 12) } else { (STEPS, INSTANCES) };
        one(&world, *seed, steps, instances).await;
        let looks = world.state().looks;
        println!("REEF_SEED={seed}: well, {looks} looks");
        assert!(looks > 5, "the world was hardly looked at");
        if KEPT.lines().any(|line| line.starts_with(&format!("{seed} "))) {
            planted::are_found(&world).await;
        }
        // The sandbox ends sooner than the last instances go.
        if at + 1 < seeds.len() {
            emptied(&world, *seed).await;
        }
        world.forget();
    }
}

/// Which plans are tried.
fn seeds() -> Vec<u64> {
    let new = seed();
    if std::env::var("REEF_SEED").is_ok() {
        return vec![new];
    }
    if let Some(count) = std::env::var("REEF_SEEDS").ok().and_then(|text| text.parse::<u64>().ok()) {
        return (0..count).map(|n| new + n).collect();
    }
    let kept = KEPT.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    kept.chain([new]).collect()
}

/// A sandbox with two reefs that take few instances.
async fn world() -> World {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=200"]);
    let client = sandbox.client().await;
    // A short lease, so that a new leader is there soon.
    set(&sandbox, "resyncSeconds=10,lease.durationSeconds=5");
    let class = format!("{}\n  capacity:\n    maxInstances: {MOST}\n", CLASS.trim_end());
    let customers = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {CUSTOMERS}\n");
    for manifest in [REGION, &class, REEF_SAMPLES, &customers] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], manifest));
    }
    let mut reefs = Vec::new();
    for name in REEFS {
        reefs.push((name, ready(&client, name).await));
    }
    // Without the policy the operator itself has to ask for the confirmation.
    ok(&sandbox.kubectl(&["delete", "validatingadmissionpolicybinding", "deletion.cloud.octopus.com"]));
    World::new(sandbox, reefs, MOST).await
}

async fn one(world: &Arc<World>, seed: u64, steps: usize, instances: usize) {
    println!("REEF_SEED={seed}: {steps} steps, at most {instances} instances");
    let began = Instant::now();
    let watcher = tokio::spawn(watch(Arc::clone(world)));
    for (number, step) in plan(seed, steps, instances).iter().enumerate() {
        println!("{number:>3} {:>6.1} s {step:?}", began.elapsed().as_secs_f32());
        let came = act(world, step).await;
        println!("              {came}");
        nothing_is_wrong(world, seed);
    }
    comes_to_rest(world, seed).await;
    watcher.abort();
    let _ = watcher.await;
    nothing_is_wrong(world, seed);
    println!("REEF_SEED={seed}: {:.1} s", began.elapsed().as_secs_f32());
}
