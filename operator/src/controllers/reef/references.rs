//! What a Reef refers to: its Region with the certificate, and the revision of its class.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    ByteString,
    api::{apps::v1::ControllerRevision, core::v1::Secret},
};
use kube::{Api, ResourceExt};
use reef_crds::{
    Reef, ReefClass, ReefClassSpec, Region,
    condition::{ConditionType, Reason, true_since},
    network::AddressPlan,
};

use crate::{
    azure::Arm,
    controller::{Context, Error, trouble::Trouble},
};

/// What was found.
pub struct References {
    /// The Region.
    pub region: Region,
    /// Its address plan.
    pub addresses: AddressPlan,
    /// Its client of Azure.
    pub arm: Arc<Arm>,
    /// Name and content of the class's revision.
    pub revision: (String, ReefClassSpec),
}

/// Why a Reef cannot be begun, and whether only a human can help.
pub struct Held(pub Trouble, pub bool);

/// Reads the Region.
pub async fn region(context: &Context, reef: &Reef) -> Result<Result<Region, Held>, Error> {
    let name = &reef.spec.region_ref.name;
    let api = Api::<Region>::all(context.client.clone());
    let found = api.get_opt(name).await.map_err(Error::api("read the Region"))?;
    Ok(found.ok_or_else(|| {
        let message =
            format!("spec.regionRef: Region {name} does not exist: create it or correct the reference");
        Held(Trouble::new(Reason::ReferenceNotFound, message), false)
    }))
}

/// The client of Azure for a Region.
pub fn arm(context: &Context, region: &Region) -> Result<Arc<Arm>, Held> {
    let azure = &region.spec.azure;
    let arm = context.arms.client(&azure.tenant_id, azure.client_id.as_deref());
    arm.map_err(|error| Held(Trouble::azure("spec.azure of the Region", &error), false))
}

/// Reads all that a Reef needs to be made or kept.
pub async fn all(context: &Context, reef: &Reef) -> Result<Result<References, Held>, Error> {
    let region = match region(context, reef).await? {
        Ok(region) => region,
        Err(held) => return Ok(Err(held)),
    };
    let begun = reef.status.as_ref().is_some_and(|s| s.resource_group.is_some());
    let conditions = region.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    let ready = true_since(&conditions, ConditionType::Ready).is_some();
    // A reef that was begun goes on: trouble of its Region is shown there.
    if !begun && (!ready || region.metadata.deletion_timestamp.is_some()) {
        let message = format!("spec.regionRef: Region {} is not Ready", region.name_any());
        return Ok(Err(Held(Trouble::new(Reason::ReferenceNotReady, message), false)));
    }
    let network = &region.spec.network;
    let addresses =
        AddressPlan::new(&network.address_space, network.reef_prefix_length, network.subnet_prefix_length);
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(error) => {
            return Ok(Err(Held(Trouble::new(Reason::SpecInvalid, format!("Region: {error}")), true)));
        }
    };
    let arm = match arm(context, &region) {
        Ok(arm) => arm,
        Err(held) => return Ok(Err(held)),
    };
    Ok(revision(context, reef).await?.map(|revision| References { region, addresses, arm, revision }))
}

/// The revision that the reef has, or the newest of the class that it names.
async fn revision(context: &Context, reef: &Reef) -> Result<Result<(String, ReefClassSpec), Held>, Error> {
    let class = &reef.spec.class_ref.name;
    let has = reef.status.as_ref().and_then(|s| s.class_revision.clone());
    // The hash is the part after the last dash.
    let has = has.filter(|revision| revision.rsplit_once('-').is_some_and(|(of, _)| of == class));
    let name = match has {
        Some(name) => name,
        None => match newest(context, class).await? {
            Ok(name) => name,
            Err(held) => return Ok(Err(held)),
        },
    };
    let api = Api::<ControllerRevision>::namespaced(context.client.clone(), &context.namespace);
    let found = api.get_opt(&name).await.map_err(Error::api("read the class's revision"))?;
    let Some(found) = found else {
        let message = format!(
            "revision {name} of ReefClass {class} does not exist (any more): put the ReefClass back as it was, or name another class"
        );
        return Ok(Err(Held(Trouble::new(Reason::ReferenceNotFound, message), false)));
    };
    let data = found.data.map(|d| d.0).unwrap_or_default();
    Ok(match serde_json::from_value(data) {
        Ok(spec) => Ok((name, spec)),
        Err(error) => Err(Held(Trouble::new(Reason::SpecInvalid, format!("revision {name}: {error}")), true)),
    })
}

async fn newest(context: &Context, class: &str) -> Result<Result<String, Held>, Error> {
    let api = Api::<ReefClass>::all(context.client.clone());
    let found = api.get_opt(class).await.map_err(Error::api("read the ReefClass"))?;
    let Some(found) = found else {
        let message =
            format!("spec.classRef: ReefClass {class} does not exist: create it or correct the reference");
        return Ok(Err(Held(Trouble::new(Reason::ReferenceNotFound, message), false)));
    };
    let generation = found.metadata.generation;
    let status = found.status.filter(|s| s.observed_generation == generation);
    Ok(status.and_then(|s| s.revision).ok_or_else(|| {
        let message = format!("spec.classRef: ReefClass {class} has no revision yet");
        Held(Trouble::new(Reason::ReferenceNotReady, message), false)
    }))
}

/// The region's certificate and key; none while the Secret cannot be read.
pub async fn certificate(context: &Context, region: &Region) -> Option<BTreeMap<String, ByteString>> {
    let reference = &region.spec.tls.secret_ref;
    let api = Api::<Secret>::namespaced(context.client.clone(), &reference.namespace);
    // Why it cannot be read shows on the Region.
    api.get_opt(&reference.name).await.ok().flatten()?.data
}
