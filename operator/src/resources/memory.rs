//! What a controller remembers of an object's resources between looks. Nothing of it is needed: after a restart it is
//! read again from Azure. Operation URLs are signed, so they are kept here and nowhere else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use reef_crds::condition::Reason;
use serde_json::Value;

use super::{Failure, Verdict};
use crate::{
    azure::{ArmError, Class, Operation},
    observed::Observed,
};

/// After so many writes for the same reason, each of which Azure took, the next ones wait.
const WRITES_FOR_ONE_REASON: u32 = 3;

/// Longest time that Azure takes to make something, seconds; the longest that was seen is 735.
pub const LONGEST_SECONDS: i64 = 900;

/// How long the URL of an operation may lead to no status, seconds. The longest operation that was recorded took 2107.
const SILENT_SECONDS: i64 = 3600;

/// What is remembered of one object.
#[derive(Default)]
pub struct Memory {
    /// Operations of ours that run, by the id of their resource.
    pub operations: HashMap<String, Running>,
    /// Resources as they were last read, by id.
    pub read: HashMap<String, Read>,
    /// Writes that failed, by id.
    pub failures: HashMap<String, Failure>,
    /// Writes that were taken, by id: what they were for, and how many in a row.
    pub taken: HashMap<String, (String, u32)>,
    /// When something was last asked for of which it is not known whether it comes, by id; none before what an earlier
    /// leader may have begun was noted.
    open: Option<HashMap<String, Timestamp>>,
    /// What a deletion has seen to be there, by id: that it is absent afterwards is its own doing.
    pub seen: BTreeSet<String>,
    /// When it was last found that an object without a place exists nowhere, and on which reefs it was looked for.
    pub nowhere: Option<(Timestamp, String)>,
    /// Whether somebody asked for a look at Azure itself, and not at what was read or listed before.
    pub is_asked: bool,
    /// For which generation of the object all was good when it was last seen.
    good_for: Option<i64>,
    /// Whether the object is not well, so that what is taken for good may be the cause.
    pub is_doubtful: bool,
    /// Whether the last look of a deletion saw that things are absent, which is looked at twice.
    pub looked: bool,
}

/// What is remembered of all objects of a kind, by UID.
#[derive(Default)]
pub struct Memories(Mutex<HashMap<String, Memory>>);

impl Memories {
    /// Takes what is remembered of an object. A look that is given up loses it, which is as good as a restart.
    pub fn take(&self, uid: &str) -> Memory {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid).unwrap_or_default()
    }

    /// Remembers it for the next look.
    pub fn put(&self, uid: &str, memory: Memory) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), memory);
    }
}

/// An operation of ours that runs.
pub struct Running {
    /// How to follow it.
    pub operation: Operation,
    /// When to ask next.
    pub poll_at: Timestamp,
    /// Since when nobody could be asked how it goes; none if somebody answered the last time.
    pub silent_since: Option<Timestamp>,
}

/// A resource as it was last read.
pub struct Read {
    /// What was read.
    pub state: Observed<Value>,
    /// When to read it again.
    pub again_at: Timestamp,
    /// Why it could not be read, if it could not.
    pub blind: Option<Reason>,
    /// Whether it comes from a list, which is good for seeing that all is as it was, and for nothing else.
    pub listed: bool,
}

impl Memory {
    /// What was read of a resource is no longer to be relied on: it is read again before the next decision,
    /// unless an operation runs, which is waited for.
    pub fn stale(&mut self, id: &str) {
        if let Some(read) = self.read.get_mut(id) {
            read.again_at = Timestamp::MIN;
        }
    }

    /// A resource is absent: what was read of those in it is not to be relied on, or they would be taken for there when it
    /// is made again.
    pub fn gone(&mut self, id: &str) {
        let below = format!("{id}/");
        let there = |read: &Read| matches!(read.state, Observed::Present(_));
        let within = self.read.iter_mut().filter(|(other, read)| other.starts_with(&below) && there(read));
        within.for_each(|(_, read)| read.again_at = Timestamp::MIN);
    }

    /// What was only listed of a resource is read again by itself, before anything follows from it. True if that is so.
    pub fn doubt(&mut self, id: &str) -> bool {
        let listed = self.read.get(id).is_some_and(|read| read.listed && read.blind.is_none());
        if listed {
            self.stale(id);
        }
        listed
    }

    /// Somebody asks for a look now, perhaps because the reason of a failure is gone: everything is read anew, and what
    /// failed is tried again at once, unless Azure itself named a later time.
    pub fn asked(&mut self, now: Timestamp) {
        self.read.clear();
        self.is_asked = true;
        for failure in self.failures.values_mut().filter(|failure| failure.error.retry_after().is_none()) {
            failure.retry_at = failure.retry_at.min(now);
        }
    }

    /// A resource is read again after this pause at the latest.
    pub fn read_by(&mut self, id: &str, now: Timestamp, pause: Duration) {
        if let Some(read) = self.read.get_mut(id) {
            read.again_at = read.again_at.min(after(now, pause));
        }
    }

    /// Forgets what is not about one of these resources: names that were given up.
    pub fn retain(&mut self, ids: &BTreeSet<String>) {
        self.read.retain(|id, _| ids.contains(id));
        self.failures.retain(|id, _| ids.contains(id));
        self.taken.retain(|id, _| ids.contains(id));
        self.open.iter_mut().for_each(|open| open.retain(|id, _| ids.contains(id)));
    }

    /// Remembers an operation that was begun.
    pub fn began(&mut self, id: &str, operation: Operation, poll: Duration, now: Timestamp) {
        self.stale(id);
        let poll_at = after(now, operation.wait.unwrap_or(poll));
        self.operations.insert(id.to_owned(), Running { operation, poll_at, silent_since: None });
    }

    /// Nobody told how an operation goes. When its URL was asked in vain for longer than anything takes, it is given up, and
    /// the resource itself is read.
    pub fn not_told(&mut self, id: &str, was_asked: bool, pause: Duration, now: Timestamp) {
        let Some(running) = self.operations.get_mut(id) else { return };
        running.poll_at = after(now, pause);
        if !was_asked {
            return;
        }
        let since = *running.silent_since.get_or_insert(now);
        if now.as_second() - since.as_second() > SILENT_SECONDS {
            self.lost(id, now);
            self.operations.remove(id);
            self.stale(id);
        }
    }

    /// Remembers a write that failed. `spread` is 0 to 1.
    pub fn failed(&mut self, id: &str, error: ArmError, spread: f64, now: Timestamp) {
        self.stale(id);
        let count = self.failures.get(id).map_or(1, |f| f.count.saturating_add(1));
        if error.is_open() {
            self.lost(id, now);
        }
        let retry_at = after(now, pause(&error, count, spread));
        self.failures.insert(id.to_owned(), Failure { error, count, retry_at });
    }

    /// Notes what an earlier leader may have begun: ids, and when. The first time only; what came after that is known.
    pub fn inherit(&mut self, begun: impl IntoIterator<Item = (String, Timestamp)>) {
        self.open.get_or_insert_with(|| begun.into_iter().collect());
    }

    /// Nothing more is heard of what was asked for: whether it comes about is open.
    pub fn lost(&mut self, id: &str, now: Timestamp) {
        self.open.get_or_insert_default().insert(id.to_owned(), now);
    }

    /// Whether Azure refused a write for certain: it said no, and no earlier try may yet come about.
    pub fn is_refused(&self, id: &str, now: Timestamp) -> bool {
        let is_over = |at: &Timestamp| now.as_second() - at.as_second() >= LONGEST_SECONDS;
        self.failures.get(id).is_some_and(|failure| failure.error.is_refusal())
            && self.open.iter().flatten().find(|(open, _)| *open == id).is_none_or(|(_, at)| is_over(at))
    }

    /// Whether a write is worth another try. Not if Azure took several for the same reason and yet shows what it
    /// showed before.
    pub fn may_write(&self, id: &str, why: &str) -> bool {
        self.taken.get(id).is_none_or(|(reason, count)| reason != why || *count < WRITES_FOR_ONE_REASON)
    }

    /// Azure took a write for a reason.
    pub fn took(&mut self, id: &str, why: &str) {
        let entry = self.taken.entry(id.to_owned()).or_default();
        if entry.0 != why {
            *entry = (why.to_owned(), 0);
        }
        entry.1 += 1;
    }

    /// Whether all was good for this generation of the object when it was last seen: what cannot be seen now may be as
    /// it was. `verdicts` are those of this look.
    pub fn was_good<P>(&mut self, generation: Option<i64>, verdicts: &BTreeMap<P, Verdict>) -> bool {
        if verdicts.values().all(|verdict| *verdict == Verdict::Good) {
            self.good_for = generation;
        } else if verdicts.values().any(|v| !matches!(v, Verdict::Good | Verdict::Unknown(_))) {
            self.good_for = None;
        }
        generation.is_some() && self.good_for == generation
    }

    /// The resource is as wanted, also if a write of it seemed to fail.
    pub fn settled(&mut self, id: &str) {
        self.taken.remove(id);
        self.failures.remove(id);
    }

    /// Forgets that writes failed.
    pub fn succeeded(&mut self, id: &str) {
        self.failures.remove(id);
    }
}

/// A moment later.
pub fn after(now: Timestamp, pause: Duration) -> Timestamp {
    now.checked_add(pause).unwrap_or(Timestamp::MAX)
}

/// The pause after a failed write: what Azure asks for, and more with each failure in a row.
fn pause(error: &ArmError, count: u32, spread: f64) -> Duration {
    let (first, longest) = match error.class() {
        Class::Conflict | Class::NotRegistered | Class::Missing => (2.0, 60.0),
        Class::Transient => (2.0, 120.0),
        Class::Throttled | Class::Auth => (10.0, 300.0),
        Class::NameTaken => (0.5, 60.0),
        Class::Capacity | Class::Invalid | Class::Locked => (30.0, 900.0),
    };
    let doublings = i32::try_from(count.saturating_sub(1).min(16)).unwrap_or(16);
    let seconds = f64::min(first * f64::powi(2.0, doublings), longest) * (1.0 + 0.2 * spread.clamp(0.0, 1.0));
    let asked = error.retry_after().unwrap_or_default();
    Duration::from_secs_f64(seconds).max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::trouble::Trouble;

    #[test]
    fn pauses_grow_and_keep_to_what_azure_asks() {
        let answer = |status: u16, code: &str, wait: Option<&str>| {
            ArmError::from_answer(status, wait, format!(r#"{{"code":"{code}"}}"#).as_bytes())
        };
        let seconds = |error: &ArmError, n| pause(error, n, 0.0).as_secs();
        let conflict = answer(409, "AnotherOperationInProgress", None);
        assert_eq!([1, 2, 3, 99].map(|n| seconds(&conflict, n)), [2, 4, 8, 60]);
        let throttled = answer(429, "SubscriptionRequestsThrottled", Some("77"));
        assert_eq!([1, 9].map(|n| seconds(&throttled, n)), [77, 300]);
        assert_eq!(seconds(&answer(400, "InvalidRequestContent", None), 1), 30);
    }

    #[test]
    fn who_asks_for_a_look_has_a_try_unless_azure_said_when() {
        let now = Timestamp::UNIX_EPOCH;
        let mut memory = Memory::default();
        let answer = |wait| ArmError::from_answer(429, wait, br#"{"code":"SkuNotAvailable"}"#);
        memory.failed("quota", answer(None), 0.0, now);
        memory.failed("told", answer(Some("77")), 0.0, now);
        assert!(memory.failures["quota"].retry_at > now);
        memory.asked(now);
        assert_eq!(memory.failures["quota"].retry_at, now);
        assert_eq!(memory.failures["told"].retry_at, after(now, Duration::from_secs(77)));
        assert_eq!(memory.failures["quota"].count, 1, "the pauses go on growing");
    }

    #[test]
    fn a_refusal_says_nothing_about_a_try_before_it_that_may_yet_come() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let refusal = || ArmError::from_answer(403, None, br#"{"code":"AuthorizationFailed"}"#);
        let throttled = || ArmError::from_answer(429, None, br#"{"code":"TooManyRequests"}"#);
        let mut memory = Memory::default();
        memory.failed("a", throttled(), 0.0, at(0));
        assert!(!memory.is_refused("a", at(0)), "it was asked to wait");
        memory.failed("a", refusal(), 0.0, at(1));
        assert!(memory.is_refused("a", at(1)), "what was not taken does not come");
        memory.failed("a", ArmError::NoAnswer("cut".to_owned()), 0.0, at(2));
        memory.failed("a", refusal(), 0.0, at(3));
        assert!(!memory.is_refused("a", at(3)), "the one without an answer may come");
        assert!(memory.is_refused("a", at(2 + LONGEST_SECONDS)), "not any more");
        memory.lost("a", at(2000));
        assert!(!memory.is_refused("a", at(2001)));

        let mut memory = Memory::default();
        memory.inherit([("a".to_owned(), at(0))]);
        memory.failed("a", refusal(), 0.0, at(1));
        assert!(!memory.is_refused("a", at(1)), "an earlier leader began it");
        memory.inherit([("b".to_owned(), at(0))]);
        memory.failed("b", refusal(), 0.0, at(1));
        assert!(memory.is_refused("b", at(1)), "its own tries are known");
    }

    #[test]
    fn an_operation_of_which_nothing_is_heard_is_given_up_and_its_resource_read() {
        use crate::azure::{Begun, Cloud, operation};
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let url = Some("https://management.azure.com/operation".to_owned());
        let accepted =
            operation::Answer { status: 202, async_operation: url, ..operation::Answer::default() };
        let Begun::Running(operation) = operation::begun(&accepted, &Cloud::public()) else {
            panic!("it runs")
        };
        let poll = Duration::from_secs(15);
        let mut memory = Memory::default();
        memory.began("a", operation.clone(), poll, at(0));
        memory.not_told("a", true, poll, at(10));
        memory.not_told("a", true, poll, at(10 + SILENT_SECONDS));
        assert_eq!(memory.operations["a"].poll_at, at(25 + SILENT_SECONDS), "it may go on for so long");
        // An answer in between counts from anew.
        memory.began("a", operation, poll, at(11 + SILENT_SECONDS));
        memory.not_told("a", true, poll, at(12 + SILENT_SECONDS));
        memory.not_told("a", false, poll, at(20 + 2 * SILENT_SECONDS));
        assert!(memory.operations.contains_key("a"), "it was not asked");
        memory.not_told("a", true, poll, at(20 + 2 * SILENT_SECONDS));
        assert!(memory.operations.is_empty());
    }

    #[test]
    fn what_was_in_a_resource_that_is_gone_is_read_again() {
        let read = |state| Read { state, again_at: Timestamp::MAX, blind: None, listed: false };
        let mut memory = Memory::default();
        for id in ["/s", "/s/pools/p", "/s2", "/s/rules/r"] {
            memory.read.insert(id.to_owned(), read(Observed::Present(Value::Null)));
        }
        memory.read.insert("/s/rules/r".to_owned(), read(Observed::Absent));
        memory.gone("/s");
        let due: Vec<_> = memory.read.iter().filter(|(_, read)| read.again_at == Timestamp::MIN).collect();
        assert!(
            due.len() == 1 && due[0].0 == "/s/pools/p",
            "what is known to be absent is not asked for all the time"
        );
    }

    #[test]
    fn what_was_good_is_remembered_until_something_is_not() {
        let of = |verdict: Verdict| BTreeMap::from([(1, Verdict::Good), (2, verdict)]);
        let unknown = || of(Verdict::Unknown(Trouble::new(Reason::AzureUnavailable, "503")));
        let mut memory = Memory::default();
        assert!(!memory.was_good(Some(1), &unknown()), "it was never seen");
        assert!(memory.was_good(Some(1), &of(Verdict::Good)));
        assert!(memory.was_good(Some(1), &unknown()));
        assert!(!memory.was_good(Some(2), &unknown()), "another spec");
        assert!(memory.was_good(Some(1), &unknown()));
        assert!(!memory.was_good(Some(1), &of(Verdict::Working("changes".to_owned()))));
        assert!(!memory.was_good(Some(1), &unknown()), "it was not good when it was last seen");
    }

    #[test]
    fn a_resource_that_was_written_is_read_again() {
        let now = Timestamp::UNIX_EPOCH;
        let mut memory = Memory::default();
        let read = || Read { state: Observed::Absent, again_at: Timestamp::MAX, blind: None, listed: false };
        memory.read.insert("a".to_owned(), read());
        memory.read.insert("b".to_owned(), read());
        memory.failed("a", ArmError::NoAnswer("x".to_owned()), 0.0, now);
        memory.failed("a", ArmError::NoAnswer("x".to_owned()), 0.0, now);
        assert!(memory.read["a"].again_at < now && memory.read["b"].again_at > now);
        assert_eq!(memory.failures["a"].count, 2);
        (0..3).for_each(|_| memory.took("a", "sku"));
        assert!(!memory.may_write("a", "sku"), "Azure does not keep it");
        assert!(memory.may_write("a", "tags"), "another reason");
        memory.retain(&BTreeSet::from(["b".to_owned()]));
        assert!(
            memory.failures.is_empty() && memory.read.len() == 1,
            "a name that was given up is forgotten"
        );
    }
}
