//! A decision and its words for Events, conditions and statuses (pure).

use std::{cmp::Ordering, collections::BTreeMap, fmt};

use super::{
    amount::{cut, joined},
    filter::Refusal,
    score::{Offer, Score},
    types::Placement,
};

/// Bytes that the note of an Event may have; a condition's message keeps to it too.
const EVENT_BYTES: usize = 1024;
/// Bytes of a reason in a status.
const REASON_BYTES: usize = 256;
/// How many of the other reefs an Event names.
const OTHERS: usize = 10;

/// What is thought of one reef: why not, or what it offers; never both and never neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Name of the reef.
    pub reef: String,
    /// All that speaks against it.
    pub refusals: Vec<Refusal>,
    /// What it offers, if nothing does.
    pub offer: Option<Offer>,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The region that it asks for.
    pub region: String,
    /// Where it goes; none if it fits nowhere, or if `held_by` says where it is.
    pub chosen: Option<Chosen>,
    /// The reef that already counts an instance that has no placement yet: it is not placed again.
    pub held_by: Option<String>,
    /// What is thought of each reef, by name.
    pub verdicts: Vec<Verdict>,
}

/// Where an instance goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Where.
    pub placement: Placement,
    /// How good that is; none where it was reserved before.
    pub score: Option<Score>,
    /// Why there.
    pub why: Why,
}

impl Chosen {
    /// Whether the reservation is in the Reef already: then only the instance's status is to be written.
    pub fn is_reserved(&self) -> bool {
        self.why == Why::ReservedBefore
    }
}

/// Why a reef was chosen: what sets it apart from the next best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was reserved for the instance before.
    ReservedBefore,
    /// No other fits.
    OnlyOne,
    /// It stays within its soft limits.
    WithinSoftLimit(Rivals),
    /// It is kept for the instance's namespace.
    KeptForIt(Rivals),
    /// It is the emptiest: its fill and that of the next, permille.
    Emptiest(Rivals, u16, u16),
    /// It is the first by name.
    FirstByName(Rivals),
}

/// Against whom a reef was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rivals {
    /// How many reefs fit, the chosen one too.
    pub fitting: usize,
    /// The next best.
    pub next: String,
}

impl Why {
    /// Why `best` was taken of `fitting` reefs, of which `next` is the second.
    pub(super) fn of(best: &Score, next: Option<&Score>, fitting: usize) -> Self {
        let Some(next) = next else { return Self::OnlyOne };
        let rivals = Rivals { fitting, next: next.reef.clone() };
        if best.beyond_soft_limit != next.beyond_soft_limit {
            Self::WithinSoftLimit(rivals)
        } else if best.for_everybody != next.for_everybody {
            Self::KeptForIt(rivals)
        } else if best.fill != next.fill {
            Self::Emptiest(rivals, best.fill, next.fill)
        } else {
            Self::FirstByName(rivals)
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBefore => f.write_str("reserved before"),
            Self::OnlyOne => f.write_str("the only reef that fits"),
            Self::WithinSoftLimit(rivals) => write!(f, "within its soft limits, unlike {rivals}"),
            Self::KeptForIt(rivals) => write!(f, "kept for this namespace, unlike {rivals}"),
            Self::Emptiest(rivals, own, next) => {
                write!(f, "emptiest, {} full against {} of {rivals}", percent(*own), percent(*next))
            }
            Self::FirstByName(rivals) => write!(f, "first by name, as good as {rivals}"),
        }
    }
}

impl fmt::Display for Rivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, the next of {} reefs that fit", self.next, self.fitting)
    }
}

fn percent(permille: u16) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

impl Decision {
    /// The note of an Event: where and why, or that it fits nowhere; then up to ten others with why not. At
    /// most 1024 bytes.
    pub fn event(&self) -> String {
        let head = match &self.chosen {
            Some(chosen) => format!("{}: {}", chosen.placement, chosen.why),
            None => self.summary(),
        };
        let own = self.chosen.as_ref().map(|c| c.placement.reef.as_str());
        let mut others: Vec<_> = self.verdicts.iter().filter(|v| Some(v.reef.as_str()) != own).collect();
        others.sort_by(|a, b| by_interest(a, b));
        let mut parts = vec![cut(head, EVENT_BYTES / 2)];
        parts.extend(others.iter().take(OTHERS).map(ToString::to_string));
        if others.len() > OTHERS {
            parts.push(format!("{} other reefs", others.len() - OTHERS));
        }
        joined(&parts, EVENT_BYTES)
    }

    /// Why, for the instance's status. At most 256 bytes.
    pub fn reason(&self) -> String {
        let text = match &self.chosen {
            Some(chosen) => chosen.why.to_string(),
            None => self.summary(),
        };
        cut(text, REASON_BYTES)
    }

    /// What stands in the way, for a condition's message: what decides for each reef of the region, counted.
    /// It holds no number that changes while nothing else does. Empty where a reef was chosen. At most 1024
    /// bytes.
    pub fn summary(&self) -> String {
        if self.chosen.is_some() {
            return String::new();
        }
        if let Some(reef) = &self.held_by {
            return format!("reef {reef} holds the instance already: it is not placed again");
        }
        let here: Vec<_> = self.verdicts.iter().filter_map(|v| v.refusals.first()).collect();
        if here.is_empty() {
            return format!("region {} has no reef", self.region);
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for refusal in &here {
            *counts.entry(refusal.brief()).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let reefs = if here.len() == 1 { "reef" } else { "reefs" };
        let head = format!("0 of {} {reefs} of region {} fit: ", here.len(), self.region);
        let parts: Vec<_> = counts.into_iter().map(|(why, count)| format!("{count} {why}")).collect();
        let room = EVENT_BYTES.saturating_sub(head.len());
        head + &joined(&parts, room)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.offer {
            Some(offer) => write!(f, "{} fits, {} full", self.reef, percent(offer.score.fill)),
            None => {
                let why: Vec<_> = self.refusals.iter().map(ToString::to_string).collect();
                write!(f, "not {}: {}", self.reef, why.join(", "))
            }
        }
    }
}

/// Those that fit come first, the best of them before others.
fn by_interest(a: &Verdict, b: &Verdict) -> Ordering {
    let score = |v: &Verdict| v.offer.as_ref().map(|o| o.score.clone());
    let rank = |v: &Verdict| (v.offer.is_none(), score(v), v.reef.clone());
    rank(a).cmp(&rank(b))
}
