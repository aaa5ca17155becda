//! The `cloud.octopus.com/v1alpha1` API: the types of its kinds, the names used in labels and
//! annotations, and the condition types and reasons that users, dashboards and alerts rely on.
//!
//! Nothing here talks to an API server. The package is used by the operator, by the sandbox and its
//! tests, and by `crdgen`, which writes the CRDs and the API reference.

pub mod cloud_instance;
pub mod condition;
pub mod meta;
pub mod network;
pub mod quantity;
pub mod reef;
pub mod reef_class;
pub mod reference;
pub mod region;
pub mod retained_instance;
pub mod schema;

pub use cloud_instance::{CloudInstance, CloudInstanceSpec, CloudInstanceStatus};
pub use reef::{Reef, ReefSpec, ReefStatus};
pub use reef_class::{ReefClass, ReefClassSpec, ReefClassStatus};
pub use region::{Region, RegionSpec, RegionStatus};
pub use retained_instance::{RetainedInstance, RetainedInstanceSpec, RetainedInstanceStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// Every CRD of the API, finished as users get it (see [`schema::finish`]), in the order in which the
/// reference lists them.
pub fn all() -> Vec<CustomResourceDefinition> {
    use kube::CustomResourceExt;
    [Region::crd(), ReefClass::crd(), Reef::crd(), CloudInstance::crd(), RetainedInstance::crd()]
        .into_iter()
        .map(schema::finish)
        .collect()
}
