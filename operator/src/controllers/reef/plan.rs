//! What to write in Azure for a reef, what it waits for, and why (pure).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use reef_crds::condition::Reason;
use serde_json::Value;

use super::{
    bodies::Inputs,
    names::{self, TAG_CLAIM},
    parts::Part,
};
use crate::{
    controller::trouble::Trouble,
    observed::Observed,
    resources::{
        Pauses, Seen, Verdict, Write,
        decide::{Case, Wanted, decide},
        marks,
    },
};

/// What the plan follows from.
pub struct Facts<'a> {
    /// What is wanted.
    pub inputs: &'a Inputs,
    /// What is known, by part.
    pub seen: &'a BTreeMap<Part, Seen>,
    /// Parts that hold data and were good once.
    pub had_data: &'a BTreeSet<Part>,
    /// Whether what belongs to an earlier Reef of this name may be taken over.
    pub may_adopt: bool,
    /// Whether a part that held data and is gone may be made again.
    pub may_recreate: bool,
    /// The time.
    pub now: Timestamp,
}

/// The plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How each part is.
    pub verdicts: BTreeMap<Part, Verdict>,
    /// What to write now.
    pub writes: Vec<Write<Part>>,
}

/// Decides.
pub fn plan(facts: &Facts<'_>) -> Plan {
    let present: BTreeMap<Part, Value> = facts
        .seen
        .iter()
        .filter_map(|(part, seen)| match &seen.state {
            Observed::Present(value) => Some((*part, value.clone())),
            _ => None,
        })
        .collect();
    let mut plan = Plan { verdicts: BTreeMap::new(), writes: Vec::new() };
    for part in facts.inputs.parts() {
        let wanted = facts.inputs.wanted(part, &present);
        let (verdict, write) = decided(facts, part, wanted, &plan.verdicts);
        plan.verdicts.insert(part, verdict);
        plan.writes.extend(write);
    }
    plan
}

fn decided(
    facts: &Facts<'_>,
    part: Part,
    wanted: Wanted,
    before: &BTreeMap<Part, Verdict>,
) -> (Verdict, Option<Write<Part>>) {
    let what = part.what();
    let Some(seen) = facts.seen.get(&part) else {
        return (Verdict::Waiting(format!("{what}: its name is not known yet")), None);
    };
    // With the group all of it is gone.
    let had = facts.had_data.contains(&part) || (part == Part::Group && !facts.had_data.is_empty());
    // Nothing is written into a group that is not ours for certain.
    let claimed = part == Part::Group || before.get(&Part::Group) == Some(&Verdict::Good);
    let unmet = part.needs().into_iter().find(|need| before.get(need) != Some(&Verdict::Good));
    decide(Case {
        gone: (had && !facts.may_recreate).then(|| data_is_gone(&what, &wanted.id)),
        foreign: &|found| not_ours(facts, part, found),
        unmet: unmet.or((!claimed).then_some(Part::Group)).map(Part::what),
        bodiless: &|| waits_for_facts(part, before, &what),
        // A rule that somebody added would open what is closed by default.
        whole: (part == Part::SecurityGroup).then_some("/properties/securityRules"),
        grows: &[],
        now: facts.now,
        part,
        what: &what,
        wanted,
        seen,
    })
}

/// Something that the part follows from is not there, or is not known.
fn waits_for_facts(part: Part, before: &BTreeMap<Part, Verdict>, what: &str) -> Verdict {
    let verdict = |need: &Part| before.get(need).filter(|v| **v != Verdict::Good).map(|v| (*need, v.clone()));
    match part.needs().iter().find_map(verdict) {
        Some((need, Verdict::Unknown(trouble))) => {
            let message = format!("{what} follows from: {}", need.what());
            Verdict::Unknown(Trouble::new(
                trouble.reason,
                format!("{message}, which is not known: {}", trouble.message),
            ))
        }
        Some((need, _)) => Verdict::Waiting(format!("{what} waits for: {}", need.what())),
        None if part == Part::Record => Verdict::Waiting(format!("{what} waits for: address of the gateway")),
        None => {
            let message = format!("{what}: who the operator is in Entra is not known");
            Verdict::Unknown(Trouble::new(Reason::AzureUnavailable, message))
        }
    }
}

fn data_is_gone(what: &str, id: &str) -> Trouble {
    let message = format!(
        "{what} {id} was there and is gone. It is not made again by itself, because customers depend on it: restore it, or annotate the Reef with {}=true to have an empty one",
        reef_crds::meta::CONFIRM_RECREATION
    );
    Trouble::new(Reason::DataResourceMissing, message)
}

/// Why something that exists is not this Reef's.
fn not_ours(facts: &Facts<'_>, part: Part, found: &Value) -> Option<Trouble> {
    if !part.has_tags() && part != Part::Record {
        return None;
    }
    let marks = marks(&facts.inputs.id(part), found);
    let what = part.what();
    if !names::marked(marks, &facts.inputs.tags()) {
        let id = facts.inputs.id(part);
        let message = format!(
            "{what} {id} exists and does not carry the marks of this reef: somebody else made it, and it is left alone"
        );
        return Some(Trouble::new(Reason::NameTaken, message));
    }
    let claim = marks[TAG_CLAIM].as_str().unwrap_or_default();
    let foreign = part == Part::Group && claim != facts.inputs.uid;
    (foreign && !facts.may_adopt).then(|| {
        let message = format!(
            "{what} {} belongs to an earlier Reef of this name (uid {claim}): annotate this one with {}=true to take it over with all that is in it",
            facts.inputs.id(part),
            reef_crds::meta::CONFIRM_ADOPTION
        );
        Trouble::new(Reason::AdoptionRequired, message)
    })
}

/// Whether the resource group was seen and is this Reef's: before, nothing in it is touched.
pub fn is_claimed(inputs: &Inputs, seen: &BTreeMap<Part, Seen>) -> bool {
    let Some(Observed::Present(group)) = seen.get(&Part::Group).map(|s| &s.state) else { return false };
    names::marked(&group["tags"], &inputs.tags()) && group["tags"][TAG_CLAIM] == inputs.uid.as_str()
}

/// When to look again: at the latest of nothing, after the resync; earlier while something goes on.
pub fn look_again(plan: &Plan, seen: &BTreeMap<Part, Seen>, pauses: Pauses, now: Timestamp) -> Duration {
    let until = |at: Timestamp| {
        Duration::try_from(at.duration_since(now)).unwrap_or(pauses.poll).max(Duration::from_millis(100))
    };
    let pause = |(part, verdict): (&Part, &Verdict)| match verdict {
        Verdict::Working(_) => pauses.poll,
        Verdict::Unknown(_) => pauses.poll.max(Duration::from_secs(5)),
        // What it waits for wakes us, or has a pause of its own.
        Verdict::Good | Verdict::Waiting(_) => pauses.resync,
        Verdict::Failed(_) | Verdict::Blocked(_) => {
            seen.get(part).and_then(|s| s.failure.as_ref()).map_or(pauses.resync, |f| until(f.retry_at))
        }
    };
    plan.verdicts.iter().map(pause).min().unwrap_or(pauses.resync).min(pauses.resync)
}
