//! What fitted nowhere a moment ago (pure). Each placement reads all instances; of many that wait for room only one has to,
//! as long as nothing is there that could have changed the answer.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::ResourceExt;
use reef_crds::Reef;

use crate::placement::{Ask, Decision, Demand};

/// For so long an answer is taken for another instance too, seconds. Room that an instance leaves meanwhile is seen then.
const SECONDS: i64 = 5;

/// A refusal, and what it was for.
pub struct Refused {
    at: Timestamp,
    wishes: Wishes,
    ask: Ask,
    reefs: Vec<(String, Option<String>)>,
    /// The decision.
    pub decision: Decision,
}

#[derive(PartialEq, Eq)]
struct Wishes {
    namespace: String,
    reef: Option<String>,
    labels: BTreeMap<String, String>,
    refused_on: BTreeSet<String>,
}

impl Refused {
    /// Remembers a decision by which nothing fits.
    pub fn new(demand: &Demand, reefs: &[Reef], decision: Decision, at: Timestamp) -> Self {
        Self { at, wishes: wishes(demand), ask: demand.ask.clone(), reefs: versions(reefs), decision }
    }

    /// Whether it holds for this demand as well: the reefs are as they were, none keeps a place for it, and it asks for no
    /// less and for nothing else.
    pub fn holds_for(&self, demand: &Demand, reefs: &[Reef], now: Timestamp) -> bool {
        let is_kept = |reef: &Reef| {
            reef.status.iter().flat_map(|status| &status.reservations).any(|kept| kept.uid == demand.claim)
        };
        let (less, more) = (self.ask.size, demand.ask.size);
        let is_no_less = more.pods >= less.pods
            && more.cpu >= less.cpu
            && more.memory >= less.memory
            && more.database >= less.database
            && more.share >= less.share;
        (0..SECONDS).contains(&(now.as_second() - self.at.as_second()))
            && self.wishes == wishes(demand)
            && self.ask.tiers == demand.ask.tiers
            && self.ask.anti_affinity.is_none()
            && demand.ask.anti_affinity.is_none()
            && is_no_less
            && self.reefs == versions(reefs)
            && !reefs.iter().any(is_kept)
    }
}

fn wishes(demand: &Demand) -> Wishes {
    Wishes {
        namespace: demand.instance.namespace.clone(),
        reef: demand.reef.clone(),
        labels: demand.labels.clone(),
        refused_on: demand.refused_on.clone(),
    }
}

/// A reef that changes in any way has another version.
fn versions(reefs: &[Reef]) -> Vec<(String, Option<String>)> {
    reefs.iter().map(|reef| (reef.name_any(), reef.resource_version())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::placement::{Instance, Size};

    fn demand() -> Demand {
        Demand {
            instance: Instance { namespace: "n".to_owned(), name: "a".to_owned() },
            claim: "u".to_owned(),
            revision: 1,
            generation: 1,
            region: "r".to_owned(),
            ask: Ask { size: Size { pods: 1, cpu: 10, ..Size::default() }, ..Ask::default() },
            reef: None,
            labels: BTreeMap::new(),
            refused_on: BTreeSet::new(),
        }
    }

    fn reef(version: &str, kept: &[&str]) -> Reef {
        let kept: Vec<_> = kept
            .iter()
            .map(|uid| {
                json!({ "uid": uid, "namespace": "n", "name": "a", "generation": 1, "storageAccount": "s",
                    "at": "2026-01-01T00:00:00Z" })
            })
            .collect();
        let metadata = json!({ "name": "one", "resourceVersion": version });
        let spec = json!({ "regionRef": { "name": "r" }, "classRef": { "name": "c" } });
        serde_json::from_value(
            json!({ "metadata": metadata, "spec": spec, "status": { "reservations": kept } }),
        )
        .unwrap()
    }

    #[test]
    fn an_answer_holds_for_what_asks_for_no_less_while_nothing_changes() {
        let at = |second: i64| Timestamp::from_second(100 + second).unwrap();
        let none = Decision { region: "r".to_owned(), chosen: None, held_by: None, verdicts: Vec::new() };
        let reefs = [reef("1", &[])];
        let refused = Refused::new(&demand(), &reefs, none, at(0));
        let holds = |change: &dyn Fn(&mut Demand)| {
            let mut demand = demand();
            demand.claim = "other".to_owned();
            change(&mut demand);
            refused.holds_for(&demand, &reefs, at(1))
        };
        assert!(holds(&|_| {}));
        assert!(holds(&|d| d.ask.size.cpu = 11));
        assert!(!holds(&|d| d.ask.size.cpu = 9), "a smaller one may fit");
        assert!(!holds(&|d| d.instance.namespace = "m".to_owned()), "a reef may be kept for its namespace");
        assert!(!holds(&|d| d.reef = Some("one".to_owned())));
        assert!(!holds(&|d| d.refused_on = ["one".to_owned()].into()));
        assert!(
            !holds(&|d| d.ask.anti_affinity = Some("g".to_owned())),
            "who its neighbours are is not known"
        );
        assert!(!refused.holds_for(&demand(), &reefs, at(5)), "it is old");
        assert!(!refused.holds_for(&demand(), &reefs, at(-1)), "the clock was set back");
        assert!(!refused.holds_for(&demand(), &[reef("2", &[])], at(1)), "the reef is another by now");
        assert!(!refused.holds_for(&demand(), &[], at(1)));
        let kept = [reef("1", &["u"])];
        assert!(!refused.holds_for(&demand(), &kept, at(1)), "a place is kept for it");
    }
}
