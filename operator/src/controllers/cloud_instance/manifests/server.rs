//! The server itself (pure). Image, environment and probes as in Octopus's own chart, with what that chart leaves
//! open closed: no root, no privileges, a read-only file system, no token of the API server.

use serde_json::{Value, json};

use super::{POLLING_PORT, SERVER, Server, WEB_PORT, metadata, object, selector, size, storage::CLAIM};
use crate::{cluster::keep::Manifest, controllers::cloud_instance::bodies::SERVICE_ACCOUNT};

/// User and group that the image's server runs as without root.
const USER: u32 = 999;

/// Where the token is that Entra takes for the identity.
const TOKEN_FOLDER: &str = "/var/run/secrets/azure/tokens";

/// Longest time for a clean stop, seconds: tasks that run may come to an end.
const GRACE_SECONDS: u32 = 300;

/// Folders of the share, with the places where the server looks for them.
const FOLDERS: [(&str, &str); 4] = [
    ("repository", "/repository"),
    ("artifacts", "/artifacts"),
    ("taskLogs", "/taskLogs"),
    ("eventExports", "/eventExports"),
];

/// What the server writes and nobody needs after it: names of volumes and their places.
const SCRATCH: [(&str, &str); 6] = [
    ("tmp", "/tmp"),
    ("home", "/home/octopus"),
    ("etc", "/etc/octopus"),
    ("logs", "/Octopus/Octopus/Logs"),
    ("diagnostics", "/Octopus/.diagnostics"),
    ("cache", "/cache"),
];

pub(super) fn all(server: &Server<'_>) -> Vec<Manifest> {
    vec![
        account(server),
        secret(server),
        service(server),
        headless(server),
        stateful_set(server),
        budget(server),
    ]
}

fn account(server: &Server<'_>) -> Manifest {
    let mut metadata = metadata(server.inputs, SERVICE_ACCOUNT);
    metadata["annotations"] = json!({ "azure.workload.identity/client-id": server.client_id });
    let body = json!({ "metadata": metadata, "automountServiceAccountToken": false });
    object("serviceaccounts", "v1", "ServiceAccount", body)
}

/// What the server is told in secret.
fn secret(server: &Server<'_>) -> Manifest {
    let encode = |text: &str| azure_core::base64::encode(text);
    let data = json!({
        "connection-string": encode(&connection_string(server)),
        "master-key": encode(&server.keys.master_key),
        "api-key": encode(&server.keys.api_key),
    });
    object(
        "secrets",
        "v1",
        "Secret",
        json!({ "metadata": metadata(server.inputs, SERVER), "type": "Opaque", "data": data }),
    )
}

/// The database as the server opens it: as its own identity, without a password.
fn connection_string(server: &Server<'_>) -> String {
    let inputs = server.inputs;
    format!(
        "Server=tcp:{},1433;Initial Catalog={};Authentication=Active Directory Workload Identity;Encrypt=True",
        inputs.sql_server.1,
        inputs.database()
    )
}

fn service(server: &Server<'_>) -> Manifest {
    let port = |name: &str, port: u16, target: &str| json!({ "name": name, "port": port, "protocol": "TCP", "targetPort": target });
    let ports = json!([port("web", 80, "web"), port("polling", POLLING_PORT, "polling")]);
    let spec = json!({ "type": "ClusterIP", "selector": selector(server.inputs), "ports": ports });
    object("services", "v1", "Service", json!({ "metadata": metadata(server.inputs, SERVER), "spec": spec }))
}

/// Gives each pod of the StatefulSet a name of its own.
fn headless(server: &Server<'_>) -> Manifest {
    let name = format!("{SERVER}-nodes");
    let ports = json!([{ "name": "web", "port": WEB_PORT, "protocol": "TCP", "targetPort": "web" }]);
    let spec = json!({ "clusterIP": "None", "selector": selector(server.inputs), "ports": ports, "publishNotReadyAddresses": true });
    object("services", "v1", "Service", json!({ "metadata": metadata(server.inputs, &name), "spec": spec }))
}

fn budget(server: &Server<'_>) -> Manifest {
    let spec = json!({ "maxUnavailable": 1, "selector": { "matchLabels": selector(server.inputs) } });
    object(
        "poddisruptionbudgets",
        "policy/v1",
        "PodDisruptionBudget",
        json!({ "metadata": metadata(server.inputs, SERVER), "spec": spec }),
    )
}

/// `OnDelete`: a pod is never replaced by a newer version while another one runs.
fn stateful_set(server: &Server<'_>) -> Manifest {
    let inputs = server.inputs;
    let mut labels = super::labels(inputs, "server");
    labels["azure.workload.identity/use"] = json!("true");
    let spec = json!({
        "replicas": i32::from(server.runs),
        "serviceName": format!("{SERVER}-nodes"),
        "podManagementPolicy": "OrderedReady",
        "updateStrategy": { "type": "OnDelete" },
        "selector": { "matchLabels": selector(inputs) },
        "template": {
            "metadata": { "labels": labels, "annotations": { super::CONNECTION: super::connection(server) } },
            "spec": pod(server),
        },
    });
    object(
        "statefulsets",
        "apps/v1",
        "StatefulSet",
        json!({ "metadata": metadata(inputs, SERVER), "spec": spec }),
    )
}

fn pod(server: &Server<'_>) -> Value {
    let token = json!({ "serviceAccountToken": { "path": "azure-identity-token", "audience": "api://AzureADTokenExchange", "expirationSeconds": 3600 } });
    let mut volumes = vec![
        json!({ "name": CLAIM, "persistentVolumeClaim": { "claimName": CLAIM } }),
        json!({ "name": "azure-token", "projected": { "sources": [token] } }),
        // Many small files: a share would be slow, and nobody needs them elsewhere.
        json!({ "name": "git", "emptyDir": { "sizeLimit": "10Gi" } }),
    ];
    volumes.extend(SCRATCH.map(|(name, _)| json!({ "name": name, "emptyDir": {} })));
    let user_nodes = json!({ "key": "kubernetes.azure.com/mode", "operator": "In", "values": ["user"] });
    json!({
        "serviceAccountName": SERVICE_ACCOUNT,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "priorityClassName": "reef-instance",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": { "type": "RuntimeDefault" },
        },
        "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
            { "weight": 100, "preference": { "matchExpressions": [user_nodes] } },
        ] } },
        "volumes": volumes,
        "containers": [container(server)],
    })
}

fn container(server: &Server<'_>) -> Value {
    let mut mounts: Vec<Value> = FOLDERS
        .iter()
        .map(|(folder, place)| json!({ "name": CLAIM, "mountPath": place, "subPath": folder }))
        .collect();
    mounts.extend(SCRATCH.map(|(name, place)| json!({ "name": name, "mountPath": place })));
    mounts.push(json!({ "name": "git", "mountPath": "/home/octopus/.octopus/OctopusServer/Server/Git" }));
    mounts.push(json!({ "name": "azure-token", "mountPath": TOKEN_FOLDER, "readOnly": true }));
    // The ping says 418 while a node drains, which is no reason to end it; this answers as long as the server lives.
    let probe = |path: &str, seconds: u32, failures: u32| json!({ "httpGet": { "path": path, "port": "web", "scheme": "HTTP" }, "periodSeconds": seconds, "timeoutSeconds": 5, "failureThreshold": failures });
    json!({
        "name": SERVER,
        "image": format!("{}:{}", server.image, server.version),
        "imagePullPolicy": "IfNotPresent",
        // The last lines of its log are why it ended.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "env": environment(server),
        "ports": [
            { "name": "web", "containerPort": WEB_PORT, "protocol": "TCP" },
            { "name": "polling", "containerPort": POLLING_PORT, "protocol": "TCP" },
        ],
        "resources": size(server).resources(),
        // A change of size ends nobody's tasks.
        "resizePolicy": [
            { "resourceName": "cpu", "restartPolicy": "NotRequired" },
            { "resourceName": "memory", "restartPolicy": "NotRequired" },
        ],
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
        },
        // Half an hour for the schema of a first start or an upgrade.
        "startupProbe": probe("/api", 2, 900),
        "readinessProbe": probe("/api/serverstatus/hosted/internal", 5, 3),
        "livenessProbe": probe("/api", 30, 10),
        "volumeMounts": mounts,
    })
}

fn environment(server: &Server<'_>) -> Value {
    let plain = |name: &str, value: &str| json!({ "name": name, "value": value });
    let secret = |name: &str, key: &str| json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": SERVER, "key": key } } });
    let node = json!({ "name": "OCTOPUS_SERVER_NODE_NAME", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } } });
    json!([
        plain("ACCEPT_EULA", "Y"),
        plain("DISABLE_DIND", "Y"),
        node,
        secret("DB_CONNECTION_STRING", "connection-string"),
        secret("MASTER_KEY", "master-key"),
        // Without a password this is an account for services, not one to sign in with.
        plain("ADMIN_USERNAME", "reef-operator"),
        plain("ADMIN_EMAIL", "reef-operator@localhost"),
        secret("ADMIN_API_KEY", "api-key"),
        plain("AZURE_CLIENT_ID", server.client_id),
        plain("AZURE_TENANT_ID", &server.inputs.tenant),
        plain("AZURE_AUTHORITY_HOST", &format!("{}/", server.inputs.cloud.authority)),
        plain("AZURE_FEDERATED_TOKEN_FILE", &format!("{TOKEN_FOLDER}/azure-identity-token")),
    ])
}
