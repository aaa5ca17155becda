//! What a Reef refers to: its Region with the certificate, and the revision of its class.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
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

use super::{
    begin::Existing,
    bodies::{GROUPS_API, NETWORK_API},
    names::{self, TAG_FLEET, TAG_REEF, TAG_REGION, TAG_REVISION},
    parts::Part,
};
use crate::{
    azure::Arm,
    bulkhead::Cell,
    controller::{
        Context, Error,
        stop::{Ban, Stops},
        trouble::Trouble,
    },
    controllers::region::{certificate, observe::account},
    observed::{Observed, Why},
    resources::{Verdict, Write, decide::hold, observe::observed},
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
    /// What exists already for a reef that has no names yet.
    pub existing: Existing,
    /// What may not be done now.
    pub stops: Stops,
}

impl References {
    /// The client for a part.
    pub fn arm_of(&self, context: &Context, part: Part) -> Arc<Arm> {
        if part == Part::Record { in_zone(context, &self.region, &self.arm) } else { self.arm.clone() }
    }
}

/// The client for records. The zone is not a reef's: what it answers says nothing about the reef, and a reef that is in
/// trouble does not keep its records from being changed.
pub fn in_zone(context: &Context, region: &Region, arm: &Arc<Arm>) -> Arc<Arm> {
    arm.in_cell(context.cells.region(&region.name_any()))
}

/// Why a Reef cannot be begun, and whether only a human can help.
pub struct Held(pub Trouble, pub bool);

/// What the API server has of something that is referred to. Of what it has and we cannot read nothing may follow.
pub fn readable<T>(
    answer: Result<Option<T>, kube::Error>,
    (what, named): (&'static str, &str),
) -> Result<Result<Option<T>, Held>, Error> {
    match answer {
        Err(kube::Error::SerdeError(error)) => {
            let message = format!(
                "{named} cannot be read ({error}): correct it, or install the CRD chart that belongs to the operator"
            );
            Ok(Err(Held(Trouble::new(Reason::SpecInvalid, message), false)))
        }
        other => other.map(Ok).map_err(Error::api(what)),
    }
}

/// Reads the Region of this name.
pub async fn region(context: &Context, name: &str) -> Result<Result<Region, Held>, Error> {
    let api = Api::<Region>::all(context.client.clone());
    let named = format!("spec.regionRef: Region {name}");
    Ok(match readable(api.get_opt(name).await, ("read the Region", &named))? {
        Ok(Some(region)) => Ok(region),
        Ok(None) => {
            let message = format!("{named} does not exist: create it or correct the reference");
            Err(Held(Trouble::new(Reason::ReferenceNotFound, message), false))
        }
        Err(held) => Err(held),
    })
}

/// The client of Azure for a Region, for what is in this cell, which refuses what is forbidden.
pub fn arm(context: &Context, region: &Region, cell: Arc<Cell>, ban: &Ban) -> Result<Arc<Arm>, Held> {
    let arm = account(region, context).and_then(|account| context.arms.client(&account, cell));
    arm.map(|arm| arm.under(ban))
        .map_err(|error| Held(Trouble::azure("spec.azure of the Region", &error), false))
}

/// Reads all that a Reef needs to be made or kept.
pub async fn all(context: &Context, reef: &Reef) -> Result<Result<References, Held>, Error> {
    let region = match region(context, &reef.spec.region_ref.name).await? {
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
    let stops = Stops::of(&region, reef.annotations(), Timestamp::now());
    let arm = match arm(context, &region, context.cells.reef(&reef.name_any()), &stops.ban(true)) {
        Ok(arm) => arm,
        Err(held) => return Ok(Err(held)),
    };
    let existing = if begun {
        Existing::default()
    } else {
        match existing(context, reef, &region, &arm).await {
            Ok(existing) => existing,
            Err(held) => return Ok(Err(held)),
        }
    };
    let revision = revision(context, reef, existing.revision.as_deref()).await?;
    Ok(revision.map(|revision| References { region, addresses, arm, revision, existing, stops }))
}

/// What may not be done now, asked once more before something is done in Azure: a look may take a minute, and an emergency
/// stop is not to wait for its end.
pub async fn stops_now(context: &Context, region: &Region, stops: &Stops) -> Result<Stops, Error> {
    let api = Api::<Region>::all(context.client.clone());
    let found = api.get_opt(&region.name_any()).await.map_err(Error::api("read the Region"))?;
    Ok(stops.renewed(found.as_ref().unwrap_or(region), Timestamp::now()))
}

/// Takes out of a plan what may not be written by now; what may not be done now.
pub async fn hold_now<P: Ord + Copy>(
    context: &Context,
    (region, stops): (&Region, &Stops),
    (verdicts, writes): (&mut BTreeMap<P, Verdict>, &mut Vec<Write<P>>),
    what: impl Fn(P) -> String,
) -> Result<Stops, Error> {
    if writes.is_empty() {
        return Ok(stops.clone());
    }
    let stops = stops_now(context, region, stops).await?;
    hold(verdicts, writes, &stops, what);
    Ok(stops)
}

/// The subscription that a reef is to be in.
pub fn subscription_of<'a>(reef: &'a Reef, region: &'a Region) -> &'a str {
    reef.spec.subscription_id.as_deref().unwrap_or(&region.spec.azure.subscription_id)
}

/// Names, network and revision of what exists already for a reef of this name.
async fn existing(context: &Context, reef: &Reef, region: &Region, arm: &Arc<Arm>) -> Result<Existing, Held> {
    let (fleet, name) = (&context.fleet, reef.name_any());
    let group = names::group(fleet, &name);
    let id = format!("/subscriptions/{}/resourceGroups/{group}", subscription_of(reef, region));
    let tags = names::tags(fleet, &region.name_any(), &name);
    let unknown = |why: &Why| Held(Trouble::new(why.reason, format!("what exists in Azure: {why}")), false);
    let group = match observed(arm.get(&id, GROUPS_API).await) {
        Observed::Absent => return Ok(Existing::default()),
        Observed::Unknown(why) => return Err(unknown(&why)),
        Observed::Present(group) => group,
    };
    if !names::marked(&group["tags"], &tags) {
        // Somebody else's: the plan says so.
        return Ok(Existing::default());
    }
    let list = arm.list(&format!("{id}/resources"), GROUPS_API).await.map_err(|e| unknown(&Why::from(&e)))?;
    let network = format!("{id}/providers/Microsoft.Network/virtualNetworks/reef");
    let address_space = match observed(arm.get(&network, NETWORK_API).await) {
        Observed::Present(network) if names::marked(&network["tags"], &tags) => {
            network["properties"]["addressSpace"]["addressPrefixes"][0].as_str().map(str::to_owned)
        }
        Observed::Unknown(why) => return Err(unknown(&why)),
        _ => None,
    };
    Ok(Existing {
        sql_server: names::of_kind(&list, "Microsoft.Sql/servers", &tags).into_iter().next(),
        storage_accounts: names::of_kind(&list, "Microsoft.Storage/storageAccounts", &tags),
        address_space,
        revision: group["tags"][TAG_REVISION].as_str().map(str::to_owned),
    })
}

/// Networks in Azure of the region's other reefs, also of those that have no object any more.
pub async fn networks(references: &References, reef: &Reef, fleet: &str) -> Result<Vec<String>, Held> {
    let subscription = subscription_of(reef, &references.region);
    let path = format!("/subscriptions/{subscription}/providers/Microsoft.Network/virtualNetworks");
    let list = references.arm.list(&path, NETWORK_API).await;
    let list = list.map_err(|error| Held(Trouble::azure("networks of the region", &error), false))?;
    let region = references.region.name_any();
    let others = list.into_iter().filter(|network| {
        let is = |name: &str, value: &str| network["tags"][name] == value;
        is(TAG_FLEET, fleet) && is(TAG_REGION, &region) && !is(TAG_REEF, &reef.name_any())
    });
    let first = |network: serde_json::Value| {
        network["properties"]["addressSpace"]["addressPrefixes"][0].as_str().map(str::to_owned)
    };
    Ok(others.filter_map(first).collect())
}

/// The revision that the reef has, or the newest of the class that it names.
async fn revision(
    context: &Context,
    reef: &Reef,
    existing: Option<&str>,
) -> Result<Result<(String, ReefClassSpec), Held>, Error> {
    let class = &reef.spec.class_ref.name;
    let has = reef.status.as_ref().and_then(|s| s.class_revision.clone());
    // What runs in Azure keeps the revision that it was made from, whatever the class says today.
    if let Some(existing) = existing.filter(|revision| !is_of(revision, class)) {
        let message = format!(
            "spec.classRef: what exists in Azure was made from revision {existing}, which is not one of ReefClass {class}: name the class that it was made from"
        );
        return Ok(Err(Held(Trouble::new(Reason::SpecInvalid, message), true)));
    }
    let has = has.or_else(|| existing.map(str::to_owned));
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
            "revision {name} of ReefClass {class} does not exist (any more): put the ReefClass back as it was"
        );
        return Ok(Err(Held(Trouble::new(Reason::ReferenceNotFound, message), false)));
    };
    let data = found.data.map(|d| d.0).unwrap_or_default();
    Ok(match serde_json::from_value(data) {
        Ok(spec) => Ok((name, spec)),
        Err(error) => Err(Held(Trouble::new(Reason::SpecInvalid, format!("revision {name}: {error}")), true)),
    })
}

/// Whether a revision is one of a class: its name is the class's, a dash and a hash.
fn is_of(revision: &str, class: &str) -> bool {
    revision.rsplit_once('-').is_some_and(|(of, _)| of == class)
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

/// The region's certificate and key; none while the Secret cannot be read or holds no certificate that the
/// Region can use. Reefs then keep the one that they have: one bad edit must not reach them all.
pub async fn certificate(
    context: &Context,
    region: &Region,
    now: Timestamp,
) -> Option<BTreeMap<String, ByteString>> {
    let reference = &region.spec.tls.secret_ref;
    let api = Api::<Secret>::namespaced(context.client.clone(), &reference.namespace);
    // Why it cannot be used shows on the Region.
    let data = api.get_opt(&reference.name).await.ok().flatten()?.data?;
    let found = certificate::read(&data).ok()?;
    let wildcard = format!("*.{}", region.spec.dns.zone_name());
    let fits = found.dns_names.iter().any(|name| name.eq_ignore_ascii_case(&wildcard));
    (fits && found.not_before <= now && now < found.not_after).then_some(data)
}
