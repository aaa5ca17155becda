//! Finalizers of our objects.

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Context, Error};

/// Whether an object has the finalizer.
pub fn has<K: Resource>(object: &K, finalizer: &str) -> bool {
    object.finalizers().iter().any(|f| f == finalizer)
}

/// Adds it.
pub async fn add<K>(context: &Context, api: &Api<K>, object: &K, finalizer: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let mut all = object.finalizers().to_vec();
    all.push(finalizer.to_owned());
    write(context, api, object, &all).await
}

/// Takes it away, which lets an object that is being deleted go.
pub async fn remove<K>(context: &Context, api: &Api<K>, object: &K, finalizer: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let rest: Vec<_> = object.finalizers().iter().filter(|f| *f != finalizer).cloned().collect();
    write(context, api, object, &rest).await
}

async fn write<K>(context: &Context, api: &Api<K>, object: &K, all: &[String]) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    context.claim.check()?;
    // With the version that was read: somebody else's finalizer of the same moment is not lost.
    let patch = json!({ "metadata": { "finalizers": all, "resourceVersion": object.resource_version() } });
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(Error::api("write the finalizer")(error)),
    }
}
