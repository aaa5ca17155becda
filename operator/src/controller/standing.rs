//! How an object stands, from how its parts stand (pure).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use reef_crds::condition::{ConditionType, Decided, Reason, merge, of_this_spec, true_since};

use super::{
    Policy,
    trouble::{Trouble, is_late, progress},
};
use crate::resources::Verdict;

/// How one condition stands.
pub struct Standing {
    /// What it speaks about.
    pub type_: ConditionType,
    /// True, False or Unknown.
    pub status: Option<bool>,
    /// Why.
    pub trouble: Trouble,
    /// What needs a human is 0, what is tried again 1, what is worked at 2, what waits 3, what is not known 4.
    pub rank: u8,
}

/// The condition that speaks of these parts: the worst of them.
pub fn standing(type_: ConditionType, verdicts: &[&Verdict]) -> Standing {
    let rank = |verdict: &Verdict| match verdict {
        Verdict::Blocked(_) => 0,
        Verdict::Failed(_) => 1,
        Verdict::Working(_) => 2,
        Verdict::Waiting(_) => 3,
        Verdict::Unknown(_) => 4,
        Verdict::Good => 5,
    };
    let well = || Trouble::new(Reason::ReconcileSucceeded, "as wanted");
    let Some(worst) = verdicts.iter().min_by_key(|v| rank(v)) else {
        return Standing { type_, status: Some(true), trouble: well(), rank: 5 };
    };
    let (status, trouble) = match (*worst).clone() {
        Verdict::Unknown(trouble) => (None, trouble),
        Verdict::Waiting(what) => (Some(false), Trouble::new(Reason::WaitingForDependency, what)),
        Verdict::Working(what) => (Some(false), Trouble::new(Reason::Provisioning, what)),
        Verdict::Failed(trouble) | Verdict::Blocked(trouble) => (Some(false), trouble),
        Verdict::Good => (Some(true), well()),
    };
    Standing { type_, status, trouble, rank: rank(worst) }
}

/// The conditions before this look, and what they were about.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    /// The conditions.
    pub conditions: &'a [Condition],
    /// The generation that they are about.
    pub observed: Option<i64>,
    /// The object's generation.
    pub generation: i64,
    /// Whether all in Azure was good for this generation when it was last seen.
    pub was_good: bool,
}

impl Before<'_> {
    fn was_ready(&self) -> bool {
        self.observed == Some(self.generation) && true_since(self.conditions, ConditionType::Ready).is_some()
    }
}

/// The next conditions; `well` says what `Ready` means.
pub fn conditions(
    old: Before<'_>,
    standings: Vec<Standing>,
    well: &str,
    policy: &Policy,
    now: Timestamp,
) -> Vec<Condition> {
    let before = of_this_spec(old.conditions, old.generation);
    // What is worst; what could not be looked at only if there is nothing else and it was not well before.
    let excused =
        |s: &Standing| s.status.is_none() && (old.was_ready() || (old.was_good && is_in_azure(s.type_)));
    let worst = standings.iter().filter(|s| s.status != Some(true) && !excused(s)).min_by_key(|s| s.rank);
    let bad = worst.or_else(|| standings.iter().find(|s| is_blind(s, &before, now)));
    let ready = match bad {
        None => (Some(true), Reason::ReconcileSucceeded, well.to_owned()),
        Some(bad) => (Some(false), bad.trouble.reason, bad.trouble.message.clone()),
    };
    let mut decided =
        vec![Decided { type_: ConditionType::Ready, status: ready.0, reason: ready.1, message: ready.2 }];
    let before = resumed(before, ready.1);
    if let Some(bad) = bad {
        let already = true_since(&before, ConditionType::Stalled).is_some();
        let is_late = is_late(&before, policy, now) && !is_meant(bad.trouble.reason);
        decided.push(progress(
            &bad.trouble,
            (bad.rank == 0) || is_late || (already && !moved(&before, &standings)),
        ));
    }
    decided.extend(standings.into_iter().map(|s| Decided {
        type_: s.type_,
        status: s.status,
        reason: s.trouble.reason,
        message: s.trouble.message,
    }));
    merge(&before, &decided, old.generation, now)
}

/// Whether a condition is about what Azure alone says.
fn is_in_azure(type_: ConditionType) -> bool {
    use ConditionType::{ClusterReachable, Configured, GatewayReady, Placed, WorkloadAvailable};
    !matches!(type_, WorkloadAvailable | Configured | Placed | ClusterReachable | GatewayReady)
}

/// How long it may be unknown whether a server serves before its object no longer says that it does.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// Whether nobody has known for long whether the server serves. What Azure does not say is no reason: the server runs on
/// whatever Azure does.
fn is_blind(standing: &Standing, before: &[Condition], now: Timestamp) -> bool {
    let unknown = before.iter().find(|c| c.type_ == standing.type_.as_str() && c.status == "Unknown");
    let long = unknown.is_some_and(|c| now.duration_since(c.last_transition_time.0) >= GRACE);
    standing.type_ == ConditionType::WorkloadAvailable && standing.status.is_none() && long
}

/// The conditions of an object that cannot be begun or gone on with; those of its parts, `kept`, stay as they
/// were. None if all stays: a good object stays good while what it refers to cannot be read.
pub fn held(
    old: Before<'_>,
    trouble: &Trouble,
    stalled: bool,
    kept: &[ConditionType],
    policy: &Policy,
    now: Timestamp,
) -> Option<Vec<Condition>> {
    if old.was_ready() && !stalled {
        return None;
    }
    let before = resumed(of_this_spec(old.conditions, old.generation), trouble.reason);
    let ready = Decided {
        type_: ConditionType::Ready,
        status: Some(false),
        reason: trouble.reason,
        message: trouble.message.clone(),
    };
    let is_late = is_late(&before, policy, now) && !is_meant(trouble.reason);
    let stalled = stalled || is_late || true_since(&before, ConditionType::Stalled).is_some();
    let mut decided = vec![ready, progress(trouble, stalled)];
    decided.extend(kept.iter().filter_map(|type_| as_it_was(old.conditions, *type_)));
    Some(merge(&before, &decided, old.generation, now))
}

/// Whether somebody wants that nothing goes on: then no time to wait is too long.
fn is_meant(reason: Reason) -> bool {
    matches!(reason, Reason::EmergencyStop | Reason::Paused)
}

/// The conditions before, for an object that goes on after a stop or a pause: its whole progress deadline begins.
fn resumed(mut before: Vec<Condition>, reason: Reason) -> Vec<Condition> {
    let was_stopped = [Reason::EmergencyStop, Reason::Paused].iter().any(|stop| {
        before.iter().any(|c| c.type_ == ConditionType::Ready.as_str() && c.reason == stop.as_str())
    });
    if was_stopped && !is_meant(reason) {
        let progress = [ConditionType::Reconciling.as_str(), ConditionType::Stalled.as_str()];
        before.retain(|c| !progress.contains(&c.type_.as_str()));
    }
    before
}

fn as_it_was(old: &[Condition], type_: ConditionType) -> Option<Decided> {
    let condition = old.iter().find(|c| c.type_ == type_.as_str())?;
    let status = match condition.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    };
    let reason = Reason::ALL.iter().copied().find(|r| r.as_str() == condition.reason)?;
    Some(Decided { type_, status, reason, message: condition.message.clone() })
}

/// Whether a part's condition flips with this report: then an object that was late goes on.
fn moved(before: &[Condition], standings: &[Standing]) -> bool {
    standings.iter().any(|s| {
        let was = before.iter().find(|c| c.type_ == s.type_.as_str()).map(|c| c.status.as_str());
        s.status == Some(true) && was != Some("True")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_stop_may_last_and_its_time_does_not_count_afterwards() {
        let policy = Policy {
            resync: Duration::from_secs(600),
            progress_deadline: Duration::from_secs(1800),
            azure_poll: Duration::from_secs(15),
        };
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let look = |before: &[Condition], reason, now: i64| {
            let old = Before { conditions: before, observed: Some(1), generation: 1, was_good: false };
            let trouble = Trouble::new(reason, "why");
            let held = held(old, &trouble, false, &[], &policy, at(now)).unwrap();
            let verdict = Verdict::Failed(trouble);
            let standings = vec![standing(ConditionType::Placed, &[&verdict])];
            let reported = conditions(old, standings, "serves", &policy, at(now));
            let is = |list: &[Condition], type_| true_since(list, type_).is_some();
            let both = [ConditionType::Reconciling, ConditionType::Stalled].map(|t| is(&held, t));
            assert_eq!(both, [ConditionType::Reconciling, ConditionType::Stalled].map(|t| is(&reported, t)));
            (held, both)
        };
        for stop in [Reason::EmergencyStop, Reason::Paused] {
            let (first, _) = look(&[], stop, 0);
            let (long, shown) = look(&first, stop, 100_000);
            assert_eq!(shown, [true, false], "{stop}: nobody is late who is told to wait");
            let (after, shown) = look(&long, Reason::NoReefFits, 100_010);
            assert_eq!(shown, [true, false], "{stop}: it has just begun again");
            assert_eq!(look(&after, Reason::NoReefFits, 101_800).1, [true, false]);
            assert_eq!(look(&after, Reason::NoReefFits, 101_811).1, [false, true], "now it is late");
        }
    }

    #[test]
    fn a_server_that_comes_back_while_azure_is_silent_is_ready_if_all_was_good_there() {
        let policy = Policy {
            resync: Duration::from_secs(600),
            progress_deadline: Duration::from_secs(1800),
            azure_poll: Duration::from_secs(15),
        };
        let silent = Verdict::Unknown(Trouble::new(Reason::AzureUnavailable, "no answer"));
        let starts = Verdict::Working("it starts".to_owned());
        let look = |before: &[Condition], azure: &Verdict, server: &Verdict, was_good: bool| {
            let old = Before { conditions: before, observed: Some(1), generation: 1, was_good };
            let both = vec![
                standing(ConditionType::DatabaseReady, &[azure]),
                standing(ConditionType::WorkloadAvailable, &[server]),
            ];
            conditions(old, both, "serves", &policy, Timestamp::UNIX_EPOCH)
        };
        let ready = |list: &[Condition]| true_since(list, ConditionType::Ready).is_some();
        let well = look(&[], &Verdict::Good, &Verdict::Good, true);
        let down = look(&well, &silent, &starts, true);
        assert!(ready(&well) && !ready(&down));
        assert!(ready(&look(&down, &silent, &Verdict::Good, true)));
        assert!(!ready(&look(&down, &silent, &Verdict::Good, false)), "nobody knows what it was like");
        assert!(!ready(&look(&down, &silent, &silent, true)), "whether it serves has to be seen");
        let refused = Verdict::Failed(Trouble::new(Reason::Unauthorized, "no"));
        assert!(!ready(&look(&down, &refused, &Verdict::Good, true)));
    }

    #[test]
    fn a_server_of_which_nothing_is_known_for_long_is_not_said_to_serve() {
        let policy = Policy {
            resync: Duration::from_secs(600),
            progress_deadline: Duration::from_secs(1800),
            azure_poll: Duration::from_secs(15),
        };
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let look = |before: &[Condition], type_, known: bool, now: i64| {
            let trouble = Trouble::new(Reason::ClusterUnreachable, "no answer");
            let verdict = if known { Verdict::Good } else { Verdict::Unknown(trouble) };
            let old = Before { conditions: before, observed: Some(1), generation: 1, was_good: false };
            conditions(old, vec![standing(type_, &[&verdict])], "serves", &policy, at(now))
        };
        let ready = |list: &[Condition]| true_since(list, ConditionType::Ready).is_some();
        for (type_, expect) in
            [(ConditionType::WorkloadAvailable, false), (ConditionType::DatabaseReady, true)]
        {
            let good = look(&[], type_, true, 0);
            let short = look(&good, type_, false, 10);
            assert!(ready(&good) && ready(&short), "for a moment it stays as it was");
            let long = look(&short, type_, false, 80);
            assert_eq!(ready(&long), expect, "{type_:?}");
            assert!(ready(&look(&long, type_, true, 90)), "and it comes back");
        }
    }
}
