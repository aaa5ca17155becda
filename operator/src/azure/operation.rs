//! Long-running operations: whether an answer began one, and how it goes (pure).
//!
//! Decided for each answer by headers and body, never by type or status alone: Azure turns synchronous
//! calls into asynchronous ones, and back, without notice.

use std::{fmt, time::Duration};

use serde_json::Value;

use super::{ArmError, Cloud};

/// An answer as this module needs it.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Azure-AsyncOperation`.
    pub async_operation: Option<String>,
    /// `Location`.
    pub location: Option<String>,
    /// `Retry-After`, seconds.
    pub retry_after: Option<String>,
    /// How many calls of this class ARM says are left.
    pub remaining: Option<u32>,
    /// By which Microsoft's support finds the call: `x-ms-correlation-request-id`, or `x-ms-request-id`.
    pub correlation: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn wait(&self) -> Option<Duration> {
        wait(self.retry_after.as_deref())
    }
}

/// Longest wait that is believed: nothing of Azure asks for more, and what is waited for is not looked at meanwhile.
const LONGEST_WAIT: u64 = 3600;

/// A `Retry-After` in seconds, from one second to an hour; none if it is something else.
pub fn wait(retry_after: Option<&str>) -> Option<Duration> {
    let seconds: u64 = retry_after?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.clamp(1, LONGEST_WAIT)))
}

/// What a write led to.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// It is done; the body of the answer, null if it had none.
    Done(Value),
    /// It goes on.
    Running(Operation),
}

/// A running operation. Its URL is signed: it stays in memory and is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Operation {
    follow: Follow,
    /// When to ask again, if Azure said so.
    pub wait: Option<Duration>,
    /// What Azure says of its progress, one line.
    pub message: String,
}

#[derive(Clone, PartialEq, Eq)]
enum Follow {
    /// `Azure-AsyncOperation`: answers with a status.
    Status(String),
    /// `Location`: answers 202 until it is done.
    Result(String),
    /// No URL: the resource itself shows.
    Resource,
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let follow = match self.follow {
            Follow::Status(_) => "status",
            Follow::Result(_) => "result",
            Follow::Resource => "resource",
        };
        f.debug_struct("Operation")
            .field("follow", &follow)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl Operation {
    /// Whether its URL tells a status, and not what comes of it.
    pub(super) fn tells_status(&self) -> bool {
        matches!(self.follow, Follow::Status(_))
    }

    /// Where to ask; none if only the resource itself can be read.
    pub fn url(&self) -> Option<&str> {
        match &self.follow {
            Follow::Status(url) | Follow::Result(url) => Some(url),
            Follow::Resource => None,
        }
    }

    /// It still runs. Each answer may name its URL anew, signed for longer.
    fn goes_on(&self, message: String, answer: &Answer, cloud: &Cloud) -> Progress {
        let anew = |url: &Option<String>| url.as_deref().and_then(|url| cloud.follow(url));
        let follow = match &self.follow {
            Follow::Status(url) => {
                Follow::Status(anew(&answer.async_operation).unwrap_or_else(|| url.clone()))
            }
            Follow::Result(url) => Follow::Result(anew(&answer.location).unwrap_or_else(|| url.clone())),
            Follow::Resource => Follow::Resource,
        };
        Progress::Running(Self { follow, wait: answer.wait(), message })
    }
}

/// How an operation goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Still running.
    Running(Operation),
    /// Done; reading the resource shows what came of it.
    Succeeded,
    /// It ended, and not well. Only a new request helps.
    Failed(ArmError),
    /// Its URL leads nowhere any more: the resource itself has to be read.
    Lost,
}

/// Whether a good answer (2xx) to PUT, DELETE or POST began an operation.
pub fn begun(answer: &Answer, cloud: &Cloud) -> Begun {
    let body = answer.json();
    let state = provisioning_state(&body);
    // An update that is done at once says so and names an operation all the same. What is only accepted shows the resource
    // as it was.
    let is_done = matches!(answer.status, 200 | 201) && state.eq_ignore_ascii_case("Succeeded");
    if answer.async_operation.is_some() && is_done {
        return Begun::Done(body);
    }
    let wait = answer.wait();
    let running = |follow| Begun::Running(Operation { follow, wait, message: one_line(state) });
    match follow(answer, cloud) {
        Some(follow) => running(follow),
        // It named an operation that cannot be followed.
        None if answer.status == 202 || answer.async_operation.is_some() => running(Follow::Resource),
        None if !state.is_empty() && !is_terminal(state) => running(Follow::Resource),
        None => Begun::Done(body),
    }
}

/// What to poll. On 200 and 201 Location is the resource's own address, unless an operation is named beside it.
fn follow(answer: &Answer, cloud: &Cloud) -> Option<Follow> {
    let status = answer.async_operation.as_deref().and_then(|url| cloud.follow(url)).map(Follow::Status);
    let is_result = answer.status == 202 || answer.async_operation.is_some();
    let location = answer.location.as_deref().filter(|_| is_result);
    status.or_else(|| location.and_then(|url| cloud.follow(url)).map(Follow::Result))
}

/// The operation that an action began whose answer is to come; none if it is there. Location gives the answer in the end.
pub fn action(answer: &Answer, cloud: &Cloud) -> Option<Operation> {
    let follow = |url: &Option<String>| url.as_deref().and_then(|url| cloud.follow(url));
    let result = follow(&answer.location).map(Follow::Result);
    let follow = result.or_else(|| follow(&answer.async_operation).map(Follow::Status));
    let (wait, message) = (answer.wait(), String::new());
    (answer.status == 202).then(|| Operation { follow: follow.unwrap_or(Follow::Resource), wait, message })
}

/// What an answer to a poll says. `Err` means that we could not find out; the operation goes on.
pub fn progress(operation: &Operation, answer: &Answer, cloud: &Cloud) -> Result<Progress, ArmError> {
    let error = || ArmError::from_answer(answer.status, answer.retry_after.as_deref(), &answer.body);
    let body = answer.json();
    let goes_on = |word: &str| operation.goes_on(one_line(word), answer, cloud);
    match (&operation.follow, answer.status) {
        (_, 401 | 408 | 429 | 500..) => Err(error()),
        (Follow::Status(_), 200..=202) => {
            let status = body["status"].as_str().unwrap_or_else(|| provisioning_state(&body));
            match (status, answer.status) {
                // A page of some proxy says nothing of the operation.
                ("", 200 | 201) if !body.is_object() && !answer.body.is_empty() => {
                    Err(ArmError::NoAnswer("what was answered to a poll is not JSON".to_owned()))
                }
                // That is no status: the resource itself has to be asked.
                ("", 200 | 201) => Ok(Progress::Lost),
                (status, _) => Ok(outcome(status, answer).unwrap_or_else(|| goes_on(status))),
            }
        }
        (Follow::Result(_), 202) => Ok(operation.goes_on(operation.message.clone(), answer, cloud)),
        // The answer may be the resource itself, which may not be done, or a status all the same.
        (Follow::Result(_), 200..300) => {
            let own = body["status"].as_str().filter(|_| body["properties"].is_null());
            match own.unwrap_or_else(|| provisioning_state(&body)) {
                "" => Ok(Progress::Succeeded),
                state => Ok(outcome(state, answer).unwrap_or_else(|| goes_on(state))),
            }
        }
        (_, 200..300) => Ok(Progress::Succeeded),
        // What the operation came to; anything else is about the URL, as is all that a status URL refuses.
        (Follow::Result(_), 400 | 402 | 405..) if !is_about_url(answer) => Ok(Progress::Failed(error())),
        _ => Ok(Progress::Lost),
    }
}

/// Whether an answer is about the URL that was polled: it does not say in ARM's words why something failed.
fn is_about_url(answer: &Answer) -> bool {
    answer.status == 410 || ArmError::parse(&answer.body).is_none_or(|(code, _)| code.is_empty())
}

/// What an operation came to, if it ended with this word.
fn outcome(word: &str, answer: &Answer) -> Option<Progress> {
    if word.eq_ignore_ascii_case("Succeeded") {
        return Some(Progress::Succeeded);
    }
    is_terminal(word).then(|| {
        // Only now: AKS shows errors of earlier operations beside one that still runs.
        let (code, message) = ArmError::parse(&answer.body).unwrap_or_default();
        let code = if code.is_empty() { word.to_owned() } else { code };
        Progress::Failed(ArmError::Failed { code, message })
    })
}

fn provisioning_state(body: &Value) -> &str {
    body["properties"]["provisioningState"].as_str().unwrap_or_default()
}

/// Whether a state or status ends an operation; everything else means that it goes on.
pub fn is_terminal(word: &str) -> bool {
    ["Succeeded", "Failed", "Canceled", "Cancelled"].iter().any(|w| w.eq_ignore_ascii_case(word))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const URL: &str = "https://management.azure.com/subscriptions/s/x?s=signature";

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
        let get = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Answer {
            status,
            async_operation: get("A"),
            location: get("L"),
            retry_after: get("R"),
            remaining: None,
            correlation: None,
            body: body.as_bytes().to_vec(),
        }
    }

    fn follow(begun: &Begun) -> &'static str {
        match begun {
            Begun::Done(_) => "done",
            Begun::Running(o) => match o.follow {
                Follow::Status(_) => "status",
                Follow::Result(_) => "result",
                Follow::Resource => "resource",
            },
        }
    }

    #[test]
    fn operation_or_done_is_decided_by_headers_and_state() {
        let state = |s: &str| format!(r#"{{"properties":{{"provisioningState":"{s}"}}}}"#);
        for (status, headers, body, expect) in [
            // Resource group, identity, DNS record, share.
            (201, vec![], state("Succeeded"), "done"),
            (201, vec![("L", "/subscriptions/s/resourcegroups/g/i")], "{}".to_owned(), "done"),
            (200, vec![], String::new(), "done"),
            (204, vec![], String::new(), "done"),
            // Network: an operation beside a state.
            (201, vec![("A", URL), ("R", "3")], state("Updating"), "status"),
            (200, vec![("A", URL)], state("Succeeded"), "done"),
            // SQL, storage, groups.
            (202, vec![("A", URL), ("L", URL), ("R", "15")], r#"{"operation":"X"}"#.to_owned(), "status"),
            // Accepted, with the resource as it was.
            (202, vec![("A", URL), ("L", URL)], state("Succeeded"), "status"),
            (202, vec![("L", URL), ("R", "17")], String::new(), "result"),
            (202, vec![], String::new(), "resource"),
            // AKS, when it leaves out its header.
            (201, vec![], state("Creating"), "resource"),
            // Without its own host it is ARM's.
            (202, vec![("L", "/subscriptions/s/operationresults/1")], String::new(), "result"),
            (200, vec![("A", URL), ("L", URL)], state("Updating"), "status"),
            // Not ARM's host: our token does not go there.
            (202, vec![("A", "https://evil.example/x"), ("L", URL)], String::new(), "result"),
            (201, vec![("A", "https://evil.example/x")], String::new(), "resource"),
            (202, vec![("L", "https://evil.example/x")], String::new(), "resource"),
            (202, vec![("A", "https://management.azure.com.evil.example/x")], String::new(), "resource"),
            (202, vec![("A", "http://management.azure.com/x")], String::new(), "resource"),
            (202, vec![("A", "https://management.azure.com@evil.example/x")], String::new(), "resource"),
        ] {
            assert_eq!(
                follow(&begun(&answer(status, &headers, &body), &Cloud::public())),
                expect,
                "{status} {headers:?} {body}"
            );
        }
    }

    fn status() -> Operation {
        Operation { follow: Follow::Status(URL.to_owned()), wait: None, message: String::new() }
    }

    #[test]
    fn only_three_words_end_an_operation() {
        let failed = ArmError::Failed { code: "AllocationFailed".to_owned(), message: "no room".to_owned() };
        let canceled = ArmError::Failed { code: "Canceled".to_owned(), message: String::new() };
        for (code, body, expect) in [
            (200, r#"{"status":"Succeeded"}"#, Some(Progress::Succeeded)),
            (200, r#"{"status":"succeeded"}"#, Some(Progress::Succeeded)),
            (
                200,
                r#"{"status":"Failed","error":{"code":"AllocationFailed","message":"no room"}}"#,
                Some(Progress::Failed(failed)),
            ),
            (200, r#"{"status":"Canceled"}"#, Some(Progress::Failed(canceled))),
            (200, r#"{"status":"InProgress"}"#, None),
            (202, r#"{"status":"InProgress"}"#, None),
            (200, r#"{"status":"CreatingAgentPool: 0/1 nodes completed"}"#, None),
            (200, r#"{"status":"InProgress","error":{"code":"NotLatestOperation","message":"m"}}"#, None),
            (202, "", None),
            (200, "", Some(Progress::Lost)),
            (200, "{}", Some(Progress::Lost)),
            (201, r#"{"status":"InProgress"}"#, None),
            (200, r#"{"properties":{"provisioningState":"Succeeded"}}"#, Some(Progress::Succeeded)),
            (204, "", Some(Progress::Succeeded)),
            (400, "", Some(Progress::Lost)),
            (403, r#"{"error":{"code":"AuthorizationFailed"}}"#, Some(Progress::Lost)),
            (404, "", Some(Progress::Lost)),
        ] {
            let seen = progress(&status(), &answer(code, &[], body), &Cloud::public()).unwrap();
            match expect {
                Some(expect) => assert_eq!(seen, expect, "{body}"),
                None => assert!(matches!(seen, Progress::Running(_)), "{body}: {seen:?}"),
            }
        }
        for code in [401, 408, 429, 500, 502, 503, 504] {
            assert!(
                progress(&status(), &answer(code, &[], ""), &Cloud::public()).is_err(),
                "{code} is no end of the operation"
            );
        }
    }

    #[test]
    fn a_location_answers_202_until_it_is_done() {
        let result = Operation { follow: Follow::Result(URL.to_owned()), ..status() };
        let state = |s: &str| format!(r#"{{"properties":{{"provisioningState":"{s}"}}}}"#);
        let refused = |code: u16| ArmError::from_answer(code, Some("15"), br#"{"error":{"code":"C"}}"#);
        for (code, body, expect) in [
            (202, String::new(), None),
            (200, String::new(), Some(Progress::Succeeded)),
            (204, String::new(), Some(Progress::Succeeded)),
            (200, state("Succeeded"), Some(Progress::Succeeded)),
            (200, state("ResolvingDns"), None),
            (200, r#"{"status":"InProgress"}"#.to_owned(), None),
            (200, r#"{"status":"Succeeded"}"#.to_owned(), Some(Progress::Succeeded)),
            (
                200,
                state("Canceled"),
                Some(Progress::Failed(ArmError::Failed {
                    code: "Canceled".to_owned(),
                    message: String::new(),
                })),
            ),
            (409, r#"{"error":{"code":"C"}}"#.to_owned(), Some(Progress::Failed(refused(409)))),
            (400, r#"{"error":{"code":"C"}}"#.to_owned(), Some(Progress::Failed(refused(400)))),
            (403, r#"{"error":{"code":"C"}}"#.to_owned(), Some(Progress::Lost)),
            (404, r#"{"error":{"code":"C"}}"#.to_owned(), Some(Progress::Lost)),
            (400, "<html>".to_owned(), Some(Progress::Lost)),
            (302, String::new(), Some(Progress::Lost)),
        ] {
            let seen = progress(&result, &answer(code, &[("R", "15")], &body), &Cloud::public()).unwrap();
            match expect {
                Some(expect) => assert_eq!(seen, expect, "{code} {body}"),
                None => assert!(
                    matches!(&seen, Progress::Running(o) if o.wait == Some(Duration::from_secs(15))),
                    "{code} {body}: {seen:?}"
                ),
            }
        }
    }

    #[test]
    fn the_newest_url_is_polled() {
        let newer = "https://management.azure.com/subscriptions/s/x?s=newer";
        let result = Operation { follow: Follow::Result(URL.to_owned()), ..status() };
        for (operation, header) in [(result, "L"), (status(), "A")] {
            for (named, expect) in [(newer, newer), ("https://evil.example/x", URL)] {
                let seen = progress(&operation, &answer(202, &[(header, named)], ""), &Cloud::public());
                let Ok(Progress::Running(operation)) = seen else { panic!("it runs: {seen:?}") };
                assert_eq!(operation.url(), Some(expect), "{header}");
            }
        }
    }

    #[test]
    fn waits_are_bounded() {
        for (text, expect) in [
            (Some("15"), Some(15)),
            (Some(" 0 "), Some(1)),
            (Some("18446744073709551615"), Some(3600)),
            (Some("99999999999999999999"), None),
            (Some("Fri, 18 Nov 2022 07:04:21 GMT"), None),
            (Some("-1"), None),
            (None, None),
        ] {
            assert_eq!(wait(text), expect.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn a_page_of_a_proxy_ends_no_operation() {
        let seen = progress(&status(), &answer(200, &[], "<html>sign in</html>"), &Cloud::public());
        assert!(matches!(seen, Err(ArmError::NoAnswer(_))), "{seen:?}");
    }

    #[test]
    fn a_signed_url_is_never_shown() {
        let Begun::Running(operation) = begun(&answer(202, &[("A", URL)], ""), &Cloud::public()) else {
            panic!("an operation")
        };
        assert!(!format!("{operation:?}").contains("signature"));
    }

    proptest! {
        /// Whatever ARM answers: no panic, no way off the cloud's hosts, and nothing that runs becomes a failure or an end
        /// by an answer that is about the call only.
        #[test]
        fn any_answer_is_understood(
            status in 200u16.., of_status: bool, a in text(), l in text(), r in text(), body in body()
        ) {
            let cloud = Cloud::public();
            let answer = Answer { status, async_operation: a, location: l, retry_after: r, remaining: None, correlation: None, body };
            let first = if of_status { super::tests::status() } else {
                Operation { follow: Follow::Result(URL.to_owned()), ..super::tests::status() }
            };
            let next = match begun(&answer, &cloud) {
                Begun::Running(operation) => operation,
                Begun::Done(_) => first.clone(),
            };
            for operation in [first, next] {
                let progress = progress(&operation, &answer, &cloud);
                if [401, 408, 429].contains(&status) || status >= 500 {
                    prop_assert!(progress.is_err());
                }
                if let Ok(Progress::Running(operation)) = progress && let Some(url) = operation.url() {
                    prop_assert!(cloud.follow(url).is_some());
                }
            }
        }
    }

    fn text() -> impl Strategy<Value = Option<String>> {
        let known = [URL, "/relative", "https://evil.example/x", "15", "-1", "1e9", "99999999999999999999"];
        prop::option::of(prop_oneof![prop::sample::select(known.to_vec()).prop_map(str::to_owned), ".*"])
    }

    fn body() -> impl Strategy<Value = Vec<u8>> {
        let words = ["Succeeded", "Failed", "Canceled", "InProgress", ""];
        let known = prop::sample::select(words.to_vec()).prop_flat_map(|word| {
            prop::sample::select(vec![
                format!(r#"{{"status":"{word}"}}"#),
                format!(r#"{{"properties":{{"provisioningState":"{word}"}}}}"#),
                format!(r#"{{"status":"{word}","error":{{"code":"C","message":"m"}}}}"#),
                format!(r#"{{"status":["{word}"],"properties":"{word}","error":"{word}"}}"#),
            ])
        });
        prop_oneof![known.prop_map(String::into_bytes), any::<Vec<u8>>()]
    }
}
