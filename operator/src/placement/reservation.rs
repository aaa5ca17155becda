//! Reservations: how capacity is never sold twice although several operators may decide at once (pure).
//!
//! A reservation stands in `Reef.status.reservations` from before the instance's status says where it is until
//! after. Both are written by compare-and-swap.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    decision::Verdict,
    filter,
    ledger::Ledger,
    types::{Ask, Candidate, Demand, Instance, Placement},
    verdict,
};
use crate::observed::Observed;

/// A promise of room on a reef.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// To which instance.
    pub instance: Instance,
    /// UID of its object.
    pub claim: String,
    /// `metadata.generation` of its object, from which the demand was made.
    pub revision: i64,
    /// Number of the placement to be.
    pub generation: i64,
    /// The pool; none where the database has its own resources.
    pub pool: Option<String>,
    /// The storage account.
    pub account: String,
    /// What it uses up.
    pub ask: Ask,
    /// Since when.
    pub at: Timestamp,
}

impl Reservation {
    /// Whether it was made for this very demand. How much was asked for is not compared: two releases of the
    /// operator may size the same spec differently, and one must not replace what the other is about to write
    /// into the status.
    fn is_for(&self, demand: &Demand) -> bool {
        self.instance == demand.instance
            && self.claim == demand.claim
            && self.generation == demand.generation
            && self.revision == demand.revision
    }

    fn placement(&self, reef: &str) -> Placement {
        Placement {
            reef: reef.to_owned(),
            pool: self.pool.clone(),
            account: self.account.clone(),
            generation: self.generation,
        }
    }
}

/// Why a reservation is not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The placement was decided for another reef or another demand.
    #[error("the placement is not for this reef and demand")]
    Mistaken,
    /// The instance was changed, placed or deleted since the demand was made, or that is not known: look again.
    #[error("the instance is not as it was when it was placed")]
    OutOfDate,
    /// Somebody else has reserved room for the same demand on this reef: place again, and find it.
    #[error("room is reserved already on reef {}", .0.reef)]
    Reserved(Placement),
    /// The instance fits no longer: place again.
    #[error("it fits no longer: {0}")]
    DoesNotFit(Box<Verdict>),
    /// The pool or account fits no longer, another does: place again.
    #[error("pool or storage account fits no longer on reef {0}")]
    PartDoesNotFit(String),
}

/// The list of reservations to write to a reef, with one for this placement: an older one of the same instance
/// is replaced, and one for the same placement stays as it is (then nothing need be written).
///
/// Every limit is checked again. What makes it safe against others who decide at the same time:
/// - `fresh` holds the reservations of the Reef under whose resourceVersion the list will be written, and its
///   other numbers were read *after* that Reef. Earlier ones may lack an instance whose reservation is gone
///   from the Reef already because its status was written in between, and its room would be given away twice.
/// - `own` is the instance, read after that Reef too: an old demand must not replace what somebody reserved for
///   a newer one. What it does replace is then older than the instance, and the status write that belongs to it
///   can only conflict.
/// - The status of the instance is then written under the resourceVersion that the demand was made from.
pub fn reserve(
    demand: &Demand,
    fresh: &Candidate,
    own: &Observed<Seen>,
    placement: &Placement,
    now: Timestamp,
) -> Result<Vec<Reservation>, Refused> {
    if placement.reef != fresh.name || placement.generation != demand.generation {
        return Err(Refused::Mistaken);
    }
    if !matches!(own, Observed::Present(own) if own.is_as_in(demand)) {
        return Err(Refused::OutOfDate);
    }
    if let Some(found) = fresh.reservations.iter().find(|r| r.is_for(demand))
        && !fresh.deleting
        && filter::wishes(demand, fresh).is_empty()
    {
        let found = found.placement(&fresh.name);
        return if found == *placement {
            Ok(fresh.reservations.clone())
        } else {
            Err(Refused::Reserved(found))
        };
    }
    let verdict = verdict(demand, fresh);
    if verdict.offer.is_none() {
        return Err(Refused::DoesNotFit(Box::new(verdict)));
    }
    if !parts_fit(demand, fresh, placement) {
        return Err(Refused::PartDoesNotFit(fresh.name.clone()));
    }
    let mut list: Vec<_> =
        fresh.reservations.iter().filter(|r| r.instance != demand.instance).cloned().collect();
    list.push(Reservation {
        instance: demand.instance.clone(),
        claim: demand.claim.clone(),
        revision: demand.revision,
        generation: demand.generation,
        pool: placement.pool.clone(),
        account: placement.account.clone(),
        ask: demand.ask.clone(),
        at: now,
    });
    list.sort_by(|a, b| a.instance.cmp(&b.instance));
    Ok(list)
}

/// Whether pool and account of the placement are those that the tiers ask for and still have room.
fn parts_fit(demand: &Demand, fresh: &Candidate, placement: &Placement) -> bool {
    use super::types::Tier::Dedicated;
    let ledger = Ledger::of(fresh, &demand.instance);
    let pool = match &placement.pool {
        None => demand.ask.tiers.database == Dedicated,
        Some(name) => {
            let pool = ledger.reef.pools.iter().find(|p| p.name == *name);
            demand.ask.tiers.database != Dedicated
                && pool.is_some_and(|p| filter::pool(&demand.ask, p).is_empty())
        }
    };
    let account = ledger.reef.accounts.iter().find(|a| a.name == placement.account);
    pool && account.is_some_and(|a| filter::account(&demand.ask, a).is_empty())
}

/// The placement that was reserved for this very demand: the oldest, if two operators reserved on two reefs.
pub(super) fn find(demand: &Demand, candidates: &[Candidate]) -> Option<Placement> {
    let honoured = candidates.iter().filter(|c| !c.deleting && filter::wishes(demand, c).is_empty());
    honoured
        .flat_map(|c| c.reservations.iter().filter(|r| r.is_for(demand)).map(move |r| (r.at, &c.name, r)))
        .min_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)))
        .map(|(_, reef, reservation)| reservation.placement(reef))
}

/// What is known of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// UID of its object.
    pub claim: String,
    /// `metadata.generation` of its object.
    pub revision: i64,
    /// The placement that stands in its status.
    pub placement: Option<Placement>,
}

impl Seen {
    /// Whether the demand was made from the object as it is, and waits for its placement still.
    fn is_as_in(&self, demand: &Demand) -> bool {
        self.claim == demand.claim
            && self.revision == demand.revision
            && self.placement.as_ref().is_none_or(|p| p.generation < demand.generation)
    }
}

/// The reservations of a reef that stay. Dropped is only:
/// - what has done its work: the instance's status holds this placement,
/// - what lost: the status holds another placement of the same number or a later one, so that the status write
///   that belongs to the reservation can only conflict,
/// - what is out of date: the spec was changed since, so that the same holds,
/// - what nobody will use: the instance, under the claim that the reservation names, certainly does not exist
///   any more, and the reservation is at least `grace` seconds old.
///
/// `seen` was read after the reservations were. An instance that is not in it, or `Unknown` there, keeps its reservation; so does
/// one that fits nowhere else, on a reef that is being deleted, until its spec is edited or it is gone.
pub fn prune(
    existing: &[Reservation],
    seen: &BTreeMap<Instance, Observed<Seen>>,
    now: Timestamp,
    grace: i64,
) -> Vec<Reservation> {
    let stays = |held: &&Reservation| {
        let old = now.as_second().saturating_sub(held.at.as_second()) >= grace;
        match seen.get(&held.instance) {
            None | Some(Observed::Unknown(_)) => true,
            Some(Observed::Absent) => !old,
            Some(Observed::Present(seen)) if seen.claim != held.claim => !old,
            Some(Observed::Present(seen)) => {
                let before = seen.placement.as_ref().is_none_or(|p| p.generation < held.generation);
                before && seen.revision <= held.revision
            }
        }
    };
    existing.iter().filter(stays).cloned().collect()
}
