//! Every error that was recorded, against the class that decides how the operator goes on.

use reef_e2e::recordings::{Record, folder};
use reef_operator::azure::{
    ArmError, Begun, Class, Cloud, Progress,
    operation::{Answer, begun, progress},
};

use Class::{Auth, Conflict, Invalid, Missing, Throttled, Transient};

/// Status (200 is an operation that failed), code and class of all that have not the class of their status. Those that are
/// final are plainly wrong requests, and none of them was taken later in any recording.
const CLASSES: &[(u16, &str, Class)] = &[
    (400, "AccountNameInvalid", Invalid),
    (400, "InvalidPrincipalId", Invalid),
    (400, "InvalidValuesForRequestParameters", Invalid),
    (400, "LocationNotAvailableForResourceGroup", Invalid),
    // In use by something that goes first.
    (400, "InUseSubnetCannotBeDeleted", Conflict),
    (400, "PublicIPAddressCannotBeDeleted", Conflict),
    // A lock or a dependency of the network provider, not too many requests.
    (429, "RetryableError", Conflict),
];

/// Classes that a status alone gives.
fn by_status(status: u16) -> Class {
    match status {
        401 | 403 => Auth,
        404 | 410 => Missing,
        409 | 412 => Conflict,
        429 => Throttled,
        _ => Transient,
    }
}

#[test]
fn each_recorded_error_has_its_class_and_a_stable_text() {
    let path = folder().join("errors.jsonl");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: there are no errors at {}; ARM_RECORDINGS names another folder", path.display());
        return;
    };
    let records = text.lines().skip(1).map(|line| serde_json::from_str::<Record>(line).unwrap());
    let (mut wrong, mut all) = (Vec::new(), 0);
    for record in records {
        all += 1;
        let error = error(&record);
        let code = record.code().unwrap_or_else(|| record.status.to_string());
        let known = CLASSES.iter().find(|(status, c, _)| *status == record.status && *c == code);
        let expect = known.map_or_else(|| by_status(record.status), |(.., class)| *class);
        if error.class() != expect || (error.code() != code && record.status != 200) {
            wrong.push(format!(
                "{} {code}: {} is {:?}, not {expect:?}",
                record.status,
                error.code(),
                error.class()
            ));
        }
        let text = error.to_string();
        let differs = text.lines().count() != 1
            || text.contains("://")
            || text.contains(" seconds") && !text.contains("<n> seconds");
        if differs || has_id(&text) || has_time(&text) {
            wrong.push(format!("another text each time: {text}"));
        }
    }
    println!("errors    {} of {all} as they have to be", all - wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the client makes of an answer.
fn error(record: &Record) -> ArmError {
    let body = match (&record.resp, &record.resp_text) {
        (Some(body), _) => body.to_string(),
        (None, text) => text.clone().unwrap_or_default(),
    };
    let retry_after = record.headers.get("retry-after").cloned();
    if record.status != 200 {
        return ArmError::from_answer(record.status, retry_after.as_deref(), body.as_bytes());
    }
    // The answer to a poll.
    let url = "https://management.azure.com/operation".to_owned();
    let accepted = Answer { status: 202, async_operation: Some(url), ..Answer::default() };
    let Begun::Running(operation) = begun(&accepted, &Cloud::public()) else { panic!("an operation") };
    let answer = Answer { status: 200, body: body.into_bytes(), ..Answer::default() };
    match progress(&operation, &answer, &Cloud::public()) {
        Ok(Progress::Failed(error)) => error,
        other => panic!("not taken for a failure: {other:?}"),
    }
}

/// Whether a time of day is left, as `07:04:21`.
fn has_time(text: &str) -> bool {
    let bytes: Vec<char> = text.chars().collect();
    let is = |at: usize, shape: &str| {
        shape.chars().enumerate().all(|(n, c)| match (c, bytes.get(at + n)) {
            ('0', Some(found)) => found.is_ascii_digit(),
            (c, Some(found)) => c == *found,
            (_, None) => false,
        })
    };
    (0..bytes.len()).any(|at| is(at, "00:00:00"))
}

/// Whether a UUID is left that is not a name in a path.
fn has_id(text: &str) -> bool {
    let is_uuid = |word: &str| {
        let parts: Vec<usize> = word.split('-').map(str::len).collect();
        parts == [8, 4, 4, 4, 12] && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
    };
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '/')
        .filter(|word| !word.contains('/'))
        .any(is_uuid)
}
