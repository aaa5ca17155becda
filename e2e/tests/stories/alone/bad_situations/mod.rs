//! Story: bad situations, one row each: what is wrong, what its user sees, what must not happen, and what makes it good
//! again. All rows share a sandbox with two reefs. They run side by side with names of their own, except for those that
//! disturb a whole reef or all instances, which come one after the other.

mod azure;
mod behind;
mod cluster;
mod control_plane;
mod hands;
mod history;
mod names;
mod older;
mod ours;
mod placing;
mod references;
mod row;
mod unreadable;
mod work;
mod world;

use std::{sync::Arc, time::Instant};

use futures::{StreamExt, stream};
use reef_e2e::{
    canaries::Canaries,
    harness::{Sandbox, ok},
    reef_harness::{ready, set},
};

use row::{Outcome, Row, run};
use world::World;

const SAMPLES: [&str; 3] = [
    include_str!("../../../../../docs/samples/10-region.yaml"),
    include_str!("../../../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../../../docs/samples/30-reefs.yaml"),
];

/// Rows at a time.
const AT_ONCE: usize = 16;

// Rows ask the sandbox by calls that hold up their thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn bad_situations_are_told_harm_nothing_and_heal() {
    let began = Instant::now();
    let sandbox =
        Sandbox::start_alone(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=200"]);
    let client = sandbox.client().await;
    let canaries = Canaries::begin(&client);
    set(&sandbox, "resyncSeconds=10");
    // With a limit for the storage of a pool.
    let class = SAMPLES[1].replace("      capacity: 200\n", "      capacity: 200\n      maxSize: 190Gi\n");
    assert!(class.contains("maxSize"));
    for sample in [SAMPLES[0], &class, SAMPLES[2]] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    for reef in ["weu-1", "weu-2"] {
        ready(&client, reef).await;
    }
    let world = Arc::new(World::new(sandbox, client).await);
    println!("two reefs: {:.0} s", began.elapsed().as_secs_f32());

    let side_by_side: Vec<Row> = [
        placing::rows(),
        hands::rows(),
        behind::rows(),
        azure::rows(),
        work::rows(),
        names::rows(),
        ours::rows(),
        references::rows(),
    ]
    .concat();
    let alone: Vec<Row> = [
        azure::alone(),
        work::alone(),
        placing::alone(),
        unreadable::alone(),
        placing::moves(),
        older::alone(),
        cluster::alone(),
    ]
    .concat();
    let count = side_by_side.len() + alone.len();
    let beside = side_by_side.into_iter().map(|row| {
        let world = world.clone();
        async move { tokio::spawn(async move { run(&world, &row).await }).await.unwrap() }
    });
    let mut outcomes: Vec<Outcome> = stream::iter(beside).buffer_unordered(AT_ONCE).collect().await;

    println!("side by side: {:.0} s", began.elapsed().as_secs_f32());
    // One row at a time leaves the machine room for others.
    world.sandbox.share();
    for row in &alone {
        outcomes.push(run(&world, row).await);
    }
    println!("{count} rows: {:.0} s", began.elapsed().as_secs_f32());
    let bad: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_good).map(|o| o.name).collect();
    assert!(bad.is_empty(), "rows that failed: {bad:?}");
    assert_eq!(outcomes.len(), count, "all rows ran");
    world.nothing_is_left().await;
    canaries.do_not_show(&world.sandbox, &world.client).await;
}
