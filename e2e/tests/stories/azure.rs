//! Story: the operator proves to Azure who it is, and a Region shows how Azure fares.

use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, api::ListParams};
use reef_crds::{Region, RegionStatus};
use reef_e2e::{
    azure::{PLATFORM_GROUP, SUBSCRIPTION, TENANT},
    harness::{Sandbox, eventually, ok},
    install::{NAMESPACE, ZONE, charts},
};
use serde_json::json;

const SAMPLE: &str = include_str!("../../../docs/samples/10-region.yaml");

#[tokio::test]
async fn a_region_shows_how_azure_fares() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=0"]);
    let client = sandbox.client().await;
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], SAMPLE));
    let status = shows(&sandbox, &client, "westeurope", ["True", "True", "True"], "ReconcileSucceeded").await;
    let dns = status.dns.unwrap();
    assert_eq!((dns.zone_name.as_str(), dns.name_servers.len()), (ZONE, 4));
    let login =
        sandbox.azure_journal().into_iter().find(|e| e["path"] == format!("/{TENANT}/oauth2/v2.0/token"));
    assert_eq!(login.expect("a token was asked for")["status"], 200);

    // While Azure is away a good Region stays Ready, and says what it does not know.
    let zones = "Microsoft.Network/dnsZones";
    for (status, code, reason) in [
        (503, "ServiceUnavailable", "AzureUnavailable"),
        (429, "SubscriptionRequestsThrottled", "AzureThrottled"),
    ] {
        let answer = json!({ "answer": { "status": status, "code": code, "retryAfter": 1 } });
        sandbox.azure_fault(&json!({ "type": zones, "fault": answer }));
        let seen =
            shows(&sandbox, &client, "westeurope", ["True", "True", "Unknown"], "ReconcileSucceeded").await;
        assert_eq!(seen.conditions.iter().find(|c| c.type_ == "DNSZoneReady").unwrap().reason, reason);
        assert!(seen.dns.is_some(), "what was known is kept");
        sandbox.azure_healed();
        shows(&sandbox, &client, "westeurope", ["True", "True", "True"], "ReconcileSucceeded").await;
    }

    // What Azure certainly refuses is news.
    for (status, code, reason) in
        [(403, "AuthorizationFailed", "Unauthorized"), (404, "ResourceNotFound", "AzureResourceNotFound")]
    {
        let answer = json!({ "answer": { "status": status, "code": code } });
        sandbox.azure_fault(&json!({ "type": zones, "name": ZONE, "fault": answer }));
        shows(&sandbox, &client, "westeurope", ["False", "True", "False"], reason).await;
        if status == 403 {
            event_with_correlation_id(&client, reason).await;
        }
        sandbox.azure_healed();
        shows(&sandbox, &client, "westeurope", ["True", "True", "True"], "ReconcileSucceeded").await;
    }

    // A zone that is not there, and an identity that is not ours.
    make(&sandbox, "no-zone", "nowhere.example", None);
    let status =
        shows(&sandbox, &client, "no-zone", ["False", "True", "False"], "AzureResourceNotFound").await;
    assert!(status.conditions[0].message.contains("spec.dns.zoneId nowhere.example does not exist"));
    make(&sandbox, "no-identity", ZONE, Some(SUBSCRIPTION));
    let status =
        shows(&sandbox, &client, "no-identity", ["False", "False", "Unknown"], "CredentialInvalid").await;
    assert!(status.conditions[0].message.contains("AADSTS700016"), "{}", status.conditions[0].message);

    // Another ServiceAccount gets no tokens for the operator's identity: its subject has no credential.
    let chart = charts().join("reef-operator");
    ok(&sandbox.helm(&["uninstall", "reef-operator", "--namespace", NAMESPACE, "--wait"]));
    let client_id = sandbox.azure_journal().into_iter().find(|e| e["status"] == 200 && e["method"] == "POST");
    let set = format!(
        "fleet=sandbox,azure.clientId={},azure.caConfigMap=azure-ca",
        client_id.unwrap()["client"].as_str().unwrap()
    );
    let install =
        ["install", "impostor", chart.to_str().unwrap(), "--namespace", NAMESPACE, "--wait", "--set", &set];
    ok(&sandbox.helm(&install));
    let status =
        shows(&sandbox, &client, "westeurope", ["False", "False", "Unknown"], "CredentialInvalid").await;
    let message = &status.conditions[0].message;
    assert!(message.contains("AADSTS700213") && message.contains("reef-operator:impostor"), "{message}");

    // No answer of Azure, and no token, shows anywhere.
    let shown = ok(&sandbox.kubectl(&["get", "events,regions", "-A", "-o", "yaml"]));
    let logs = ok(&sandbox.kubectl(&["-n", NAMESPACE, "logs", "deployment/impostor", "--tail=-1"]));
    assert!(!(shown + &logs).contains("eyJ"), "a token shows");
}

fn make(sandbox: &Sandbox, name: &str, zone: &str, client: Option<&str>) {
    let mut azure = json!({ "tenantId": TENANT, "subscriptionId": SUBSCRIPTION });
    if let Some(client) = client {
        azure["clientId"] = json!(client);
    }
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{PLATFORM_GROUP}");
    let region = json!({
        "apiVersion": "cloud.octopus.com/v1alpha1",
        "kind": "Region",
        "metadata": { "name": name },
        "spec": {
            "location": "westeurope",
            "azure": azure,
            "dns": { "zoneId": format!("{group}/providers/Microsoft.Network/dnsZones/{zone}") },
            "tls": { "secretRef": { "namespace": NAMESPACE, "name": "wildcard-tls" } },
        },
    });
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &region.to_string()));
}

/// Asks for looks until Ready, CredentialsValid and DNSZoneReady have these statuses and Ready this reason.
async fn shows(
    sandbox: &Sandbox,
    client: &Client,
    name: &str,
    expect: [&str; 3],
    reason: &str,
) -> RegionStatus {
    let mut request = 0;
    eventually(&format!("{name} shows {expect:?} {reason}"), || {
        request += 1;
        let annotation = format!("cloud.octopus.com/reconcile-requested-at={request}-{expect:?}-{reason}");
        ok(&sandbox.kubectl(&["annotate", "--overwrite", "region", name, &annotation]));
        async {
            let status = Api::<Region>::all(client.clone()).get(name).await.ok()?.status?;
            let of = |type_: &str| status.conditions.iter().find(|c| c.type_ == type_);
            let found =
                ["Ready", "CredentialsValid", "DNSZoneReady"].map(|t| of(t).map(|c| c.status.as_str()));
            (found == expect.map(Some) && of("Ready")?.reason == reason).then_some(status.clone())
        }
    })
    .await
}

/// An Event about the Region has the id by which Azure's support finds the call that failed.
async fn event_with_correlation_id(client: &Client, reason: &str) {
    let events = Api::<Event>::all(client.clone());
    eventually("an Event with a correlation id", || async {
        let all = events.list(&ListParams::default()).await.ok()?.items;
        let of = |e: &&Event| {
            e.reason.as_deref() == Some(reason)
                && e.regarding.as_ref().is_some_and(|r| r.kind.as_deref() == Some("Region"))
        };
        all.iter()
            .filter(of)
            .any(|e| e.note.as_ref().is_some_and(|n| n.contains(" (correlation id ")))
            .then_some(())
    })
    .await;
}
