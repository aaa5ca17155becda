//! Story: the management cluster is lost and the same manifests are applied to a new one: what runs in Azure
//! is found again, and nothing of it is made, changed or restarted.

use reef_crds::ReefStatus;
use reef_e2e::{
    harness::{Sandbox, ok},
    reef_harness::{cluster_writes, ready},
    wipe::wipe,
};

const SAMPLES: [&str; 3] = [
    include_str!("../../../docs/samples/10-region.yaml"),
    include_str!("../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../docs/samples/30-reefs.yaml"),
];

#[tokio::test]
async fn git_applied_again_finds_what_exists() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=200"]);
    let client = sandbox.client().await;
    for sample in SAMPLES {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let before = [ready(&client, "weu-1").await, ready(&client, "weu-2").await];
    let (ids, calls) = (sandbox.azure_ids(), sandbox.azure_journal().len());
    let in_reefs = before.each_ref().map(|status| cluster_writes(&sandbox, status));

    wipe(&sandbox);
    let region =
        SAMPLES[0].replace("spec:\n  location", "spec:\n  adoptUntil: \"2999-01-01T00:00:00Z\"\n  location");
    assert_ne!(region, SAMPLES[0]);
    for sample in [region.as_str(), SAMPLES[1], SAMPLES[2]] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let after = [ready(&client, "weu-1").await, ready(&client, "weu-2").await];

    for (before, after) in before.iter().zip(&after) {
        let facts = |s: &ReefStatus| ReefStatus {
            conditions: Vec::new(),
            last_handled_reconcile_at: None,
            ..s.clone()
        };
        assert_eq!(facts(before), facts(after), "the status is rebuilt");
    }
    assert_eq!(sandbox.azure_ids(), ids);
    let writes: Vec<_> =
        sandbox.azure_journal().into_iter().skip(calls).filter(|e| e["method"] != "GET").collect();
    for write in &writes {
        let path = write["path"].as_str().unwrap();
        let claim = write["method"] == "PUT" && path.split('/').count() == 5;
        assert!(claim || path.ends_with("/token") || path.ends_with("/listClusterUserCredential"), "{write}");
    }
    for (status, before) in after.iter().zip(in_reefs) {
        assert_eq!(cluster_writes(&sandbox, status), before, "writes in the reef's cluster");
    }
}
