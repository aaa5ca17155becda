//! The sandbox's emulator of ARM, given the requests of each recording in order, against what ARM answered.
//!
//! Compared are status, names of headers, keys and types of bodies, whether what is shown is still being changed, and in what
//! operations end.
//! Differences that stay are listed in `differences.txt`, with a reason each.

use std::collections::BTreeSet;

use reef_e2e::{
    azure::{Cloud, Response, SUBSCRIPTION, faults::Fault, is_known, roles, slots::Slot},
    recordings::{Record, Recording, key},
};
use serde_json::Value;

use super::{
    Verdict,
    client::{followed, followed_by},
    differences::{Difference, Differences},
    recordings, report,
    said::Said,
    seed::before,
    sent::{OWNER, cloud_time, moments_into, ours, request, sent},
    shape::compared,
};

/// Between calls of a recording without a clock, and between polls without Retry-After, milliseconds.
const STEP: u64 = 12_000;

/// Longest operation, milliseconds of the cloud's time.
const LONGEST: u64 = 3_600_000;

/// Refusals that come from what goes on in Azure beside the recorded calls, or from how close they came: a test asks for
/// them. All others come of themselves.
const PASSING: [&str; 6] = [
    "PrincipalNotFound",
    "FailedIdentityOperation",
    "AnotherOperationInProgress",
    "StorageAccountIsNotProvisioned",
    "ConflictingServerOperation",
    "ConflictingDatabaseOperation",
];

#[test]
fn the_emulator_answers_as_arm_did() {
    let Some(all) = recordings() else { return };
    let mut differences = Differences::read();
    let verdicts: Vec<_> = all.iter().map(|recording| Drive::new(recording).run(&mut differences)).collect();
    differences.print();
    report("emulator", &verdicts);
    differences.none_is_stale();
}

/// Type, method and API version of an answer.
type Of<'a> = (&'a str, &'a str, &'a str);

struct Drive<'a> {
    recording: &'a Recording,
    cloud: Cloud,
    /// Milliseconds of the cloud's time.
    now: u64,
    found: Vec<Difference>,
    /// Ids of what the recording makes, in lower case, there and here.
    made: BTreeSet<String>,
    calls: usize,
    asked_for: usize,
    operations: usize,
    running: Vec<Operation>,
    said: Said,
    /// Whether it has Retry-After at all: azure-cli's recordings lost it.
    has_waits: bool,
}

impl<'a> Drive<'a> {
    fn new(recording: &'a Recording) -> Self {
        let mut cloud = Cloud::new("https://management.azure.com", 1, 1.0);
        // Recordings know whole seconds only.
        cloud.without_limits();
        cloud.grant((OWNER, roles::OWNER, &format!("/subscriptions/{SUBSCRIPTION}")));
        for provider in reef_e2e::azure::providers() {
            let path = format!("/subscriptions/{SUBSCRIPTION}/providers/{provider}/register");
            cloud.handle(&request("POST", &path, "2021-04-01", None), 0);
        }
        let mut drive = Self {
            recording,
            cloud,
            now: cloud_time(0.0),
            found: Vec::new(),
            made: made_by(recording),
            calls: 0,
            asked_for: 0,
            operations: 0,
            running: Vec::new(),
            said: Said::default(),
            has_waits: recording.records.iter().any(|record| record.headers.contains_key("retry-after")),
        };
        drive.begin();
        drive
    }

    /// What was there before the recording began, and clusters for AKS.
    fn begin(&mut self) {
        let version = self
            .recording
            .records
            .iter()
            .find_map(|r| r.resp.as_ref()?["properties"]["currentKubernetesVersion"].as_str())
            .unwrap_or("1.36.3");
        let slot = |n: u32| Slot {
            name: format!("slot-{n}"),
            port: 1,
            ca: String::new(),
            issuer: "https://issuer.example/".to_owned(),
            version: version.to_owned(),
        };
        (0..4).for_each(|n| self.cloud.add_slot(slot(n)));
        for (path, body) in before(self.recording) {
            let body = serde_json::from_str(&ours(&body.to_string())).unwrap();
            self.cloud.seed_resource(&ours(&path), &body);
        }
    }

    fn run(mut self, differences: &mut Differences) -> Verdict {
        let followed: BTreeSet<String> = self.recording.records.iter().flat_map(followed).collect();
        for (at, record) in self.recording.records.iter().enumerate() {
            let kind = record.kind();
            for _ in 0..record.repeat {
                self.now = match record.t {
                    Some(t) => self.now.max(cloud_time(t)),
                    None => self.now + STEP,
                };
                let path = key(&record.path);
                if record.method == "GET" && followed.contains(&path) {
                    self.poll(at, record, &path);
                } else if is_known(&kind) {
                    self.exchange(at, record, &kind);
                }
            }
        }
        let mut wrong = Vec::new();
        let mut known = 0;
        self.found.sort();
        self.found.dedup();
        for difference in &self.found {
            if differences.knows(&self.recording.name, difference) {
                known += 1;
            } else {
                let Difference { kind, method, what, .. } = difference;
                wrong.push(format!("{kind} {method} {what}"));
            }
        }
        wrong.dedup();
        let did = format!(
            "{} calls, {} operations, {} refusals asked for, {known} reviewed differences",
            self.calls, self.operations, self.asked_for
        );
        let (not_spoken, is_ours) = (self.recording.not_spoken(), self.recording.is_ours());
        Verdict { name: self.recording.name.clone(), wrong, did, not_spoken, is_ours }
    }

    fn differs(&mut self, (kind, method, version): Of<'_>, what: impl Into<String>) {
        let [kind, method, version] = [kind, method, version].map(str::to_owned);
        self.found.push(Difference { kind, method, version, what: what.into() });
    }

    fn exchange(&mut self, at: usize, record: &Record, kind: &str) {
        self.calls += 1;
        while let Some(over) = self.running.iter().position(|operation| operation.last == at) {
            let mut operation = self.running.swap_remove(over);
            self.end(&mut operation);
        }
        let code = record.code().unwrap_or_default();
        let is_passing = record.status == 429
            || record.status >= 500
            || code.ends_with("InProgress")
            || (record.status >= 400 && PASSING.contains(&code.as_str()));
        let answer = if is_passing {
            self.asked_for += 1;
            let fault = Fault::Answer {
                status: record.status,
                code,
                message: Some("asked for".to_owned()),
                detail: record
                    .resp
                    .as_ref()
                    .and_then(|b| b["error"]["details"][0]["code"].as_str())
                    .map(str::to_owned),
                retry_after: record.headers.get("retry-after").and_then(|v| v.parse().ok()),
                takes_effect: false,
            };
            fault.answer().unwrap()
        } else {
            let mut request = sent(record);
            moments_into(&mut request, self.recording.began, &self.said);
            self.said.put_into(&mut request);
            self.cloud.handle(&request, self.now)
        };
        if let (Some(theirs), Some(ours), false) = (&record.resp, &answer.body, is_passing) {
            self.said.learn(theirs, ours);
        }
        // Of a refusal that was asked for, all is made up.
        if !is_passing {
            self.compare((kind, &record.method, &record.query().1), record, &answer);
        }
        if record.status < 300 && answer.status < 300 {
            self.began(at, record, kind, &answer);
        }
    }

    fn compare(&mut self, of: Of<'_>, record: &Record, answer: &Response) {
        let status = record.status;
        if status != answer.status {
            let ours = answer.body.as_ref().map(Value::to_string).unwrap_or_default();
            let ours: String = ours.chars().take(160).collect();
            let code = record.code().unwrap_or_default();
            return self.differs(of, format!("{status} {code}: answered {} {ours}", answer.status));
        }
        let (theirs, mine) = (settled(record.resp.as_ref()), settled(answer.body.as_ref()));
        if status < 300 && theirs != mine && theirs.is_some() && mine.is_some() {
            let (mine, theirs) = (mine.unwrap_or_default(), theirs.unwrap_or_default());
            self.differs(of, format!("{status} state {mine} instead of {theirs}"));
        }
        if let Some(code) = record.code().filter(|_| status >= 400) {
            let ours = code_of(answer);
            if ours != code {
                self.differs(of, format!("{status} {code}: code {ours}"));
            }
        }
        let theirs: BTreeSet<&str> = record.headers.keys().map(String::as_str).collect();
        // The emulator's server says what a body is.
        let of_body = answer.body.as_ref().map(|_| "content-type");
        let mine: BTreeSet<&str> = answer.headers.iter().map(|(name, _)| *name).chain(of_body).collect();
        let is_lost = |name: &str| name == "retry-after" && !self.has_waits;
        let mine: BTreeSet<&str> = mine.into_iter().filter(|name| !is_lost(name)).collect();
        for name in theirs.difference(&mine) {
            self.differs(of, format!("{status} lacks header {name}"));
        }
        for name in mine.difference(&theirs) {
            self.differs(of, format!("{status} has header {name}"));
        }
        let theirs = record.resp.as_ref().map(|body| self.own(record, body));
        let mine = answer.body.as_ref().map(|body| self.own(record, body));
        match (theirs, mine) {
            (Some(theirs), Some(mine)) => {
                for what in compared(&theirs, &mine, record.req.as_ref()) {
                    self.differs(of, format!("{status} {what}"));
                }
            }
            (None, None) => {}
            (Some(_), None) => self.differs(of, format!("{status} lacks a body")),
            (None, Some(_)) => self.differs(of, format!("{status} has a body")),
        }
    }

    /// Of a list of the subscription, what the recording made: others' things are in it too.
    fn own(&self, record: &Record, body: &Value) -> Value {
        let mut body = body.clone();
        let is_wide = !record.resource().to_lowercase().contains("/resourcegroups/");
        if is_wide && let Some(items) = body.get_mut("value").and_then(Value::as_array_mut) {
            items.retain(|item| item["id"].as_str().is_some_and(|id| self.made.contains(&id.to_lowercase())));
        }
        body
    }

    /// Remembers the operation that a write began. It ends when the recording's was last polled, at once if it never was.
    fn began(&mut self, at: usize, record: &Record, kind: &str, answer: &Response) {
        let keys = followed(record);
        let records = self.recording.records.iter().enumerate();
        let polls: Vec<(usize, &Record)> =
            records.filter(|(n, r)| *n > at && r.method == "GET" && keys.contains(&key(&r.path))).collect();
        let header =
            |name: &str| answer.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone());
        // Whichever of the two URLs was polled.
        let urls: Vec<(String, String)> =
            URLS.into_iter().filter_map(|name| Some((followed_by(record, name)?, header(name)?))).collect();
        if urls.is_empty() {
            return;
        }
        // Nobody polled to its end: it is over when the resource is next changed, or seen to be gone.
        let next = || {
            let mut later = self.recording.records.iter().enumerate().skip(at + 1);
            let same = |r: &Record| r.resource().eq_ignore_ascii_case(record.resource());
            let below = format!("{}/", record.resource().to_lowercase());
            let is_gone = |r: &Record| {
                record.method == "DELETE"
                    && r.status == 404
                    && r.resource().to_lowercase().starts_with(&below)
            };
            later.find(|(_, r)| is_gone(r) || same(r) && (r.is_write() || r.status == 404)).map(|(at, _)| at)
        };
        self.operations += 1;
        let fails = |record: &&(usize, &Record)| {
            record.1.resp.as_ref().is_some_and(|body| body["status"] == "Failed")
        };
        if let Some((_, failure)) = polls.iter().find(fails) {
            self.cloud.fail_operation(answer, &failure.code().unwrap_or_default(), "asked for");
        }
        let polled = polls.last().map(|(at, _)| *at);
        let is_over = |(_, poll): &&(usize, &Record)| is_end(&state(poll.status, poll.resp.as_ref()));
        let is_whole = polls.last().as_ref().is_some_and(is_over);
        let last = if is_whole { polled } else { next().or(polled) }.unwrap_or(usize::MAX);
        let ends = polls.iter().find(is_over).map_or(last, |(at, _)| *at);
        let theirs = polls.iter().map(|(_, poll)| state(poll.status, poll.resp.as_ref())).collect();
        // It takes as long as the recorded one took.
        if last != usize::MAX {
            self.cloud.hold_operation(answer);
        }
        let operation = Operation {
            answer: answer.clone(),
            kind: kind.to_owned(),
            method: record.method.clone(),
            version: record.query().1,
            urls,
            ends,
            last,
            theirs,
            mine: Vec::new(),
        };
        self.running.push(operation);
    }

    /// A poll that was recorded.
    fn poll(&mut self, at: usize, record: &Record, path: &String) {
        let Some(found) =
            self.running.iter().position(|operation| operation.urls.iter().any(|(of, _)| of == path))
        else {
            return;
        };
        self.calls += 1;
        let mut operation = self.running.swap_remove(found);
        operation.urls.sort_by_key(|(of, _)| of != path);
        let mut answer = self.look(&mut operation);
        if operation.ends <= at && !operation.is_over() {
            answer = self.end(&mut operation);
        }
        let theirs = state(record.status, record.resp.as_ref());
        let mine = operation.mine.last().cloned().unwrap_or_default();
        // What passes is not the operation's.
        if record.status != 429 && record.status < 500 {
            let of = (operation.kind.as_str(), &*format!("{} poll", operation.method), &*operation.version);
            if is_end(&theirs) == operation.is_over() {
                self.compare(of, record, &answer);
            }
            if (is_end(&theirs) || operation.is_over()) && theirs != mine {
                self.differs(of, format!("state {mine} instead of {theirs}"));
            }
        }
        if operation.last == at {
            return;
        }
        self.running.push(operation);
    }

    fn look(&mut self, operation: &mut Operation) -> Response {
        let answer = self.cloud.handle(&request("GET", &operation.urls[0].1, "", None), self.now);
        operation.mine.push(state(answer.status, answer.body.as_ref()));
        answer
    }

    /// Lets time go by until an operation is over; the last answer.
    fn end(&mut self, operation: &mut Operation) -> Response {
        let until = self.now + LONGEST;
        self.cloud.release_operation(&operation.answer, self.now);
        let mut answer = self.look(operation);
        while !operation.is_over() && self.now < until {
            let wait = answer.headers.iter().find(|(name, _)| *name == "retry-after");
            let wait = wait.and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or(STEP / 1000).max(1);
            self.now += wait * 1000;
            answer = self.look(operation);
        }
        // Thinned recordings, and tests that end, leave the last polls out.
        let theirs = operation.theirs.iter().find(|state| is_end(state));
        if theirs.is_some() && theirs != operation.mine.last() {
            let (mine, theirs) = (operation.mine.join(" "), operation.theirs.join(" "));
            let of = (operation.kind.as_str(), operation.method.as_str(), operation.version.as_str());
            self.differs(of, format!("states {mine} instead of {theirs}"));
        }
        answer
    }
}

/// An operation of the emulator that stands for a recorded one.
struct Operation {
    /// What began it.
    answer: Response,
    kind: String,
    method: String,
    version: String,
    /// The recorded one's URLs and those that stand for them.
    urls: Vec<(String, String)>,
    /// Which record is the first poll that says that it is over.
    ends: usize,
    /// Which record is the last poll.
    last: usize,
    theirs: Vec<String>,
    mine: Vec<String>,
}

impl Operation {
    fn is_over(&self) -> bool {
        self.mine.last().is_some_and(|state| is_end(state))
    }
}

/// The state that a resource shows; what is not an end goes by many words.
fn settled(body: Option<&Value>) -> Option<&str> {
    let properties = &body?["properties"];
    let states = ["provisioningState", "state", "status"];
    let state = states.iter().find_map(|name| properties[name].as_str())?;
    let ends = ["Succeeded", "Failed", "Canceled", "Ready", "Online", "Disabled"];
    Some(ends.into_iter().find(|end| end.eq_ignore_ascii_case(state)).unwrap_or("running"))
}

/// Whether a state ends an operation.
fn is_end(state: &str) -> bool {
    ["Succeeded", "Failed", "Canceled", "200", "204"].contains(&state)
}

fn state(status: u16, body: Option<&Value>) -> String {
    body.and_then(|body| body["status"].as_str()).map_or_else(|| status.to_string(), str::to_owned)
}

fn code_of(answer: &Response) -> String {
    let body = answer.body.clone().unwrap_or_default();
    body["error"]["code"].as_str().or(body["code"].as_str()).unwrap_or_default().to_owned()
}

/// The headers that name operations.
const URLS: [&str; 2] = ["azure-asyncoperation", "location"];

/// What a recording makes.
fn made_by(recording: &Recording) -> BTreeSet<String> {
    let puts = recording.records.iter().filter(|record| record.method == "PUT");
    puts.flat_map(|record| [record.resource().to_lowercase(), ours(record.resource()).to_lowercase()])
        .collect()
}
