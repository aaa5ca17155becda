//! What a Region's references hold.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use reef_crds::Region;

use super::certificate::{self, Certificate};
use crate::observed::Observed;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The certificate in the Secret, or why it cannot be used.
    pub certificate: Observed<Result<Certificate, String>>,
    /// Whether reading the Secret is forbidden to us.
    pub forbidden: bool,
}

/// Reads the Secret. The private key is looked at here and goes no further.
pub async fn observe(region: &Region, client: &Client) -> Observation {
    let reference = &region.spec.tls.secret_ref;
    let api = Api::<Secret>::namespaced(client.clone(), &reference.namespace);
    match api.get_opt(&reference.name).await {
        Ok(Some(secret)) => Observation {
            certificate: Observed::Present(certificate::read(&secret.data.unwrap_or_default())),
            forbidden: false,
        },
        Ok(None) => Observation { certificate: Observed::Absent, forbidden: false },
        Err(error) => {
            let forbidden = matches!(&error, kube::Error::Api(status) if status.is_forbidden());
            Observation { certificate: Observed::Unknown(error.to_string()), forbidden }
        }
    }
}
