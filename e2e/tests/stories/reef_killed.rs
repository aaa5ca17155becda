//! Story: the operator is killed again and again while a reef is made and while it is deleted; what comes of
//! it is what comes of it without.

use std::collections::BTreeMap;

use reef_e2e::{
    azure::PLATFORM_GROUP,
    harness::{Sandbox, ok},
    kill::{kill_leaders, seed},
    reef_harness::{gone, ready, set},
};

const SAMPLES: [&str; 2] = [
    include_str!("../../../docs/samples/10-region.yaml"),
    include_str!("../../../docs/samples/20-reefclass.yaml"),
];

const REEF: &str = "\
apiVersion: cloud.octopus.com/v1alpha1
kind: Reef
metadata:
  name: weu-1
spec:
  regionRef: { name: westeurope }
  classRef: { name: standard }
  deletionPolicy: Delete
  deletionProtection: false
";

#[tokio::test]
async fn a_reef_survives_its_operator() {
    let seed = seed();
    println!("REEF_SEED={seed}");
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=1", "--time-scale=60"]);
    let client = sandbox.client().await;
    // A short lease, so that there are many kills in little time.
    set(&sandbox, "lease.durationSeconds=3");
    for sample in SAMPLES {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }

    // Without a kill.
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], REEF));
    ready(&client, "weu-1").await;
    let expected = sandbox.azure_ids();
    ok(&sandbox.kubectl(&["delete", "reef", "weu-1", "--wait=false"]));
    gone(&client, "weu-1").await;
    let empty = sandbox.azure_ids();
    assert!(
        empty.iter().all(|id| !id.contains("/resourceGroups/") || id.contains(&format!("/{PLATFORM_GROUP}")))
    );
    let began = sandbox.azure_journal().len();

    // With kills.
    let (stop, killer) = kill_leaders(client.clone(), seed);
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], REEF));
    ready(&client, "weu-1").await;
    stop.send_replace(true);
    let while_made = killer.await.unwrap();
    assert_eq!(sandbox.azure_ids(), expected, "what was made is what is made without kills");
    nothing_was_made_twice(&sandbox, began);

    let (stop, killer) = kill_leaders(client.clone(), seed ^ 0x5eed);
    ok(&sandbox.kubectl(&["delete", "reef", "weu-1", "--wait=false"]));
    gone(&client, "weu-1").await;
    stop.send_replace(true);
    let while_deleted = killer.await.unwrap();
    assert_eq!(sandbox.azure_ids(), empty, "nothing is left");
    println!("killed {while_made} times while it was made, {while_deleted} times while it was deleted");
    assert!(while_made >= 2, "{while_made}: the story was not one");
}

/// Each resource came into being once: a PUT that made something (201, or 202 for what takes time) has no
/// second one.
fn nothing_was_made_twice(sandbox: &Sandbox, began: usize) {
    let mut made = BTreeMap::new();
    for entry in sandbox.azure_journal().into_iter().skip(began) {
        if entry["method"] == "PUT" && (entry["status"] == 201 || entry["status"] == 202) {
            *made.entry(entry["path"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
    }
    let twice: Vec<_> = made.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(made.len() >= 20, "{}", made.len());
}
