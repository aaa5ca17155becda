//! Long-running operations: whether an answer began one, and how it goes (pure).
//!
//! Decided for each answer by headers and body, never by type or status alone: Azure turns synchronous
//! calls into asynchronous ones, and back, without notice.

use std::{fmt, time::Duration};

use serde_json::Value;

use super::ArmError;

/// The host of ARM in the public cloud. Operation URLs elsewhere are not followed: our token goes nowhere else.
pub const HOST: &str = "management.azure.com";

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
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn wait(&self) -> Option<Duration> {
        let seconds = self.retry_after.as_deref()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }
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
    /// Where to ask; none if only the resource itself can be read.
    pub fn url(&self) -> Option<&str> {
        match &self.follow {
            Follow::Status(url) | Follow::Result(url) => Some(url),
            Follow::Resource => None,
        }
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
pub fn begun(answer: &Answer) -> Begun {
    let body = answer.json();
    let state = body["properties"]["provisioningState"].as_str().unwrap_or_default();
    let running =
        |follow: Follow| Begun::Running(Operation { follow, wait: answer.wait(), message: one_line(state) });
    if let Some(url) = &answer.async_operation {
        // An update that is done at once says so and names an operation all the same.
        return if state.eq_ignore_ascii_case("Succeeded") {
            Begun::Done(body)
        } else {
            running(followed(url, Follow::Status))
        };
    }
    match (&answer.location, answer.status) {
        // On 200 and 201 Location is the resource's own address.
        (Some(url), 202) => running(followed(url, Follow::Result)),
        (None, 202) => running(Follow::Resource),
        _ if !state.is_empty() && !is_terminal(state) => running(Follow::Resource),
        _ => Begun::Done(body),
    }
}

/// What an answer to a poll says. `Err` means that we could not find out; the operation goes on.
pub fn progress(operation: &Operation, answer: &Answer) -> Result<Progress, ArmError> {
    let error = || ArmError::from_answer(answer.status, answer.retry_after.as_deref(), &answer.body);
    let running = |message: String| {
        Ok(Progress::Running(Operation { follow: operation.follow.clone(), wait: answer.wait(), message }))
    };
    match (&operation.follow, answer.status) {
        (_, 404 | 410) => Ok(Progress::Lost),
        (_, 401 | 403 | 408 | 429 | 500..) => Err(error()),
        (Follow::Status(_), 200..300) => {
            let body = answer.json();
            match body["status"].as_str().unwrap_or_default() {
                word if word.eq_ignore_ascii_case("Succeeded") => Ok(Progress::Succeeded),
                word if is_terminal(word) => {
                    // Only now: AKS shows errors of earlier operations beside one that still runs.
                    let (code, message) = ArmError::parse(&answer.body).unwrap_or_default();
                    let code = if code.is_empty() { word.to_owned() } else { code };
                    Ok(Progress::Failed(ArmError::Failed { code, message }))
                }
                word => running(one_line(word)),
            }
        }
        (Follow::Result(_), 202) => running(operation.message.clone()),
        (_, 200..300) => Ok(Progress::Succeeded),
        _ => Ok(Progress::Failed(error())),
    }
}

/// Whether a state or status ends an operation; everything else means that it goes on.
pub fn is_terminal(word: &str) -> bool {
    ["Succeeded", "Failed", "Canceled", "Cancelled"].iter().any(|w| w.eq_ignore_ascii_case(word))
}

fn followed(url: &str, follow: impl FnOnce(String) -> Follow) -> Follow {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.eq_ignore_ascii_case(HOST) { follow(url.to_owned()) } else { Follow::Resource }
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
            (202, vec![("L", URL), ("R", "17")], String::new(), "result"),
            (202, vec![], String::new(), "resource"),
            // AKS, when it leaves out its header.
            (201, vec![], state("Creating"), "resource"),
            // Not ARM's host: our token does not go there.
            (202, vec![("L", "https://evil.example/x")], String::new(), "resource"),
            (202, vec![("A", "https://management.azure.com.evil.example/x")], String::new(), "resource"),
            (202, vec![("A", "http://management.azure.com/x")], String::new(), "resource"),
            (202, vec![("A", "https://management.azure.com@evil.example/x")], String::new(), "resource"),
        ] {
            assert_eq!(
                follow(&begun(&answer(status, &headers, &body))),
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
            (200, "", None),
            (404, "", Some(Progress::Lost)),
        ] {
            let seen = progress(&status(), &answer(code, &[], body)).unwrap();
            match expect {
                Some(expect) => assert_eq!(seen, expect, "{body}"),
                None => assert!(matches!(seen, Progress::Running(_)), "{body}: {seen:?}"),
            }
        }
        for code in [401, 408, 429, 500, 502, 503, 504] {
            assert!(
                progress(&status(), &answer(code, &[], "")).is_err(),
                "{code} is no end of the operation"
            );
        }
        let result = Operation { follow: Follow::Result(URL.to_owned()), ..status() };
        assert!(
            matches!(progress(&result, &answer(202, &[("R", "15")], "")), Ok(Progress::Running(o)) if o.wait == Some(Duration::from_secs(15)))
        );
        assert_eq!(progress(&result, &answer(200, &[], "")), Ok(Progress::Succeeded));
        assert!(matches!(
            progress(&result, &answer(409, &[], r#"{"error":{"code":"C"}}"#)),
            Ok(Progress::Failed(_))
        ));
    }

    #[test]
    fn a_signed_url_is_never_shown() {
        let Begun::Running(operation) = begun(&answer(202, &[("A", URL)], "")) else {
            panic!("an operation")
        };
        assert!(!format!("{operation:?}").contains("signature"));
    }

    proptest! {
        #[test]
        fn no_answer_panics(status in 200u16.., a in prop::option::of(".*"), l in prop::option::of(".*"), r in prop::option::of(".*"), body: Vec<u8>) {
            let answer = Answer { status, async_operation: a, location: l, retry_after: r, body };
            if let Begun::Running(operation) = begun(&answer) {
                let _ = progress(&operation, &answer);
            }
            let _ = progress(&super::tests::status(), &answer);
        }
    }
}
