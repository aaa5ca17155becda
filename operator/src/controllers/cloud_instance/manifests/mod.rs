//! What an instance has in the reef's cluster (pure).

mod network;
mod server;
mod storage;

pub use storage::CLAIM;

use reef_crds::meta::{
    ANNOTATION_CLAIM, LABEL_FLEET, LABEL_INSTANCE, LABEL_INSTANCE_NAME, LABEL_INSTANCE_NAMESPACE, LABEL_REEF,
    OPERATOR,
};
use serde_json::{Value, json};

use super::{
    bodies::Inputs,
    done::Done,
    sizes::{self, Size},
};
use crate::{cluster::keep::Manifest, controller::hash};

/// Name of StatefulSet, Service, Secret and container of the server.
pub const SERVER: &str = "octopus";
/// Name of the quota and of the default limits of the namespace.
pub const QUOTA: &str = "instance";
/// Port of the web front end and the REST API in the pod.
pub const WEB_PORT: u16 = 8080;
/// Port for polling Tentacles in the pod and at the gateway.
pub const POLLING_PORT: u16 = 10_943;

/// Name of the server's pod, and of the node of Octopus that it is.
pub fn pod_name() -> String {
    format!("{SERVER}-0")
}

/// What the manifests follow from, beside the instance's inputs.
#[derive(Clone, Debug)]
pub struct Server<'a> {
    /// The instance.
    pub inputs: &'a Inputs,
    /// Image without tag.
    pub image: &'a str,
    /// Release that runs: the image's tag.
    pub version: &'a str,
    /// Tasks at once.
    pub task_cap: u8,
    /// Client id of the instance's identity.
    pub client_id: &'a str,
    /// Azure's own id of the database: one that was made again is another.
    pub database: &'a str,
    /// The keys.
    pub keys: &'a super::keys::Keys,
    /// What its pod asks for now, if there is one.
    pub asked: Option<Size>,
    /// Whether the server is to run.
    pub runs: bool,
}

/// The namespace, before all else.
pub fn namespace(inputs: &Inputs, done: &Done) -> Manifest {
    let mut labels = labels(inputs, "server");
    labels["pod-security.kubernetes.io/enforce"] = json!("restricted");
    labels[LABEL_INSTANCE_NAMESPACE] = json!(inputs.instance_namespace);
    labels[LABEL_INSTANCE_NAME] = json!(inputs.instance_name);
    let mut annotations = json!({ ANNOTATION_CLAIM: inputs.uid });
    for (name, value) in done.annotations() {
        annotations[name] = json!(value);
    }
    object(
        "namespaces",
        "v1",
        "Namespace",
        json!({
            "metadata": { "name": inputs.namespace(), "labels": labels, "annotations": annotations },
        }),
    )
}

/// The quota of the namespace: room for what the server asks for and is to ask for.
pub fn room(server: &Server<'_>) -> Manifest {
    storage::quota(server)
}

/// All other objects but the routes, in the order in which they are made.
pub fn all(server: &Server<'_>) -> Vec<Manifest> {
    let mut all = storage::all(server);
    all.extend(network::policies(server));
    all.extend(server::all(server));
    all
}

/// How the server is reached from outside.
pub fn routes(server: &Server<'_>) -> Vec<Manifest> {
    network::routes(server)
}

/// Annotation of the pod: for which database and identity it was started.
pub const CONNECTION: &str = "cloud.octopus.com/connection";

/// The value of [`CONNECTION`]. Says nothing about either.
pub fn connection(server: &Server<'_>) -> String {
    hash::hex(&["connection", server.database, server.client_id], 16)
}

fn labels(inputs: &Inputs, component: &str) -> Value {
    json!({
        "app.kubernetes.io/managed-by": OPERATOR,
        "app.kubernetes.io/part-of": OPERATOR,
        "app.kubernetes.io/component": component,
        LABEL_FLEET: inputs.fleet,
        LABEL_REEF: inputs.reef,
        LABEL_INSTANCE: inputs.hash,
    })
}

/// Labels by which Services and policies find the pods of the server. They never change.
fn selector(inputs: &Inputs) -> Value {
    json!({ "app.kubernetes.io/component": "server", LABEL_INSTANCE: inputs.hash })
}

fn object(plural: &'static str, api_version: &str, kind: &str, mut object: Value) -> Manifest {
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    Manifest { plural, object }
}

/// Metadata of an object in the instance's namespace.
fn metadata(inputs: &Inputs, name: &str) -> Value {
    json!({ "name": name, "namespace": inputs.namespace(), "labels": labels(inputs, "server") })
}

/// The size that a new pod starts with. It is lowered when the server is ready.
fn size(server: &Server<'_>) -> Size {
    sizes::starting(sizes::of(server.task_cap))
}
