//! How a CloudInstance goes: the next step (pure). The record first, so that nobody is led to a server that ends;
//! then the server, until it is certain that it runs no more; then what it worked with; its data last.

use jiff::Timestamp;
use reef_crds::{
    CloudInstance,
    condition::Reason,
    meta::{ANNOTATION_CLAIM, CONFIRM_DELETION, LABEL_FLEET, LABEL_INSTANCE},
    reef::DeletionPolicy,
};
use serde_json::Value;

use super::{bodies::Inputs, parts::Part};
use crate::{
    controller::trouble::Trouble,
    controllers::reef::{names::marked, teardown::annotated},
    observed::{Observed, Why},
    resources::{marks, memory::LONGEST_SECONDS},
};

/// What is known of what is to go.
#[derive(Clone, Debug, PartialEq)]
pub struct Remains {
    /// The DNS record.
    pub record: Observed<Value>,
    /// The namespace of the server in the reef's cluster.
    pub namespace: Observed<Value>,
    /// Whether the cluster holds something of the instance outside of its namespace: its volume, Jobs of the agent.
    pub has_leftovers: bool,
    /// The identity.
    pub identity: Observed<Value>,
    /// The database.
    pub database: Observed<Value>,
    /// The share.
    pub share: Observed<Value>,
    /// Whether a RetainedInstance says what is kept.
    pub is_retained: bool,
    /// Data that is absent and may still come, because making it was begun not long ago and its end was not seen.
    pub may_come: Option<Part>,
    /// Whether the look before this one saw the same absences.
    pub is_second_look: bool,
}

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing is left to do: the object may go.
    Done(&'static str),
    /// Delete this part.
    Delete(Part),
    /// Delete what there is in the reef's cluster.
    DeleteWorkload,
    /// Say what is kept.
    MakeRetained,
    /// Look once more: what is certain to be gone has to be absent twice.
    LookAgain,
    /// Wait; what is still there.
    Wait(String),
    /// It cannot be known what is there.
    Held(Trouble),
}

/// Whether deletion may begin at all: what is asked of the user comes before any look.
pub fn may_begin(instance: &CloudInstance) -> Option<Trouble> {
    let confirmed = annotated(instance, CONFIRM_DELETION);
    (instance.spec.deletion_protection && !confirmed).then(|| {
        let message = format!("deletion is asked for and nothing was touched: annotate with {CONFIRM_DELETION}=true if it is meant");
        Trouble::new(Reason::DeletionUnconfirmed, message)
    })
}

/// Whether something that was begun then may still come.
pub fn is_young(at: Timestamp, now: Timestamp) -> bool {
    now.as_second() - at.as_second() < LONGEST_SECONDS
}

/// Why deletion by force has to wait. What is removed later is what is there by then, so nothing may still be on its way.
pub fn force_waits(begun: &[(Part, Timestamp)], now: Timestamp) -> Option<Trouble> {
    let (part, at) = begun.iter().find(|(_, at)| is_young(*at, now))?;
    let message = format!(
        "deletion by force waits: making the {} was begun at {at}, and whether it comes is known {LONGEST_SECONDS} s after that",
        part.what()
    );
    Some(Trouble::new(Reason::ClusterUnreachable, message))
}

/// Whether a part is there and claimed by this very object. What an earlier one made and this one never took over is
/// not its to delete.
fn ours(inputs: &Inputs, part: Part, found: &Value) -> bool {
    let found = marks(&inputs.id(part), found);
    marked(found, &inputs.marks(part)) && Inputs::claim_of(part, found) == inputs.uid
}

/// Decides.
pub fn next(policy: DeletionPolicy, inputs: &Inputs, remains: &Remains) -> Step {
    server(inputs, remains).unwrap_or_else(|| data(policy, inputs, remains))
}

fn unknown(what: &str, why: &Why, reason: Reason) -> Step {
    Step::Held(Trouble::new(reason, format!("{what}: {why}")))
}

/// The next step as long as there is a server, or a record that leads to one. Nothing else of what remains is asked for
/// by then.
pub fn server(inputs: &Inputs, remains: &Remains) -> Option<Step> {
    match &remains.record {
        Observed::Unknown(why) => {
            return Some(unknown(Part::Record.what(), why, why.reason));
        }
        Observed::Present(found) if ours(inputs, Part::Record, found) => {
            return Some(Step::Delete(Part::Record));
        }
        _ => {}
    }
    match &remains.namespace {
        Observed::Unknown(why) => Some(unknown("the reef's cluster", why, Reason::ClusterUnreachable)),
        Observed::Present(namespace) if is_unclaimed(inputs, namespace) => {
            let message = format!(
                "namespace {} in the reef's cluster carries this instance's labels and no claim, so it is not known whose the server in it is: annotate it with {ANNOTATION_CLAIM}={} if it is to go, or delete it",
                inputs.namespace(),
                inputs.uid
            );
            Some(Step::Held(Trouble::new(Reason::DeletionBlocked, message)))
        }
        Observed::Present(namespace) if claimed(inputs, namespace) => {
            let is_going = namespace["metadata"]["deletionTimestamp"].is_string();
            let wait = || Step::Wait("the server's namespace is being deleted".to_owned());
            Some(if is_going { wait() } else { Step::DeleteWorkload })
        }
        Observed::Absent if remains.has_leftovers => Some(Step::DeleteWorkload),
        _ => None,
    }
}

/// The next step when no server is left.
fn data(policy: DeletionPolicy, inputs: &Inputs, remains: &Remains) -> Step {
    let azure = [
        (Part::Identity, &remains.identity),
        (Part::Database, &remains.database),
        (Part::Share, &remains.share),
    ];
    for (part, state) in azure {
        if let Observed::Unknown(why) = state {
            return unknown(part.what(), why, why.reason);
        }
    }
    let is_there = |part: Part| {
        let state = azure.iter().find(|(p, _)| *p == part).map(|(_, state)| *state);
        matches!(state, Some(Observed::Present(found)) if ours(inputs, part, found))
    };
    if let Some(part) = remains.may_come {
        return Step::Wait(format!(
            "{}: making it was begun, and whether it comes is not known yet",
            part.what()
        ));
    }
    let data = is_there(Part::Database) || is_there(Part::Share);
    let keeps = policy == DeletionPolicy::Retain;
    if keeps && data && !remains.is_retained {
        return Step::MakeRetained;
    }
    // From here on things go because others are absent, and one answer may be wrong.
    if !remains.is_second_look && !data {
        return Step::LookAgain;
    }
    if is_there(Part::Identity) {
        return Step::Delete(Part::Identity);
    }
    if keeps {
        return Step::Done("what it stored is kept");
    }
    match [Part::Database, Part::Share].into_iter().find(|part| is_there(*part)) {
        Some(part) => Step::Delete(part),
        None => Step::Done("nothing of it is left"),
    }
}

/// Whether a namespace is labelled as this instance's.
fn labelled(inputs: &Inputs, namespace: &Value) -> bool {
    let labels = &namespace["metadata"]["labels"];
    labels[LABEL_FLEET] == inputs.fleet.as_str() && labels[LABEL_INSTANCE] == inputs.hash.as_str()
}

fn claimed(inputs: &Inputs, namespace: &Value) -> bool {
    let claim = &namespace["metadata"]["annotations"][ANNOTATION_CLAIM];
    labelled(inputs, namespace) && *claim == inputs.uid.as_str()
}

/// Whether somebody took the claim away.
fn is_unclaimed(inputs: &Inputs, namespace: &Value) -> bool {
    let claim = &namespace["metadata"]["annotations"][ANNOTATION_CLAIM];
    labelled(inputs, namespace) && claim.as_str().unwrap_or_default().is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::tests::{all_there, inputs},
        *,
    };

    #[test]
    fn force_waits_for_what_may_still_come() {
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
        assert_eq!(force_waits(&[], at(0)), None, "nothing was begun");
        let begun = [(Part::Database, at(-LONGEST_SECONDS)), (Part::Share, at(-10))];
        let trouble = force_waits(&begun, at(0)).unwrap();
        assert_eq!(trouble.reason, Reason::ClusterUnreachable);
        assert!(trouble.message.contains("making the file share was begun"), "{}", trouble.message);
        assert!(force_waits(&begun, at(LONGEST_SECONDS - 11)).is_some());
        assert_eq!(force_waits(&begun, at(LONGEST_SECONDS - 10)), None, "all of it is known by then");
        // By a clock that was set back nothing is old.
        assert!(force_waits(&begun[..1], at(-2 * LONGEST_SECONDS)).is_some());
    }

    #[test]
    fn a_server_whose_claim_was_taken_away_is_not_left_behind() {
        let mut remains = Remains { record: Observed::Absent, ..all_there() };
        let Observed::Present(namespace) = &mut remains.namespace else { panic!("it is there") };
        namespace["metadata"]["annotations"] = json!({});
        let Step::Held(trouble) = next(DeletionPolicy::Delete, &inputs(), &remains) else {
            panic!("it goes on")
        };
        assert_eq!(trouble.reason, Reason::DeletionBlocked);
        assert!(trouble.message.contains("cloud.octopus.com/claim=u"), "{}", trouble.message);
        // That of an earlier instance, which this one never took over, is not its to delete.
        let Observed::Present(namespace) = &mut remains.namespace else { panic!("it is there") };
        namespace["metadata"]["annotations"] = json!({ "cloud.octopus.com/claim": "v" });
        assert_eq!(next(DeletionPolicy::Delete, &inputs(), &remains), Step::Delete(Part::Identity));
    }
}
