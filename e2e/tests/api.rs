//! Story: what the API server takes and what it refuses, and in which words.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a step that fails is to fail its story"
)]

use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use reef_e2e::{
    harness::{Sandbox, eventually, ok},
    install::charts,
};
use serde_json::{Value, json};

#[tokio::test]
async fn the_schemas_accept_and_refuse() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--no-operator", "--reef-slots=0"]);
    let chart = charts().join("reef-operator-crds");
    ok(&sandbox.helm(&["install", "crds", chart.to_str().unwrap(), "--wait"]));
    let client = sandbox.client().await;
    let gvk = GroupVersionKind::gvk("cloud.octopus.com", "v1alpha1", "Region");
    let regions = Api::<DynamicObject>::all_with(client, &ApiResource::from_gvk(&gvk));

    // What is rendered is what is stored: nothing that Argo CD would see as a difference.
    let rendered = ok(&sandbox.helm(&["template", "crds", chart.to_str().unwrap()]));
    let diff = sandbox.kubectl_with(&["diff", "-f", "-"], &rendered);
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));

    for (change, expect) in creates() {
        let object = object("probe", &change);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        match (regions.create(&dry, &object).await, expect) {
            (Ok(_), None) => {}
            (Err(error), Some(expect)) => assert!(error.to_string().contains(expect), "{change}: {error}"),
            (Ok(_), Some(expect)) => panic!("{change} was taken; it should be refused: {expect}"),
            (Err(error), None) => panic!("{change} should be taken: {error}"),
        }
    }

    let created = regions.create(&PostParams::default(), &object("kept", &json!({}))).await.unwrap();
    assert_eq!(created.data["status"]["observedGeneration"], -1, "a new object is not a finished one");
    assert_eq!(created.data["spec"]["network"]["addressSpace"], "10.0.0.0/8");
    for (change, expect) in updates() {
        let patch = Patch::Merge(json!({ "spec": change }));
        let result = regions.patch("kept", &PatchParams::default(), &patch).await;
        match (result, expect) {
            (Ok(_), None) => {}
            (Err(error), Some(expect)) => assert!(error.to_string().contains(expect), "{change}: {error}"),
            (result, expect) => panic!("{change}: {result:?}, expected {expect:?}"),
        }
    }

    let explained = eventually("kubectl explain knows the kind", || async {
        let output = sandbox.kubectl(&["explain", "region.spec.network"]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
    .await;
    assert!(explained.contains("Length in bits"), "{explained}");
    let listed = ok(&sandbox.kubectl(&["get", "reef-operator"]));
    assert!(listed.contains("LOCATION") && listed.contains("kept"), "{listed}");
}

const UUID: &str = "00000000-0000-4000-8000-000000000001";

fn object(name: &str, change: &Value) -> DynamicObject {
    let mut object = json!({
        "apiVersion": "cloud.octopus.com/v1alpha1",
        "kind": "Region",
        "metadata": { "name": name },
        "spec": {
            "location": "westeurope",
            "azure": { "tenantId": UUID, "subscriptionId": UUID },
            "dns": { "zoneId": format!("/subscriptions/{UUID}/resourceGroups/g/providers/Microsoft.Network/dnsZones/a.example") },
            "tls": { "secretRef": { "namespace": "ns", "name": "tls" } } },
    });
    merge(&mut object, change);
    serde_json::from_value(object).unwrap()
}

fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

fn creates() -> Vec<(Value, Option<&'static str>)> {
    let network = |v: Value| json!({ "spec": { "network": v } });
    vec![
        (json!({}), None),
        (json!({ "metadata": { "name": "a".repeat(40) } }), None),
        (json!({ "metadata": { "name": "a".repeat(41) } }), Some("must have at most 40 characters")),
        (json!({ "spec": { "location": "West Europe" } }), Some("spec.location")),
        (json!({ "spec": { "location": "" } }), Some("spec.location")),
        (json!({ "spec": { "location": null } }), Some("spec.location: Required value")),
        (json!({ "spec": { "tls": null } }), Some("spec.tls: Required value")),
        (json!({ "spec": { "tls": { "secretRef": { "name": "a/b" } } } }), Some("spec.tls.secretRef.name")),
        (
            json!({ "spec": { "tls": { "secretRef": { "namespace": "" } } } }),
            Some("spec.tls.secretRef.namespace"),
        ),
        (json!({ "spec": { "azure": null } }), Some("spec.azure: Required value")),
        (json!({ "spec": { "azure": { "tenantId": "not-a-uuid" } } }), Some("spec.azure.tenantId")),
        (
            json!({ "spec": { "azure": { "subscriptionId": UUID.to_uppercase().replace('0', "A") } } }),
            Some("spec.azure.subscriptionId"),
        ),
        (json!({ "spec": { "azure": { "clientId": UUID } } }), None),
        (json!({ "spec": { "azure": { "clientId": "" } } }), Some("spec.azure.clientId")),
        (json!({ "spec": { "dns": { "zoneId": "a.example" } } }), Some("spec.dns.zoneId")),
        (
            json!({ "spec": { "dns": { "zoneId": format!("/subscriptions/{UUID}/resourceGroups/g/providers/Microsoft.Network/privateDnsZones/a.example") } } }),
            Some("spec.dns.zoneId"),
        ),
        (network(json!({ "addressSpace": "127.0.0.0/8" })), Some("must not overlap")),
        (network(json!({ "addressSpace": "168.0.0.0/8" })), Some("must not overlap")),
        (network(json!({ "addressSpace": "240.0.0.0/8" })), Some("must not overlap")),
        (network(json!({})), None),
        (network(json!({ "addressSpace": "10.64.0.0/10", "reefPrefixLength": 12 })), None),
        (network(json!({ "addressSpace": "10.0.0.0/16", "reefPrefixLength": 16 })), None),
        (network(json!({ "addressSpace": "10.0.0.1/8" })), Some("no host bits set")),
        (network(json!({ "addressSpace": "not-a-network" })), Some("must be an IPv4 network")),
        (network(json!({ "addressSpace": "fd00:1234::/32" })), Some("must be an IPv4 network")),
        (network(json!({ "addressSpace": "172.16.0.0/12" })), Some("must not overlap")),
        (network(json!({ "addressSpace": "172.16.0.0/16" })), Some("must not overlap")),
        (
            network(
                json!({ "addressSpace": "172.16.128.0/17", "reefPrefixLength": 20, "subnetPrefixLength": 24 }),
            ),
            Some("must not overlap"),
        ),
        (network(json!({ "addressSpace": "100.96.0.0/11" })), Some("must not overlap")),
        (
            network(json!({ "addressSpace": "192.168.0.0/16", "reefPrefixLength": 15 })),
            Some("must not be smaller than the prefix length"),
        ),
        (network(json!({ "subnetPrefixLength": 16 })), Some("must be greater than reefPrefixLength")),
        (network(json!({ "subnetPrefixLength": 29 })), Some("less than or equal to 28")),
        (network(json!({ "reefPrefixLength": 7 })), Some("greater than or equal to 8")),
    ]
}

fn updates() -> Vec<(Value, Option<&'static str>)> {
    vec![
        (json!({ "tls": { "secretRef": { "name": "other" } } }), None),
        (json!({ "location": "northeurope" }), Some("location is immutable")),
        (json!({ "azure": { "clientId": UUID } }), Some("azure is immutable")),
        (json!({ "azure": { "tenantId": UUID.replace('1', "2") } }), Some("azure is immutable")),
        (
            json!({ "dns": { "zoneId": format!("/subscriptions/{UUID}/resourceGroups/g/providers/Microsoft.Network/dnsZones/b.example") } }),
            Some("zoneId is immutable"),
        ),
        (json!({ "network": { "reefPrefixLength": 17 } }), Some("network is immutable")),
        (json!({ "network": { "addressSpace": "192.168.0.0/16" } }), Some("network is immutable")),
    ]
}
