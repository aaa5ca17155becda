//! What objects refer to: missing, half-made, or not what it has to be.

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use reef_e2e::{
    azure::SUBSCRIPTION,
    install::{NAMESPACE, ZONE, wildcard_secret},
    pki::{Authority, Subject},
};
use serde_json::json;

use super::{
    row::{Heal, Row, Sees, nothing},
    world::{Object, World},
};

pub fn rows() -> Vec<Row> {
    vec![
        unknown_region(),
        half_made_region(),
        certificate_for_another_zone(),
        unknown_zone(),
        class_that_azure_refuses(),
    ]
}

fn unknown_region() -> Row {
    Row {
        name: "an instance names a Region that does not exist",
        object: Object::Instance("nowhere"),
        wrong: |w| {
            Box::pin(
                async move { w.instance("nowhere", json!({ "regionRef": { "name": "nowhere" } })).await },
            )
        },
        sees: Sees {
            condition: ("Ready", "False", "ReferenceNotFound"),
            says: &["spec.regionRef", "Region nowhere does not exist", "create it or correct the reference"],
            event: ("ReferenceNotFound", &["nowhere"]),
        },
        never: |w| Box::pin(async move { assert!(w.made("nowhere").is_empty()) }),
        heal: Heal::Deleted,
    }
}

fn half_made_region() -> Row {
    Row {
        name: "an instance names a Region whose certificate is missing",
        object: Object::Instance("early"),
        wrong: |w| {
            Box::pin(async move {
                w.region(
                    "half",
                    json!({ "tls": { "secretRef": { "namespace": NAMESPACE, "name": "half-tls" } } }),
                )
                .await;
                w.shows(Object::Region("half"), ("Ready", "False", "ReferenceNotFound")).await;
                w.instance("early", json!({ "regionRef": { "name": "half" } })).await;
            })
        },
        sees: Sees {
            condition: ("Ready", "False", "ReferenceNotReady"),
            says: &["spec.regionRef", "Region half is not Ready"],
            event: ("ReferenceNotReady", &["half"]),
        },
        never: |w| Box::pin(async move { assert!(w.made("early").is_empty()) }),
        heal: Heal::Then(|w| {
            Box::pin(async move {
                secret(w, "half-tls", ZONE).await;
                w.ready(Object::Region("half")).await;
                // The Region wakes it: it has no reef there, which is what it says now.
                let why = w.shows(Object::Instance("early"), ("Ready", "False", "NoReefFits")).await;
                assert!(why.contains("region half"), "{why}");
                w.delete(Object::Instance("early")).await;
                w.gone(Object::Instance("early")).await;
                w.delete(Object::Region("half")).await;
                w.gone(Object::Region("half")).await;
            })
        }),
    }
}

fn certificate_for_another_zone() -> Row {
    Row {
        name: "a Region's certificate is for another zone",
        object: Object::Region("other-name"),
        wrong: |w| {
            Box::pin(async move {
                secret(w, "other-tls", "other.example").await;
                let tls = json!({ "secretRef": { "namespace": NAMESPACE, "name": "other-tls" } });
                w.region("other-name", json!({ "tls": tls })).await;
            })
        },
        sees: Sees {
            condition: ("Ready", "False", "CertificateInvalid"),
            says: &["other-tls", "*.octopus.example"],
            event: ("CertificateInvalid", &["*.octopus.example"]),
        },
        never: nothing,
        heal: Heal::ThenReady(|w| Box::pin(async move { secret(w, "other-tls", ZONE).await })),
    }
}

fn unknown_zone() -> Row {
    Row {
        name: "a Region names a DNS zone that does not exist",
        object: Object::Region("no-zone"),
        wrong: |w| {
            Box::pin(
                async move { w.region("no-zone", json!({ "dns": { "zoneId": zone_that_comes() } })).await },
            )
        },
        sees: Sees {
            condition: ("Ready", "False", "AzureResourceNotFound"),
            says: &["spec.dns.zoneId", "octopus.example does not exist"],
            event: ("AzureResourceNotFound", &["spec.dns.zoneId"]),
        },
        // It is somebody else's to make.
        never: |w| Box::pin(async move { assert_eq!(w.sandbox.arm("GET", &zone_that_comes(), None).0, 404) }),
        heal: Heal::Then(|w| {
            Box::pin(async move {
                let group = group_that_comes();
                assert_eq!(w.sandbox.arm("PUT", &group, Some(&json!({ "location": "westeurope" }))).0, 201);
                assert!(
                    w.sandbox.arm("PUT", &zone_that_comes(), Some(&json!({ "location": "global" }))).0 < 300
                );
                w.look(Object::Region("no-zone")).await;
                w.ready(Object::Region("no-zone")).await;
                assert!(w.sandbox.arm("DELETE", &group, None).0 < 300);
            })
        }),
    }
}

fn class_that_azure_refuses() -> Row {
    Row {
        name: "a ReefClass asks for a version of Kubernetes that Azure does not have",
        object: Object::Reef("too-new"),
        wrong: |w| {
            Box::pin(async move {
                let text = "Version 1.99 is not supported in this region.";
                let fault =
                    json!({ "answer": { "status": 400, "code": "K8sVersionNotSupported", "message": text } });
                let path = "*/resourceGroups/reef-sandbox-too-new/*/managedClusters/*";
                w.sandbox.azure_fault(
                    &json!({ "label": "too-new", "method": "PUT", "path": path, "fault": fault }),
                );
                let spec = json!({ "regionRef": { "name": "westeurope" }, "classRef": { "name": "standard" },
                    "scheduling": "Cordoned", "deletionPolicy": "Delete", "deletionProtection": false });
                w.apply(&json!({ "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "Reef", "metadata": { "name": "too-new" }, "spec": spec }))
                    .await;
            })
        },
        sees: Sees {
            condition: ("ClusterReady", "False", "AzureRejected"),
            says: &["AKS cluster", "K8sVersionNotSupported", "Version 1.99 is not supported"],
            event: ("AzureRejected", &["AKS cluster"]),
        },
        never: |w| {
            Box::pin(async move {
                let tries = w.calls("PUT", "/managedClusters/sandbox-too-new");
                assert!(tries.len() <= 1, "it is asked again slowly, not {} times", tries.len());
            })
        },
        heal: Heal::Then(|w| {
            Box::pin(async move {
                w.delete(Object::Reef("too-new")).await;
                w.gone(Object::Reef("too-new")).await;
                w.sandbox.azure_healed_of("too-new");
            })
        }),
    }
}

fn group_that_comes() -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/later")
}

fn zone_that_comes() -> String {
    format!("{}/providers/Microsoft.Network/dnsZones/{ZONE}", group_that_comes())
}

/// A certificate for all names of a zone.
async fn secret(world: &World, name: &str, zone: &str) {
    let authority = Authority::new("the row's authority").unwrap();
    let mut secret = wildcard_secret(&authority, name).unwrap();
    let wildcard = format!("*.{zone}");
    let identity = authority.server(&Subject { user: &wildcard, group: None }, &[&wildcard]).unwrap();
    for (key, value) in [("tls.crt", identity.cert), ("tls.key", identity.key)] {
        secret.data.as_mut().unwrap().insert(key.to_owned(), k8s_openapi::ByteString(value.into_bytes()));
    }
    let secrets = Api::<Secret>::namespaced(world.client.clone(), NAMESPACE);
    secrets.patch(name, &PatchParams::apply("rows").force(), &Patch::Apply(&secret)).await.unwrap();
}
