//! Azure resources that an object of ours stands for: what is known of each ([`observe`]), what is remembered
//! between looks ([`memory`]) and how they are written ([`act`]). What they have to be, each kind of object decides
//! for itself.

pub mod act;
pub mod decide;
pub mod lists;
pub mod memory;
pub mod observe;

use std::time::Duration;

use jiff::Timestamp;
use reef_crds::condition::Reason;
use serde_json::Value;

use crate::{
    azure::{ArmError, Class, Unless, compare},
    controller::trouble::Trouble,
    observed::Observed,
};

/// What is known of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Its last known state.
    pub state: Observed<Value>,
    /// What Azure says of an operation of ours that runs on it.
    pub operation: Option<String>,
    /// Why it could not be looked at, where it could not.
    pub blind: Option<Reason>,
    /// The last write that failed.
    pub failure: Option<Failure>,
}

/// A write that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What Azure said.
    pub error: ArmError,
    /// How many in a row.
    pub count: u32,
    /// When to try again.
    pub retry_at: Timestamp,
}

/// How a part of an object is.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// As wanted.
    Good,
    /// Being made or changed.
    Working(String),
    /// Not begun, because something else has to be there first.
    Waiting(String),
    /// Not as wanted; tried again by itself.
    Failed(Trouble),
    /// Not as wanted; only a human can help.
    Blocked(Trouble),
    /// We could not look.
    Unknown(Trouble),
}

/// A write to part `P`.
#[derive(Clone, Debug, PartialEq)]
pub struct Write<P> {
    /// Which part.
    pub part: P,
    /// Its id.
    pub id: String,
    /// Version of its API.
    pub api: &'static str,
    /// What is wanted of it.
    pub body: Value,
    /// Whose it was when the plan was made (see [`marks`]); none if it was not there.
    pub found: Option<Value>,
    /// When it is not to be written.
    pub unless: Unless,
    /// What is all ours in it, as a JSON pointer: what others put there does not stay.
    pub whole: Option<&'static str>,
    /// Numbers in it that are never lowered, as JSON pointers.
    pub grows: &'static [&'static str],
    /// What differs, or that it is not there; for the log.
    pub why: String,
}

/// Settings of the waits.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// Between looks at something that changes.
    pub poll: Duration,
    /// Between looks at what is good.
    pub resync: Duration,
}

impl<P> Write<P> {
    /// The body of a write to something that exists, which is `found` now: what is not ours stays in it.
    pub fn body_for(&self, found: &Value) -> Value {
        let mut merged = compare::merged(&no_less(&self.body, found, self.grows), found);
        if let Some(pointer) = self.whole
            && let (Some(place), Some(ours)) = (merged.pointer_mut(pointer), self.body.pointer(pointer))
        {
            *place = ours.clone();
        }
        merged
    }
}

/// What is wanted, with none of these numbers (JSON pointers) smaller than it is in `found`: somebody may have given data
/// more room by hand, and may have filled it.
pub fn no_less(wanted: &Value, found: &Value, grows: &[&str]) -> Value {
    let mut wanted = wanted.clone();
    for pointer in grows {
        if let (Some(ours), Some(theirs)) = (wanted.pointer_mut(pointer), found.pointer(pointer))
            && ours.as_f64() < theirs.as_f64()
        {
            *ours = theirs.clone();
        }
    }
    wanted
}

/// What says whose a resource is: its tags, or the metadata of a DNS record or a share; null where there is
/// neither.
pub fn marks<'a>(id: &str, found: &'a Value) -> &'a Value {
    let in_metadata = id.contains("/dnsZones/") || id.contains("/shares/");
    if in_metadata { &found["properties"]["metadata"] } else { &found["tags"] }
}

/// The state that a resource shows, in the words of `provisioningState`.
pub fn state(found: &Value) -> &str {
    let properties = &found["properties"];
    let states = ["provisioningState", "state", "status"].map(|name| properties[name].as_str());
    match states {
        // SQL: servers, pools and rules are Ready, databases are Online, or they are being made.
        [None, Some("Ready"), _] | [None, None, Some("Online") | None] => "Succeeded",
        [None, Some("Disabled" | "Failed"), _] => "Failed",
        [Some(state), ..] | [None, Some(state), _] | [None, None, Some(state)] => state,
    }
}

/// What a failed write means for its part.
pub fn failed(what: &str, error: &ArmError) -> Verdict {
    let trouble = Trouble::azure(what, error);
    // Asked again slowly all the same: limits are raised and policies change without an edit here.
    if error.class() == Class::Invalid { Verdict::Blocked(trouble) } else { Verdict::Failed(trouble) }
}
