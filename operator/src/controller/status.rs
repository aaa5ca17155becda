//! The only writer of status.

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use reef_crds::meta::STATUS_FIELD_MANAGER;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

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
    // With the UID, so that the status of a deleted object does not land on its namesake.
    let metadata = json!({ "uid": object.uid() });
    Ok(apply(context, api, object, metadata, (current, next), resource).await?.is_some())
}

/// The same, but only while the object is as it was read: a conflict is an error. The object as it is then, if something
/// was written.
pub async fn write_as_read<K, S>(
    context: &Context,
    api: &Api<K>,
    object: &K,
    current: Option<&S>,
    next: &S,
    resource: &'static str,
) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
    S: Serialize + PartialEq,
{
    let metadata = json!({ "uid": object.uid(), "resourceVersion": object.resource_version() });
    apply(context, api, object, metadata, (current, next), resource).await
}

async fn apply<K, S>(
    context: &Context,
    api: &Api<K>,
    object: &K,
    metadata: Value,
    (current, next): (Option<&S>, &S),
    resource: &'static str,
) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
    S: Serialize + PartialEq,
{
    let count = |outcome| context.metrics.writes.get_or_create(&ByOutcome { resource, outcome }).inc();
    if current == Some(next) {
        count("skipped");
        return Ok(None);
    }
    context.claim.check()?;
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": metadata,
        "status": next,
    });
    let params = PatchParams::apply(STATUS_FIELD_MANAGER).force();
    let written = api.patch_status(&object.name_any(), &params, &Patch::Apply(patch)).await;
    let written = written.map_err(Error::api("write status"))?;
    count("changed");
    Ok(Some(written))
}
