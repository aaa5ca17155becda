//! The volume of the share when its claim was lost: a namespace that somebody deleted takes the claim with it, and
//! Kubernetes keeps the volume for the claim that is gone.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use reef_crds::meta::{FIELD_MANAGER, LABEL_FLEET, LABEL_INSTANCE};
use serde_json::json;

use super::{bodies::Inputs, manifests, names};
use crate::{
    cluster::keep::{unread, verdict},
    controller::Context,
    resources::Verdict,
};

/// Lets the volume be bound again if the claim that it was bound to is gone. What is in the share stays as it is.
pub async fn free(context: &Context, client: &Client, inputs: &Inputs) -> Result<(), Verdict> {
    let name = names::volume(&inputs.share());
    let volumes = Api::<PersistentVolume>::all(client.clone());
    let found = volumes.get_opt(&name).await.map_err(|e| unread("PersistentVolume", &name, &e))?;
    let Some(volume) = found.filter(|volume| is_ours(volume, inputs)) else { return Ok(()) };
    let Some(bound_to) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()?.uid.clone()) else {
        return Ok(());
    };
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &inputs.namespace());
    let claim = claims.get_opt(manifests::CLAIM).await;
    let claim = claim.map_err(|e| unread("PersistentVolumeClaim", manifests::CLAIM, &e))?;
    if claim.and_then(|claim| claim.uid()).is_some_and(|uid| uid == bound_to)
        || context.claim.check().is_err()
    {
        return Ok(());
    }
    tracing::info!(volume = name, "its claim is gone: free for the next one");
    // Only as it was read: who has bound it meanwhile is not disturbed.
    let free = json!({
        "metadata": { "resourceVersion": volume.resource_version() },
        "spec": { "claimRef": { "uid": null, "resourceVersion": null } },
    });
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = volumes.patch(&name, &parameters, &Patch::Merge(&free)).await;
    patched.map(drop).map_err(|e| verdict("PersistentVolume", &name, &e))
}

fn is_ours(volume: &PersistentVolume, inputs: &Inputs) -> bool {
    let labels = volume.labels();
    labels.get(LABEL_FLEET) == Some(&inputs.fleet) && labels.get(LABEL_INSTANCE) == Some(&inputs.hash)
}
