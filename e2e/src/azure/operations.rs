//! Long-running operations: their URLs, and what polling them answers.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{
    Cloud, Request, Response, SUBSCRIPTION,
    id::Target,
    kinds::{self, Kind},
    lineage::is_first_version,
    put::started,
};

/// What happens when an operation is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The resource with this key is as it was asked for.
    Provisioned(String),
    /// The resource with this key, and all in it, is gone.
    Deleted(String),
    /// The secondary that has the replication link with this key is the primary.
    FailedOver {
        /// Key of the link.
        link: String,
        /// Whether what was not replicated yet is lost.
        forced: bool,
    },
    /// What ran on the resource with this key is given up.
    Canceled(String),
    /// Nothing; this is what an action answers.
    Told(Value),
}

/// How providers tell of operations, where they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Name, status and start; with Retry-After to the last.
    Sql,
    /// Name, status, start and end.
    Aks,
    /// The status alone.
    Network,
    /// Nothing but where to ask.
    Plain,
    /// The status alone, with 202 and its URLs as long as it runs.
    Dns,
}

impl Told {
    /// How the provider of a type tells.
    pub fn of(kind: &str) -> Self {
        match kind.split('/').next().unwrap_or_default() {
            "Microsoft.Sql" => Self::Sql,
            "Microsoft.ContainerService" => Self::Aks,
            _ if kind.contains("dnsZones") => Self::Dns,
            "Microsoft.Network" => Self::Network,
            _ => Self::Plain,
        }
    }

    /// Whether Location says in the end that there is nothing to show; elsewhere it is an empty 200.
    fn has_gone_by_no_content(self) -> bool {
        matches!(self, Self::Aks | Self::Network)
    }
}

/// A running or ended operation.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What it does in the end.
    pub effect: Effect,
    /// When it began, milliseconds of the cloud's time.
    pub began_at: u64,
    /// What its status says while it runs, one word after the other.
    pub words: &'static [&'static str],
    /// When it is done, milliseconds of the cloud's time.
    pub done_at: u64,
    /// Whether its effect has taken place.
    pub settled: bool,
    /// Whether somebody wished its end.
    pub canceled: bool,
    /// Code and message of the failure it ends in, if it does.
    pub fails: Option<(String, String)>,
    /// Retry-After while it runs, seconds.
    pub retry_after: Option<u32>,
    /// How its provider tells of it.
    pub told: Told,
    /// The signature without which its URLs are refused.
    signature: String,
}

impl Operation {
    /// Its status as the provider tells it.
    fn told(&self, id: &str, word: &str, now: u64) -> Value {
        let mut told = json!({ "status": word });
        if matches!(self.told, Told::Sql | Told::Aks) {
            told["name"] = json!(id);
            told["startTime"] = json!(started(self.began_at));
        }
        if self.told == Told::Aks {
            // What AKS says of an earlier goal while a cluster is deleted is no failure.
            let is_deleted = |at: &str| !at.contains("/agentpools/");
            if now >= self.done_at {
                told["endTime"] = json!(started(self.done_at));
            }
            if matches!(&self.effect, Effect::Deleted(at) if is_deleted(at)) {
                let message = "The state of an earlier operation is not saved yet.";
                told["error"] = json!({ "code": "NotLatestOperation", "message": message });
            }
        }
        told
    }

    /// What its status says at a moment before its end.
    fn word(&self, now: u64) -> &'static str {
        let words = self.words.len() as u64;
        let length = self.done_at.saturating_sub(self.began_at).max(1);
        let at = now.saturating_sub(self.began_at) * words / length;
        let at = usize::try_from(at).unwrap_or(0).min(self.words.len().saturating_sub(1));
        self.words.get(at).copied().unwrap_or("InProgress")
    }
}

/// All operations of a cloud, by id.
#[derive(Clone, Debug, Default)]
pub struct Operations(HashMap<String, Operation>);

/// The two kinds of URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Url {
    /// Azure-AsyncOperation: answers with a status.
    Status,
    /// Location: answers 202 until it is done.
    Result,
}

impl Operations {
    /// Adds an operation; returns its id.
    pub fn add(
        &mut self,
        seed: u64,
        effect: Effect,
        (began_at, done_at): (u64, u64),
        words: &'static [&'static str],
        (retry_after, told): (Option<u32>, Told),
    ) -> String {
        let id = kinds::uuid(seed, &format!("operation {}", self.0.len()));
        let signature = kinds::uuid(seed, &format!("signature of {id}")).replace('-', "");
        let settled = false;
        let operation = Operation {
            effect,
            began_at,
            words,
            done_at,
            settled,
            canceled: false,
            fails: None,
            retry_after,
            told,
            signature,
        };
        self.0.insert(id.clone(), operation);
        id
    }

    /// Lets an operation run until it is released.
    pub fn hold(&mut self, id: &str) {
        if let Some(operation) = self.0.get_mut(id).filter(|operation| !operation.settled) {
            operation.done_at = u64::MAX;
        }
    }

    /// Lets an operation that was held end now.
    pub fn release(&mut self, id: &str, now: u64) {
        if let Some(operation) = self.0.get_mut(id).filter(|operation| operation.done_at == u64::MAX) {
            operation.done_at = now;
        }
    }

    /// Makes an operation end in a failure.
    pub fn fail(&mut self, id: &str, code: &str, message: &str) {
        if let Some(operation) = self.0.get_mut(id) {
            operation.fails = Some((code.to_owned(), message.to_owned()));
        }
    }

    /// Ends what runs on the resource with this key; whether there was something.
    pub fn cancel(&mut self, key: &str, now: u64) -> bool {
        let runs =
            |o: &&mut Operation| !o.settled && matches!(&o.effect, Effect::Provisioned(at) if at == key);
        let Some(operation) = self.0.values_mut().find(runs) else { return false };
        let message = "The operation was canceled.";
        operation.fails = Some(("Canceled".to_owned(), message.to_owned()));
        operation.canceled = true;
        operation.done_at = now;
        true
    }

    /// The operations whose time has come, the oldest first; each only once.
    pub fn due(&mut self, now: u64) -> Vec<Operation> {
        let mut due: Vec<&mut Operation> =
            self.0.values_mut().filter(|o| !o.settled && o.done_at <= now).collect();
        due.sort_by_key(|o| o.done_at);
        due.into_iter()
            .map(|operation| {
                operation.settled = true;
                operation.clone()
            })
            .collect()
    }

    /// The key of the resource that an operation is about.
    pub fn resource(&self, id: &str) -> Option<&str> {
        self.0.get(id).and_then(|operation| match &operation.effect {
            Effect::Provisioned(key)
            | Effect::Deleted(key)
            | Effect::Canceled(key)
            | Effect::FailedOver { link: key, .. } => Some(key.as_str()),
            Effect::Told(_) => None,
        })
    }

    /// The signatures of all URLs.
    pub fn signatures(&self) -> impl Iterator<Item = String> {
        self.0.values().map(|operation| operation.signature.clone())
    }

    /// The signed URL of an operation. Azure's are over 3 kB long because they carry a certificate.
    pub fn url(&self, base: &str, path: &str, id: &str, api_version: &str, started_at: u64) -> String {
        let signature = self.0.get(id).map_or("", |o| o.signature.as_str());
        let certificate = signature.repeat(87);
        format!(
            "{base}{path}/{id}?api-version={api_version}&t={started_at}&c={certificate}&s={signature}&h={signature}"
        )
    }

    /// Answers a poll. URLs have to come back as they were given. `base` is ARM's own URL.
    pub fn poll(
        &self,
        id: &str,
        url: Url,
        (request, base): (&Request, &str),
        now: u64,
        scale: f64,
    ) -> Response {
        let Some(operation) = self.0.get(id) else {
            return Response::gateway_error(
                404,
                "OperationNotFound",
                format!("The operation '{id}' was not found."),
            );
        };
        if request.query.get("s") != Some(&operation.signature) {
            return Response::gateway_error(
                403,
                "InvalidOperationSignature",
                "The signature of the operation's URL is not valid.",
            );
        }
        let running = operation.done_at > now;
        let wait = |response: Response| match operation.retry_after {
            Some(seconds) => response.header("retry-after", retry_after(seconds, scale)),
            None => response,
        };
        match (url, running, &operation.fails) {
            (Url::Status, true, _) => {
                let told = operation.told(id, operation.word(now), now);
                if operation.told != Told::Dns {
                    return wait(Response::json(200, told));
                }
                let own = own(request, base);
                let answer = Response::json(202, told).header("azure-asyncoperation", own.clone());
                wait(answer.header("location", own.replace("Statuses", "Results")))
            }
            (Url::Status, false, fails) => {
                let word = match (fails, operation.canceled) {
                    (None, _) => "Succeeded",
                    (Some(_), true) => "Canceled",
                    (Some(_), false) => "Failed",
                };
                let mut told = operation.told(id, word, now);
                if let Some((code, message)) = fails {
                    told["error"] = json!({ "code": code, "message": message });
                }
                let answer = Response::json(200, told);
                if operation.told == Told::Sql { wait(answer) } else { answer }
            }
            (Url::Result, true, _) => wait(Response::empty(202).header("location", own(request, base))),
            (Url::Result, false, Some((code, message))) => Response::error(409, code, message.as_str()),
            (Url::Result, false, None) => match &operation.effect {
                Effect::Told(body) => Response::json(200, body.clone()),
                Effect::Deleted(_) | Effect::Canceled(_) if operation.told.has_gone_by_no_content() => {
                    nothing_left(own(request, base), operation.told)
                }
                Effect::FailedOver { .. } if is_first_version(request) => Response::empty(204),
                _ => Response::empty(200),
            },
        }
    }
}

impl Cloud {
    /// Begins an operation; returns its id.
    pub(super) fn begin(
        &mut self,
        kind: &Kind,
        effect: Effect,
        seconds: u32,
        wait: Option<u32>,
        now: u64,
    ) -> String {
        let words = match &effect {
            Effect::Provisioned(_) => kind.words(),
            _ => &["InProgress"],
        };
        let times = (now, now + u64::from(seconds) * 1000);
        self.operations.add(self.seed, effect, times, words, (wait, Told::of(kind.name)))
    }

    /// A URL of an operation on a resource, as its provider writes it.
    pub(super) fn url(
        &self,
        kind: &Kind,
        resource: &Value,
        id: &str,
        url: Url,
        request: &Request,
        now: u64,
    ) -> String {
        let version = request.query.get("api-version").map_or("", String::as_str);
        let provider = kind.name.split('/').next().unwrap_or_default();
        let location = resource["location"].as_str().unwrap_or("global");
        let root = format!("/subscriptions/{SUBSCRIPTION}");
        let (dns, status) = (kind.name.contains("dnsZones"), url == Url::Status);
        let path = match (provider, dns, status) {
            ("Microsoft.Resources", ..) => format!("{root}/operationresults"),
            ("Microsoft.Storage", ..) => {
                format!("{root}/providers/{provider}/locations/{location}/asyncoperations")
            }
            ("Microsoft.Sql", ..) => {
                let group =
                    resource["id"].as_str().and_then(Target::parse).and_then(|t| t.group).unwrap_or_default();
                let word = if status { "AzureAsyncOperation" } else { "OperationResults" };
                format!(
                    "{root}/resourceGroups/{group}/providers/{provider}/locations/{location}/{}{word}",
                    kind.operation
                )
            }
            (_, true, true) => format!("{root}/providers/{provider}/dnsOperationStatuses"),
            (_, true, false) => format!("{root}/providers/{provider}/dnsOperationResults"),
            (_, _, true) => format!("{root}/providers/{provider}/locations/{location}/operations"),
            (_, _, false) => format!("{root}/providers/{provider}/locations/{location}/operationResults"),
        };
        self.operations.url(&self.base, &path, id, version, now)
    }
}

/// What Location says in the end where nothing is left to show.
fn nothing_left(own: String, told: Told) -> Response {
    let status = own.replace("/operationResults/", "/operations/");
    let gone = Response::empty(204).header("location", own);
    if told == Told::Network {
        gone.header("azure-asyncoperation", status).header("azure-asyncnotification", "Enabled")
    } else {
        gone
    }
}

/// The URL that was asked: Azure signs it anew with each answer.
fn own(request: &Request, base: &str) -> String {
    let pairs: Vec<_> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{base}{}?{}", request.path, pairs.join("&"))
}

/// Azure's waits in the cloud's own time: a tenth of 15 s is 2 s, because the header has whole seconds.
pub fn retry_after(seconds: u32, scale: f64) -> String {
    let scaled = (f64::from(seconds) / scale).ceil();
    format!("{scaled:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_scaled_and_never_fractions() {
        for (seconds, scale, expect) in [(15, 1.0, "15"), (15, 10.0, "2"), (3, 100.0, "1"), (0, 100.0, "0")] {
            assert_eq!(retry_after(seconds, scale), expect);
        }
    }
}
