//! Places an instance: sees all reefs and instances, decides, and keeps the place on the reef by a compare-and-swap.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{api::apps::v1::ControllerRevision, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use reef_crds::{
    CloudInstance, Reef, ReefClassSpec,
    cloud_instance::{PlacementStatus, Tier},
    condition::{ConditionType, Reason, true_since},
    reef::{ReservationStatus, Scheduling},
};

use crate::{
    controller::{Context, Error, trouble::Trouble},
    controllers::reef::references::Held,
    placement::{self, Candidate, Choice, Decision, Demand, Limits, Tenant},
};

/// Instances that are read at once.
const PAGE: u32 = 500;

/// A reservation whose instance is gone is given up after this, seconds.
const GRACE_SECONDS: i64 = 600;

/// What is known of all instances.
#[derive(Default)]
struct Instances {
    /// Those with a place, by reef.
    placed: BTreeMap<String, Vec<Tenant>>,
    /// The anti-affinity group of each, by UID.
    groups: BTreeMap<String, Option<String>>,
}

/// Decides and keeps the place. `reefs` are those of the region, as they were read before.
pub async fn place(
    context: &Context,
    instance: &CloudInstance,
    reefs: &[Reef],
    now: Timestamp,
) -> Result<Result<PlacementStatus, Held>, Error> {
    let instances = instances(context).await?;
    let mut candidates = Vec::new();
    for reef in reefs {
        candidates.push(candidate(reef, limits(context, reef).await?, &instances));
    }
    let decision = placement::place(&demand(instance), &candidates);
    tracing::info!(name = instance.name_any(), decision = decision.event(), "placement");
    let Some(choice) = &decision.choice else {
        return Ok(Err(Held(Trouble::new(Reason::NoReefFits, decision.summary()), false)));
    };
    let Some(reef) = reefs.iter().find(|reef| reef.name_any() == choice.reef) else {
        return Ok(Err(Held(Trouble::new(Reason::NoReefFits, decision.summary()), false)));
    };
    keep(context, instance, reef, choice, &instances, now).await?;
    Ok(Ok(status(&decision, choice)))
}

fn status(decision: &Decision, choice: &Choice) -> PlacementStatus {
    PlacementStatus {
        reef: choice.reef.clone(),
        pool: choice.pool.clone(),
        storage_account: choice.account.clone(),
        generation: 1,
        reason: decision.reason(),
    }
}

/// What an instance asks for (pure).
fn demand(instance: &CloudInstance) -> Demand {
    let spec = &instance.spec;
    let placement = spec.placement.clone().unwrap_or_default();
    Demand {
        uid: instance.uid().unwrap_or_default(),
        namespace: instance.namespace().unwrap_or_default(),
        pool: spec.isolation.database.tier == Tier::Shared,
        dedicated_reef: spec.isolation.reef.tier == Tier::Dedicated,
        reef: placement.reef_ref.map(|reference| reference.name),
        labels: placement.reef_selector.map(|s| s.match_labels).unwrap_or_default(),
        group: placement.anti_affinity_group,
    }
}

/// A reef as the allocator sees it (pure).
fn candidate(reef: &Reef, limits: Option<Limits>, instances: &Instances) -> Candidate {
    let status = reef.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str());
    let unready = match true_since(&status.conditions, ConditionType::Ready) {
        Some(_) => None,
        None => Some(ready.map_or_else(|| "not looked at yet".to_owned(), |c| c.reason.clone())),
    };
    let reserved = status.reservations.iter().map(|r| Tenant {
        uid: r.uid.clone(),
        group: instances.groups.get(&r.uid).cloned().flatten(),
        pool: r.pool.clone(),
        account: r.storage_account.clone(),
    });
    let names = |parts: &[reef_crds::reef::PartStatus]| -> Vec<String> {
        parts.iter().filter(|p| p.ready).map(|p| p.name.clone()).collect()
    };
    Candidate {
        name: reef.name_any(),
        labels: reef.labels().clone(),
        unready,
        deleting: reef.metadata.deletion_timestamp.is_some(),
        cordoned: reef.spec.scheduling == Scheduling::Cordoned,
        dedicated_to: reef
            .spec
            .dedicated_to
            .as_ref()
            .map(|d| d.namespaces.iter().map(|n| n.0.clone()).collect()),
        pools: names(&status.pools),
        accounts: names(&status.storage_accounts),
        limits,
        placed: instances.placed.get(&reef.name_any()).cloned().unwrap_or_default(),
        reserved: reserved.collect(),
    }
}

/// What the reef's own revision of its class allows.
async fn limits(context: &Context, reef: &Reef) -> Result<Option<Limits>, Error> {
    let Some(name) = reef.status.as_ref().and_then(|s| s.class_revision.clone()) else { return Ok(None) };
    let api = Api::<ControllerRevision>::namespaced(context.client.clone(), &context.namespace);
    let found = api.get_opt(&name).await.map_err(Error::api("read the class's revision"))?;
    let spec = found.and_then(|revision| serde_json::from_value::<ReefClassSpec>(revision.data?.0).ok());
    Ok(spec.map(|spec| Limits {
        instances: u32::from(spec.capacity.max_instances),
        databases: u32::from(spec.sql.pool.max_databases),
        shares: u32::from(spec.storage.shares_per_account),
        reserve_percent: u32::from(spec.capacity.reserve_percent),
    }))
}

/// All instances, from the API server itself and not from a cache: a cache could miss a place that another operator
/// gave.
async fn instances(context: &Context) -> Result<Instances, Error> {
    let api = Api::<CloudInstance>::all(context.client.clone());
    let mut instances = Instances::default();
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&parameters).await.map_err(Error::api("list CloudInstances"))?;
        for instance in &page.items {
            let uid = instance.uid().unwrap_or_default();
            let group = demand(instance).group;
            if let Some(placement) = instance.status.as_ref().and_then(|s| s.placement.clone()) {
                let (pool, account) = (placement.pool, placement.storage_account);
                let tenant = Tenant { uid: uid.clone(), group: group.clone(), pool, account };
                instances.placed.entry(placement.reef).or_default().push(tenant);
            }
            instances.groups.insert(uid, group);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(instances),
        }
    }
}

/// Writes the reservation, if the reef is still as it was read. What is no longer needed goes in the same write.
async fn keep(
    context: &Context,
    instance: &CloudInstance,
    reef: &Reef,
    choice: &Choice,
    instances: &Instances,
    now: Timestamp,
) -> Result<(), Error> {
    let uid = instance.uid().unwrap_or_default();
    let mut next = reef.clone();
    let status = next.status.get_or_insert_default();
    let placed = instances.placed.get(&choice.reef);
    let is_placed = |uid: &str| placed.is_some_and(|tenants| tenants.iter().any(|t| t.uid == uid));
    status.reservations.retain(|r| {
        let gone =
            !instances.groups.contains_key(&r.uid) && now.as_second() - r.at.0.as_second() > GRACE_SECONDS;
        r.uid == uid || !(is_placed(&r.uid) || gone)
    });
    if !status.reservations.iter().any(|r| r.uid == uid) {
        status.reservations.push(ReservationStatus {
            namespace: instance.namespace().unwrap_or_default(),
            name: instance.name_any(),
            pool: choice.pool.clone(),
            storage_account: choice.account.clone(),
            generation: 1,
            at: Time(Timestamp::from_second(now.as_second()).unwrap_or(Timestamp::UNIX_EPOCH)),
            uid,
        });
    }
    replace(context, reef, &next).await
}

/// Gives up the reservation of an instance whose own status shows its place.
pub async fn release(context: &Context, instance: &CloudInstance, reef: &Reef) -> Result<(), Error> {
    let uid = instance.uid().unwrap_or_default();
    let mut next = reef.clone();
    let status = next.status.get_or_insert_default();
    status.reservations.retain(|r| r.uid != uid);
    replace(context, reef, &next).await
}

/// Replaces the status with the version that was read: a conflict is an error, and all is read anew.
async fn replace(context: &Context, old: &Reef, next: &Reef) -> Result<(), Error> {
    if old.status == next.status {
        return Ok(());
    }
    context.claim.check()?;
    let api = Api::<Reef>::all(context.client.clone());
    let parameters =
        PostParams { field_manager: Some("reef-operator-placement".to_owned()), ..PostParams::default() };
    api.replace_status(&old.name_any(), &parameters, next)
        .await
        .map(drop)
        .map_err(Error::api("keep a place on the Reef"))
}
