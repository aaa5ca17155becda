//! Why a reef cannot take an instance (pure).

use std::fmt;

use super::{Candidate, Demand, Limits, MOST_RESERVATIONS};

/// A reason against a reef.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Another reef was asked for.
    NotAsked,
    /// It lacks a label that was asked for.
    LabelsDiffer,
    /// It is dedicated to other namespaces.
    DedicatedToOthers,
    /// The instance wants a reef of its own, and this one is not dedicated to its namespace.
    NotDedicated,
    /// An instance of the same group is there.
    AntiAffinity,
    /// It is being deleted.
    Deleting,
    /// It takes no new instances.
    Cordoned,
    /// It is not in service, because of this.
    NotReady(String),
    /// What its class allows is not known.
    CapacityUnknown,
    /// Too many placements are under way.
    Reservations,
    /// It holds as many instances as its class allows.
    Instances(u32),
    /// Each of its pools holds as many databases as its class allows.
    Databases(u32),
    /// Each of its accounts holds as many shares as its class allows.
    Shares(u32),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("another reef was asked for"),
            Self::LabelsDiffer => f.write_str("labels differ from reefSelector"),
            Self::DedicatedToOthers => f.write_str("dedicated to other namespaces"),
            Self::NotDedicated => f.write_str("not dedicated to this namespace"),
            Self::AntiAffinity => f.write_str("holds an instance of the same antiAffinityGroup"),
            Self::Deleting => f.write_str("being deleted"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::NotReady(why) => write!(f, "not Ready ({why})"),
            Self::CapacityUnknown => f.write_str("capacity not known"),
            Self::Reservations => write!(f, "{MOST_RESERVATIONS} placements under way"),
            Self::Instances(limit) => write!(f, "holds {limit} of {limit} instances"),
            Self::Databases(limit) => write!(f, "no pool with less than {limit} databases"),
            Self::Shares(limit) => write!(f, "no storage account with less than {limit} shares"),
        }
    }
}

/// How full something is.
pub(super) fn count(candidate: &Candidate, fits: impl Fn(&super::Tenant) -> bool) -> u32 {
    u32::try_from(candidate.tenants().filter(|t| fits(t)).count()).unwrap_or(u32::MAX)
}

/// Those of these names with less than `limit` tenants, with how many they have.
pub(super) fn with_room(names: &[String], limit: u32, used: impl Fn(&str) -> u32) -> Vec<(u32, &String)> {
    names.iter().map(|name| (used(name), name)).filter(|(used, _)| *used < limit).collect()
}

/// All reasons against a reef; none if it can take the instance.
pub(super) fn all(demand: &Demand, candidate: &Candidate) -> Vec<Verdict> {
    let asked = demand.reef.as_ref().is_none_or(|reef| *reef == candidate.name);
    let labels = demand.labels.iter().all(|(key, value)| candidate.labels.get(key) == Some(value));
    let mine = candidate.dedicated_to.as_ref().is_some_and(|list| list.contains(&demand.namespace));
    let same_group = |t: &super::Tenant| t.group.is_some() && t.group == demand.group && t.uid != demand.uid;
    let checks = [
        (!asked, Verdict::NotAsked),
        (!labels, Verdict::LabelsDiffer),
        (candidate.dedicated_to.is_some() && !mine, Verdict::DedicatedToOthers),
        (demand.dedicated_reef && candidate.dedicated_to.is_none(), Verdict::NotDedicated),
        (candidate.tenants().any(same_group), Verdict::AntiAffinity),
        (candidate.deleting, Verdict::Deleting),
        (candidate.cordoned, Verdict::Cordoned),
        (candidate.reserved.len() >= MOST_RESERVATIONS, Verdict::Reservations),
        (candidate.limits.is_none(), Verdict::CapacityUnknown),
    ];
    let mut against: Vec<_> =
        checks.into_iter().filter(|(bad, _)| *bad).map(|(_, verdict)| verdict).collect();
    against.extend(candidate.unready.clone().map(Verdict::NotReady));
    if let Some(limits) = candidate.limits {
        against.extend(no_room(demand, candidate, limits));
    }
    against
}

fn no_room(demand: &Demand, candidate: &Candidate, limits: Limits) -> Vec<Verdict> {
    let pools = with_room(&candidate.pools, limits.databases, |name| {
        count(candidate, |t| t.pool.as_deref() == Some(name))
    });
    let accounts =
        with_room(&candidate.accounts, limits.shares, |name| count(candidate, |t| t.account == name));
    let checks = [
        (count(candidate, |_| true) >= limits.instances, Verdict::Instances(limits.instances)),
        (demand.pool && pools.is_empty(), Verdict::Databases(limits.databases)),
        (accounts.is_empty(), Verdict::Shares(limits.shares)),
    ];
    checks.into_iter().filter(|(bad, _)| *bad).map(|(_, verdict)| verdict).collect()
}
