//! Story: what goes wrong while reefs are made and kept, what their user sees, and what must not happen.

use kube::{Api, Client};
use reef_crds::Region;
use reef_e2e::{
    azure::{PLATFORM_GROUP, SUBSCRIPTION},
    harness::{Sandbox, eventually, ok},
    install::NAMESPACE,
    reef_harness::{cluster, get, looks, message, ready, set, shows},
};
use serde_json::{Value, json};

const SAMPLES: [&str; 2] = [
    include_str!("../../../docs/samples/10-region.yaml"),
    include_str!("../../../docs/samples/20-reefclass.yaml"),
];

/// The first name that the operator would give the SQL server of the reef `weu-1` of the fleet `sandbox`.
const FIRST_NAME: &str = "sandbox-weu-1-dc57f8ee";

#[tokio::test]
async fn troubles_are_told_apart() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=1", "--time-scale=200"]);
    let client = sandbox.client().await;
    set(&sandbox, "resyncSeconds=10");

    references_that_come_later(&sandbox, &client).await;
    names_that_are_taken(&sandbox, &client).await;
    a_range_that_is_taken(&sandbox, &client).await;
    no_room_in_azure(&sandbox, &client).await;
    azure_that_cannot_be_asked(&sandbox, &client).await;
    an_answer_that_something_is_gone(&sandbox, &client).await;
    a_certificate_that_is_none(&sandbox, &client).await;
}

/// Applies a Reef; `more` is merged into its spec.
fn apply(sandbox: &Sandbox, name: &str, more: &Value) {
    let mut spec = json!({ "regionRef": { "name": "westeurope" }, "classRef": { "name": "standard" }, "deletionPolicy": "Delete", "deletionProtection": false });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let reef = json!({ "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "Reef", "metadata": { "name": name }, "spec": spec });
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &reef.to_string()));
}

/// Asks for a look at Azure now.
fn request(sandbox: &Sandbox, why: &str) {
    let annotation = format!("cloud.octopus.com/reconcile-requested-at={why}");
    ok(&sandbox.kubectl(&["annotate", "--overwrite", "reef", "weu-1", &annotation]));
}

fn writes(sandbox: &Sandbox) -> usize {
    let journal = sandbox.azure_journal();
    journal.iter().filter(|e| e["method"] == "PUT" || e["method"] == "DELETE").count()
}

async fn references_that_come_later(sandbox: &Sandbox, client: &Client) {
    apply(sandbox, "early", &json!({}));
    let held = shows(client, "early", "Ready", "False", "ReferenceNotFound").await;
    assert!(message(&held, "Ready").contains("spec.regionRef: Region westeurope does not exist"));
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], SAMPLES[0]));
    eventually("the class is missed next", || async {
        let found = get(client, "early").await?.status?;
        message(&found, "Ready").contains("spec.classRef: ReefClass standard does not exist").then_some(())
    })
    .await;
    assert_eq!(writes(sandbox), 0, "nothing is begun on half a reference");
    ok(&sandbox.kubectl(&["delete", "reef", "early"]));
    assert_eq!(writes(sandbox), 0, "and nothing is to be removed");
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], SAMPLES[1]));
}

/// Somebody has the global name of the server, the group of another reef, and the DNS record; and much of what
/// is asked of Azure fails once.
async fn names_that_are_taken(sandbox: &Sandbox, client: &Client) {
    let theirs = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/theirs");
    let here = json!({ "location": "westeurope" });
    assert_eq!(sandbox.arm("PUT", &theirs, Some(&here)).0, 201);
    sandbox.arm("POST", &format!("/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Sql/register"), None);
    let server = format!("{theirs}/providers/Microsoft.Sql/servers/{FIRST_NAME}");
    assert_eq!(sandbox.arm("PUT", &server, Some(&here)).0, 202);
    let zone = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{PLATFORM_GROUP}/providers/Microsoft.Network/dnsZones/octopus.example"
    );
    let record = format!("{zone}/A/weu-1.sandbox.reefs");
    let body = json!({ "properties": { "TTL": 60, "ARecords": [{ "ipv4Address": "192.0.2.1" }] } });
    assert_eq!(sandbox.arm("PUT", &record, Some(&body)).0, 201);
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/reef-sandbox-squatted");
    assert_eq!(sandbox.arm("PUT", &group, Some(&here)).0, 201);

    for rule in [
        json!({ "method": "PUT", "type": "Microsoft.Network/networkSecurityGroups", "count": 1, "fault": { "answer": { "status": 500, "code": "InternalServerError" } } }),
        json!({ "method": "PUT", "type": "Microsoft.Storage/storageAccounts", "count": 1, "fault": { "answer": { "status": 429, "code": "TooManyRequests", "retryAfter": 1 } } }),
        json!({ "method": "PUT", "type": "Microsoft.Sql/servers/elasticPools", "count": 1, "fault": { "failLate": { "code": "ConflictingServerOperation", "message": "busy" } } }),
        json!({ "method": "PUT", "type": "Microsoft.Network/virtualNetworks", "count": 1, "fault": "lostAnswer" }),
        json!({ "method": "PUT", "type": "Microsoft.ContainerService/managedClusters", "count": 1, "fault": "lostAnswer" }),
    ] {
        sandbox.azure_fault(&rule);
    }
    apply(sandbox, "weu-1", &json!({}));
    let held = shows(client, "weu-1", "DNSReady", "False", "NameTaken").await;
    assert!(message(&held, "DNSReady").contains("left alone"), "{}", message(&held, "DNSReady"));
    assert_eq!(sandbox.arm("GET", &record, None).1["properties"]["ARecords"][0]["ipv4Address"], "192.0.2.1");
    assert_eq!(sandbox.arm("DELETE", &record, None).0, 200);
    let status = ready(client, "weu-1").await;
    let name = status.sql_server.unwrap().name;
    assert!(name != FIRST_NAME && name.starts_with("sandbox-weu-1-"), "{name}");
    let (_, untouched) = sandbox.arm("GET", &server, None);
    assert!(
        untouched["name"].is_string() && untouched["tags"].is_null(),
        "somebody else's server is left alone"
    );
    let made = |kind: &str| {
        sandbox.azure_ids().iter().filter(|id| id.contains(kind) && id.contains("reef-sandbox-weu-1")).count()
    };
    assert_eq!(
        (made("/managedClusters/sandbox-weu-1"), made("/servers/sandbox-weu-1")),
        (5, 5),
        "{:#?}",
        sandbox.azure_ids()
    );

    apply(sandbox, "squatted", &json!({}));
    let stalled = shows(client, "squatted", "Stalled", "True", "NameTaken").await;
    assert!(
        message(&stalled, "Ready").contains("does not carry the marks"),
        "{}",
        message(&stalled, "Ready")
    );
    assert!(
        !sandbox.azure_ids().iter().any(|id| id.starts_with(&format!("{group}/"))),
        "nothing is made in it"
    );
    ok(&sandbox.kubectl(&["delete", "reef", "squatted"]));
    assert_eq!(sandbox.arm("GET", &group, None).0, 200, "nor is it deleted");
}

async fn a_range_that_is_taken(sandbox: &Sandbox, client: &Client) {
    let before = writes(sandbox);
    for (wish, expect) in
        [("10.0.0.0/16", "overlaps 10.0.0.0/16"), ("10.0.0.0/17", "no range of the region's address plan")]
    {
        apply(sandbox, "wishful", &json!({ "addressSpace": wish }));
        let stalled = shows(client, "wishful", "Stalled", "True", "AddressSpaceExhausted").await;
        assert!(message(&stalled, "Ready").contains(expect), "{}", message(&stalled, "Ready"));
        ok(&sandbox.kubectl(&["delete", "reef", "wishful"]));
    }
    assert_eq!(writes(sandbox), before);
}

async fn no_room_in_azure(sandbox: &Sandbox, client: &Client) {
    apply(sandbox, "weu-2", &json!({}));
    let held = shows(client, "weu-2", "ClusterReady", "False", "QuotaExceeded").await;
    assert!(message(&held, "ClusterReady").contains("ManagedClusterCountExceedsQuotaLimit"));
    ready(client, "weu-1").await;
    ok(&sandbox.kubectl(&["delete", "reef", "weu-2"]));
    assert!(!sandbox.azure_ids().iter().any(|id| id.contains("reef-sandbox-weu-2")), "what was made goes");
}

/// While Azure is away nothing is written, and a good reef is a good reef.
async fn azure_that_cannot_be_asked(sandbox: &Sandbox, client: &Client) {
    for (status, code, reason) in [
        (503, "ServiceUnavailable", "AzureUnavailable"),
        (403, "AuthorizationFailed", "Unauthorized"),
        (429, "SubscriptionRequestsThrottled", "AzureThrottled"),
        // A 404 that speaks of something else is no absence.
        (404, "SubscriptionNotFound", "AzureUnavailable"),
    ] {
        let before = writes(sandbox);
        let answer = json!({ "answer": { "status": status, "code": code } });
        sandbox.azure_fault(&json!({ "method": "GET", "fault": answer }));
        request(sandbox, code);
        for type_ in ["NetworkReady", "SQLReady", "StorageReady", "ClusterReady"] {
            let seen = shows(client, "weu-1", type_, "Unknown", reason).await;
            assert!(
                seen.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
                "{:?}",
                seen.conditions
            );
        }
        assert_eq!(writes(sandbox), before, "{code}: nothing is written on what was not seen");
        sandbox.azure_healed();
        request(sandbox, &format!("{code}-healed"));
        shows(client, "weu-1", "ClusterReady", "True", "ReconcileSucceeded").await;
        shows(client, "weu-1", "SQLReady", "True", "ReconcileSucceeded").await;
        assert_eq!(writes(sandbox), before, "{code}: nor when Azure is back");
    }
}

/// A 404 for what held data is a reason to stop, whether it is true or not.
async fn an_answer_that_something_is_gone(sandbox: &Sandbox, client: &Client) {
    let before = writes(sandbox);
    for (kind, code) in [
        ("Microsoft.Sql/servers", "ResourceNotFound"),
        ("Microsoft.Storage/storageAccounts", "ResourceNotFound"),
        ("Microsoft.ContainerService/managedClusters", "ResourceNotFound"),
        ("Microsoft.Resources/resourceGroups", "ResourceGroupNotFound"),
    ] {
        let answer = json!({ "answer": { "status": 404, "code": code } });
        sandbox.azure_fault(&json!({ "method": "GET", "type": kind, "fault": answer }));
        request(sandbox, kind);
        let stalled = shows(client, "weu-1", "Stalled", "True", "DataResourceMissing").await;
        assert!(
            message(&stalled, "Stalled").contains("not made again by itself"),
            "{}",
            message(&stalled, "Stalled")
        );
        sandbox.azure_healed();
        request(sandbox, &format!("{kind}-healed"));
        ready(client, "weu-1").await;
    }
    assert_eq!(writes(sandbox), before, "nothing was made again");
}

/// One bad edit of the certificate is seen on the Region and reaches no reef.
async fn a_certificate_that_is_none(sandbox: &Sandbox, client: &Client) {
    let status = ready(client, "weu-1").await;
    let ca = std::fs::read_to_string(sandbox.folder().join("run/public-ca.crt")).unwrap();
    let served = || sandbox.through_gateway(&cluster(&status), "a.octopus.example", &ca);
    assert_eq!(served(), Some(404));
    ok(&sandbox.kubectl(&[
        "-n",
        NAMESPACE,
        "patch",
        "secret",
        "wildcard-tls",
        "--type=merge",
        "-p",
        r#"{"stringData":{"tls.crt":"garbage"}}"#,
    ]));
    eventually("the Region says so", || async {
        let found = Api::<Region>::all(client.clone()).get("westeurope").await.ok()?.status?;
        found.conditions.iter().any(|c| c.reason == "CertificateInvalid").then_some(())
    })
    .await;
    let first = looks(client, "reef").await;
    eventually("looks at the reef", || async { (looks(client, "reef").await >= first + 1.0).then_some(()) })
        .await;
    assert_eq!(served(), Some(404), "the reef serves the certificate that it had");
    ready(client, "weu-1").await;
}
