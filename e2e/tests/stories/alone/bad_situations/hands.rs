//! Objects on the reef that somebody changes by hand: they are put back, and it is told who did it.

use futures::future::join_all;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use reef_e2e::harness::eventually;
use serde_json::{Value, json};

use super::{
    row::{Heal, Row, Sees},
    world::{Object, World},
};

pub fn rows() -> Vec<Row> {
    vec![edited()]
}

/// Who does it, as the API server notes it.
const EVE: &str = "kubectl-of-eve";

/// Value of a key that must show nowhere: base64 of `stolen`.
const STOLEN: &str = "c3RvbGVu";

/// An edit: group, version, kind and plural of the object, the patch, and the field that is named.
type Edit = ((&'static str, &'static str, &'static str, &'static str), Value, &'static str);

fn edits() -> Vec<Edit> {
    let port = |name: &str, port: u16, target: &str| json!({ "name": name, "port": port, "protocol": "TCP", "targetPort": target });
    vec![
        (
            ("", "v1", "Service", "services"),
            json!({ "spec": { "ports": [port("web", 80, "elsewhere"), port("polling", 10943, "polling")] } }),
            "spec.ports.web.targetPort",
        ),
        (
            ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
            json!({ "spec": { "ingress": [{}] } }),
            "spec.ingress",
        ),
        (
            ("apps", "v1", "StatefulSet", "statefulsets"),
            json!({ "spec": { "replicas": 0 } }),
            "spec.replicas",
        ),
        (("", "v1", "Secret", "secrets"), json!({ "data": { "api-key": STOLEN } }), "data.api-key"),
        (
            ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
            json!({ "spec": { "hostnames": ["eve.octopus.example"] } }),
            "spec.hostnames",
        ),
        (
            ("", "v1", "Namespace", "namespaces"),
            json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "privileged" } } }),
            "metadata.labels.pod-security.kubernetes.io/enforce",
        ),
    ]
}

/// The object of an edit.
fn found(
    cluster: &Client,
    namespace: &str,
    (group, version, kind, plural): (&str, &str, &str, &str),
) -> (Api<DynamicObject>, String) {
    let gvk = GroupVersionKind::gvk(group, version, kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
    let name = match kind {
        "Namespace" => return (Api::all_with(cluster.clone(), &resource), namespace.to_owned()),
        "NetworkPolicy" => "default-deny",
        _ => "octopus",
    };
    (Api::namespaced_with(cluster.clone(), namespace, &resource), name.to_owned())
}

fn edited() -> Row {
    Row {
        name: "somebody edits what an instance has in the reef's cluster",
        object: Object::Instance("edited"),
        wrong: |w| {
            Box::pin(async move {
                w.instance("edited", json!({})).await;
                w.ready(Object::Instance("edited")).await;
                let status = w.status("edited").await;
                let cluster = w.cluster(&status.placement.unwrap().reef).await;
                let namespace = status.namespace.unwrap();
                let eve = PatchParams { field_manager: Some(EVE.to_owned()), ..PatchParams::default() };
                join_all(edits().into_iter().map(|(kind, patch, field)| {
                    let ((api, name), eve) = (found(&cluster, &namespace, kind), eve.clone());
                    async move {
                        let before = api.get(&name).await.unwrap().data;
                        api.patch(&name, &eve, &Patch::Merge(&patch)).await.unwrap();
                        eventually(&format!("{} {field} is as it was", kind.2), || async {
                            let now = api.get(&name).await.ok()?;
                            let is_back =
                                now.data["spec"] == before["spec"] && now.data["data"] == before["data"];
                            let labels = now.metadata.labels.unwrap_or_default();
                            let enforce = labels.get("pod-security.kubernetes.io/enforce");
                            (is_back && enforce.is_none_or(|e| e == "restricted")).then_some(())
                        })
                        .await;
                    }
                }))
                .await;
            })
        },
        sees: Sees {
            condition: ("Ready", "True", "ReconcileSucceeded"),
            says: &["in service"],
            event: ("DriftCorrected", &[EVE, "StatefulSet octopus", "spec.replicas", "put back"]),
        },
        never: |w| {
            Box::pin(async move {
                let notes = eventually("an Event for each edit", || async {
                    let notes = notes(w).await;
                    edits()
                        .iter()
                        .all(|((_, _, kind, _), _, field)| {
                            notes.iter().any(|n| n.contains(kind) && n.contains(field) && n.contains(EVE))
                        })
                        .then_some(notes)
                })
                .await;
                assert_eq!(notes.len(), edits().len(), "one for each: {notes:#?}");
                assert!(
                    !notes.iter().any(|note| note.contains(STOLEN) || note.contains("stolen")),
                    "{notes:#?}"
                );
            })
        },
        heal: Heal::Then(|w| Box::pin(async move { w.ready(Object::Instance("edited")).await })),
    }
}

async fn notes(world: &World) -> Vec<String> {
    let events = Api::<Event>::all(world.client.clone());
    let about = ListParams::default().fields("involvedObject.kind=CloudInstance,involvedObject.name=edited");
    let events = events.list(&about).await.map(|list| list.items).unwrap_or_default();
    let drifts = events.into_iter().filter(|event| event.reason.as_deref() == Some("DriftCorrected"));
    drifts.filter_map(|event| event.message).collect()
}
