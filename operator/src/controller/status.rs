//! The only writer of status.

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use reef_crds::meta::STATUS_FIELD_MANAGER;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{Context, Error};
use crate::metrics::ByOutcome;

/// Writes `next` if it differs from `current`. True if something was written.
pub async fn write<K, S>(
    context: &Context,
    api: &Api<K>,
    object: &K,
    current: Option<&S>,
    next: &S,
    resource: &'static str,
) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
    S: Serialize + PartialEq,
{
    let count = |outcome| context.metrics.writes.get_or_create(&ByOutcome { resource, outcome }).inc();
    if current == Some(next) {
        count("skipped");
        return Ok(false);
    }
    context.claim.check()?;
    // With the UID, so that the status of a deleted object does not land on its namesake.
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "uid": object.uid() },
        "status": next,
    });
    let params = PatchParams::apply(STATUS_FIELD_MANAGER).force();
    api.patch_status(&object.name_any(), &params, &Patch::Apply(patch))
        .await
        .map_err(Error::api("write status"))?;
    count("changed");
    Ok(true)
}
