//! The sandbox's emulator of ARM, given the requests of each recording in order, against what ARM answered.
//!
//! Compared are status, names of headers, keys and types of bodies, whether what is shown is still being changed, and in what
//! operations end.
//! Differences that stay are listed in `differences.txt`, with a reason each.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use reef_e2e::{
    azure::{Cloud, Request, Response, SUBSCRIPTION, TENANT, faults::Fault, is_known, roles, slots::Slot},
    recordings::{Record, Recording, key},
};
use serde_json::Value;

use super::{
    Verdict,
    client::{followed, followed_by},
    differences::Differences,
    recordings, report,
    said::Said,
    seed::before,
    shape::shape,
};

/// The caller.
pub const OWNER: &str = "owner";

/// The subscription and tenant of all recordings.
const RECORDED: &str = "00000000-0000-0000-0000-000000000000";

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

struct Drive<'a> {
    recording: &'a Recording,
    cloud: Cloud,
    /// Milliseconds of the cloud's time.
    now: u64,
    /// Kind, method, and what differs.
    found: Vec<(String, String, String)>,
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
            now: 0,
            found: Vec::new(),
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
                    Some(t) => self.now.max(milliseconds(t)),
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
        for (kind, method, what) in &self.found {
            if differences.knows(&self.recording.name, (kind, method, what)) {
                known += 1;
            } else {
                wrong.push(format!("{kind} {method} {what}"));
            }
        }
        let did = format!(
            "{} calls, {} operations, {} refusals asked for, {known} reviewed differences",
            self.calls, self.operations, self.asked_for
        );
        let (not_spoken, is_ours) = (self.recording.not_spoken(), self.recording.is_ours());
        Verdict { name: self.recording.name.clone(), wrong, did, not_spoken, is_ours }
    }

    fn differs(&mut self, kind: &str, method: &str, what: impl Into<String>) {
        self.found.push((kind.to_owned(), method.to_owned(), what.into()));
    }

    fn exchange(&mut self, at: usize, record: &Record, kind: &str) {
        self.calls += 1;
        while let Some(over) = self.running.iter().position(|operation| operation.last == at) {
            let operation = self.running.swap_remove(over);
            self.end(operation);
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
            self.said.put_into(&mut request);
            self.cloud.handle(&request, self.now)
        };
        if let (Some(theirs), Some(ours), false) = (&record.resp, &answer.body, is_passing) {
            self.said.learn(theirs, ours);
        }
        // Of a refusal that was asked for, all is made up.
        if !is_passing {
            self.compare(kind, &record.method, record, &answer);
        }
        if record.status < 300 && answer.status < 300 {
            self.began(at, record, kind, &answer);
        }
    }

    fn compare(&mut self, kind: &str, method: &str, record: &Record, answer: &Response) {
        let status = record.status;
        if status != answer.status {
            let ours = answer.body.as_ref().map(Value::to_string).unwrap_or_default();
            let ours: String = ours.chars().take(160).collect();
            let code = record.code().unwrap_or_default();
            return self.differs(kind, method, format!("{status} {code}: answered {} {ours}", answer.status));
        }
        let (theirs, mine) = (settled(record.resp.as_ref()), settled(answer.body.as_ref()));
        if status < 300 && theirs != mine && theirs.is_some() && mine.is_some() {
            self.differs(
                kind,
                method,
                format!(
                    "{status} state {} instead of {}",
                    mine.unwrap_or_default(),
                    theirs.unwrap_or_default()
                ),
            );
        }
        if let Some(code) = record.code().filter(|_| status >= 400) {
            let ours = code_of(answer);
            if ours != code {
                self.differs(kind, method, format!("{status} {code}: code {ours}"));
            }
        }
        let theirs: BTreeSet<&str> = record.headers.keys().map(String::as_str).collect();
        // The emulator's server says what a body is.
        let of_body = answer.body.as_ref().map(|_| "content-type");
        let mine: BTreeSet<&str> = answer.headers.iter().map(|(name, _)| *name).chain(of_body).collect();
        let is_lost = |name: &str| name == "retry-after" && !self.has_waits;
        let mine: BTreeSet<&str> = mine.into_iter().filter(|name| !is_lost(name)).collect();
        for name in theirs.difference(&mine) {
            self.differs(kind, method, format!("{status} lacks header {name}"));
        }
        for name in mine.difference(&theirs) {
            self.differs(kind, method, format!("{status} has header {name}"));
        }
        let (theirs, mine) = (record.resp.as_ref().map(shape), answer.body.as_ref().map(shape));
        match (theirs, mine) {
            (Some(theirs), Some(mine)) => {
                for part in theirs.difference(&mine) {
                    self.differs(kind, method, format!("{status} lacks {part}"));
                }
                for part in mine.difference(&theirs) {
                    self.differs(kind, method, format!("{status} has {part}"));
                }
            }
            (None, None) => {}
            (Some(_), None) => self.differs(kind, method, format!("{status} lacks a body")),
            (None, Some(_)) => self.differs(kind, method, format!("{status} has a body")),
        }
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
            later.find(|(_, r)| same(r) && (r.is_write() || r.status == 404)).map(|(at, _)| at)
        };
        self.operations += 1;
        let fails = |record: &&(usize, &Record)| {
            record.1.resp.as_ref().is_some_and(|body| body["status"] == "Failed")
        };
        if let Some((_, failure)) = polls.iter().find(fails) {
            self.cloud.fail_operation(answer, &failure.code().unwrap_or_default(), "asked for");
        }
        let polled = polls.last().map(|(at, _)| *at);
        let is_whole = polls.last().is_some_and(|(_, poll)| is_end(&state(poll.status, poll.resp.as_ref())));
        let last = if is_whole { polled } else { next().or(polled) }.unwrap_or(usize::MAX);
        let theirs = polls.iter().map(|(_, poll)| state(poll.status, poll.resp.as_ref())).collect();
        // It takes as long as the recorded one took.
        if last != usize::MAX {
            self.cloud.hold_operation(answer);
        }
        let operation = Operation {
            answer: answer.clone(),
            kind: kind.to_owned(),
            method: record.method.clone(),
            urls,
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
        let answer = self.look(&mut operation);
        if operation.last == at {
            let answer = if operation.is_over() { answer } else { self.end(operation.clone()) };
            if is_end(&state(record.status, record.resp.as_ref())) {
                self.compare(&operation.kind, &format!("{} poll", operation.method), record, &answer);
            }
            return;
        }
        // What passes is not the operation's.
        if !operation.is_over() && record.status != 429 && record.status < 500 {
            self.compare(&operation.kind, &format!("{} poll", operation.method), record, &answer);
        }
        self.running.push(operation);
    }

    fn look(&mut self, operation: &mut Operation) -> Response {
        let answer = self.cloud.handle(&request("GET", &operation.urls[0].1, "", None), self.now);
        operation.mine.push(state(answer.status, answer.body.as_ref()));
        answer
    }

    /// Lets time go by until an operation is over; the last answer.
    fn end(&mut self, mut operation: Operation) -> Response {
        let until = self.now + LONGEST;
        self.cloud.release_operation(&operation.answer, self.now);
        let mut answer = self.look(&mut operation);
        while !operation.is_over() && self.now < until {
            let wait = answer.headers.iter().find(|(name, _)| *name == "retry-after");
            let wait = wait.and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or(STEP / 1000).max(1);
            self.now += wait * 1000;
            answer = self.look(&mut operation);
        }
        // Thinned recordings, and tests that end, leave the last polls out.
        let theirs = operation.theirs.last().filter(|last| is_end(last));
        if theirs.is_some() && theirs != operation.mine.last() {
            let (mine, theirs) = (operation.mine.join(" "), operation.theirs.join(" "));
            self.differs(&operation.kind, &operation.method, format!("states {mine} instead of {theirs}"));
        }
        answer
    }
}

/// An operation of the emulator that stands for a recorded one.
#[derive(Clone)]
struct Operation {
    /// What began it.
    answer: Response,
    kind: String,
    method: String,
    /// The recorded one's URLs and those that stand for them.
    urls: Vec<(String, String)>,
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

fn milliseconds(seconds: f64) -> u64 {
    Duration::try_from_secs_f64(seconds).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
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

/// A recorded text with the emulator's subscription and tenant.
fn ours(text: &str) -> String {
    text.replace(&format!("ubscriptions/{RECORDED}"), &format!("ubscriptions/{SUBSCRIPTION}"))
        .replace(RECORDED, TENANT)
}

/// A recorded request for the emulator.
fn sent(record: &Record) -> Request {
    let body = record.req.as_ref().map(|body| serde_json::from_str(&ours(&body.to_string())).unwrap());
    let (query, version) = record.query();
    let mut request =
        request(&record.method, &ours(&format!("{}{query}", record.resource())), &version, body);
    let header = |name: &str| {
        record.req_headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    };
    request.if_match = header("if-match");
    request.if_none_match = header("if-none-match");
    request
}

/// A request of the caller.
pub fn request(method: &str, path: &str, version: &str, body: Option<Value>) -> Request {
    let path = path.strip_prefix("https://management.azure.com").unwrap_or(path);
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut query: BTreeMap<String, String> =
        pairs.map(|(name, value)| (name.replace("%24", "$").to_lowercase(), value.to_owned())).collect();
    query.entry("api-version".to_owned()).or_insert_with(|| version.to_owned());
    Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query,
        if_match: None,
        if_none_match: None,
        snapshot: None,
        body,
        principal: OWNER.to_owned(),
    }
}
