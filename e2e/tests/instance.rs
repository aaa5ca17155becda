//! Story: instances come into service on two reefs and are reached.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a step that fails is to fail its story"
)]

use std::time::Instant;

use kube::Client;
use reef_e2e::{
    harness::{Sandbox, ok},
    instance_harness::instance_ready,
    reef_harness::{ready, set},
};

const SAMPLES: [&str; 4] = [
    include_str!("../../docs/samples/10-region.yaml"),
    include_str!("../../docs/samples/20-reefclass.yaml"),
    include_str!("../../docs/samples/30-reefs.yaml"),
    include_str!("../../docs/samples/40-instances.yaml"),
];

#[tokio::test]
async fn instances_come_and_serve() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=200"]);
    let client: Client = sandbox.client().await;
    set(&sandbox, "resyncSeconds=10");
    for sample in &SAMPLES[..3] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    ready(&client, "weu-1").await;
    ready(&client, "weu-2").await;
    let began = Instant::now();
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], SAMPLES[3]));
    let acme = instance_ready(&client, "acme").await;
    println!("an instance from manifest to Ready: {:.1} s", began.elapsed().as_secs_f32());
    println!("{acme:#?}");
}
