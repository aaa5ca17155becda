//! Story: a Region and its certificate: missing, made, rotated, broken, forbidden; and silence otherwise.

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::{
    ByteString,
    api::core::v1::{Event, Namespace, Secret},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use reef_crds::{Region, RegionStatus, condition::ConditionType};
use reef_e2e::{
    azure::{PLATFORM_GROUP, SUBSCRIPTION, TENANT},
    harness::{Sandbox, eventually, ok},
    install::{NAMESPACE, ZONE, charts, wildcard_secret},
    pki::Authority,
    reef_harness::looks,
};
use serde_json::json;

const OPERATOR: &str = "system:serviceaccount:reef-operator:reef-operator";

#[tokio::test]
async fn a_region_follows_its_certificate() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=0"]);
    let client = sandbox.client().await;
    let authority = Authority::new("the story's authority").unwrap();

    // The Secret is missing, comes, is rotated, is broken, is repaired, goes: each is noticed by watch.
    make(&client, "north", NAMESPACE, "north-tls").await;
    let status = condition(&client, "north", "False", "ReferenceNotFound").await;
    assert_eq!(status.network.unwrap().max_reefs, 256);
    let secrets = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    let began = Instant::now();
    secrets.create(&PostParams::default(), &wildcard_secret(&authority, "north-tls").unwrap()).await.unwrap();
    let status = condition(&client, "north", "True", "ReconcileSucceeded").await;
    println!("from the Secret to Ready: {:.2} s", began.elapsed().as_secs_f32());
    let first = status.certificate.unwrap();
    assert_eq!(first.dns_names, ["*.octopus.example"]);

    replace(&secrets, &wildcard_secret(&authority, "north-tls").unwrap()).await;
    let rotated = eventually("the new certificate shows", || async {
        let certificate = status_of(&client, "north").await?.certificate?;
        (certificate.sha256 != first.sha256).then_some(certificate)
    })
    .await;
    assert_eq!(rotated.dns_names, first.dns_names);

    let mut broken = wildcard_secret(&authority, "north-tls").unwrap();
    let other = wildcard_secret(&authority, "other").unwrap().data.unwrap();
    broken.data.as_mut().unwrap().insert("tls.key".to_owned(), other["tls.key"].clone());
    replace(&secrets, &broken).await;
    let status = condition(&client, "north", "False", "CertificateInvalid").await;
    assert!(status.conditions.iter().any(|c| c.type_ == "Stalled" && c.status == "True"));
    replace(&secrets, &wildcard_secret(&authority, "north-tls").unwrap()).await;
    condition(&client, "north", "True", "ReconcileSucceeded").await;
    secrets.delete("north-tls", &DeleteParams::default()).await.unwrap();
    condition(&client, "north", "False", "ReferenceNotFound").await;
    secrets.create(&PostParams::default(), &wildcard_secret(&authority, "north-tls").unwrap()).await.unwrap();
    condition(&client, "north", "True", "ReconcileSucceeded").await;
    each_change_has_its_event(&client).await;

    another_namespace_needs_a_grant(&sandbox, &client, &authority).await;
    a_request_is_answered_and_else_nothing_is_written(&sandbox, &client).await;
}

async fn make(client: &Client, name: &str, namespace: &str, secret: &str) {
    let region: Region = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "location": "northeurope",
            "azure": { "tenantId": TENANT, "subscriptionId": SUBSCRIPTION },
            "dns": { "zoneId": format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{PLATFORM_GROUP}/providers/Microsoft.Network/dnsZones/{ZONE}") },
            "tls": { "secretRef": { "namespace": namespace, "name": secret } },
        },
    }))
    .unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &region).await.unwrap();
}

async fn status_of(client: &Client, name: &str) -> Option<RegionStatus> {
    Api::<Region>::all(client.clone()).get(name).await.ok()?.status
}

/// The status once Ready has this status and reason.
async fn condition(client: &Client, name: &str, status: &str, reason: &str) -> RegionStatus {
    eventually(&format!("{name}: Ready={status}/{reason}"), || async {
        let found = status_of(client, name).await?;
        let ready = found.conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str())?;
        (ready.status == status && ready.reason == reason).then_some(found.clone())
    })
    .await
}

async fn replace(secrets: &Api<Secret>, secret: &Secret) {
    let patch = Patch::Merge(json!({ "data": secret.data }));
    secrets.patch("north-tls", &PatchParams::default(), &patch).await.unwrap();
}

async fn each_change_has_its_event(client: &Client) {
    let events = Api::<Event>::namespaced(client.clone(), "default");
    let reasons = eventually("an Event for each reason", || async {
        let list = events.list(&ListParams::default().fields("involvedObject.name=north")).await.ok()?;
        let reasons: BTreeMap<_, _> = list
            .items
            .into_iter()
            .map(|e| (e.reason.unwrap_or_default(), e.type_.unwrap_or_default()))
            .collect();
        // A slow start may have had others.
        let all = ["ReconcileSucceeded", "ReferenceNotFound", "CertificateInvalid"];
        all.iter().all(|reason| reasons.contains_key(*reason)).then_some(reasons)
    })
    .await;
    assert_eq!(reasons["ReconcileSucceeded"], "Normal");
    assert_eq!(reasons["ReferenceNotFound"], "Warning");
    assert_eq!(reasons["CertificateInvalid"], "Warning");
}

async fn another_namespace_needs_a_grant(sandbox: &Sandbox, client: &Client, authority: &Authority) {
    let namespace: Namespace =
        serde_json::from_value(json!({ "metadata": { "name": "certificates" } })).unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let secrets = Api::<Secret>::namespaced(client.clone(), "certificates");
    let secret = Secret { data: None, ..wildcard_secret(authority, "south-tls").unwrap() };
    let data = wildcard_secret(authority, "south-tls").unwrap().data;
    let secret = Secret { data: data.or(Some(BTreeMap::<String, ByteString>::new())), ..secret };
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    make(client, "south", "certificates", "south-tls").await;
    let status = condition(client, "south", "False", "ReferenceForbidden").await;
    assert!(status.conditions[0].message.contains("rbac.secretNamespaces"));
    let chart = charts().join("reef-operator");
    let values =
        ["--reuse-values", "--set", "rbac.secretNamespaces={certificates},resyncSeconds=10", "--wait"];
    let upgrade = ["upgrade", "reef-operator", chart.to_str().unwrap(), "--namespace", NAMESPACE];
    ok(&sandbox.helm(&[&upgrade[..], &values[..]].concat()));
    condition(client, "south", "True", "ReconcileSucceeded").await;
}

/// Invariant 7 in small: a request is answered by one patch, and routine looks write nothing at all.
async fn a_request_is_answered_and_else_nothing_is_written(sandbox: &Sandbox, client: &Client) {
    let regions = Api::<Region>::all(client.clone());
    // Events are written after the status that they tell of; the last one so far is this.
    let events = Api::<Event>::namespaced(client.clone(), "default");
    eventually("the Event of the second Region", || async {
        let of = ListParams::default().fields("involvedObject.name=south,reason=ReconcileSucceeded");
        (!events.list(&of).await.ok()?.items.is_empty()).then_some(())
    })
    .await;
    let writes = || {
        let all = sandbox.audit().into_iter();
        all.filter(|e| e["user"]["username"] == OPERATOR && e["objectRef"]["resource"] != "leases")
            .map(|e| format!("{} {}", e["verb"], e["requestURI"]))
            .collect::<Vec<_>>()
    };
    let before = writes().len();
    for round in 1..=5 {
        let value = format!("round-{round}");
        let patch =
            json!({ "metadata": { "annotations": { "cloud.octopus.com/reconcile-requested-at": value } } });
        regions.patch("north", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        eventually("the request is answered", || async {
            (status_of(client, "north").await?.last_handled_reconcile_at == Some(value.clone())).then_some(())
        })
        .await;
    }
    let looks = || async { looks(client, "region").await };
    // Somebody else's condition stays in the object and is no reason to write.
    let foreign = json!({ "status": { "conditions": [{ "type": "Foreign", "status": "True", "reason": "X", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
    let foreign =
        json!({ "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "Region", "status": foreign["status"] });
    regions.patch_status("north", &PatchParams::apply("somebody"), &Patch::Apply(&foreign)).await.unwrap();
    // The resync is set to 10 s: wait for two looks at each of the two Regions.
    let (first, calls) = (looks().await, sandbox.azure_journal().len());
    eventually("routine looks", || async { (looks().await >= first + 4.0).then_some(()) }).await;
    let after = writes();
    assert_eq!(
        after.len() - before,
        5,
        "one patch for each request, no other write: {:#?}",
        &after[before..]
    );
    let entries = sandbox.azure_journal();
    assert!(entries.len() > calls, "Azure was looked at");
    assert!(entries.iter().all(|e| e["method"] == "GET" || e["path"].as_str().unwrap().ends_with("/token")));
}
