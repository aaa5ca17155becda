//! Placement: which reef, and in it which elastic pool and storage account, takes an instance (pure).
//!
//! [`place`] evaluates every hard filter for every reef ([`filter`]), so each reef has a complete verdict, and
//! takes the best of those that are left ([`score`]). Where several instances of the operator decide at once,
//! capacity is guarded by reservations ([`reservation`]):
//!
//! 1. Read the Reef. Then, not before, list the instances that are placed on it: an instance whose reservation
//!    is no longer in the Reef has its placement in its status by then (see [`reserve`]).
//!    The instance itself is among what is read after the Reef.
//! 2. [`reserve`] gives the list for `Reef.status.reservations`; replace it under the resourceVersion read.
//! 3. Replace the instance's status with the placement, under the resourceVersion of the instance that the
//!    demand was made from. A conflict in 2 or 3 means: look again and decide again.
//! 4. [`prune`] drops reservations that have done their work.
//!
//! Whoever comes after a crash between 2 and 3 finds the reservation again, and [`place`] gives exactly that.
//!
//! What is not known is never treated as free, and nothing here looks at clocks, chance or the world.

mod amount;
pub mod decision;
pub mod filter;
mod ledger;
pub mod reservation;
pub mod score;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_properties;
#[cfg(test)]
mod tests_reservation;
#[cfg(test)]
mod tests_simulation;
#[cfg(test)]
mod tests_text;
#[cfg(test)]
mod world;

mod types;

pub use decision::{Chosen, Decision, Verdict, Why};
pub use filter::{Lack, Refusal};
pub use reservation::{Refused, Reservation, Seen, prune, reserve};
pub use score::{Offer, Score};
pub use types::{
    Account, Ask, Candidate, Demand, Dimension, Gauge, Group, Instance, Placement, Pool, Readiness, Size,
    Tier, Tiers,
};

/// Identities that Azure allows in one resource group: 800 resources of a type, and user-assigned identities are not
/// on Azure's list of exempt types (`resources-without-resource-group-limit`, 2022).
pub const IDENTITIES_PER_GROUP: u64 = 800;
/// Databases that Azure allows on one SQL server (`resource-limits-logical-server`, 2023).
pub const DATABASES_PER_SERVER: u64 = 5000;
/// Bytes that Azure allows in one storage account of the kind `StorageV2`: 5 PiB (`scalability-targets-standard-account`,
/// 2021).
pub const BYTES_PER_ACCOUNT: u64 = 5 << 50;
/// Reservations that may be pending on one reef; the schema of the Reef takes no more.
pub const MAX_RESERVATIONS: usize = 32;

/// Decides where an instance goes. The candidates are the reefs of its region; their order does not matter, and their
/// names are unique.
///
/// An instance that has a reservation made for the same spec, claim and generation gets that one again, whatever
/// else is free by now, unless its reef is being deleted or the spec now asks for another reef. An instance that
/// some reef already counts although it has no placement is not placed a second time.
///
/// Takes time proportional to the number of reefs and of their instances, pools, accounts and reservations.
pub fn place(demand: &Demand, candidates: &[Candidate]) -> Decision {
    let mut verdicts: Vec<_> = candidates.iter().map(|c| verdict(demand, c)).collect();
    verdicts.sort_by(|a, b| a.reef.cmp(&b.reef));
    let held_by = holder(demand, candidates);
    let chosen = match reservation::find(demand, candidates) {
        Some(placement) => Some(Chosen { placement, score: None, why: Why::ReservedBefore }),
        None if held_by.is_some() => None,
        None => best(demand, &verdicts),
    };
    Decision { region: demand.region.clone(), chosen, held_by, verdicts }
}

/// The complete verdict on one reef.
pub fn verdict(demand: &Demand, candidate: &Candidate) -> Verdict {
    let ledger = ledger::Ledger::of(candidate, &demand.instance);
    let refusals = filter::refusals(demand, candidate, &ledger);
    let offer = if refusals.is_empty() { score::offer(demand, candidate, &ledger) } else { None };
    Verdict { reef: candidate.name.clone(), refusals, offer }
}

/// The reef that already counts an instance that is to get its first placement.
fn holder(demand: &Demand, candidates: &[Candidate]) -> Option<String> {
    let holds = |c: &&Candidate| demand.generation <= 1 && c.counted.contains(&demand.instance);
    candidates.iter().filter(holds).map(|c| c.name.clone()).min()
}

fn best(demand: &Demand, verdicts: &[Verdict]) -> Option<Chosen> {
    let mut offers: Vec<&Offer> = verdicts.iter().filter_map(|v| v.offer.as_ref()).collect();
    offers.sort_by(|a, b| a.score.cmp(&b.score));
    let first = offers.first()?;
    let placement = Placement {
        reef: first.score.reef.clone(),
        pool: first.pool.clone(),
        account: first.account.clone(),
        generation: demand.generation,
    };
    let why = Why::of(&first.score, offers.get(1).map(|o| &o.score), offers.len());
    Some(Chosen { placement, score: Some(first.score.clone()), why })
}
