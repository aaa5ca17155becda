//! What a Region's references hold.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use reef_crds::{
    Region,
    region::{AzureSpec, CloudName, CredentialType, SecretReference},
};
use serde_json::Value;

use super::certificate::{self, Certificate};
use crate::{
    azure::{Account, ArmError, Cloud, Proof},
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

/// Where in Azure a Region is, and as whom the operator works there. What a Secret proves is known when the Region was
/// looked at.
pub fn account(region: &Region, context: &Context) -> Result<Account, ArmError> {
    let azure = &region.spec.azure;
    let kind =
        azure.credential.as_ref().map_or(CredentialType::WorkloadIdentity, |credential| credential.kind);
    let proof = match kind {
        CredentialType::WorkloadIdentity => Proof::WorkloadIdentity,
        CredentialType::ManagedIdentity => Proof::ManagedIdentity,
        CredentialType::DeveloperTools => Proof::DeveloperTools,
        CredentialType::ClientSecret | CredentialType::ClientCertificate => {
            let source = source(region).map(|(.., source)| source).unwrap_or_default();
            let known = context.arms.proof(&region.name_any(), &source);
            known.ok_or_else(|| no_proof(region, "its Secret has not been read yet".to_owned(), false))?
        }
    };
    Ok(Account {
        cloud: cloud(azure),
        tenant: azure.tenant_id.clone(),
        client: azure.client_id.clone(),
        proof,
        location: region.spec.location.clone(),
    })
}

fn no_proof(region: &Region, message: String, refused: bool) -> ArmError {
    let client = region.spec.azure.client_id.clone().unwrap_or_else(|| "(the operator's own)".to_owned());
    ArmError::NoToken { client, message, refused }
}

/// The Secret that proves the identity of a Region, and how; in words as well. None if no Secret does.
fn source(region: &Region) -> Option<(CredentialType, &SecretReference, String)> {
    let credential = region.spec.azure.credential.as_ref()?;
    let reference = credential.secret_ref.as_ref()?;
    let words = format!("{:?} {}/{}", credential.kind, reference.namespace, reference.name);
    Some((credential.kind, reference, words))
}

/// Reads what proves the identity of a Region, if that is in a Secret.
async fn prove(region: &Region, context: &Context) -> Result<(), ArmError> {
    let region_name = region.name_any();
    let Some((kind, reference, source)) = source(region) else {
        context.arms.prove(&region_name, None);
        return Ok(());
    };
    let name = format!("secretRef: Secret {}/{}", reference.namespace, reference.name);
    let api = Api::<Secret>::namespaced(context.client.clone(), &reference.namespace);
    let data = match api.get_opt(&reference.name).await {
        Ok(Some(secret)) => secret.data.unwrap_or_default(),
        Ok(None) => {
            context.arms.prove(&region_name, None);
            return Err(no_proof(region, format!("{name} does not exist"), true));
        }
        Err(error) => return Err(no_proof(region, format!("{name} could not be read: {error}"), false)),
    };
    let part = |key: &str| data.get(key).filter(|v| !v.0.is_empty()).ok_or(format!("key {key} is missing"));
    let proof = match kind {
        CredentialType::ClientSecret => part("clientSecret").and_then(|secret| {
            let text =
                std::str::from_utf8(&secret.0).map_err(|_| "key clientSecret is no text".to_owned())?;
            Ok(Proof::ClientSecret(text.trim_end().into()))
        }),
        _ => part("tls.crt").and_then(|crt| Proof::certificate(&crt.0, &part("tls.key")?.0)),
    };
    match proof {
        Ok(proof) => context.arms.prove(&region_name, Some((source, proof))),
        Err(why) => {
            context.arms.prove(&region_name, None);
            return Err(no_proof(region, format!("{name}: {why}"), true));
        }
    }
    Ok(())
}

/// The cloud that a Region names.
pub fn cloud(azure: &AzureSpec) -> Cloud {
    match (azure.cloud, &azure.custom_cloud) {
        (Some(CloudName::AzureUsGovernment), _) => Cloud::us_government(),
        (Some(CloudName::AzureChina), _) => Cloud::china(),
        (Some(CloudName::Custom), Some(custom)) => Cloud {
            resource_manager: custom.resource_manager.clone(),
            audience: custom.audience.clone().unwrap_or_else(|| custom.resource_manager.clone()),
            authority: custom.authority.clone(),
            sql_audience: custom.sql_audience.clone(),
            storage_suffix: custom.storage_suffix.clone(),
            hosts: Vec::new(),
        },
        // The schema lets no custom cloud be without its endpoints.
        (None | Some(CloudName::AzurePublic | CloudName::Custom), _) => Cloud::public(),
    }
}

async fn zone(region: &Region, context: &Context) -> Result<Zone, ArmError> {
    let cell = context.cells.region(&region.name_any());
    prove(region, context).await?;
    let arm = context.arms.client(&account(region, context)?, cell)?;
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
            (Observed::Unknown(error.to_string().into()), forbidden)
        }
    }
}
