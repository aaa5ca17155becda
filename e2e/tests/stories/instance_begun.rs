//! Story: an instance is deleted while Azure still makes its database, and the operator that began that is killed: nobody
//! sees the database yet, and it must not be left behind.

use kube::Client;
use reef_e2e::{
    harness::{Sandbox, eventually, ok},
    install::NAMESPACE,
    instance_harness::{CUSTOMERS, instance_gone, instance_ready, instance_shows, instances},
    reef_harness::{ready, scale_operator},
};
use serde_json::{Value, json};

const SAMPLES: [&str; 3] = [
    include_str!("../../../docs/samples/10-region.yaml"),
    include_str!("../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../docs/samples/30-reefs.yaml"),
];

/// Its data is to go with it.
const INSTANCE: &str = r"
apiVersion: v1
kind: Namespace
metadata: { name: customers }
---
apiVersion: cloud.octopus.com/v1alpha1
kind: CloudInstance
metadata: { name: brief, namespace: customers }
spec:
  regionRef: { name: westeurope }
  subdomain: brief
  release: { version: 2026.2.4213 }
  taskCap: 5
  deletionPolicy: Delete
  deletionProtection: false
";

#[tokio::test]
async fn what_is_still_being_made_is_not_left_behind() {
    // Slow enough that a database takes more than three seconds.
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=1", "--time-scale=20"]);
    let client = sandbox.client().await;
    let reef = SAMPLES[2].split("---").find(|reef| reef.contains("weu-1")).unwrap();
    for sample in [SAMPLES[0], SAMPLES[1], reef] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    ready(&client, "weu-1").await;
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], INSTANCE));
    let database = eventually("Azure makes the database", || async {
        let name = instances(&client).get_opt("brief").await.ok()??.status?.database?.name;
        sandbox.azure_journal().iter().find_map(|call| {
            let path = call["path"].as_str().filter(|path| path.ends_with(&name))?;
            (call["method"] == "PUT").then(|| path.to_owned())
        })
    })
    .await;
    assert_eq!(sandbox.arm("GET", &database, None).0, 404, "it is not there yet");
    let pods = ["-n", NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/component=operator"];
    ok(&sandbox.kubectl(&[&pods[..], &["--grace-period=0", "--force", "--wait=false"]].concat()));
    ok(&sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", "brief", "--wait=false"]));
    instance_gone(&client, "brief").await;
    let deleted = |call: &Value| call["method"] == "DELETE" && call["path"] == database.as_str();
    assert!(sandbox.azure_journal().iter().any(deleted), "it came, and was deleted");
    let hash = database.rsplit("/db-").next().unwrap().trim_end_matches("-1");
    assert!(!sandbox.azure_ids().iter().any(|id| id.contains(hash)), "nothing is left");
    what_a_lost_status_hides_goes_too(&sandbox, &client, hash).await;
}

/// The management cluster was restored to before the instance had a place, and the instance is deleted then.
async fn what_a_lost_status_hides_goes_too(sandbox: &Sandbox, client: &Client, hash: &str) {
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], INSTANCE));
    instance_ready(client, "brief").await;
    scale_operator(sandbox, 0);
    let lost = ["--subresource=status", "--type=json", "--patch", r#"[{"op":"remove","path":"/status"}]"#];
    ok(&sandbox.kubectl(&[&["-n", CUSTOMERS, "patch", "ci", "brief"][..], &lost[..]].concat()));
    let status = instances(client).get("brief").await.unwrap().status.unwrap_or_default();
    assert!(status.placement.is_none() && status.database.is_none());
    ok(&sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", "brief", "--wait=false"]));
    // Whether something was made is not known while Azure does not tell.
    sandbox.azure_fault(
        &json!({ "label": "silent", "fault": { "answer": { "status": 503, "code": "ServiceUnavailable" } } }),
    );
    scale_operator(sandbox, 1);
    let held = instance_shows(client, "brief", "Ready", "False", "AzureUnavailable").await;
    let message = &held.conditions[0].message;
    assert!(message.contains("not known whether something was made"), "{message}");
    assert!(sandbox.azure_ids().iter().any(|id| id.contains(hash)), "nothing is gone");
    sandbox.azure_healed();
    instance_gone(client, "brief").await;
    let left: Vec<_> = sandbox.azure_ids().into_iter().filter(|id| id.contains(hash)).collect();
    assert!(left.is_empty(), "{left:#?}");
}
