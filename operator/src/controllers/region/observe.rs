//! What a Region's references hold.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use reef_crds::Region;
use serde_json::Value;

use super::certificate::{self, Certificate};
use crate::{
    azure::{Account, ArmError, Cloud},
    controller::Context,
    observed::Observed,
};

/// Version of the API of DNS zones.
const DNS_API: &str = "2018-05-01";

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The DNS zone, or why it could not be read.
    pub zone: Result<Zone, ArmError>,
    /// The certificate in the Secret, or why it cannot be used.
    pub certificate: Observed<Result<Certificate, String>>,
    /// Whether reading the Secret is forbidden to us.
    pub forbidden: bool,
}

/// What we need to know of a DNS zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Azure's servers of the zone.
    pub name_servers: Vec<String>,
}

/// Reads the zone and the Secret. The private key is looked at here and goes no further.
pub async fn observe(region: &Region, context: &Context) -> Observation {
    let (zone, (certificate, forbidden)) =
        tokio::join!(zone(region, context), secret(region, &context.client));
    Observation { zone, certificate, forbidden }
}

/// Where in Azure a Region is, and as whom the operator works there.
pub fn account(region: &Region) -> Account {
    let azure = &region.spec.azure;
    Account {
        cloud: Cloud::public(),
        tenant: azure.tenant_id.clone(),
        client: azure.client_id.clone(),
        location: region.spec.location.clone(),
    }
}

async fn zone(region: &Region, context: &Context) -> Result<Zone, ArmError> {
    let cell = context.cells.region(&region.name_any());
    let arm = context.arms.client(&account(region), cell)?;
    let zone = arm.get(&region.spec.dns.zone_id, DNS_API).await?;
    let servers = zone["properties"]["nameServers"].as_array();
    let names = servers.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    Ok(Zone { name_servers: names.collect() })
}

async fn secret(region: &Region, client: &Client) -> (Observed<Result<Certificate, String>>, bool) {
    let reference = &region.spec.tls.secret_ref;
    let api = Api::<Secret>::namespaced(client.clone(), &reference.namespace);
    match api.get_opt(&reference.name).await {
        Ok(Some(secret)) => (Observed::Present(certificate::read(&secret.data.unwrap_or_default())), false),
        Ok(None) => (Observed::Absent, false),
        Err(error) => {
            let forbidden = matches!(&error, kube::Error::Api(status) if status.is_forbidden());
            (Observed::Unknown(error.to_string()), forbidden)
        }
    }
}
