//! What to write in Azure for an instance, what it waits for, and why (pure).

use std::collections::BTreeMap;

use jiff::Timestamp;
use reef_crds::{
    condition::Reason,
    meta::{CONFIRM_ADOPTION, CONFIRM_RECREATION},
};
use serde_json::Value;

use super::{
    bodies::Inputs,
    names::{TAG_INSTANCE, TAG_KEYS},
    parts::Part,
};
use crate::{
    controller::trouble::Trouble,
    controllers::reef::names::marked,
    observed::Observed,
    resources::{
        Seen, Verdict, Write,
        decide::{Case, decide},
        marks,
    },
};

/// What the plan follows from.
pub struct Facts<'a> {
    /// What is wanted.
    pub inputs: &'a Inputs,
    /// What is known, by part.
    pub seen: &'a BTreeMap<Part, Seen>,
    /// What is taken for good until its turn to be read comes: it was good once, and the server serves.
    pub taken_for_good: Option<Part>,
    /// Whether the database and the share were there once.
    pub had: (bool, bool),
    /// Whether what belongs to an earlier CloudInstance of this name may be taken over.
    pub may_adopt: bool,
    /// Whether data that is gone may be made again, empty.
    pub may_recreate: bool,
    /// Whether the annotation that confirms a loss stands there since before this loss.
    pub is_spent: bool,
    /// What the DNS record waits for: the server has to serve first.
    pub unpublished: Option<&'a str>,
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
    /// Whether all was good for this spec when it was last seen.
    pub was_good: bool,
}

/// Decides.
pub fn plan(facts: &Facts<'_>) -> Plan {
    let mut plan = Plan { verdicts: BTreeMap::new(), writes: Vec::new(), was_good: false };
    let (record, _) = decided(facts, Part::Record, &plan.verdicts, false);
    // Who cannot have its name needs nothing else.
    let has_no_name = matches!(record, Verdict::Blocked(_));
    for part in Part::ALL {
        let (verdict, write) = decided(facts, part, &plan.verdicts, has_no_name);
        plan.verdicts.insert(part, verdict);
        plan.writes.extend(write);
    }
    plan
}

fn decided(
    facts: &Facts<'_>,
    part: Part,
    before: &BTreeMap<Part, Verdict>,
    has_no_name: bool,
) -> (Verdict, Option<Write<Part>>) {
    let wanted = facts.inputs.wanted(part);
    let Some(seen) = facts.seen.get(&part) else {
        return (Verdict::Waiting(format!("{}: not looked at yet", part.what())), None);
    };
    let is_unread =
        matches!(seen.state, Observed::Unknown(_)) && seen.blind.is_none() && seen.operation.is_none();
    if facts.taken_for_good == Some(part) && is_unread {
        return (Verdict::Good, None);
    }
    let had = match part {
        Part::Database => facts.had.0,
        Part::Share => facts.had.1,
        _ => false,
    };
    let need = part.needs().filter(|need| before.get(need) != Some(&Verdict::Good)).map(Part::what);
    let unpublished = facts.unpublished.filter(|_| part == Part::Record);
    let is_new = seen.state == Observed::Absent;
    let nameless = (has_no_name && is_new && part == Part::Identity).then_some("its subdomain");
    decide(Case {
        gone: (had && !facts.may_recreate).then(|| data_is_gone(part.what(), &wanted.id, facts.is_spent)),
        foreign: &|found| not_ours(facts, part, found),
        unmet: need.or(unpublished).or(nameless).map(str::to_owned),
        bodiless: &|| Verdict::Blocked(no_compute()),
        whole: None,
        grows: part.grows(),
        now: facts.now,
        part,
        what: part.what(),
        wanted,
        seen,
    })
}

fn no_compute() -> Trouble {
    let message = "spec.isolation.database: neither a pool nor a SKU";
    Trouble::new(Reason::SpecInvalid, message)
}

fn data_is_gone(what: &str, id: &str, is_spent: bool) -> Trouble {
    let how = if is_spent { "remove the annotation and annotate again" } else { "annotate" };
    let message = format!(
        "{what} {id} was there and is gone. It is not made again by itself, because a customer's data was in it: restore it, or {how} the CloudInstance with {CONFIRM_RECREATION}=true to have an empty one"
    );
    Trouble::new(Reason::DataResourceMissing, message)
}

/// Why something that exists is not this instance's.
fn not_ours(facts: &Facts<'_>, part: Part, found: &Value) -> Option<Trouble> {
    if !part.has_marks() {
        return None;
    }
    let (inputs, what) = (facts.inputs, part.what());
    let id = inputs.id(part);
    let found = marks(&id, found);
    if !marked(found, &inputs.marks(part)) {
        let whose = whose(found[TAG_INSTANCE].as_str(), &inputs.instance_namespace);
        let advice =
            if part == Part::Record { "; choose another spec.subdomain, or free this one" } else { "" };
        let message = format!("{what} {id} exists and {whose}: it is left alone{advice}");
        return Some(Trouble::new(Reason::NameTaken, message));
    }
    let claim = Inputs::claim_of(part, found);
    if claim != inputs.uid && !facts.may_adopt {
        let message = format!(
            "{what} {id} belongs to an earlier CloudInstance of this name (uid {claim}): annotate this one with {CONFIRM_ADOPTION}=true to take it over with all that is in it"
        );
        return Some(Trouble::new(Reason::AdoptionRequired, message));
    }
    let other_keys = part == Part::Database && found[TAG_KEYS] != inputs.keys_hash.as_str();
    other_keys.then(|| keys_differ(&id))
}

/// Who has something that is not this instance's. Another tenant is not named: who reads this has no right to know of it.
fn whose(other: Option<&str>, namespace: &str) -> String {
    match other {
        Some(other) if other.split_once('/').is_some_and(|(its, _)| its == namespace) => {
            format!("belongs to CloudInstance {other}")
        }
        Some(_) => "belongs to another CloudInstance".to_owned(),
        None => "does not carry the marks of this instance".to_owned(),
    }
}

/// The master key that we hold is not the one that the database was made with.
fn keys_differ(id: &str) -> Trouble {
    let message = format!(
        "the keys in the operator's namespace are not those that database {id} was made with: restore the Secret; nothing is started meanwhile"
    );
    Trouble::new(Reason::KeysDiffer, message)
}

/// The first part because of which nothing may be done in the reef's cluster: before the server has started, all but
/// the DNS record have to be good. Afterwards only what is not ours or is gone is in the way: a server that runs is
/// cared for whatever Azure says meanwhile.
pub fn missing(plan: &Plan, started: bool) -> Option<Part> {
    let fine = |verdict: Option<&Verdict>| match verdict {
        Some(Verdict::Good) => true,
        Some(Verdict::Blocked(trouble)) => started && !is_in_the_way(trouble.reason),
        Some(_) => started,
        None => false,
    };
    let inner = Part::ALL.into_iter().filter(|part| *part != Part::Record);
    inner.into_iter().find(|part| !fine(plan.verdicts.get(part)))
}

/// Whether a server that runs is left alone for this: what it works with is gone or not its own.
fn is_in_the_way(reason: Reason) -> bool {
    use Reason::{AdoptionRequired, DataResourceMissing, KeysDiffer, NameTaken};
    matches!(reason, AdoptionRequired | DataResourceMissing | KeysDiffer | NameTaken)
}

/// Azure's own id of the database, once it is there.
pub fn database_id(seen: &BTreeMap<Part, Seen>) -> Option<&str> {
    let Observed::Present(database) = &seen.get(&Part::Database)?.state else { return None };
    database["properties"]["databaseId"].as_str()
}

/// Client id of the instance's identity, once it is there.
pub fn client_id(seen: &BTreeMap<Part, Seen>) -> Option<&str> {
    let Observed::Present(identity) = &seen.get(&Part::Identity)?.state else { return None };
    identity["properties"]["clientId"].as_str()
}
