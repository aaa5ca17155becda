//! Places an instance: sees all reefs and what is on them, lets [`crate::placement`] decide, and keeps the place on the
//! reef by a compare-and-swap.

mod candidate;
mod demand;
pub mod listed;
mod refused;
mod reservations;
#[cfg(test)]
mod tests;
mod used;
mod vm_sizes;

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{Api, ResourceExt, api::PostParams};
use reef_crds::{
    CloudInstance, Reef, ReefClassSpec, RetainedInstance, cloud_instance::PlacementStatus, condition::Reason,
};

pub use demand::placement;
use listed::{Cache, Known, Listed as OnReef};
use refused::Refused;
use used::Used;

use crate::{
    azure::Arm,
    controller::{
        Context, Error, ErrorClass,
        objects::{Listed, each},
        trouble::Trouble,
    },
    controllers::reef::{
        bodies::{SQL_API, STORAGE_API},
        references::Held,
    },
    placement::{self, Candidate, Decision, Demand, Placement, Readiness},
};

/// What is remembered between the placements of a region.
#[derive(Default)]
pub struct Before {
    /// What Azure listed on its reefs.
    listed: Cache,
    /// What fitted nowhere.
    refused: Option<Refused>,
}

/// What a placement works with.
pub struct Placing<'a> {
    /// The management cluster.
    pub context: &'a Context,
    /// What is known from the placements before it.
    pub before: &'a mut Before,
    /// Gets the words for an Event: what was chosen and why, or why nothing fits.
    pub note: &'a mut Option<String>,
}

/// A decision with what it was made from.
struct Decided {
    decision: Decision,
    candidates: Vec<Candidate>,
    used: Used,
}

/// Decides and keeps the place. `reefs` are those of the region, as they were read before.
pub async fn place(
    placing: Placing<'_>,
    instance: &CloudInstance,
    reefs: &[Reef],
    now: Timestamp,
) -> Result<Result<PlacementStatus, Held>, Error> {
    let Placing { context, before, note } = placing;
    let mut nowhere = |decision: &Decision| {
        *note = Some(decision.event());
        Ok(Err(Held(Trouble::new(Reason::NoReefFits, decision.summary()), false)))
    };
    let demand = demand::demand(instance, now);
    if let Some(refused) = before.refused.as_ref().filter(|r| r.holds_for(&demand, reefs, now)) {
        return nowhere(&refused.decision);
    }
    let Decided { decision, candidates, used } =
        decide(context, &mut before.listed, &demand, reefs, now).await?;
    tracing::info!(name = instance.name_any(), decision = decision.event(), "placement");
    let Some(chosen) = &decision.chosen else {
        if decision.held_by.is_some() {
            // It has its place by now, and this is an old view of it.
            return Err(Error::Outdated(decision.summary()));
        }
        let held = nowhere(&decision);
        before.refused = Some(Refused::new(&demand, reefs, decision, now));
        return held;
    };
    if !chosen.is_reserved()
        && let Some((reef, fresh)) =
            reefs.iter().zip(&candidates).find(|(_, fresh)| fresh.name == chosen.placement.reef)
    {
        keep(context, reef, (&demand, fresh), &chosen.placement, &used, now).await?;
    }
    *note = Some(decision.event());
    Ok(Ok(status(&decision, &chosen.placement)))
}

/// The reef on which an instance would be placed, with all that its status says by now; nothing is kept for it there.
pub async fn elsewhere(
    context: &Context,
    before: &mut Before,
    instance: &CloudInstance,
    reefs: &[Reef],
    now: Timestamp,
) -> Result<Option<String>, Error> {
    let demand = demand::demand(instance, now);
    let decided = decide(context, &mut before.listed, &demand, reefs, now).await?;
    Ok(decided.decision.chosen.map(|chosen| chosen.placement.reef))
}

async fn decide(
    context: &Context,
    listed: &mut Cache,
    demand: &Demand,
    reefs: &[Reef],
    now: Timestamp,
) -> Result<Decided, Error> {
    // The order matters: docs/adr/0007-reservations-and-the-order-of-reads.md.
    let everything = everything(context).await?;
    let mut candidates = Vec::new();
    for reef in reefs {
        candidates.push(candidate(context, listed, reef, &everything, now).await?.0);
    }
    let decision = placement::place(demand, &candidates);
    Ok(Decided { decision, candidates, used: everything.0 })
}

/// A reef with all that is on it, and all that is asked for there, by now; none while that is not known.
pub async fn counted(
    context: &Context,
    before: &mut Before,
    reef: &Reef,
    now: Timestamp,
) -> Result<Option<Candidate>, Error> {
    let everything = everything(context).await?;
    let (counted, has_class) = candidate(context, &mut before.listed, reef, &everything, now).await?;
    let is_known = has_class && before.listed.contains_key(&counted.name);
    Ok(is_known.then_some(counted))
}

/// Reads all instances, and all that is kept of those that are gone.
async fn everything(context: &Context) -> Result<(Used, Known), Error> {
    let (mut used, mut known) = (Used::default(), Known::default());
    each::<CloudInstance>(&context.client, "list CloudInstances", |instance| match instance {
        Listed::Readable(instance) => {
            used.add(instance);
            known.add(instance);
        }
        Listed::Unreadable(instance) => used.add_unreadable(instance),
    })
    .await?;
    each::<RetainedInstance>(&context.client, "list RetainedInstances", |retained| match retained {
        Listed::Readable(retained) => {
            used.add_kept(retained);
            known.add_kept(retained);
        }
        // Its database and share count where Azure lists them, as nobody's.
        Listed::Unreadable(_) => {}
    })
    .await?;
    Ok((used, known))
}

/// A reef as it is considered, and whether its class is known.
async fn candidate(
    context: &Context,
    listed: &mut Cache,
    reef: &Reef,
    (used, known): &(Used, Known),
    now: Timestamp,
) -> Result<(Candidate, bool), Error> {
    let class = class(context, reef).await?;
    let mut candidate = candidate::candidate(reef, class.as_ref(), used, now);
    let takes = readiness(context, reef, known, listed);
    if candidate.ready == Readiness::Ready {
        candidate.ready = takes;
    }
    if let Some((_, listed)) = listed.get(&candidate.name) {
        listed.count_on(known, &mut candidate);
    }
    Ok((candidate, class.is_some()))
}

/// How long a reef may take to say what is on it before it takes nobody.
const LONGEST_LIST: Duration = Duration::from_secs(5);

/// Lists what is on each of the reefs, if that was not done lately. Before the turn of an instance, so that a reef that
/// hangs does not hold up the others' placements.
pub async fn prepare(context: &Context, arm: &Arm, reefs: &[Reef], now: Timestamp) {
    join_all(reefs.iter().map(|reef| async move {
        let arm = arm.in_cell(context.cells.reef(&reef.name_any()));
        let lists = lists(reef);
        let all = lists.databases.iter().map(|path| (path, SQL_API));
        let all = all.chain(lists.shares.iter().map(|(_, path)| (path, STORAGE_API)));
        let age = context.policy.resync;
        let all = all.map(|(path, api)| context.lists.get(&arm, path, api, age, now));
        let _ = tokio::time::timeout(LONGEST_LIST, join_all(all)).await;
    }))
    .await;
}

/// Paths of the lists of what is on a reef.
struct Paths {
    databases: Option<String>,
    /// By storage account.
    shares: Vec<(String, String)>,
}

fn lists(reef: &Reef) -> Paths {
    let status = reef.status.clone().unwrap_or_default();
    let group = format!(
        "/subscriptions/{}/resourceGroups/{}/providers",
        status.subscription_id.unwrap_or_default(),
        status.resource_group.unwrap_or_default()
    );
    let server = status.sql_server.filter(|server| server.host.is_some());
    let accounts = status.storage_accounts.into_iter().filter(|account| account.ready);
    let shares = accounts.map(|account| {
        let path =
            format!("{group}/Microsoft.Storage/storageAccounts/{}/fileServices/default/shares", account.name);
        (account.name, path)
    });
    Paths {
        databases: server.map(|server| format!("{group}/Microsoft.Sql/servers/{}/databases", server.name)),
        shares: shares.collect(),
    }
}

/// Whether it is known what Azure has on a reef.
pub fn is_listed(context: &Context, reef: &Reef) -> bool {
    let (name, lists) = (reef.name_any(), lists(reef));
    let mut all = lists.databases.iter().chain(lists.shares.iter().map(|(_, path)| path));
    lists.databases.is_some() && all.all(|path| context.lists.known(&name, path).is_some())
}

/// Whether a reef that is in service takes anybody: not while it does not answer, or what is on it is not known. What
/// Azure listed last goes into `listed`.
fn readiness(context: &Context, reef: &Reef, known: &Known, listed: &mut Cache) -> Readiness {
    let (name, lists) = (reef.name_any(), lists(reef));
    let cell = context.cells.reef(&name);
    if !cell.answers() {
        return Readiness::NotReady(Reason::CircuitOpen.to_string());
    }
    let listing = |path: &str| context.lists.known(&name, path);
    let databases = lists.databases.as_deref().and_then(listing);
    let shares: Option<Vec<_>> =
        lists.shares.iter().map(|(account, path)| Some((account.clone(), listing(path)?))).collect();
    let (Some(databases), Some(shares)) = (databases, shares) else {
        return Readiness::NotReady(Reason::AzureUnavailable.to_string());
    };
    let at = shares.iter().map(|(_, listing)| listing.at).chain([databases.at]).max().unwrap_or(databases.at);
    if listed.get(&name).is_none_or(|(before, _)| *before != at) {
        listed.insert(name, (at, OnReef::of(&databases, &shares, known)));
    }
    Readiness::Ready
}

fn status(decision: &Decision, placement: &Placement) -> PlacementStatus {
    PlacementStatus {
        reef: placement.reef.clone(),
        pool: placement.pool.clone(),
        storage_account: placement.account.clone(),
        generation: placement.generation,
        reason: decision.reason(),
    }
}

/// The reef's own revision of its class; none if it is gone or cannot be understood.
async fn class(context: &Context, reef: &Reef) -> Result<Option<ReefClassSpec>, Error> {
    let Some(name) = reef.status.as_ref().and_then(|s| s.class_revision.clone()) else { return Ok(None) };
    let api = Api::<ControllerRevision>::namespaced(context.client.clone(), &context.namespace);
    let found = api.get_opt(&name).await.map_err(Error::api("read the class's revision"))?;
    Ok(found.and_then(|revision| serde_json::from_value(revision.data?.0).ok()))
}

/// Writes the reservation, if the reef is still as it was read. What is no longer needed goes in the same write.
async fn keep(
    context: &Context,
    reef: &Reef,
    (demand, fresh): (&Demand, &Candidate),
    placement: &Placement,
    used: &Used,
    now: Timestamp,
) -> Result<(), Error> {
    let at = Timestamp::from_second(now.as_second()).unwrap_or(Timestamp::UNIX_EPOCH);
    let list = placement::reserve(demand, fresh, &used.seen(&demand.instance), placement, at)
        .map_err(|refused| Error::Outdated(refused.to_string()))?;
    let mut next = reef.clone();
    next.status.get_or_insert_default().reservations = list.iter().map(reservations::write).collect();
    replace(context, reef, &next).await
}

/// Gives up the reservation of an instance whose own status shows its place, also if somebody else changes the reef's
/// status meanwhile.
pub async fn release(context: &Context, instance: &CloudInstance, reef: &Reef) -> Result<(), Error> {
    const TRIES: usize = 4;
    let uid = instance.uid().unwrap_or_default();
    let api = Api::<Reef>::all(context.client.clone());
    let mut reef = Some(reef.clone());
    for _ in 0..TRIES {
        let Some(found) = &reef else { return Ok(()) };
        let mut next = found.clone();
        next.status.get_or_insert_default().reservations.retain(|r| r.uid != uid);
        match replace(context, found, &next).await {
            Err(error) if error.class() == ErrorClass::Conflict => {}
            other => return other,
        }
        reef = api.get_opt(&found.name_any()).await.map_err(Error::api("read the Reef"))?;
    }
    Err(Error::Outdated(format!("a place that is kept for {} could not be given up", instance.name_any())))
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
