//! Calls to ARM.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use azure_core::http::{
    ClientOptions, Context, Method, Pipeline, PipelineSendOptions, Request, RetryOptions, Transport, Url,
    UserAgentOptions, headers::HeaderName,
};
use serde_json::Value;
use tracing::{Instrument, field::Empty};

use super::{
    ArmError, Begun, Class, Cloud, Operation, Progress, Proof,
    action::Actions,
    arms::{Arms, Identity},
    entra::Entra,
    operation::{self, Answer},
    trace, turn,
};
use crate::{
    actor::Actor,
    bulkhead::{Cell, Gate, Verb},
    causes,
    controller::{stop::Ban, trouble::Trouble},
    metrics::{ByCall, Metrics},
};

/// Longest wait for an answer. Azure was seen to take up to 120 s.
pub(super) const ANSWER: Duration = Duration::from_secs(130);

/// Longest wait for an answer to a read. Nearly all come within two seconds, and a look reads several times.
const ANSWER_TO_READ: Duration = Duration::from_secs(30);

/// A client of ARM with one identity, for what belongs to one cell.
#[derive(Clone)]
pub struct Arm {
    cloud: Cloud,
    entra: Arc<Entra>,
    pipeline: Pipeline,
    pub(super) metrics: Arc<Metrics>,
    pub(super) gate: Arc<Gate>,
    /// The location of the resources that it is for, by which providers count.
    pub(super) location: String,
    pub(super) cell: Arc<Cell>,
    pub(super) actions: Actions,
    actor: Actor,
    /// What it refuses to do for now.
    ban: Ban,
}

/// Longest list that is read, pages.
const PAGES: usize = 100;

/// When a write is not to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unless {
    /// Always do it.
    Never,
    /// Only if there is nothing of this name: somebody else's is not overwritten.
    Exists,
    /// Only if it still has this ETag.
    Changed(String),
}

impl Arm {
    pub(super) fn new(
        arms: &Arms,
        identity: Identity,
        cell: Arc<Cell>,
        location: String,
    ) -> Result<Self, ArmError> {
        let options = ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(arms.http.clone()))),
            user_agent: UserAgentOptions { application_id: arms.actor.application() },
            cloud: Some(Arc::new(identity.cloud.configuration())),
            ..ClientOptions::default()
        };
        let cloud = identity.cloud.clone();
        let mut signing_in = options.clone();
        if identity.proof == Proof::ManagedIdentity {
            signing_in.transport = Some(Transport::new(Arc::new(arms.metadata.clone())));
        }
        let entra = Entra::new(identity, arms.args.azure_federated_token_file.clone(), signing_in)?;
        let pipeline = Pipeline::new(
            Some("reef-operator"),
            Some(env!("CARGO_PKG_VERSION")),
            options,
            Vec::new(),
            Vec::new(),
            None,
        );
        let (metrics, actor, gate) = (arms.metrics.clone(), arms.actor.clone(), arms.gate.clone());
        let (actions, ban) = (Actions::default(), Ban::default());
        Ok(Self {
            cloud,
            entra: Arc::new(entra),
            pipeline,
            metrics,
            gate,
            location,
            cell,
            actions,
            actor,
            ban,
        })
    }

    /// The same client for what is at another location and belongs to another cell.
    pub(super) fn elsewhere(&self, location: String, cell: Arc<Cell>) -> Arc<Self> {
        Arc::new(Self { location, cell, ..self.clone() })
    }

    /// The same client for what belongs to another cell.
    pub fn in_cell(&self, cell: Arc<Cell>) -> Arc<Self> {
        Arc::new(Self { cell, ..self.clone() })
    }

    /// The same client, which refuses what is forbidden. Reads, polls and actions that only read go on.
    pub fn under(self: &Arc<Self>, ban: &Ban) -> Arc<Self> {
        if self.ban == *ban { self.clone() } else { Arc::new(Self { ban: ban.clone(), ..(**self).clone() }) }
    }

    /// Who calls with it.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Where its calls are counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The cell that its calls belong to.
    pub fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    /// Reads a resource by its id.
    pub async fn get(&self, id: &str, api_version: &str) -> Result<Value, ArmError> {
        let answer = self.call(Method::Get, &self.url(id, api_version), id, None, Unless::Never).await?;
        json(&answer)
    }

    /// Reads a list of resources, all pages of it.
    pub async fn list(&self, path_of_list: &str, api_version: &str) -> Result<Vec<Value>, ArmError> {
        let mut url = self.url(path_of_list, api_version);
        let mut all = Vec::new();
        for _ in 0..PAGES {
            let answer = self.call(Method::Get, &url, path_of_list, None, Unless::Never).await?;
            let mut page = json(&answer)?;
            let Some(items) = page["value"].as_array_mut() else {
                // A list that cannot be read is not an empty one.
                return Err(ArmError::NoAnswer("a list without `value`".to_owned()));
            };
            all.append(items);
            match page["nextLink"].as_str() {
                None | Some("") => return Ok(all),
                Some(next) => match self.cloud.follow(next) {
                    Some(next) => url = next,
                    None => return Err(ArmError::NoAnswer("the next page is on another host".to_owned())),
                },
            }
        }
        Err(ArmError::NoAnswer(format!("a list of more than {PAGES} pages")))
    }

    /// Makes or replaces a resource.
    pub async fn put(
        &self,
        id: &str,
        api_version: &str,
        body: &Value,
        unless: Unless,
    ) -> Result<Begun, ArmError> {
        forbidden(self.ban.writes.as_ref())?;
        let answer = self.call(Method::Put, &self.url(id, api_version), id, Some(body), unless).await?;
        Ok(operation::begun(&answer, &self.cloud))
    }

    /// Deletes a resource. One that is not there is as good as deleted.
    pub async fn delete(&self, id: &str, api_version: &str) -> Result<Begun, ArmError> {
        forbidden(self.ban.deletions.as_ref())?;
        match self.call(Method::Delete, &self.url(id, api_version), id, None, Unless::Never).await {
            Ok(answer) => Ok(operation::begun(&answer, &self.cloud)),
            Err(error) if error.class() == Class::Missing => Ok(Begun::Done(Value::Null)),
            Err(error) => Err(error),
        }
    }

    /// Looks once how an operation goes.
    pub async fn poll(&self, operation: &Operation) -> Result<Progress, ArmError> {
        let Some(url) = operation.url() else { return Ok(Progress::Lost) };
        let answer = self.send(Method::Get, url, "/providers/operations", None, Unless::Never).await?;
        let progress = operation::progress(operation, &answer, &self.cloud);
        if let Ok(Progress::Failed(error)) = &progress {
            trace::failed(error, answer.correlation.as_deref());
        }
        progress
    }

    /// The header with which our identity calls another service, for example an AKS cluster.
    pub async fn bearer(&self, scope: &str) -> Result<String, ArmError> {
        self.entra.token(scope).await.map(|token| token.header)
    }

    /// The object id of our identity in Entra, from its token.
    pub async fn principal(&self) -> Result<String, ArmError> {
        let header = self.bearer(&self.cloud.scope()).await?;
        principal_of(&header).ok_or_else(|| {
            ArmError::NoAnswer("Entra's token does not say whose it is (claim oid)".to_owned())
        })
    }

    /// The URL of a path, which may have a query already.
    pub(super) fn url(&self, id: &str, api_version: &str) -> String {
        let separator = if id.contains('?') { '&' } else { '?' };
        format!("{}{id}{separator}api-version={api_version}", self.cloud.resource_manager)
    }

    /// The cloud that it calls.
    pub fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    pub(super) async fn call(
        &self,
        method: Method,
        url: &str,
        id: &str,
        body: Option<&Value>,
        unless: Unless,
    ) -> Result<Answer, ArmError> {
        let answer = self.send(method, url, id, body, unless).await?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        Err(ArmError::from_answer(answer.status, answer.retry_after.as_deref(), &answer.body))
    }

    /// One request and its answer, whatever its status. `id` is for metrics.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &str,
        id: &str,
        body: Option<&Value>,
        unless: Unless,
    ) -> Result<Answer, ArmError> {
        let (service, verb) = (turn::provider(id), method.as_ref().to_owned());
        let span = tracing::debug_span!(
            "azure",
            service,
            method = verb,
            code = Empty,
            throttled = Empty,
            left = Empty
        );
        self.exchange(method, url, id, body, unless).instrument(span).await
    }

    async fn exchange(
        &self,
        method: Method,
        url: &str,
        id: &str,
        body: Option<&Value>,
        unless: Unless,
    ) -> Result<Answer, ArmError> {
        let url = Url::parse(url).map_err(|e| ArmError::NoAnswer(format!("{id} is not a path: {e}")))?;
        // Apart from the call, so that trouble with Entra is told from trouble with ARM.
        let token = self.entra.token(&self.cloud.scope()).await?;
        let mut request = Request::new(url, method);
        request.insert_header("authorization", token.header.clone());
        match unless {
            Unless::Never => {}
            Unless::Exists => request.insert_header("if-none-match", "*"),
            Unless::Changed(etag) => request.insert_header("if-match", etag),
        }
        if let Some(body) = body {
            request.insert_header("content-type", "application/json");
            request.set_body(body.to_string());
        }
        let turn = self.turn(request.url().path(), request.method()).await?;
        if [Method::Put, Method::Delete].contains(&request.method()) {
            self.actor.may_write()?;
        }
        let began = Instant::now();
        let options = PipelineSendOptions { skip_checks: true, ..PipelineSendOptions::default() };
        let limit = if request.method() == Method::Get { ANSWER_TO_READ } else { ANSWER };
        let context = Context::new();
        let answer =
            tokio::time::timeout(limit, self.pipeline.send(&context, &mut request, Some(options))).await;
        let status = answer.as_ref().ok().and_then(|a| a.as_ref().ok()).map_or(0, |a| u16::from(a.status()));
        let by = ByCall {
            service: turn::provider(id).to_owned(),
            method: method.as_ref().to_owned(),
            code: status,
        };
        self.metrics.azure_called(&by, began.elapsed());
        turn.call.ended(turn::outcome(status));
        if status == 401 {
            self.entra.refused(&token, Instant::now());
        }
        let late = |_| ArmError::NoAnswer(format!("no answer within {} s", limit.as_secs()));
        let answer = answer.map_err(late)?.map_err(|e| ArmError::NoAnswer(one_line(&e)))?;
        let header = |name: &'static str| {
            answer.headers().get_optional_str(&HeaderName::from_static(name)).map(str::to_owned)
        };
        let answer = Answer {
            status,
            async_operation: header("azure-asyncoperation"),
            location: header("location"),
            retry_after: header("retry-after"),
            remaining: remaining(turn::verb(method), header),
            correlation: header("x-ms-correlation-request-id").or_else(|| header("x-ms-request-id")),
            body: answer.body().to_vec(),
        };
        turn::tell(&answer, method, id);
        self.heed(&turn.limits, method, &answer);
        Ok(answer)
    }
}

/// How many calls of a class ARM says are left: its name for it has changed over the years.
fn remaining(verb: Verb, header: impl Fn(&'static str) -> Option<String>) -> Option<u32> {
    let names = match verb {
        Verb::Read => [
            "x-ms-ratelimit-remaining-subscription-reads",
            "x-ms-ratelimit-remaining-subscription-global-reads",
        ],
        Verb::Write => [
            "x-ms-ratelimit-remaining-subscription-writes",
            "x-ms-ratelimit-remaining-subscription-global-writes",
        ],
        Verb::Delete => [
            "x-ms-ratelimit-remaining-subscription-deletes",
            "x-ms-ratelimit-remaining-subscription-global-deletes",
        ],
    };
    names.into_iter().filter_map(|name| header(name)?.trim().parse().ok()).min()
}

fn forbidden(why: Option<&Trouble>) -> Result<(), ArmError> {
    why.map_or(Ok(()), |trouble| Err(ArmError::Forbidden(trouble.clone())))
}

pub(super) fn json(answer: &Answer) -> Result<Value, ArmError> {
    serde_json::from_slice(&answer.body).map_err(|e| ArmError::NoAnswer(format!("not JSON: {e}")))
}

/// The claim `oid` of a token that Entra gave us; not verified, because we do not decide by it who may
/// what, but tell Azure who we are.
fn principal_of(header: &str) -> Option<String> {
    let payload = header.split('.').nth(1)?;
    let bytes = azure_core::base64::decode_url_safe(payload).ok()?;
    let claims: Value = serde_json::from_slice(&bytes).ok()?;
    Some(claims["oid"].as_str()?.to_owned())
}

/// The error with its sources in one line. No URL: it could be signed.
pub(super) fn one_line(error: &azure_core::Error) -> String {
    let text = causes(error);
    let words = text.split_whitespace();
    let words = words.map(|word| if word.contains("://") { "<url>" } else { word });
    words.collect::<Vec<_>>().join(" ").chars().take(500).collect()
}
