//! What is counted on a reef: what stands in statuses, and what is promised (pure).

use super::types::{Ask, Candidate, Dimension, Gauge, Instance, Tier};

impl Candidate {
    /// Counts an instance that is here, or is about to be.
    pub fn count(&mut self, instance: &Instance, ask: &Ask, pool: Option<&str>, account: &str) {
        self.counted.insert(instance.clone());
        self.holds_dedicated |= ask.tiers.reef == Tier::Dedicated;
        self.groups.extend(ask.group(instance));
        for (dimension, gauge) in &mut self.room {
            *gauge = gauge.plus(ask.needs(*dimension));
        }
        self.count_parts(ask, |name| pool == Some(name), account);
    }

    /// Counts the database and the file share that are kept of an instance that is gone. Where a database shares and
    /// `pool` is not known, it counts in each.
    pub fn count_kept(&mut self, ask: &Ask, pool: Option<&str>, account: &str) {
        if let Some(gauge) = self.room.get_mut(&Dimension::Databases) {
            *gauge = gauge.plus(ask.needs(Dimension::Databases));
        }
        self.count_parts(ask, |name| pool.is_none_or(|pool| pool == name), account);
    }

    fn count_parts(&mut self, ask: &Ask, in_pool: impl Fn(&str) -> bool, account: &str) {
        let more = |gauge: &mut Option<Gauge>, dimension| {
            *gauge = gauge.map(|g| g.plus(ask.needs(dimension)));
        };
        for pool in self.pools.iter_mut().filter(|p| in_pool(&p.name)) {
            more(&mut pool.databases, Dimension::PoolDatabases);
            more(&mut pool.storage, Dimension::PoolStorage);
        }
        if let Some(account) = self.accounts.iter_mut().find(|a| a.name == account) {
            more(&mut account.shares, Dimension::Shares);
            account.storage = account.storage.plus(ask.needs(Dimension::ShareStorage));
        }
    }
}

/// What a reef has left for one instance: its own reservation, which a new one replaces, is not in it.
pub(super) struct Ledger {
    /// The reef with what is promised on it.
    pub reef: Candidate,
    /// Reservations of others in the list, also of those that are counted already.
    pub reservations: usize,
}

impl Ledger {
    /// What `candidate` has left for `instance`.
    pub fn of(candidate: &Candidate, instance: &Instance) -> Self {
        let mut reef = candidate.clone();
        let others: Vec<_> = candidate.reservations.iter().filter(|r| r.instance != *instance).collect();
        for held in others.iter().filter(|r| !candidate.counted.contains(&r.instance)) {
            reef.count(&held.instance, &held.ask, held.pool.as_deref(), &held.account);
        }
        Self { reef, reservations: others.len() }
    }
}
