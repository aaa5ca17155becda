//! Volumes by claim: from a PersistentVolumeClaim to the folder of its share.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource,
};
use kube::{Api, Client, ResourceExt};

use super::sources::{Values, secret};
use crate::{azure::files::MountRequest, shares::Shares};

/// Name of the driver of Azure Files.
pub const DRIVER: &str = "file.csi.azure.com";

/// What is taken from a PersistentVolume.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    account: Option<String>,
    name: String,
    secret: (String, String),
}

/// The folder with the files of a claim. The error is what the pod shows.
pub(super) async fn mount(
    client: &Client,
    shares: Option<&dyn Shares>,
    namespace: &str,
    volume: &PersistentVolumeClaimVolumeSource,
) -> Result<PathBuf, String> {
    let name = &volume.claim_name;
    let claim = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace).get_opt(name).await;
    let claim = claim.map_err(|e| format!("claim {name}: {e}"))?;
    let claim = claim.ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
    let bound_to = bound(&claim)?;
    let found = Api::<PersistentVolume>::all(client.clone()).get_opt(bound_to).await;
    let found = found.map_err(|e| format!("volume {bound_to}: {e}"))?;
    let found = found.ok_or_else(|| format!("persistentvolume \"{bound_to}\" not found"))?;
    let csi = matching(&claim, &found)?;
    let shares = shares.ok_or_else(|| {
        format!("driver {DRIVER} is not on this node: only clusters that stand for AKS have it")
    })?;
    let share = share(csi).map_err(|e| format!("persistentvolume \"{bound_to}\": {e}"))?;
    let (of, secret_name) = &share.secret;
    let values = secret(client, of, secret_name, None).await?;
    let (account, key) = credentials(&values).map_err(|e| format!("secret {of}/{secret_name}: {e}"))?;
    if let Some(expected) = share.account.as_ref().filter(|expected| **expected != account) {
        return Err(format!("secret {of}/{secret_name} is of storage account {account}, not {expected}"));
    }
    let wanted = MountRequest { account: &account, share: &share.name, key: &key };
    shares.mount(&wanted).map_err(|e| format!("mount //{account}.file.core.windows.net/{}: {e}", share.name))
}

fn bound(claim: &PersistentVolumeClaim) -> Result<&str, String> {
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
    match (phase, volume) {
        ("Bound", Some(volume)) => Ok(volume),
        _ => Err(format!("claim {} is not bound: its phase is {phase}", claim.name_any())),
    }
}

/// The driver's part of a volume that belongs to the claim.
fn matching<'a>(
    claim: &PersistentVolumeClaim,
    volume: &'a PersistentVolume,
) -> Result<&'a CSIPersistentVolumeSource, String> {
    let name = volume.name_any();
    let spec = volume.spec.as_ref();
    let reference = spec.and_then(|s| s.claim_ref.as_ref());
    let ours = |r: &k8s_openapi::api::core::v1::ObjectReference| {
        r.uid == claim.metadata.uid
            && r.name == claim.metadata.name
            && r.namespace == claim.metadata.namespace
    };
    if !reference.is_some_and(ours) {
        return Err(format!("persistentvolume \"{name}\" is not bound to claim {}", claim.name_any()));
    }
    match spec.and_then(|s| s.csi.as_ref()) {
        Some(csi) if csi.driver == DRIVER => Ok(csi),
        Some(csi) => Err(format!("driver {} is not supported by the sandbox's node", csi.driver)),
        None => {
            Err(format!("the type of persistentvolume \"{name}\" is not supported by the sandbox's node"))
        }
    }
}

fn share(csi: &CSIPersistentVolumeSource) -> Result<Share, String> {
    if csi.read_only == Some(true) {
        return Err("csi.readOnly is not supported by the sandbox's node: set it in the pod".to_owned());
    }
    let attributes = csi.volume_attributes.as_ref();
    // The driver knows no case in the names of attributes.
    let attribute = |name: &str| {
        let mut all = attributes.into_iter().flatten();
        all.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    };
    let secret = csi.node_stage_secret_ref.as_ref().ok_or("csi.nodeStageSecretRef is missing")?;
    Ok(Share {
        account: attribute("storageAccount"),
        name: attribute("shareName")
            .filter(|n| !n.is_empty())
            .ok_or("volumeAttributes.shareName is missing")?,
        secret: (
            secret.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            secret.name.clone().ok_or("csi.nodeStageSecretRef has no name")?,
        ),
    })
}

fn credentials(values: &Values) -> Result<(String, String), String> {
    let value = |name: &str| {
        let bytes = values.get(name).ok_or_else(|| format!("it has no {name}"))?;
        let text = std::str::from_utf8(bytes).map_err(|_| format!("{name} is not text"))?;
        Ok::<_, String>(text.trim().to_owned())
    };
    Ok((value("azurestorageaccountname")?, value("azurestorageaccountkey")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(phase: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": { "name": "data", "namespace": "one", "uid": "1" },
            "spec": { "volumeName": "pv" }, "status": { "phase": phase },
        }))
        .unwrap()
    }

    fn volume(uid: &str, source: &Value) -> PersistentVolume {
        let mut spec = json!({ "claimRef": { "name": "data", "namespace": "one", "uid": uid } });
        spec.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        serde_json::from_value(json!({ "metadata": { "name": "pv" }, "spec": spec })).unwrap()
    }

    #[test]
    fn only_a_bound_claim_and_its_own_volume_are_mounted() {
        assert_eq!(bound(&claim("Bound")), Ok("pv"));
        for phase in ["Pending", "Lost"] {
            assert!(bound(&claim(phase)).unwrap_err().contains(phase));
        }
        let csi = json!({ "csi": { "driver": DRIVER, "volumeHandle": "h" } });
        assert!(matching(&claim("Bound"), &volume("1", &csi)).is_ok());
        for (uid, source, expect) in [
            ("2", csi, "is not bound to claim data"),
            ("1", json!({ "csi": { "driver": "disk.csi.azure.com", "volumeHandle": "h" } }), "disk.csi"),
            ("1", json!({ "hostPath": { "path": "/" } }), "the type of"),
        ] {
            let why = matching(&claim("Bound"), &volume(uid, &source)).unwrap_err();
            assert!(why.contains(expect), "{why}");
        }
    }

    #[test]
    fn a_volume_names_its_share_and_its_secret() {
        let csi = |change: Value| {
            let mut csi = json!({
                "driver": DRIVER, "volumeHandle": "g#a#s",
                "volumeAttributes": { "resourceGroup": "g", "storageaccount": "a", "shareName": "s" },
                "nodeStageSecretRef": { "name": "key", "namespace": "two" },
            });
            csi.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            share(&serde_json::from_value(csi).unwrap())
        };
        let expect = Share {
            account: Some("a".to_owned()),
            name: "s".to_owned(),
            secret: ("two".to_owned(), "key".to_owned()),
        };
        assert_eq!(csi(json!({})), Ok(expect));
        assert!(csi(json!({ "nodeStageSecretRef": null })).unwrap_err().contains("nodeStageSecretRef"));
        assert!(csi(json!({ "volumeAttributes": {} })).unwrap_err().contains("shareName"));
        assert!(csi(json!({ "readOnly": true })).unwrap_err().contains("readOnly"));
        let values = |name: &str| Values::from([(name.to_owned(), b"x\n".to_vec())]);
        let why = credentials(&values("azurestorageaccountname")).unwrap_err();
        assert_eq!(why, "it has no azurestorageaccountkey");
    }
}
