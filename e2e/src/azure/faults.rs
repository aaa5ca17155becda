//! Faults that a test asks for: which calls they meet, and what happens to those.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Response;

/// What stands for a resource type where Entra is asked for a token; the name is the client id. It is a service of its
/// own: rules without a type do not meet it.
pub const TOKENS: &str = "Entra/tokens";

/// A rule. All conditions that are given have to hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Under which name it can be taken away alone.
    pub label: Option<String>,
    /// HTTP method.
    pub method: Option<String>,
    /// Resource type, without regard to case, for example `Microsoft.Network/dnsZones`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Name of the resource; `*` stands for anything.
    pub name: Option<String>,
    /// Path of the call, without regard to case; `*` stands for anything.
    pub path: Option<String>,
    /// How many of the calls that it would meet it lets pass first; none without it.
    #[serde(default)]
    pub skip: u32,
    /// How many calls it meets before it is used up; without it, it stays.
    pub count: Option<u32>,
    /// The share of calls that it meets, 0 to 1; all without it.
    pub rate: Option<f64>,
    /// What happens.
    pub fault: Fault,
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Fault {
    /// It is answered like this, and has no effect unless that is asked for.
    Answer {
        /// HTTP status.
        status: u16,
        /// ARM's error code.
        code: String,
        /// ARM's text; one that says that a test asked for it, if none is given.
        message: Option<String>,
        /// Code of what is said in detail.
        detail: Option<String>,
        /// `Retry-After`, seconds.
        retry_after: Option<u32>,
        /// Whether it takes effect all the same, as what a gateway gave up waiting for does.
        #[serde(default)]
        takes_effect: bool,
    },
    /// It has no effect and no answer for ever.
    Hang,
    /// It takes effect, and the connection is cut before the answer.
    LostAnswer,
    /// It takes effect and has no answer for ever.
    NoAnswer,
    /// It takes effect, and is answered the other way round: by an operation if it is done at once else, and at once if
    /// it takes its time else.
    Flip,
    /// It is a list, and leaves out some of its items.
    Omit,
    /// It is a list, and comes in pages of this size.
    Pages {
        /// Items of a page.
        items: u32,
    },
    /// It is accepted, and its operation ends in this failure.
    FailLate {
        /// ARM's error code.
        code: String,
        /// Text.
        message: String,
    },
}

impl Fault {
    /// The answer that it stands for; none if it is no answer.
    pub fn answer(&self) -> Option<Response> {
        let Self::Answer { status, code, message, detail, retry_after, .. } = self else { return None };
        let message = message.clone().unwrap_or_else(|| format!("{code}, because a test asked for it."));
        let mut answer = Response::error(*status, code, message.clone());
        if let (Some(detail), Some(body)) = (detail, &mut answer.body) {
            body["error"]["details"] = json!([{ "code": detail, "message": message }]);
        }
        Some(match retry_after {
            Some(seconds) => answer.header("retry-after", seconds.to_string()),
            None => answer,
        })
    }
}

/// The rules of a sandbox and their dice.
#[derive(Debug)]
pub struct Faults {
    rules: Vec<Rule>,
    dice: u64,
}

impl Faults {
    /// No rules; the seed makes rates repeatable.
    pub fn new(seed: u64) -> Self {
        Self { rules: Vec::new(), dice: seed | 1 }
    }

    /// Adds a rule.
    pub fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Removes all rules.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Removes the rules with this label.
    pub fn remove(&mut self, label: &str) {
        self.rules.retain(|rule| rule.label.as_deref() != Some(label));
    }

    /// The labels of the rules.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter_map(|rule| rule.label.as_deref())
    }

    /// What happens to a call (its method, and path): the first rule that meets it decides.
    pub fn meet(&mut self, (method, path): (&str, &str), kind: &str, name: &str) -> Option<Fault> {
        let at = (0..self.rules.len()).find(|&at| {
            let rule = &self.rules[at];
            let is_like = |pattern: &Option<String>, text: &str| {
                pattern.as_deref().is_none_or(|p| glob(&p.to_lowercase(), &text.to_lowercase()))
            };
            let fits = rule.method.as_deref().is_none_or(|m| m.eq_ignore_ascii_case(method))
                && rule.kind.as_deref().map_or(kind != TOKENS, |k| k.eq_ignore_ascii_case(kind))
                && is_like(&rule.name, name)
                && is_like(&rule.path, path);
            let rate = rule.rate;
            if !fits || rate.is_some_and(|rate| self.roll() >= rate) {
                return false;
            }
            let skip = &mut self.rules[at].skip;
            let is_met = *skip == 0;
            *skip = skip.saturating_sub(1);
            is_met
        })?;
        let rule = &mut self.rules[at];
        let fault = rule.fault.clone();
        if let Some(count) = &mut rule.count {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.rules.remove(at);
            }
        }
        Some(fault)
    }

    /// Leaves out every other item of a list, on the average.
    pub fn omit(&mut self, mut answer: Response) -> Response {
        if let Some(items) = answer.body.as_mut().and_then(|body| body["value"].as_array_mut()) {
            items.retain(|_| self.roll() < 0.5);
        }
        answer
    }

    /// 0 to 1 (xorshift).
    fn roll(&mut self) -> f64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        f64::from(u32::try_from(self.dice >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

/// Whether a text is as a pattern has it; `*` stands for anything.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).filter(|&at| rest.is_char_boundary(at)).any(|at| glob(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: serde_json::Value) -> Rule {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn rules_meet_what_they_name_and_are_used_up() {
        let mut faults = Faults::new(7);
        faults.add(rule(serde_json::json!({ "method": "PUT", "type": "microsoft.network/DNSZONES/A", "name": "reef-*", "count": 2, "fault": "hang" })));
        let kind = "microsoft.network/dnszones/a";
        assert_eq!(faults.meet(("GET", "/a"), kind, "reef-1"), None);
        assert_eq!(faults.meet(("PUT", "/a"), kind, "other"), None);
        assert_eq!(faults.meet(("PUT", "/a"), kind, "reef-1"), Some(Fault::Hang));
        assert_eq!(faults.meet(("PUT", "/a"), kind, "Reef-2"), Some(Fault::Hang));
        assert_eq!(faults.meet(("PUT", "/a"), kind, "reef-3"), None);
    }

    #[test]
    fn a_rate_meets_its_share() {
        let mut faults = Faults::new(7);
        faults.add(rule(
            serde_json::json!({ "rate": 0.1, "fault": { "answer": { "status": 500, "code": "X" } } }),
        ));
        let met = (0..1000).filter(|_| faults.meet(("GET", "/a"), "t", "n").is_some()).count();
        assert!((60..140).contains(&met), "{met}");
    }

    #[test]
    fn a_rule_meets_a_path_and_goes_by_its_label() {
        let mut faults = Faults::new(7);
        let answer = serde_json::json!({ "answer": { "status": 500, "code": "X", "message": "why" } });
        faults.add(rule(serde_json::json!({ "label": "one", "path": "*/Servers/*", "fault": answer })));
        let meets = |faults: &mut Faults, path| faults.meet(("PUT", path), "t", "n").is_some();
        assert!(meets(&mut faults, "/g/servers/s") && !meets(&mut faults, "/g/pools/s"));
        faults.remove("two");
        assert!(meets(&mut faults, "/g/servers/s"));
        faults.remove("one");
        assert!(!meets(&mut faults, "/g/servers/s"));
    }

    #[test]
    fn a_rule_lets_the_first_calls_pass() {
        let mut faults = Faults::new(7);
        faults.add(rule(serde_json::json!({ "label": "third", "skip": 2, "count": 1, "fault": "noAnswer" })));
        let met: Vec<bool> = (0..4).map(|_| faults.meet(("PUT", "/a"), "t", "n").is_some()).collect();
        assert_eq!(met, [false, false, true, false]);
        assert_eq!(faults.labels().count(), 0);
    }

    #[test]
    fn entra_is_met_by_name_only() {
        let mut faults = Faults::new(7);
        faults.add(rule(serde_json::json!({ "fault": "hang" })));
        assert_eq!(faults.meet(("POST", "/p"), "a/b", "n"), Some(Fault::Hang));
        assert_eq!(faults.meet(("POST", "/p"), TOKENS, "client"), None);
        faults.add(rule(serde_json::json!({ "type": TOKENS, "fault": "lostAnswer" })));
        assert_eq!(faults.meet(("POST", "/p"), TOKENS, "client"), Some(Fault::LostAnswer));
    }

    #[test]
    fn a_misspelt_rule_is_refused() {
        let bad = serde_json::json!({ "nmae": "x", "fault": "hang" });
        assert!(serde_json::from_value::<Rule>(bad).is_err());
    }
}
