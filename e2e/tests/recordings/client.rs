//! The operator's client, driven through each recording to its end by a server that answers as ARM did.
//!
//! What has to come of each call is read from the recording, not from the client's rules: an operation is what Azure's
//! own SDK polled afterwards, a refusal is passing if the same request was taken later.

use std::{path::Path, sync::Arc, time::Duration};

use reef_e2e::recordings::{Record, Recording, key, replay::Server};
use reef_operator::{
    azure::{
        Account, Arm, ArmError, Arms, AzureArgs, Begun, Class, Cloud, Operation, Progress, Proof, Unless,
        operation::is_terminal,
    },
    bulkhead::Cells,
};

use super::{Verdict, recordings, report};

/// Polls of one operation beyond those that were recorded, before the client counts as lost.
const MORE: u32 = 2;

/// The tenant whose Entra is asked.
pub const TENANT: &str = "00000000-0000-4000-8000-00000000000a";

#[tokio::test]
async fn the_client_follows_each_recording_to_its_end() {
    let Some(all) = recordings() else { return };
    let server = Server::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut verdicts = Vec::new();
    for recording in &all {
        server.play(recording);
        let arm = client(&server, folder.path(), Proof::WorkloadIdentity);
        let mut drive = Drive { arm, server: &server, recording, done: Done::default(), wrong: Vec::new() };
        drive.run().await;
        verdicts.push(drive.verdict());
    }
    report("client", &verdicts);
}

/// A client of its own for each recording: what one learned of limits is not for the next.
pub fn client(server: &Server, folder: &Path, proof: Proof) -> Arc<Arm> {
    client_of(&server.url(), server.ca(), folder, proof)
}

/// A client of the cloud whose ARM and Entra are at this URL.
pub fn client_of(url: &str, ca: &str, folder: &Path, proof: Proof) -> Arc<Arm> {
    let (ca_file, token) = (folder.join("ca.crt"), folder.join("token"));
    std::fs::write(&ca_file, ca).unwrap();
    std::fs::write(&token, "federated").unwrap();
    let args = AzureArgs {
        azure_client_id: Some("00000000-0000-4000-8000-0000000000c1".to_owned()),
        azure_federated_token_file: token,
        azure_ca_file: Some(ca_file),
        azure_reads_per_second: 100_000,
        azure_writes_per_second: 100_000,
    };
    let cloud = Cloud {
        resource_manager: url.to_owned(),
        audience: url.to_owned(),
        authority: url.to_owned(),
        sql_audience: url.to_owned(),
        storage_suffix: "localhost".to_owned(),
        hosts: Vec::new(),
    };
    let arms = Arms::new(args, Arc::default(), reef_operator::actor::Actor::default()).unwrap();
    let cell = Cells::new(1, Arc::default()).reef("replayed");
    let tenant = TENANT.to_owned();
    arms.client(&Account { cloud, tenant, client: None, proof, location: String::new() }, cell).unwrap()
}

/// What was done, in figures.
#[derive(Default)]
struct Done {
    writes: usize,
    reads: usize,
    operations: usize,
    polls: usize,
    refusals: usize,
    /// Operations whose end was not recorded.
    endless: usize,
    /// Calls of a method that the client does not use.
    skipped: usize,
}

struct Drive<'a> {
    arm: Arc<Arm>,
    server: &'a Server,
    recording: &'a Recording,
    done: Done,
    wrong: Vec<String>,
}

impl Drive<'_> {
    async fn run(&mut self) {
        let records = &self.recording.records;
        // What an operation's URL answers is read when the operation is driven.
        let polled: Vec<String> = records.iter().flat_map(followed).collect();
        // Further pages are read with the first.
        let pages: Vec<String> = records.iter().filter_map(next_page).collect();
        for (at, record) in records.iter().enumerate() {
            for _ in 0..record.repeat {
                match record.method.as_str() {
                    "GET" if polled.contains(&key(&record.path)) || pages.contains(&key(&record.path)) => {
                        break;
                    }
                    // The client deletes without conditions.
                    "DELETE"
                        if !record.req_headers.keys().all(|name| !name.to_lowercase().starts_with("if-")) =>
                    {
                        self.server.skip(at);
                        self.done.skipped += 1;
                        break;
                    }
                    "GET" => self.read(record).await,
                    "PUT" | "DELETE" | "POST" => self.write(at, record).await,
                    // The client has no use for others.
                    _ => {
                        self.server.skip(at);
                        self.done.skipped += 1;
                        break;
                    }
                }
            }
        }
        let strays = self.server.look(|replay| replay.strays().to_vec());
        self.wrong.extend(strays.into_iter().map(|stray| format!("a call that ARM did not see: {stray}")));
    }

    fn verdict(self) -> Verdict {
        let Done { writes, reads, operations, polls, refusals, endless, skipped } = self.done;
        let open =
            if endless > 0 { format!(" and {endless} whose end was not recorded") } else { String::new() };
        let did = format!(
            "{writes} writes, {reads} reads, {operations} operations with {polls} polls{open}, {refusals} refusals{}",
            if skipped > 0 { format!(", {skipped} not driven") } else { String::new() }
        );
        let (not_spoken, is_ours) = (self.recording.not_spoken(), self.recording.is_ours());
        Verdict { name: self.recording.name.clone(), wrong: self.wrong, did, not_spoken, is_ours }
    }

    fn wrong(&mut self, record: &Record, what: impl std::fmt::Display) {
        self.wrong.push(format!("{} {} {}: {what}", record.method, record.resource(), record.status));
    }

    /// Reads a resource, or a list with all its pages.
    async fn read(&mut self, record: &Record) {
        self.done.reads += 1;
        let (query, version) = record.query();
        let id = format!("{}{query}", record.resource());
        let has_pages = next_page(record).is_none_or(|next| {
            self.recording.records.iter().any(|other| other.method == "GET" && key(&other.path) == next)
        });
        if has_pages && record.resp.as_ref().is_some_and(|body| body["value"].is_array()) {
            match patiently(|| self.arm.list(&id, &version)).await {
                Ok(items) => {
                    let recorded = record.resp.as_ref().and_then(|body| body["value"].as_array());
                    if recorded.is_none_or(|recorded| !items.starts_with(recorded)) {
                        self.wrong(record, "another list");
                    }
                }
                Err(error) => self.wrong(record, error),
            }
            return;
        }
        match (patiently(|| self.arm.get(&id, &version)).await, record.status) {
            (Ok(body), 200) if !has_pages || Some(&body) == record.resp.as_ref() => {}
            (Ok(_), 200) => self.wrong(record, "another body"),
            (Err(error), status) if status >= 300 => self.refused(record, &error, None),
            (answer, _) => self.wrong(record, format!("{answer:?}")),
        }
    }

    async fn write(&mut self, at: usize, record: &Record) {
        self.done.writes += 1;
        let (query, version) = record.query();
        let id = format!("{}{query}", record.resource());
        let header = |name: &str| {
            record
                .req_headers
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.clone())
        };
        let unless = match (header("if-match"), header("if-none-match")) {
            (Some(etag), _) => Unless::Changed(etag),
            (None, Some(_)) => Unless::Exists,
            (None, None) => Unless::Never,
        };
        let body = record.req.clone().unwrap_or_default();
        let answer = match record.method.as_str() {
            "PUT" => patiently(|| self.arm.put(&id, &version, &body, unless.clone())).await,
            // Nobody asked for its answer.
            "POST" if record.status == 202 && self.polls_of(record).is_empty() => {
                let begun = in_turn(|| self.arm.post(&id, &version)).await;
                if !matches!(begun, Err(ArmError::NotYet { .. })) {
                    self.wrong(record, format!("no operation: {begun:?}"));
                }
                self.done.operations += 1;
                self.done.endless += 1;
                return;
            }
            "POST" => patiently(|| self.arm.post(&id, &version)).await.map(Begun::Done),
            _ => patiently(|| self.arm.delete(&id, &version)).await,
        };
        match answer {
            Ok(begun) => self.begun(at, record, begun).await,
            Err(error) => self.refused(record, &error, Some(at)),
        }
    }

    async fn begun(&mut self, at: usize, record: &Record, begun: Begun) {
        let is_missing = record.method == "DELETE" && record.status == 404;
        if record.status >= 300 && !is_missing {
            return self.wrong(record, "taken for a success");
        }
        let polls = self.polls_of(record);
        match begun {
            // The client has followed an action to its answer.
            Begun::Done(body) if record.method == "POST" && record.status == 202 => {
                self.done.operations += 1;
                let last = polls.last().map(|&last| &self.recording.records[last]);
                if body != last.and_then(|last| last.resp.clone()).unwrap_or_default() {
                    self.wrong(record, "another answer");
                }
            }
            Begun::Done(body) => {
                // Azure's SDK for Python polls also what was done at once.
                // An update that says so is done, although one may poll it for a while.
                let says_so = matches!(record.status, 200 | 201)
                    && record
                        .resp
                        .as_ref()
                        .is_some_and(|b| b["properties"]["provisioningState"] == "Succeeded");
                let ended = says_so
                    || polls.first().is_none_or(|&first| is_succeeded(&self.recording.records[first]));
                if !ended {
                    self.wrong(record, "an operation that was not followed");
                }
                let recorded = record.resp.clone().unwrap_or_default();
                if !is_missing && body != recorded {
                    self.wrong(record, "another body");
                }
            }
            Begun::Running(operation) => {
                self.done.operations += 1;
                if operation.wait != retry_after(record) {
                    self.wrong(record, format!("the wait is {:?}", operation.wait));
                }
                match operation.url() {
                    Some(_) if polls.is_empty() => self.done.endless += 1,
                    Some(_) => self.follow(record, operation, &polls).await,
                    None => self.until_settled(at, record),
                }
            }
        }
    }

    /// Indexes of the answers to polls of the operation that a write began.
    fn polls_of(&self, record: &Record) -> Vec<usize> {
        let urls = followed(record);
        let records = self.recording.records.iter().enumerate();
        let polls = records.filter(|(_, poll)| poll.method == "GET" && urls.contains(&key(&poll.path)));
        polls.map(|(at, _)| at).collect()
    }

    /// Polls an operation to its end, and compares each step with the recorded one.
    async fn follow(&mut self, record: &Record, mut operation: Operation, polls: &[usize]) {
        let path = |operation: &Operation| {
            operation.url().map(|url| url.replacen(&self.server.url(), "", 1)).unwrap_or_default()
        };
        let recorded: u32 = polls.iter().map(|&at| self.recording.records[at].repeat).sum();
        for _ in 0..recorded + MORE {
            let before = self.server.look(|replay| replay.left("GET", &path(&operation)));
            let Some(&(next, _)) = before.first() else {
                self.done.endless += 1;
                return;
            };
            let poll = &self.recording.records[next].clone();
            self.done.polls += 1;
            match patiently(|| self.arm.poll(&operation)).await {
                Ok(Progress::Running(running)) => {
                    if running.wait != retry_after(poll) {
                        self.wrong(poll, format!("the wait is {:?}", running.wait));
                    }
                    if is_succeeded(poll) {
                        self.wrong(poll, "still running");
                    }
                    operation = running;
                }
                Ok(Progress::Succeeded) => {
                    let left = self.server.look(|replay| replay.left("GET", &path(&operation)));
                    // Two deletions of one group are one operation.
                    let goes_on = left.iter().any(|&(at, _)| !is_succeeded(&self.recording.records[at]));
                    if goes_on || !is_succeeded(poll) {
                        self.wrong(poll, "taken for its end");
                    }
                    return;
                }
                Ok(Progress::Failed(error)) => {
                    if Some(error.code()) != poll.code().as_deref()
                        && !error.code().eq_ignore_ascii_case(status(poll))
                    {
                        self.wrong(poll, &error);
                    }
                    self.passing(record, &error);
                    self.done.refusals += 1;
                    return;
                }
                // Its URL is gone, and so is the client's interest: the resource shows.
                Ok(Progress::Lost) if [404, 410].contains(&poll.status) => return,
                Ok(Progress::Lost) => return self.wrong(poll, "lost"),
                Err(error) if poll.status == 429 || poll.status >= 500 => {
                    if let Some(wait) = error.retry_after() {
                        later(wait).await;
                    }
                }
                Err(error) => return self.wrong(poll, error),
            }
        }
        self.wrong(record, "its operation has no end");
    }

    /// Without a URL the resource itself shows when it is done; the last that was read of it has to show an end.
    fn until_settled(&mut self, at: usize, record: &Record) {
        let records = &self.recording.records;
        let same = |other: &&Record| other.resource().eq_ignore_ascii_case(record.resource());
        let until = |other: &&Record| !(other.is_write() && same(other));
        let last = records[at + 1..].iter().take_while(until).filter(|r| r.method == "GET" && same(r)).last();
        let state = last.and_then(|read| read.resp.as_ref()?["properties"]["provisioningState"].as_str());
        match (last, state) {
            (None, _) => self.done.endless += 1,
            (Some(read), _) if read.status == 404 => {}
            (Some(_), None) => {}
            (Some(_), Some(state)) if is_terminal(state) => {}
            (Some(_), Some(state)) => self.wrong(record, format!("it stays {state}")),
        }
    }

    /// A refusal has the recorded code, and its class lets it be tried again if the recording did, with success.
    fn refused(&mut self, record: &Record, error: &ArmError, write: Option<usize>) {
        self.done.refusals += 1;
        if record.status < 300 {
            return self.wrong(record, error);
        }
        let code = record.code().unwrap_or_else(|| record.status.to_string());
        if error.code() != code {
            self.wrong(record, format!("the code is {}", error.code()));
        }
        if error.retry_after() != retry_after(record) {
            self.wrong(record, format!("the wait is {:?}", error.retry_after()));
        }
        let is_ours = reef_e2e::azure::is_known(&record.kind());
        let is_gone = record.method == "GET" && record.status == 404 && record.code().is_some();
        let of_other = ["SubscriptionNotFound", "OperationNotFound"].contains(&code.as_str());
        if is_ours && is_gone && !of_other && !error.is_absence() {
            self.wrong(record, "not taken for an absence");
        }
        if write.is_some() {
            self.passing(record, error);
        }
    }

    /// What the same request got over later is not taken for final.
    fn passing(&mut self, record: &Record, error: &ArmError) {
        let again = self.recording.records.iter().any(|later| {
            later.method == record.method
                && later.resource() == record.resource()
                && later.req == record.req
                && later.status < 300
        });
        if again && error.class() == Class::Invalid {
            self.wrong(record, format!("{} is taken for final", error.code()));
        }
    }
}

/// The keys of the URLs of operations that an answer names. ARM may leave out its own host, and Location is an operation's
/// only on 202, or beside Azure-AsyncOperation.
pub fn followed(record: &Record) -> Vec<String> {
    ["azure-asyncoperation", "location"].iter().filter_map(|name| followed_by(record, name)).collect()
}

/// The same for one of the headers.
pub fn followed_by(record: &Record, name: &str) -> Option<String> {
    let is_result = record.status == 202 || record.headers.contains_key("azure-asyncoperation");
    if name == "location" && !is_result {
        return None;
    }
    let url = record.headers.get(name)?;
    let path = match url.strip_prefix("https://") {
        Some(rest) => format!("/{}", rest.split_once('/')?.1),
        None => url.clone(),
    };
    Some(key(&path))
}

/// The key of the next page of a list.
fn next_page(record: &Record) -> Option<String> {
    let next = record.resp.as_ref()?["nextLink"].as_str()?;
    Some(key(&format!("/{}", next.strip_prefix("https://")?.split_once('/')?.1)))
}

/// Calls until the client lets the call through: time goes by while nothing is under way.
async fn patiently<T, F: Future<Output = Result<T, ArmError>>>(call: impl Fn() -> F) -> Result<T, ArmError> {
    loop {
        match in_turn(&call).await {
            Err(ArmError::NotYet { wait }) => later(wait.unwrap_or_default()).await,
            answer => return answer,
        }
    }
}

/// What comes of a call once it is its turn.
async fn in_turn<T, F: Future<Output = Result<T, ArmError>>>(call: impl Fn() -> F) -> Result<T, ArmError> {
    loop {
        match call().await {
            Err(ArmError::Queued { wait, .. }) => later(wait).await,
            Err(ArmError::HeldBack { .. }) => later(Duration::from_secs(130)).await,
            answer => return answer,
        }
    }
}

fn status(record: &Record) -> &str {
    record.resp.as_ref().and_then(|body| body["status"].as_str()).unwrap_or_default()
}

/// Whether this answer to a poll says that all is done.
fn is_succeeded(record: &Record) -> bool {
    match status(record) {
        "" => record.status == 200 || record.status == 204,
        word => word.eq_ignore_ascii_case("Succeeded"),
    }
}

fn retry_after(record: &Record) -> Option<Duration> {
    record.headers.get("retry-after")?.parse().ok().map(Duration::from_secs)
}

/// Lets time go by while nothing is under way.
async fn later(wait: Duration) {
    tokio::time::pause();
    tokio::time::advance(wait).await;
    tokio::time::resume();
}
