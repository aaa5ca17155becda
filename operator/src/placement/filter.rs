//! Why a reef cannot take an instance: hard limits, all of them looked at (pure).

use std::fmt;

use super::{
    MAX_RESERVATIONS,
    ledger::Ledger,
    types::{Account, Ask, Candidate, Demand, Dimension, Gauge, Group, Pool, Readiness, Tier},
};

/// Why a reef cannot take an instance. They are found in this order, and the first speaks for
/// the reef in a summary: what nobody would change comes before what may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The instance asks for another reef.
    NotAskedFor,
    /// It lacks a label that the instance asks for.
    NotSelected,
    /// It is kept for other namespaces.
    KeptForOthers,
    /// The instance asks for a reef that is kept for its namespace, and this one is for everybody.
    NotDedicated,
    /// It is for everybody now, and an instance is there that asked for a reef of its own.
    HeldAlone,
    /// Another instance of this anti-affinity group is there.
    GroupPresent(String),
    /// It is being deleted.
    Deleting,
    /// The instance is there already.
    HoldsIt,
    /// Azure had no room for it there a while ago.
    NoRoomInAzure,
    /// It takes no new instances.
    Cordoned,
    /// It is not Ready; the condition's reason. What it lacks because of that is not said too.
    NotReady(String),
    /// It lacks something that all of its instances share.
    Lacks(Lack),
    /// No pool can take the database; each with what it lacks.
    NoPool(Vec<(String, Vec<Lack>)>),
    /// No storage account can take the share; each with what it lacks.
    NoAccount(Vec<(String, Vec<Lack>)>),
    /// As many reservations are pending as may be.
    TooManyReservations,
}

/// What a reef, pool or account lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It is not in service yet.
    NotReady,
    /// How much there is is not known.
    Unknown(Dimension),
    /// There is not enough.
    Full {
        /// Of what.
        dimension: Dimension,
        /// How much there is, with what is reserved.
        gauge: Gauge,
        /// How much is asked for.
        need: u64,
    },
}

/// All that speaks against a reef; nothing if the instance fits.
pub(super) fn refusals(demand: &Demand, candidate: &Candidate, ledger: &Ledger) -> Vec<Refusal> {
    let mut found = wishes(demand, candidate);
    found.extend(company(demand, candidate, ledger));
    found.extend(state(demand, candidate));
    if candidate.ready == Readiness::Ready {
        found.extend(no_room(demand, ledger));
    }
    if ledger.reservations >= MAX_RESERVATIONS {
        found.push(Refusal::TooManyReservations);
    }
    found
}

/// What the reef, its pools and its accounts lack.
fn no_room(demand: &Demand, ledger: &Ledger) -> Vec<Refusal> {
    let lacks = Dimension::OF_REEF.into_iter().filter_map(|dimension| {
        lack(dimension, ledger.reef.room.get(&dimension).copied(), demand.ask.needs(dimension))
    });
    let mut found: Vec<_> = lacks.map(Refusal::Lacks).collect();
    if demand.ask.tiers.database == Tier::Shared {
        let pools = ledger.reef.pools.iter().map(|p| (p.name.clone(), pool(&demand.ask, p)));
        found.extend(none_fits(pools).map(Refusal::NoPool));
    }
    let accounts = ledger.reef.accounts.iter().map(|a| (a.name.clone(), account(&demand.ask, a)));
    found.extend(none_fits(accounts).map(Refusal::NoAccount));
    found
}

/// What the spec of the instance says against the reef.
pub(super) fn wishes(demand: &Demand, candidate: &Candidate) -> Vec<Refusal> {
    let mut found = Vec::new();
    if demand.reef.as_ref().is_some_and(|reef| *reef != candidate.name) {
        found.push(Refusal::NotAskedFor);
    }
    if demand.labels.iter().any(|(key, value)| candidate.labels.get(key) != Some(value)) {
        found.push(Refusal::NotSelected);
    }
    found
}

/// What the reef's own state says.
fn state(demand: &Demand, candidate: &Candidate) -> Vec<Refusal> {
    let mut found = Vec::new();
    if candidate.deleting {
        found.push(Refusal::Deleting);
    }
    if candidate.counted.contains(&demand.instance) {
        found.push(Refusal::HoldsIt);
    }
    if demand.refused_on.contains(&candidate.name) {
        found.push(Refusal::NoRoomInAzure);
    }
    if candidate.cordoned {
        found.push(Refusal::Cordoned);
    }
    if let Readiness::NotReady(why) = &candidate.ready {
        found.push(Refusal::NotReady(why.clone()));
    }
    found
}

/// What other instances of the reef, there or promised, say.
fn company(demand: &Demand, candidate: &Candidate, ledger: &Ledger) -> Vec<Refusal> {
    let mut found = Vec::new();
    match &candidate.dedicated_to {
        // Where the reef is kept for the namespace, its instances are among themselves.
        Some(namespaces) if namespaces.contains(&demand.instance.namespace) => {}
        Some(_) => found.push(Refusal::KeptForOthers),
        None => {
            if demand.ask.tiers.reef == Tier::Dedicated {
                found.push(Refusal::NotDedicated);
            }
            if ledger.reef.holds_dedicated {
                found.push(Refusal::HeldAlone);
            }
        }
    }
    if let Some(Group { name, .. }) = demand.group().filter(|g| ledger.reef.groups.contains(g)) {
        found.push(Refusal::GroupPresent(name));
    }
    found
}

/// What is lacking of one dimension.
fn lack(dimension: Dimension, gauge: Option<Gauge>, need: u64) -> Option<Lack> {
    match gauge {
        _ if need == 0 => None,
        None => Some(Lack::Unknown(dimension)),
        Some(gauge) if gauge.holds(need) => None,
        Some(gauge) => Some(Lack::Full { dimension, gauge, need }),
    }
}

/// How full a pool is in what a database needs of it, and how much that is.
pub(super) fn pool_gauges(ask: &Ask, pool: &Pool) -> Vec<(Dimension, Option<Gauge>, u64)> {
    let mut gauges = vec![
        (Dimension::PoolDatabases, pool.databases, ask.needs(Dimension::PoolDatabases)),
        (Dimension::PoolGuarantee, pool.guaranteed(), pool.guarantee),
    ];
    let storage = pool.storage.map(|g| (Dimension::PoolStorage, Some(g), ask.needs(Dimension::PoolStorage)));
    gauges.extend(storage);
    gauges
}

/// How full an account is in what a share needs of it, and how much that is.
pub(super) fn account_gauges(ask: &Ask, account: &Account) -> Vec<(Dimension, Option<Gauge>, u64)> {
    vec![
        (Dimension::Shares, account.shares, ask.needs(Dimension::Shares)),
        (Dimension::ShareStorage, Some(account.storage), ask.needs(Dimension::ShareStorage)),
    ]
}

/// What a pool lacks for a database.
pub(super) fn pool(ask: &Ask, pool: &Pool) -> Vec<Lack> {
    part(pool.ready, pool_gauges(ask, pool))
}

/// What an account lacks for a share.
pub(super) fn account(ask: &Ask, account: &Account) -> Vec<Lack> {
    part(account.ready, account_gauges(ask, account))
}

fn part(ready: bool, gauges: Vec<(Dimension, Option<Gauge>, u64)>) -> Vec<Lack> {
    let lacks = gauges.into_iter().filter_map(|(dimension, gauge, need)| lack(dimension, gauge, need));
    (!ready).then_some(Lack::NotReady).into_iter().chain(lacks).collect()
}

/// What each lacks, if each lacks something.
fn none_fits(parts: impl Iterator<Item = (String, Vec<Lack>)>) -> Option<Vec<(String, Vec<Lack>)>> {
    let mut all: Vec<_> = parts.collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.iter().all(|(_, lacks)| !lacks.is_empty()).then_some(all)
}

impl Refusal {
    /// The words for a condition: without numbers that change while nothing else does.
    pub fn brief(&self) -> String {
        match self {
            Self::Lacks(lack) => lack.brief(),
            // Why it is not is told by its own conditions, and changes from step to step while it is made.
            Self::NotReady(_) => "not Ready".to_owned(),
            Self::NoPool(pools) => parts(pools, "no elastic pool", Lack::brief),
            Self::NoAccount(accounts) => parts(accounts, "no storage account", Lack::brief),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAskedFor => f.write_str("not the reef asked for"),
            Self::NotSelected => f.write_str("lacks a label that was asked for"),
            Self::Deleting => f.write_str("being deleted"),
            Self::KeptForOthers => f.write_str("kept for other namespaces"),
            Self::NotDedicated => f.write_str("not dedicated to the namespace"),
            Self::HeldAlone => f.write_str("holds an instance that asked for a dedicated reef"),
            Self::HoldsIt => f.write_str("holds the instance already"),
            Self::NoRoomInAzure => f.write_str("Azure had no room for it there a while ago"),
            Self::Cordoned => f.write_str("Cordoned"),
            Self::NotReady(why) => write!(f, "not Ready ({why})"),
            Self::GroupPresent(group) => write!(f, "anti-affinity group {group} is there"),
            Self::Lacks(lack) => lack.fmt(f),
            Self::NoPool(pools) => f.write_str(&parts(pools, "no elastic pool", Lack::to_string)),
            Self::NoAccount(accounts) => f.write_str(&parts(accounts, "no storage account", Lack::to_string)),
            Self::TooManyReservations => write!(f, "{MAX_RESERVATIONS} reservations pending"),
        }
    }
}

impl Lack {
    /// The words for a condition: without numbers that change while nothing else does.
    fn brief(&self) -> String {
        match self {
            Self::Full { dimension, gauge, .. } if dimension.is_count() => {
                format!("full with {} {dimension}", gauge.limit)
            }
            Self::Full { dimension, gauge, need } if *need > gauge.limit => {
                format!("less {dimension} in all than is asked for")
            }
            Self::Full { dimension, .. } => format!("too little {dimension}"),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("not ready"),
            Self::Unknown(dimension) => write!(f, "{dimension}: not known"),
            Self::Full { dimension, gauge, need } => {
                let [used, limit, need] = [gauge.used, gauge.limit, *need].map(|n| dimension.amount(n));
                write!(f, "{dimension}: {used} of {limit} used, {need} asked for")
            }
        }
    }
}

/// What each pool or account lacks, in one text.
fn parts(parts: &[(String, Vec<Lack>)], none: &str, words: fn(&Lack) -> String) -> String {
    let one = |(name, lacks): &(String, Vec<Lack>)| {
        format!("{name} ({})", lacks.iter().map(words).collect::<Vec<_>>().join(", "))
    };
    if parts.is_empty() { none.to_owned() } else { parts.iter().map(one).collect::<Vec<_>>().join(", ") }
}
