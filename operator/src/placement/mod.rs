//! Chooses a reef, an elastic pool and a storage account for an instance (pure).
//!
//! Every reef gets a complete verdict: all the reasons why it cannot take the instance. Of those that can, the
//! lowest [`Score`] is chosen: first a reef that is not beyond its soft limit, then the emptiest, so that a reef that
//! breaks takes as few instances with it as possible.

mod score;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeMap;

pub use score::{Choice, Decision, Score, place};
pub use verdict::Verdict;

/// Most placements that are decided for a reef and do not stand in the instances' statuses yet.
pub const MOST_RESERVATIONS: usize = 32;

/// What an instance asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// UID of the CloudInstance.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Whether its database goes into a pool.
    pub pool: bool,
    /// Whether it wants a reef that is dedicated to its namespace.
    pub dedicated_reef: bool,
    /// The only reef that will do.
    pub reef: Option<String>,
    /// Labels that the reef has to have.
    pub labels: BTreeMap<String, String>,
    /// Instances of one group are never on one reef.
    pub group: Option<String>,
}

/// An instance that has its place on a reef, or a place that is kept for one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// UID of the CloudInstance.
    pub uid: String,
    /// Its anti-affinity group.
    pub group: Option<String>,
    /// Elastic pool of its database; none if the database has compute of its own.
    pub pool: Option<String>,
    /// Storage account of its share.
    pub account: String,
}

/// A reef as it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Why it is not in service, if it is not.
    pub unready: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it takes no new instances.
    pub cordoned: bool,
    /// The only namespaces whose instances it takes.
    pub dedicated_to: Option<Vec<String>>,
    /// Its elastic pools.
    pub pools: Vec<String>,
    /// Its storage accounts.
    pub accounts: Vec<String>,
    /// What its class allows; none if the class cannot be read, and what is not known is not free.
    pub limits: Option<Limits>,
    /// Instances that are there.
    pub placed: Vec<Tenant>,
    /// Places that are kept.
    pub reserved: Vec<Tenant>,
}

/// What a class allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most instances on a reef.
    pub instances: u32,
    /// Most databases in a pool.
    pub databases: u32,
    /// Most shares in an account.
    pub shares: u32,
    /// Percent of each that is kept free while another reef has room.
    pub reserve_percent: u32,
}

impl Candidate {
    /// Everybody who counts: each once, also while a place is kept and stands in the instance's status already.
    pub fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        let placed = |uid: &str| self.placed.iter().any(|t| t.uid == uid);
        self.placed.iter().chain(self.reserved.iter().filter(move |t| !placed(&t.uid)))
    }
}
