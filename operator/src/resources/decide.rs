//! What is to be done with one resource (pure).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{Seen, Verdict, Write, failed, marks, no_less, state};
use crate::{
    azure::{Unless, compare, operation::is_terminal},
    controller::{stop::Stops, trouble::Trouble},
    observed::Observed,
};

/// What a part has to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its id.
    pub id: String,
    /// Version of its API.
    pub api: &'static str,
    /// What we say of it; none while something that it follows from is not known.
    pub body: Option<Value>,
    /// When it is not to be written.
    pub unless: Unless,
}

/// A part with all that decides about it.
pub struct Case<'a, P> {
    /// Which part.
    pub part: P,
    /// The part in words.
    pub what: &'a str,
    /// What it has to be.
    pub wanted: Wanted,
    /// What is known of it.
    pub seen: &'a Seen,
    /// Why it is not made if it is not there: it held data, and nobody confirmed that it may be empty.
    pub gone: Option<Trouble>,
    /// Why what is there is not touched: it is not ours.
    pub foreign: &'a dyn Fn(&Value) -> Option<Trouble>,
    /// What has to be there before it is written; asked only when there is something to write.
    pub unmet: Option<String>,
    /// How it stands while there is no body.
    pub bodiless: &'a dyn Fn() -> Verdict,
    /// What is all ours in it, as a JSON pointer: what others put there does not stay.
    pub whole: Option<&'static str>,
    /// Numbers in it that are never lowered, as JSON pointers.
    pub grows: &'static [&'static str],
    /// The time.
    pub now: Timestamp,
}

/// Decides.
pub fn decide<P>(case: Case<'_, P>) -> (Verdict, Option<Write<P>>) {
    let (what, seen) = (case.what, case.seen);
    if let Some(progress) = &seen.operation {
        let progress = if progress.is_empty() { "in progress" } else { progress };
        return (Verdict::Working(format!("{what}: {progress}")), None);
    }
    let found = match &seen.state {
        Observed::Unknown(why) => {
            let reason = seen.blind.unwrap_or(why.reason);
            return (Verdict::Unknown(Trouble::new(reason, format!("{what}: {why}"))), None);
        }
        Observed::Absent => {
            return match case.gone.clone() {
                Some(trouble) => (Verdict::Blocked(trouble), None),
                None => write(case, "absent".to_owned()),
            };
        }
        Observed::Present(found) => found,
    };
    if let Some(trouble) = (case.foreign)(found) {
        return (Verdict::Blocked(trouble), None);
    }
    let state = state(found);
    if !is_terminal(state) {
        return (Verdict::Working(format!("{what}: {state}")), None);
    }
    let Some(body) = &case.wanted.body else { return ((case.bodiless)(), None) };
    let why = if state.eq_ignore_ascii_case("Succeeded") {
        compare::difference(&no_less(body, found, case.grows), found)
    } else {
        Some(state.to_owned())
    };
    let why = why.or_else(|| case.whole.and_then(|pointer| longer(pointer, body, found)));
    let Some(why) = why else { return (Verdict::Good, None) };
    let etag = found["etag"].as_str().filter(|_| case.wanted.unless == Unless::Exists);
    let unless = etag.map_or(Unless::Never, |etag| Unless::Changed(etag.to_owned()));
    write(Case { wanted: Wanted { unless, ..case.wanted }, ..case }, why)
}

/// A list that is all ours and has another length: somebody put something there.
fn longer(pointer: &str, wanted: &Value, found: &Value) -> Option<String> {
    let length = |value: &Value| value.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len);
    (length(wanted) != length(found)).then(|| pointer.trim_start_matches('/').replace('/', "."))
}

/// Takes the writes out of a plan that may not be done now, and says so. `what` names a part.
pub fn hold<P: Ord + Copy>(
    verdicts: &mut BTreeMap<P, Verdict>,
    writes: &mut Vec<Write<P>>,
    stops: &Stops,
    what: impl Fn(P) -> String,
) {
    writes.retain(|write| {
        let is_new = write.found.is_none();
        let Some(trouble) = (if is_new { stops.creations() } else { stops.everything() }) else {
            return true;
        };
        let how = if is_new { "is not there and is not made" } else { "is not as wanted and is left" };
        let message = format!("{} {how} ({}): {}", what(write.part), write.why, trouble.message);
        verdicts.insert(write.part, Verdict::Failed(Trouble::new(trouble.reason, message)));
        false
    });
}

/// A write, unless it has to wait.
fn write<P>(case: Case<'_, P>, why: String) -> (Verdict, Option<Write<P>>) {
    let what = case.what;
    if let Some(need) = case.unmet {
        return (Verdict::Waiting(format!("{what} waits for: {need}")), None);
    }
    if let Some(failure) = &case.seen.failure
        && failure.retry_at > case.now
    {
        return (failed(what, &failure.error), None);
    }
    let Wanted { id, api, body, unless } = case.wanted;
    let Some(body) = body else { return ((case.bodiless)(), None) };
    let found = match &case.seen.state {
        Observed::Present(found) => Some(marks(&id, found).clone()),
        _ => None,
    };
    let write =
        Write { part: case.part, id, api, body, found, unless, whole: case.whole, grows: case.grows, why };
    (Verdict::Working(format!("{what}: being made or changed")), Some(write))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use reef_crds::condition::Reason;

    use super::*;

    #[test]
    fn what_is_stopped_is_held_and_told() {
        let write = |part: u8, found: Option<Value>| Write {
            part,
            id: format!("/{part}"),
            api: "v",
            body: json!({}),
            found,
            unless: Unless::Never,
            whole: None,
            grows: &[],
            why: "absent".to_owned(),
        };
        for (verb, left) in [("Delete", vec![1, 2]), ("Provision", vec![2]), ("All", vec![])] {
            let region = serde_json::from_value(json!({
                "metadata": { "name": "west" },
                "spec": { "location": "west", "azure": { "tenantId": "t", "subscriptionId": "s" }, "dns": { "zoneId": "z" },
                    "tls": { "secretRef": { "namespace": "n", "name": "s" } },
                    "emergencyStop": [{ "verb": verb, "reason": "INC-1" }] },
            }));
            let stops = Stops::of(&region.unwrap(), &BTreeMap::new(), Timestamp::UNIX_EPOCH);
            let working = || Verdict::Working("being made".to_owned());
            let mut verdicts = BTreeMap::from([(1, working()), (2, working()), (3, Verdict::Good)]);
            let mut writes = vec![write(1, None), write(2, Some(json!({})))];
            hold(&mut verdicts, &mut writes, &stops, |part| format!("part {part}"));
            assert_eq!(writes.iter().map(|w| w.part).collect::<Vec<_>>(), left, "{verb}");
            for part in [1, 2] {
                let is_told = matches!(&verdicts[&part], Verdict::Failed(t)
                    if t.reason == Reason::EmergencyStop && t.message.starts_with(&format!("part {part} is not")));
                assert_eq!(is_told, !left.contains(&part), "{verb}: {:?}", verdicts[&part]);
            }
            assert_eq!(verdicts[&3], Verdict::Good);
        }
    }
}
