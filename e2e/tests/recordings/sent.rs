//! Requests of recordings, as the emulator is sent them.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use reef_e2e::{
    azure::{Request, SUBSCRIPTION, TENANT},
    recordings::Record,
};
use serde_json::Value;

use super::said::Said;

/// The caller.
pub const OWNER: &str = "owner";

/// The subscription and tenant of all recordings.
const RECORDED: &str = "00000000-0000-0000-0000-000000000000";

/// How long what was there before a recording has been there: long enough for backups of it.
const BEFORE: Duration = Duration::from_hours(2);

/// A moment that a recording chose by its clock, by the cloud's; not one that Azure had said before.
pub fn moments_into(request: &mut Request, began: Option<Timestamp>, said: &Said) {
    let Some(began) = began else { return };
    let chosen = request.body.as_mut().and_then(|body| body.pointer_mut("/properties/restorePointInTime"));
    let Some(moment) = chosen else { return };
    let at = moment.as_str().filter(|text| !said.knows(text)).and_then(|text| text.parse::<Timestamp>().ok());
    if let Some(after) = at.map(|at| at - began) {
        let seconds = after.total(jiff::Unit::Second).unwrap_or_default();
        *moment = reef_e2e::azure::started(cloud_time(seconds.max(0.0))).into();
    }
}

/// The cloud's time so many seconds after a recording began, milliseconds.
pub fn cloud_time(seconds: f64) -> u64 {
    let after = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    u64::try_from((BEFORE + after).as_millis()).unwrap_or(u64::MAX)
}

/// A recorded text with the emulator's subscription and tenant.
pub fn ours(text: &str) -> String {
    text.replace(&format!("ubscriptions/{RECORDED}"), &format!("ubscriptions/{SUBSCRIPTION}"))
        .replace(RECORDED, TENANT)
}

/// A recorded request for the emulator.
pub fn sent(record: &Record) -> Request {
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
