//! What may not be done for now (pure): from the emergency stops of a Region, the annotation that pauses an object, and
//! the time.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use reef_crds::{
    Region,
    condition::{ConditionType, Decided, Reason, merge, true_since},
    meta::PAUSED,
    region::{EmergencyStop, Verb},
};

use super::trouble::Trouble;

/// A stop or pause without an end that has lasted this long is warned of, once for each time that it lasts this long.
const TOO_LONG_SECONDS: i64 = 24 * 3600;

/// Longest piece of an annotation's value that is quoted, characters.
const QUOTED: usize = 40;

/// Something that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InForce {
    trouble: Trouble,
    until: Option<Timestamp>,
}

/// What may not be done for one object now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    pause: Option<InForce>,
    all: Option<InForce>,
    provision: Option<InForce>,
    delete: Option<InForce>,
}

/// What the clients of Azure and of a reef's cluster refuse: the net under the decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ban {
    /// Why nothing is written.
    pub writes: Option<Trouble>,
    /// Why nothing is deleted.
    pub deletions: Option<Trouble>,
}

impl Stops {
    /// What holds for an object with these annotations in this Region.
    pub fn of(region: &Region, annotations: &BTreeMap<String, String>, now: Timestamp) -> Self {
        let name = region.name_any();
        let stop = |verb| in_force(region, now).find(|s| s.verb == verb).map(|s| stopped(&name, s));
        Self {
            pause: Pause::of(annotations, now).map(|pause| pause.in_force()),
            all: stop(Verb::All),
            provision: stop(Verb::Provision),
            delete: stop(Verb::Delete),
        }
    }

    /// The same for a Region that was read anew.
    #[must_use]
    pub fn renewed(&self, region: &Region, now: Timestamp) -> Self {
        Self { pause: self.pause.clone(), ..Self::of(region, &BTreeMap::new(), now) }
    }

    /// Why nothing at all may be written.
    pub fn everything(&self) -> Option<&Trouble> {
        [&self.pause, &self.all].into_iter().flatten().map(|f| &f.trouble).next()
    }

    /// Why nothing may be made that is not there.
    pub fn creations(&self) -> Option<&Trouble> {
        self.everything().or(self.provision.as_ref().map(|f| &f.trouble))
    }

    /// Why nothing may be deleted.
    pub fn deletions(&self) -> Option<&Trouble> {
        self.everything().or(self.delete.as_ref().map(|f| &f.trouble))
    }

    /// What clients refuse. What was never in service is not gone on with while nothing may be made.
    pub fn ban(&self, was_in_service: bool) -> Ban {
        let writes = if was_in_service { self.everything() } else { self.creations() };
        Ban { writes: writes.cloned(), deletions: self.deletions().cloned() }
    }

    /// When the first of them ends by itself.
    pub fn ends_at(&self) -> Option<Timestamp> {
        let all = [&self.pause, &self.all, &self.provision, &self.delete];
        all.into_iter().flatten().filter_map(|f| f.until).min()
    }

    /// A pause before the next look that does not reach beyond that.
    pub fn cap(&self, pause: Duration, now: Timestamp) -> Duration {
        capped(self.ends_at(), pause, now)
    }
}

/// A pause that does not reach far beyond a moment.
fn capped(end: Option<Timestamp>, pause: Duration, now: Timestamp) -> Duration {
    let left = end.map(|end| Duration::try_from(end.duration_since(now)).unwrap_or_default());
    // A clock that is a little late makes no storm.
    left.map_or(pause, |left| pause.min(left.max(Duration::from_millis(50))))
}

/// The emergency stops of a Region that this release knows and whose time is not over.
fn in_force(region: &Region, now: Timestamp) -> impl Iterator<Item = &EmergencyStop> {
    let holds = move |s: &&EmergencyStop| s.until.as_ref().is_none_or(|until| now < until.0);
    region.spec.emergency_stop.iter().filter(|s| s.verb != Verb::Later).filter(holds)
}

fn stopped(region: &str, stop: &EmergencyStop) -> InForce {
    let verb = stop.verb.as_str();
    let message = format!(
        "emergency stop {verb} of Region {region} {} ({}): it goes on by itself afterwards; to lift it now, remove {verb} from spec.emergencyStop of the Region",
        until(stop.until.as_ref().map(|u| u.0)),
        stop.reason.trim()
    );
    InForce { trouble: Trouble::new(Reason::EmergencyStop, message), until: stop.until.as_ref().map(|u| u.0) }
}

fn until(end: Option<Timestamp>) -> String {
    end.map_or_else(|| "without an end".to_owned(), |end| format!("until {end}"))
}

/// Verbs of the emergency stops that are in force, for metrics.
pub fn verbs(region: &Region, now: Timestamp) -> Vec<Verb> {
    in_force(region, now).map(|stop| stop.verb).collect()
}

/// A pause before the next look at a Region that does not reach beyond the end of one of its stops, or of its pause.
pub fn cap_for_region(region: &Region, pause: Duration, now: Timestamp) -> Duration {
    Stops::of(region, region.annotations(), now).cap(pause, now)
}

/// A pause before the next look at an object that does not reach beyond the end of its pause.
pub fn cap_by_pause(annotations: &BTreeMap<String, String>, pause: Duration, now: Timestamp) -> Duration {
    let end = Pause::of(annotations, now).and_then(|found| found.in_force().until);
    capped(end, pause, now)
}

/// Why an object is paused, if it is.
pub fn paused(annotations: &BTreeMap<String, String>, now: Timestamp) -> Option<Trouble> {
    Pause::of(annotations, now).map(|pause| pause.in_force().trouble)
}

/// What the annotation says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pause {
    Endless,
    Until(Timestamp),
    /// It cannot be read; who wrote it meant a pause.
    Unreadable(String),
}

impl Pause {
    fn of(annotations: &BTreeMap<String, String>, now: Timestamp) -> Option<Self> {
        let value = annotations.get(PAUSED)?.trim();
        match (value, value.parse::<Timestamp>()) {
            ("false", _) => None,
            ("true", _) => Some(Self::Endless),
            (_, Ok(until)) => (now < until).then_some(Self::Until(until)),
            (_, Err(_)) => Some(Self::Unreadable(value.chars().take(QUOTED).collect())),
        }
    }

    fn in_force(&self) -> InForce {
        let lift = format!("remove the annotation ({PAUSED}-) to go on");
        let (message, until) = match self {
            Self::Endless => (format!("paused by the annotation {PAUSED}=true: {lift}"), None),
            Self::Until(until) => {
                let message = format!("paused by the annotation {PAUSED} until {until}: {lift} earlier");
                (message, Some(*until))
            }
            Self::Unreadable(value) => {
                let message = format!(
                    "paused, because the annotation {PAUSED} has the value {value:?}, which is neither `true` nor `false` nor a time such as 2026-12-01T00:00:00Z: correct it, or {lift}"
                );
                (message, None)
            }
        };
        InForce { trouble: Trouble::new(Reason::Paused, message), until }
    }
}

/// The condition of something that is in force; with a warning, which changes once a day, if it has no end.
fn condition(
    type_: ConditionType,
    trouble: Trouble,
    is_endless: bool,
    old: &[Condition],
    now: Timestamp,
) -> Decided {
    let since = true_since(old, type_).unwrap_or(now);
    let days = (now.as_second() - since.as_second()) / TOO_LONG_SECONDS;
    let (reason, message) = if is_endless && days > 0 {
        let plural = if days == 1 { "" } else { "s" };
        (Reason::StoppedTooLong, format!("for more than {days} day{plural}: {}", trouble.message))
    } else {
        (trouble.reason, trouble.message)
    };
    Decided { type_, status: Some(true), reason, message }
}

/// The conditions with what the annotation says: [`ConditionType::Paused`] while it holds. `old` are those before.
pub fn with_pause(
    mut conditions: Vec<Condition>,
    old: &[Condition],
    annotations: &BTreeMap<String, String>,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    conditions.retain(|c| c.type_ != ConditionType::Paused.as_str());
    if let Some(InForce { trouble, until }) = Pause::of(annotations, now).map(|pause| pause.in_force()) {
        let decided = condition(ConditionType::Paused, trouble, until.is_none(), old, now);
        conditions.extend(merge(old, &[decided], generation, now));
    }
    conditions
}

/// The conditions of a Region with its emergency stops.
pub fn with_stops(
    mut conditions: Vec<Condition>,
    old: &[Condition],
    region: &Region,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    conditions.retain(|c| c.type_ != ConditionType::EmergencyStopped.as_str());
    let words: Vec<_> = in_force(region, now)
        .map(|s| {
            format!("{} {} ({})", s.verb.as_str(), until(s.until.as_ref().map(|u| u.0)), s.reason.trim())
        })
        .collect();
    if !words.is_empty() {
        let is_endless = in_force(region, now).any(|s| s.until.is_none());
        let trouble = Trouble::new(Reason::EmergencyStop, format!("stopped: {}", words.join("; ")));
        let decided = condition(ConditionType::EmergencyStopped, trouble, is_endless, old, now);
        conditions.extend(merge(old, &[decided], generation, now));
    }
    conditions
}

/// What people should hear of: a stop or pause that began, changed, lasts, or is over. With whether to warn.
pub fn news(old: &[Condition], next: &[Condition]) -> Vec<(Trouble, bool)> {
    let find = |list: &[Condition], type_: ConditionType| {
        list.iter().find(|c| c.type_ == type_.as_str() && c.status == "True").cloned()
    };
    let of = |type_| match (find(old, type_), find(next, type_)) {
        (Some(_), None) => {
            let what = if type_ == ConditionType::Paused { "the pause" } else { "the emergency stop" };
            Some((Trouble::new(Reason::Resumed, format!("{what} is over: work goes on")), false))
        }
        (before, Some(now)) if before.as_ref().is_none_or(|b| b.message != now.message) => {
            let reason = Reason::ALL.iter().copied().find(|r| r.as_str() == now.reason)?;
            Some((Trouble::new(reason, now.message), true))
        }
        _ => None,
    };
    [ConditionType::EmergencyStopped, ConditionType::Paused].into_iter().filter_map(of).collect()
}

/// A number that changes when the emergency stops of a Region do, by an edit or by time, and with nothing else.
pub fn fingerprint(region: &Region) -> u64 {
    let mut hasher = DefaultHasher::new();
    for stop in &region.spec.emergency_stop {
        (stop.verb, &stop.reason, stop.until.as_ref().map(|u| u.0)).hash(&mut hasher);
    }
    let conditions = region.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let shown = conditions.iter().find(|c| c.type_ == ConditionType::EmergencyStopped.as_str());
    // Its message names the stops that are in force; how long they have lasted is no change of them.
    shown.map(|c| c.message.split_once("stopped: ").map(|(_, stops)| stops)).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn region(stops: &Value) -> Region {
        let id = "00000000-0000-4000-8000-000000000001";
        serde_json::from_value(json!({
            "metadata": { "name": "west" },
            "spec": { "location": "west", "azure": { "tenantId": id, "subscriptionId": id }, "dns": { "zoneId": "/z/a.example" },
                "tls": { "secretRef": { "namespace": "n", "name": "s" } }, "emergencyStop": stops },
        }))
        .unwrap()
    }

    fn stop(verb: &str, until: Option<i64>) -> Value {
        json!({ "verb": verb, "reason": "INC-1", "until": until.map(|s| at(s).to_string()) })
    }

    fn annotated(value: Option<&str>) -> BTreeMap<String, String> {
        value.map(|value| (PAUSED.to_owned(), value.to_owned())).into_iter().collect()
    }

    /// Which of making, deleting and everything is stopped, and when the first ends.
    fn summary(stops: &Stops) -> (String, Option<i64>) {
        let letter = |is: Option<&Trouble>, letter: &str| {
            is.map_or(String::new(), |t| format!("{letter}:{} ", t.reason))
        };
        let text = [
            letter(stops.creations(), "make"),
            letter(stops.deletions(), "delete"),
            letter(stops.everything(), "all"),
        ];
        (text.concat().trim().to_owned(), stops.ends_at().map(Timestamp::as_second))
    }

    #[test]
    fn what_is_stopped_and_until_when() {
        let all = "make:EmergencyStop delete:EmergencyStop all:EmergencyStop";
        let paused = "make:Paused delete:Paused all:Paused";
        for (stops, annotation, expect) in [
            (json!([]), None, ("", None)),
            (json!([stop("Provision", None)]), None, ("make:EmergencyStop", None)),
            (json!([stop("Delete", Some(900))]), None, ("delete:EmergencyStop", Some(900))),
            (
                json!([stop("Delete", Some(900)), stop("Provision", Some(700))]),
                None,
                ("make:EmergencyStop delete:EmergencyStop", Some(700)),
            ),
            (json!([stop("All", Some(501))]), None, (all, Some(501))),
            (json!([stop("All", Some(500))]), None, ("", None)),
            (json!([stop("All", Some(499)), stop("Delete", None)]), None, ("delete:EmergencyStop", None)),
            (json!([stop("Move", None)]), None, ("", None)),
            (json!([]), Some("true"), (paused, None)),
            (json!([]), Some("false"), ("", None)),
            (json!([]), Some("1970-01-01T00:10:00Z"), (paused, Some(600))),
            (json!([]), Some("1970-01-01T01:10:00+01:00"), (paused, Some(600))),
            (json!([]), Some("1970-01-01T00:08:20Z"), ("", None)),
            (json!([]), Some("until noon"), (paused, None)),
            (json!([]), Some(""), (paused, None)),
            (json!([stop("All", Some(900))]), Some("1970-01-01T00:10:00Z"), (paused, Some(600))),
        ] {
            let found = Stops::of(&region(&stops), &annotated(annotation), at(500));
            assert_eq!(summary(&found), (expect.0.to_owned(), expect.1), "{stops} {annotation:?}");
        }
    }

    #[test]
    fn what_was_never_in_service_is_not_gone_on_with() {
        let of = |stops: Value| Stops::of(&region(&stops), &annotated(None), at(500));
        let provision = of(json!([stop("Provision", None)]));
        assert!(provision.ban(false).writes.is_some() && provision.ban(true) == Ban::default());
        let delete = of(json!([stop("Delete", None)])).ban(false);
        assert!(delete.writes.is_none() && delete.deletions.is_some());
        let all = of(json!([stop("All", None)])).ban(true);
        assert!(all.writes.is_some() && all.deletions.is_some());
        assert_eq!(of(json!([])).ban(false), Ban::default());
        // A stop that comes in the middle of a look counts, and the pause stays.
        let paused = Stops::of(&region(&json!([])), &annotated(Some("true")), at(500));
        let renewed = paused.renewed(&region(&json!([stop("Delete", None)])), at(500));
        assert!(renewed.everything().is_some_and(|t| t.reason == Reason::Paused));
        assert_eq!(
            of(json!([])).renewed(&region(&json!([stop("Delete", None)])), at(500)),
            of(json!([stop("Delete", None)]))
        );
    }

    #[test]
    fn the_words_say_where_which_why_until_when_and_what_to_do() {
        let of = |stops: Value, annotation| Stops::of(&region(&stops), &annotated(annotation), at(500));
        let words = |stops: &Stops| stops.deletions().unwrap().message.clone();
        assert_eq!(
            words(&of(json!([stop("Delete", Some(900))]), None)),
            "emergency stop Delete of Region west until 1970-01-01T00:15:00Z (INC-1): it goes on by itself afterwards; to lift it now, remove Delete from spec.emergencyStop of the Region"
        );
        assert!(words(&of(json!([stop("All", None)]), None)).contains("All of Region west without an end"));
        for (value, expect) in [
            ("true", "cloud.octopus.com/paused=true: remove the annotation (cloud.octopus.com/paused-)"),
            ("1970-01-01T00:10:00Z", "until 1970-01-01T00:10:00Z: remove"),
            ("until\nnoon", r#"has the value "until\nnoon", which is neither"#),
        ] {
            let words = words(&of(json!([]), Some(value)));
            assert!(words.contains(expect), "{words}");
        }
        let long = words(&of(json!([]), Some(&"x".repeat(9_000))));
        assert!(long.len() < 400, "{long}");
    }

    fn shown(list: &[Condition]) -> Vec<String> {
        list.iter().map(|c| format!("{}={}/{} {}", c.type_, c.status, c.reason, c.message)).collect()
    }

    #[test]
    fn a_pause_without_an_end_is_told_once_a_day() {
        let (endless, now) = (annotated(Some("true")), 1_000);
        let day = TOO_LONG_SECONDS;
        let first = with_pause(vec![], &[], &endless, 1, at(now));
        assert!(shown(&first)[0].starts_with("Paused=True/Paused paused by"), "{first:?}");
        let mut told = news(&[], &first).len();
        let mut before = first.clone();
        for minute in 1..=(3 * 24 * 60) {
            let next = with_pause(before.clone(), &before, &endless, 1, at(now + 60 * minute));
            let heard = news(&before, &next);
            assert_eq!(heard.is_empty(), before == next, "what is written is told, and nothing else");
            assert!(heard.iter().all(|(trouble, warns)| *warns && trouble.reason == Reason::StoppedTooLong));
            told += heard.len();
            before = next;
        }
        assert_eq!(told, 4, "when it begins, and after each day");
        assert!(shown(&before)[0].contains("StoppedTooLong for more than 3 days: paused by"), "{before:?}");
        assert_eq!(before[0].last_transition_time.0, at(now));
        // With an end it is not too long, and when it is over that is told.
        let ends = annotated(Some(&at(now + 9 * day).to_string()));
        let ending = with_pause(before.clone(), &before, &ends, 1, at(now + 4 * day));
        assert_eq!(ending[0].reason, "Paused");
        let over = with_pause(ending.clone(), &ending, &ends, 1, at(now + 9 * day));
        assert!(over.is_empty());
        assert!(matches!(&news(&ending, &over)[..], [(t, false)] if t.reason == Reason::Resumed));
    }

    #[test]
    fn a_region_shows_its_stops_and_only_they_change_its_fingerprint() {
        let stops = json!([stop("Delete", Some(900)), stop("Provision", None)]);
        let mut region = region(&stops);
        let next = with_stops(vec![], &[], &region, 1, at(500));
        let expect = "EmergencyStopped=True/EmergencyStop stopped: Delete until 1970-01-01T00:15:00Z (INC-1); Provision without an end (INC-1)";
        assert_eq!(shown(&next), [expect]);
        let unseen = fingerprint(&region);
        let status =
            |conditions: Vec<Condition>| reef_crds::RegionStatus { conditions, ..Default::default() };
        region.status = Some(status(next.clone()));
        let seen = fingerprint(&region);
        assert_ne!(unseen, seen);
        let late = with_stops(next.clone(), &next, &region, 1, at(899 + TOO_LONG_SECONDS));
        assert!(late[0].message.starts_with("for more than 1 day: stopped: Provision without an end"));
        region.status = Some(status(late));
        assert_ne!(fingerprint(&region), seen, "one has ended");
        let ended = fingerprint(&region);
        let before = region.status.clone().unwrap().conditions;
        let later = with_stops(before.clone(), &before, &region, 1, at(900 + 5 * TOO_LONG_SECONDS));
        assert_ne!(later, before);
        region.status = Some(status(later.clone()));
        assert_eq!(fingerprint(&region), ended, "that it lasts wakes nobody");
        region.metadata.resource_version = Some("77".to_owned());
        region.metadata.annotations = Some(annotated(Some("true")));
        assert_eq!(fingerprint(&region), ended, "nor does anything else");
        region.spec.emergency_stop.clear();
        assert_ne!(fingerprint(&region), ended);
        assert!(with_stops(later.clone(), &later, &region, 1, at(1_000)).is_empty());
    }

    fn any_stop() -> impl Strategy<Value = Value> {
        let verb = prop::sample::select(vec!["Provision", "Delete", "All", "Later"]);
        (verb, prop::option::of(0i64..2_000)).prop_map(|(verb, until)| stop(verb, until))
    }

    proptest! {
        /// What is over never stops, what ends ends later, and nobody sleeps beyond an end.
        #[test]
        fn the_time_rules(
            stops in prop::collection::vec(any_stop(), 0..4),
            annotation in prop::option::of(prop_oneof![
                Just("true".to_owned()), ".*", (0i64..2_000).prop_map(|s| at(s).to_string()),
            ]),
            now in 0i64..2_000,
        ) {
            let holds = |stop: &Value| {
                let until = stop["until"].as_str().map(|text| text.parse::<Timestamp>().unwrap());
                stop["verb"] != "Later" && until.is_none_or(|until| at(now) < until)
            };
            let annotations = annotated(annotation.as_deref());
            let region = region(&json!(stops));
            let found = Stops::of(&region, &annotations, at(now));
            let is_paused = paused(&annotations, at(now)).is_some();
            prop_assert_eq!(found != Stops::default(), stops.iter().any(holds) || is_paused);
            prop_assert_eq!(verbs(&region, at(now)).len(), stops.iter().filter(|s| holds(s)).count());
            prop_assert!(found.ends_at().is_none_or(|end| end > at(now)));
            let pause = Duration::from_secs(300);
            let cap = found.cap(pause, at(now));
            prop_assert!(cap <= pause && cap > Duration::ZERO);
            if let Some(end) = found.ends_at() {
                let end = end.max(at(now));
                let next = Stops::of(&region, &annotations, end);
                prop_assert!(next != found, "what ends at {end} has ended then");
            }
            prop_assert!(found.everything().is_none() || found.creations().is_some() && found.deletions().is_some());
        }
    }
}
