//! Limits of the namespace, and the share as a volume (pure).

use serde_json::{Value, json};

use super::{QUOTA, Server, labels, metadata, object, size};
use crate::{
    azure::Cloud,
    cluster::keep::Manifest,
    controllers::{
        cloud_instance::{
            names,
            sizes::{cpu, memory},
        },
        reef::{bodies::NAMESPACE, keys::secret_name},
    },
};

/// Size of volume and claim. How much the share holds is its quota in Azure: a claim without a StorageClass could not
/// follow it when it grows.
const SIZE: &str = "1Ti";

/// Name of the claim of the instance's share.
pub const CLAIM: &str = "data";

pub(super) fn all(server: &Server<'_>) -> Vec<Manifest> {
    vec![quota(server), limits(server), volume(server), claim(server)]
}

/// Room for the server, and for one more of the same size while it is replaced; nothing else fits.
pub(super) fn quota(server: &Server<'_>) -> Manifest {
    // A pod that is larger than it is to be is still there.
    let size = server.asked.map_or(size(server), |asked| asked.max(size(server)));
    let hard = json!({
        "requests.cpu": cpu(2 * size.cpu_request), "limits.cpu": cpu(2 * size.cpu_limit),
        "requests.memory": memory(2 * size.memory_request), "limits.memory": memory(2 * size.memory_limit),
        "pods": "4", "persistentvolumeclaims": "1", "services": "4", "secrets": "10", "configmaps": "10",
        "services.loadbalancers": "0", "services.nodeports": "0",
    });
    let spec = json!({ "hard": hard });
    object(
        "resourcequotas",
        "v1",
        "ResourceQuota",
        json!({ "metadata": metadata(server.inputs, QUOTA), "spec": spec }),
    )
}

/// A container that says nothing gets little.
fn limits(server: &Server<'_>) -> Manifest {
    let limit = json!({
        "type": "Container",
        "defaultRequest": { "cpu": "10m", "memory": "32Mi" },
        "default": { "cpu": "100m", "memory": "128Mi" },
    });
    let spec = json!({ "limits": [limit] });
    object(
        "limitranges",
        "v1",
        "LimitRange",
        json!({ "metadata": metadata(server.inputs, QUOTA), "spec": spec }),
    )
}

/// Static, so that nothing in the cluster can make or delete a share. The node mounts it with the account's key,
/// which lies where no instance can read it.
fn volume(server: &Server<'_>) -> Manifest {
    let inputs = server.inputs;
    let (share, group) = (inputs.share(), inputs.group.rsplit('/').next().unwrap_or_default().to_owned());
    let account = &inputs.account;
    let mut csi = json!({
        "driver": "file.csi.azure.com",
        "volumeHandle": format!("{group}#{account}#{share}"),
        "volumeAttributes": { "resourceGroup": group, "storageAccount": account, "shareName": share },
        "nodeStageSecretRef": { "name": secret_name(account), "namespace": NAMESPACE },
    });
    // The driver's own default stays unsaid: volumes that exist cannot be changed.
    if inputs.cloud.storage_suffix != Cloud::public().storage_suffix {
        csi["volumeAttributes"]["storageEndpointSuffix"] = json!(inputs.cloud.storage_suffix);
    }
    let options: Vec<Value> = [
        "dir_mode=0770",
        "file_mode=0660",
        "uid=999",
        "gid=999",
        "mfsymlinks",
        "cache=strict",
        "nosharesock",
        "actimeo=30",
        "nobrl",
    ]
    .map(Value::from)
    .to_vec();
    let spec = json!({
        "capacity": { "storage": SIZE },
        "accessModes": ["ReadWriteMany"], "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": inputs.namespace(), "name": CLAIM },
        "mountOptions": options, "csi": csi,
    });
    let metadata = json!({ "name": names::volume(&share), "labels": labels(inputs, "storage") });
    object("persistentvolumes", "v1", "PersistentVolume", json!({ "metadata": metadata, "spec": spec }))
}

fn claim(server: &Server<'_>) -> Manifest {
    let inputs = server.inputs;
    let spec = json!({
        "accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": names::volume(&inputs.share()),
        "resources": { "requests": { "storage": SIZE } },
    });
    object(
        "persistentvolumeclaims",
        "v1",
        "PersistentVolumeClaim",
        json!({ "metadata": metadata(inputs, CLAIM), "spec": spec }),
    )
}
