//! What a CloudInstance refers to: its Region, and once it is placed its Reef.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Api, ResourceExt};
use reef_crds::{
    CloudInstance, Reef, Region,
    cloud_instance::{DatabaseIsolation, PlacementStatus, Quota, Tier},
    condition::Reason,
    quantity,
};

use super::{bodies::Inputs, names, parts::Part};
use crate::{
    azure::Arm,
    controller::{Context, Error, stop::Stops, trouble::Trouble},
    controllers::reef::{
        self,
        references::{Held, arm, in_zone, readable},
    },
    controllers::region::observe::cloud,
};

/// The Region of an instance.
pub async fn region(context: &Context, instance: &CloudInstance) -> Result<Result<Region, Held>, Error> {
    reef::references::region(context, &instance.spec.region_ref.name).await
}

/// Where an instance is, with what is needed to reach it.
pub struct Home {
    /// The Region.
    pub region: Region,
    /// The Reef.
    pub reef: Reef,
    /// The client of Azure, which refuses what is forbidden.
    pub arm: Arc<Arm>,
    /// What may not be done now.
    pub stops: Stops,
}

impl Home {
    /// The client for a part.
    pub fn arm_of(&self, context: &Context, part: Part) -> Arc<Arm> {
        if part == Part::Record { in_zone(context, &self.region, &self.arm) } else { self.arm.clone() }
    }
}

/// Reads where a placed instance is.
pub async fn home(context: &Context, instance: &CloudInstance) -> Result<Result<Home, Held>, Error> {
    let region = match region(context, instance).await? {
        Ok(region) => region,
        Err(held) => return Ok(Err(held)),
    };
    let placement = instance.status.as_ref().and_then(|s| s.placement.as_ref());
    let stops = Stops::of(&region, instance.annotations(), Timestamp::now());
    on_reef(context, (region, stops), placement.map_or("", |p| p.reef.as_str())).await
}

/// The same for a reef that is known by its name.
pub async fn on_reef(
    context: &Context,
    (region, stops): (Region, Stops),
    name: &str,
) -> Result<Result<Home, Held>, Error> {
    let api = Api::<Reef>::all(context.client.clone());
    let named = format!("status.placement: Reef {name}");
    let reef = match readable(api.get_opt(name).await, ("read the Reef", &named))? {
        Ok(Some(reef)) => reef,
        Ok(None) => {
            let message = format!("{named} does not exist: apply its manifest again");
            return Ok(Err(Held(Trouble::new(Reason::ReferenceNotFound, message), true)));
        }
        Err(held) => return Ok(Err(held)),
    };
    let arm = arm(context, &region, context.cells.reef(name), &stops.ban(true));
    Ok(arm.map(|arm| Home { region, reef, arm, stops }))
}

/// Why a reef cannot hold an instance yet: something of it is not known.
fn unfinished(reef: &Reef, what: &str) -> Held {
    let message = format!("Reef {} has no {what} yet", reef.name_any());
    Held(Trouble::new(Reason::ReferenceNotReady, message), false)
}

/// Whose resources the inputs speak of.
pub struct Whose<'a> {
    /// Namespace, name and UID of the CloudInstance.
    pub instance: (&'a str, &'a str, &'a str),
    /// Its subdomain.
    pub subdomain: &'a str,
    /// Where it is.
    pub placement: PlacementStatus,
    /// How its database is served.
    pub database: &'a DatabaseIsolation,
    /// Room for its data.
    pub quota: &'a Quota,
}

/// What the bodies of a CloudInstance follow from. The hash of the keys is not known yet.
pub fn inputs(context: &Context, instance: &CloudInstance, home: &Home) -> Result<Inputs, Held> {
    let (namespace, name) = (instance.namespace().unwrap_or_default(), instance.name_any());
    let uid = instance.uid().unwrap_or_default();
    let whose = Whose {
        instance: (&namespace, &name, &uid),
        subdomain: &instance.spec.subdomain,
        placement: instance.status.as_ref().and_then(|s| s.placement.clone()).unwrap_or_default(),
        database: &instance.spec.isolation.database,
        quota: &instance.spec.quota,
    };
    inputs_of(context, whose, home)
}

/// The same for whatever has the resources of an instance.
pub fn inputs_of(context: &Context, whose: Whose<'_>, home: &Home) -> Result<Inputs, Held> {
    let Whose { instance: (namespace, name, uid), subdomain, placement, database, quota } = whose;
    let reef = &home.reef;
    let status = reef.status.clone().unwrap_or_default();
    let missing = |what: &str| unfinished(reef, what);
    let server = status.sql_server.ok_or_else(|| missing("SQL server"))?;
    let group = status.resource_group.ok_or_else(|| missing("resource group"))?;
    let subscription = status.subscription_id.ok_or_else(|| missing("subscription"))?;
    let cluster = status.cluster.ok_or_else(|| missing("AKS cluster"))?;
    let dns = &home.region.spec.dns;
    let gib = |text: &str| quantity::bytes(text).map_or(1, |bytes| (bytes + (1 << 30) - 1) >> 30);
    Ok(Inputs {
        fleet: context.fleet.clone(),
        region: home.region.name_any(),
        reef: reef.name_any(),
        hash: names::hash(&context.fleet, namespace, name),
        instance_namespace: namespace.to_owned(),
        instance_name: name.to_owned(),
        uid: uid.to_owned(),
        location: status.location.ok_or_else(|| missing("location"))?,
        group: format!("/subscriptions/{subscription}/resourceGroups/{group}"),
        cloud: cloud(&home.region.spec.azure),
        tenant: home.region.spec.azure.tenant_id.clone(),
        address_space: home.region.spec.network.address_space.clone(),
        zone: (dns.zone_id.clone(), dns.zone_name().to_owned()),
        ttl: dns.ttl_seconds,
        subdomain: subdomain.to_owned(),
        gateway_host: status.gateway.ok_or_else(|| missing("gateway"))?.host,
        sql_server: (server.name, server.host.ok_or_else(|| missing("SQL server"))?),
        pool: placement.pool,
        sku: database.sku.clone().filter(|_| database.tier == Tier::Dedicated),
        database_bytes: quantity::bytes(&quota.database.0).unwrap_or(1 << 30),
        incarnation: 1,
        account: placement.storage_account,
        share_gib: gib(&quota.share.0),
        issuer: cluster.issuer.ok_or_else(|| missing("AKS cluster"))?,
        generation: placement.generation,
        keys_hash: String::new(),
    })
}
