//! Which of the reefs that can take an instance is best (pure).

use std::collections::BTreeMap;

use super::{
    Candidate, Demand, Limits, Verdict,
    verdict::{all, count, with_room},
};

/// How good a reef is; lower is better, the first field that differs decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// Whether the instance would take what is kept free.
    pub beyond_reserve: bool,
    /// How full the fullest dimension would be, per thousand.
    pub fill: u32,
    /// The reef's name: the same input gives the same answer.
    pub reef: String,
}

/// A place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The reef.
    pub reef: String,
    /// Elastic pool of the database; none if it has compute of its own.
    pub pool: Option<String>,
    /// Storage account of the share.
    pub account: String,
    /// How good it is; none if the place was kept already.
    pub score: Option<Score>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The place, if there is one.
    pub choice: Option<Choice>,
    /// All reasons against each reef; an empty list is one that could have taken the instance.
    pub verdicts: BTreeMap<String, Vec<Verdict>>,
}

/// Decides. A place that is kept for the instance is its place, whatever would be chosen today.
pub fn place(demand: &Demand, candidates: &[Candidate]) -> Decision {
    let verdicts: BTreeMap<_, _> = candidates.iter().map(|c| (c.name.clone(), all(demand, c))).collect();
    let kept = candidates.iter().filter(|c| !c.deleting).find_map(|candidate| {
        let tenant = candidate.reserved.iter().find(|t| t.uid == demand.uid)?;
        let (reef, pool, account) = (candidate.name.clone(), tenant.pool.clone(), tenant.account.clone());
        Some(Choice { reef, pool, account, score: None })
    });
    let fits = |c: &&Candidate| verdicts.get(&c.name).is_some_and(Vec::is_empty);
    let best = || {
        let scored = candidates.iter().filter(fits).filter_map(|c| choice(demand, c));
        scored.min_by(|a, b| a.score.cmp(&b.score))
    };
    Decision { choice: kept.or_else(best), verdicts }
}

/// The emptiest pool and account of a reef, and the score with them.
fn choice(demand: &Demand, candidate: &Candidate) -> Option<Choice> {
    let limits = candidate.limits?;
    let pools = with_room(&candidate.pools, limits.databases, |name| {
        count(candidate, |t| t.pool.as_deref() == Some(name))
    });
    let accounts =
        with_room(&candidate.accounts, limits.shares, |name| count(candidate, |t| t.account == name));
    let pool = if demand.pool { Some(pools.into_iter().min()?) } else { None };
    let account = accounts.into_iter().min()?;
    let fill = [
        Some((count(candidate, |_| true), limits.instances)),
        pool.map(|(used, _)| (used, limits.databases)),
        Some((account.0, limits.shares)),
    ];
    let fill = fill.into_iter().flatten().map(|(used, limit)| permille(used + 1, limit)).max()?;
    let score = Score { beyond_reserve: beyond_reserve(fill, limits), fill, reef: candidate.name.clone() };
    Some(Choice {
        reef: candidate.name.clone(),
        pool: pool.map(|(_, name)| name.clone()),
        account: account.1.clone(),
        score: Some(score),
    })
}

fn permille(used: u32, limit: u32) -> u32 {
    (u64::from(used) * 1000).div_ceil(u64::from(limit.max(1))).try_into().unwrap_or(u32::MAX)
}

fn beyond_reserve(fill: u32, limits: Limits) -> bool {
    fill > 1000 - 10 * limits.reserve_percent.min(100)
}

impl Decision {
    /// Why this reef, in short, for the status.
    pub fn reason(&self) -> String {
        let rivals = self.verdicts.values().filter(|v| v.is_empty()).count();
        match self.choice.as_ref().map(|c| &c.score) {
            None => "no reef fits".to_owned(),
            Some(None) => "the place was kept".to_owned(),
            Some(Some(score)) if score.beyond_reserve => {
                format!("the best of {rivals} reefs that fit, although its reserve is used")
            }
            Some(Some(_)) => format!("the emptiest of {rivals} reefs that fit"),
        }
    }

    /// Chosen and why, others and why not; at most ten of them and 1,000 characters.
    pub fn event(&self) -> String {
        let chosen = self.choice.as_ref().map(|c| c.reef.as_str());
        let mut text = match chosen {
            Some(reef) => format!("Reef {reef}: {}", self.reason()),
            None => self.summary(),
        };
        let others = self.verdicts.iter().filter(|(reef, _)| Some(reef.as_str()) != chosen).take(10);
        text.extend(others.map(|(reef, against)| {
            let against: Vec<_> = against.iter().map(ToString::to_string).collect();
            let against = if against.is_empty() { "fits".to_owned() } else { against.join(", ") };
            format!("; {reef}: {against}")
        }));
        text.chars().take(1000).collect()
    }

    /// Why nothing fits: the reasons, counted.
    pub fn summary(&self) -> String {
        let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
        for verdict in self.verdicts.values().flatten() {
            *reasons.entry(verdict.to_string()).or_default() += 1;
        }
        let reasons: Vec<_> =
            reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        match self.verdicts.len() {
            0 => "the region has no reef".to_owned(),
            all => format!("none of {all} reefs fits: {}", reasons.join(", ")),
        }
    }
}
