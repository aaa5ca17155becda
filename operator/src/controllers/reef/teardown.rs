//! How a Reef goes: what is in the way, and what is the next step (pure).

use kube::ResourceExt;
use reef_crds::{
    Reef,
    condition::Reason,
    meta::{CONFIRM_DELETION, CONFIRM_FORCE_DELETION},
    reef::DeletionPolicy,
};
use serde_json::Value;

use super::names::{self, TAG_CLAIM};
use crate::{
    controller::trouble::Trouble,
    observed::{Observed, Why},
};

/// What is known of what is to go.
#[derive(Clone, Debug, PartialEq)]
pub struct Remains {
    /// The resource group.
    pub group: Observed<Value>,
    /// The DNS record.
    pub record: Observed<Value>,
    /// The resources in the group.
    pub resources: Observed<Vec<Value>>,
    /// Names of databases, and of shares, in the reef.
    pub data: Observed<Vec<String>>,
    /// What was deleted and can still be restored, in words.
    pub restorable: Observed<Vec<String>>,
    /// Ids of our locks that are still there.
    pub locks: Observed<Vec<String>>,
    /// Whether the look before this one came to the same end.
    pub is_second_look: bool,
}

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing is left to do: the object may go.
    Done(&'static str),
    /// Remove the DNS record.
    DeleteRecord,
    /// Remove these locks.
    DeleteLocks(Vec<String>),
    /// Look once more: everything in the group goes because lists are empty.
    LookAgain,
    /// Remove the resource group with all that is in it.
    DeleteGroup,
    /// Wait for Azure; what is still there.
    Wait(String),
    /// Something is in the way, and why; whether only a human can help.
    Held(Trouble, bool),
}

/// Whether deletion may begin at all: what is asked of the user comes before any look at Azure.
pub fn may_begin(reef: &Reef) -> Option<Trouble> {
    let confirmed = annotated(reef, CONFIRM_DELETION);
    (reef.spec.deletion_protection && !confirmed).then(|| {
        let message = format!("deletion is asked for and nothing was touched: annotate with {CONFIRM_DELETION}=true if it is meant");
        Trouble::new(Reason::DeletionUnconfirmed, message)
    })
}

/// Whether an annotation says `true`.
pub fn annotated<K: kube::Resource>(object: &K, name: &str) -> bool {
    object.annotations().get(name).is_some_and(|value| value == "true")
}

/// Decides. `tags` are the marks of this reef.
pub fn next(reef: &Reef, remains: &Remains, tags: &Value) -> Step {
    if reef.spec.deletion_policy == DeletionPolicy::Retain {
        return Step::Done("what exists in Azure stays, because deletionPolicy is Retain");
    }
    let unknown =
        |what: &str, why: &Why| Step::Held(Trouble::new(why.reason, format!("{what}: {why}")), false);
    if let Observed::Unknown(why) = &remains.record {
        return unknown("DNS record", why);
    }
    let ours = |record: &Value| names::marked(&record["properties"]["metadata"], tags);
    let record_is_ours = matches!(&remains.record, Observed::Present(record) if ours(record));
    let group = match &remains.group {
        Observed::Unknown(why) => return unknown("resource group", why),
        Observed::Absent if record_is_ours => return Step::DeleteRecord,
        Observed::Absent => return Step::Done("nothing of the reef is left in Azure"),
        Observed::Present(group) => group,
    };
    let uid = reef.uid().unwrap_or_default();
    let claim = &group["tags"][TAG_CLAIM];
    if !names::marked(&group["tags"], tags) || !claim.is_string() {
        if !had_anything(reef) {
            return Step::Done("the resource group is somebody else's, and nothing was made in it");
        }
        let message = "the resource group no longer carries this reef's tags, so it is not deleted: put them back, or set deletionPolicy to Retain to leave it";
        return Step::Held(Trouble::new(Reason::DeletionBlocked, message), true);
    }
    if *claim != uid.as_str() {
        return Step::Done("the resource group belongs to another Reef object, so nothing in it was touched");
    }
    if group["properties"]["provisioningState"] == "Deleting" {
        return Step::Wait("resource group: being deleted".to_owned());
    }
    if let Some(held) = in_the_way(reef, remains, tags) {
        return held;
    }
    if record_is_ours {
        return Step::DeleteRecord;
    }
    match &remains.locks {
        Observed::Unknown(why) => unknown("locks", why),
        Observed::Present(locks) if !locks.is_empty() => Step::DeleteLocks(locks.clone()),
        _ if !remains.is_second_look => Step::LookAgain,
        _ => Step::DeleteGroup,
    }
}

/// Whether anything was ever seen to be there.
fn had_anything(reef: &Reef) -> bool {
    reef.status.as_ref().is_some_and(|s| s.agent_identity.is_some() || s.egress_address.is_some())
}

fn in_the_way(reef: &Reef, remains: &Remains, tags: &Value) -> Option<Step> {
    let held = |message: String| Some(Step::Held(Trouble::new(Reason::DeletionBlocked, message), true));
    let unknown =
        |what: &str, why: &Why| Some(Step::Held(Trouble::new(why.reason, format!("{what}: {why}")), false));
    match &remains.resources {
        Observed::Unknown(why) => return unknown("resources of the group", why),
        Observed::Absent => {}
        Observed::Present(resources) => {
            // Azure lists databases too, with `master`, which carries no marks; data is looked at below.
            let is_nested = |r: &&Value| r["type"].as_str().is_some_and(|t| t.matches('/').count() > 1);
            let foreign: Vec<_> =
                resources.iter().filter(|r| !is_nested(r) && !names::marked(&r["tags"], tags)).collect();
            if let Some(first) = foreign.first() {
                let id = first["id"].as_str().unwrap_or_default();
                let count = foreign.len();
                return held(format!(
                    "the resource group holds {count} resources that the operator did not make, for example {id}: move or delete them first"
                ));
            }
        }
    }
    match &remains.data {
        Observed::Unknown(why) => return unknown("databases and shares", why),
        Observed::Present(data) if !data.is_empty() => {
            let some: Vec<_> = data.iter().take(5).cloned().collect();
            return held(format!(
                "the reef is not empty: it holds {} databases and shares, for example {}",
                data.len(),
                some.join(", ")
            ));
        }
        _ => {}
    }
    match &remains.restorable {
        Observed::Unknown(why) => unknown("what can still be restored", why),
        Observed::Present(kept) if !kept.is_empty() && !annotated(reef, CONFIRM_FORCE_DELETION) => {
            let some: Vec<_> = kept.iter().take(5).cloned().collect();
            held(format!(
                "{} deleted databases and shares can still be restored and would be lost, for example {}: wait, or annotate with {CONFIRM_FORCE_DELETION}=true to give them up",
                kept.len(),
                some.join(", ")
            ))
        }
        _ => None,
    }
}
