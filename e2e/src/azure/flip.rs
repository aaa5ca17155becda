//! A call that is synchronous today and asynchronous tomorrow: Azure changes it without notice, and so does a test.

use serde_json::Value;

use super::{
    Cloud, Request, Response,
    id::Target,
    kinds::{Kind, Style},
    operations::{Effect, Url},
};

/// How long what is asynchronous for once takes at least, seconds.
const SECONDS: u32 = 5;

/// Retry-After of what is asynchronous for once.
const WAIT: Option<u32> = Some(1);

/// The id of the operation that an answer began.
fn operation_of(answer: &Response) -> Option<&str> {
    let mut urls =
        answer.headers.iter().filter(|(name, _)| ["location", "azure-asyncoperation"].contains(name));
    urls.find_map(|(_, url)| url.split('?').next()?.rsplit('/').next())
}

impl Cloud {
    /// Makes the operation that an answer began end in a failure.
    pub fn fail_operation(&mut self, answer: &Response, code: &str, message: &str) {
        if let Some(id) = operation_of(answer) {
            self.operations.fail(id, code, message);
        }
    }

    /// Lets the operation that an answer began run until it is released.
    pub fn hold_operation(&mut self, answer: &Response) {
        if let Some(id) = operation_of(answer) {
            self.operations.hold(id);
        }
    }

    /// Lets an operation that was held end now.
    pub fn release_operation(&mut self, answer: &Response, now: u64) {
        if let Some(id) = operation_of(answer) {
            self.operations.release(id, now);
        }
    }

    /// Takes any number of calls from now on.
    pub fn without_limits(&mut self) {
        self.throttle.is_off = true;
    }

    /// Answers a request the other way round: at once where it takes its time, by an operation where it is done at once.
    pub fn handle_flipped(&mut self, request: &Request, now: u64) -> Response {
        self.flipped = true;
        let answer = self.handle(request, now);
        self.flipped = false;
        answer
    }

    /// How a PUT or DELETE is answered, and how long it takes; `status` where it is done at once.
    pub(super) fn style(&self, style: Style, seconds: u32, status: u16) -> (Style, u32) {
        match (self.flipped, style) {
            (false, style) => (style, seconds),
            (true, Style::Sync(_)) => (Style::Both(WAIT), seconds.max(SECONDS)),
            (true, _) => (Style::Sync(status), 0),
        }
    }

    /// The answer to an action, which comes later if the call is flipped.
    pub(super) fn told_later(
        &mut self,
        answer: Response,
        target: &Target,
        request: &Request,
        now: u64,
    ) -> Response {
        let body = match (&answer.body, self.flipped && answer.status == 200) {
            (Some(body), true) => body.clone(),
            _ => return answer,
        };
        let Some(kind) = kind_of_action(target) else { return answer };
        let id = self.begin(kind, Effect::Told(body), SECONDS, WAIT, now);
        let url = self.url(kind, &Value::Null, &id, Url::Result, request, now);
        Response::empty(202).header("location", url).header("retry-after", "1")
    }
}

/// The type that an action belongs to.
fn kind_of_action(target: &Target) -> Option<&'static Kind> {
    let kind = target.kind();
    super::kinds::find(kind.rsplit_once('/')?.0)
}
