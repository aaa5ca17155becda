//! Which of the reefs that fit is best (pure).

use super::{
    filter::{account, account_gauges, pool, pool_gauges},
    ledger::Ledger,
    types::{Candidate, Demand, Dimension, Gauge, Tier},
};

/// How good a reef is for an instance. Fields are in the order of their weight, lower is better, and the name
/// makes it a total order.
///
/// Instances are **spread**: of two reefs that are equal in all else, the emptier one is taken, and likewise of
/// pools and accounts. A reef that breaks then takes the fewest instances with it, each keeps room for restores
/// and bursts, and a new reef fills over time. The price is that no reef empties by itself: whoever wants one
/// gone drains it, and whoever wants one kept empty cordons or dedicates it, so both are decisions of people
/// and not side effects of placement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// Whether some limit less the class's `reservePercent` would be passed, in the reef, pool or account.
    pub beyond_soft_limit: bool,
    /// Whether the reef is for everybody. One that is kept for the instance's namespace is used first.
    pub for_everybody: bool,
    /// How full the fullest of all dimensions would be, permille.
    pub fill: u16,
    /// Name of the reef.
    pub reef: String,
}

/// What a reef that fits offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The pool; none for a database with its own resources.
    pub pool: Option<String>,
    /// The storage account.
    pub account: String,
    /// How good it is.
    pub score: Score,
}

/// How full something would be, by its fullest dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Fill {
    beyond_soft_limit: bool,
    permille: u16,
}

impl Fill {
    /// `gauge` is with the instance in it.
    fn of(gauge: Gauge, reserve_percent: u8) -> Self {
        let (limit, used) = (u128::from(gauge.limit), u128::from(gauge.used));
        let percent = u128::from(100u8.saturating_sub(reserve_percent));
        let permille = (used * 1000).checked_div(limit).unwrap_or(1000);
        Self {
            beyond_soft_limit: used * 100 > limit * percent,
            permille: u16::try_from(permille).unwrap_or(u16::MAX),
        }
    }

    fn worst(gauges: impl IntoIterator<Item = (Option<Gauge>, u64)>, reserve_percent: u8) -> Self {
        let needed = gauges.into_iter().filter(|(_, need)| *need > 0);
        let fills = needed.filter_map(|(gauge, need)| Some(Self::of(gauge?.plus(need), reserve_percent)));
        fills.max().unwrap_or_default()
    }
}

/// What a reef offers in which the instance fits; none if no account fits.
pub(super) fn offer(demand: &Demand, candidate: &Candidate, ledger: &Ledger) -> Option<Offer> {
    let (ask, reserve) = (&demand.ask, candidate.reserve_percent);
    let fill =
        |gauges: Vec<_>| Fill::worst(gauges.into_iter().map(|(_, gauge, need)| (gauge, need)), reserve);
    let pools = ledger.reef.pools.iter().filter(|p| pool(ask, p).is_empty());
    let pools = pools.map(|p| (fill(pool_gauges(ask, p)), &p.name));
    let best_pool = (ask.tiers.database == Tier::Shared).then(|| pools.min()).flatten();
    let accounts = ledger.reef.accounts.iter().filter(|a| account(ask, a).is_empty());
    let best_account = accounts.map(|a| (fill(account_gauges(ask, a)), &a.name)).min()?;
    let of_reef = Dimension::OF_REEF.map(|d| (ledger.reef.room.get(&d).copied(), ask.needs(d)));
    let of_pool = best_pool.map_or_else(Fill::default, |(fill, _)| fill);
    let fill = Fill::worst(of_reef, reserve).max(of_pool).max(best_account.0);
    Some(Offer {
        pool: best_pool.map(|(_, name)| name.clone()),
        account: best_account.1.clone(),
        score: Score {
            beyond_soft_limit: fill.beyond_soft_limit,
            for_everybody: candidate.dedicated_to.is_none(),
            fill: fill.permille,
            reef: candidate.name.clone(),
        },
    })
}
