//! A server that answers as ARM did.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Form, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Record, Recording, key};
use crate::{
    Context, Error,
    pki::{Authority, Subject},
    tls::TlsListener,
};

/// The token that its Entra gives, and without which its ARM answers nothing.
const TOKEN: &str = "replayed";

/// A recording that is played.
#[derive(Default)]
pub struct Replay {
    records: Vec<Record>,
    keys: Vec<String>,
    /// How often each record was served.
    served: Vec<u32>,
    /// Method and path of calls that were not recorded.
    strays: Vec<String>,
}

impl Replay {
    /// From its beginning.
    pub fn new(recording: &Recording) -> Self {
        let records = recording.records.clone();
        let keys = records.iter().map(|record| format!("{} {}", record.method, key(&record.path))).collect();
        Self { keys, served: vec![0; records.len()], strays: Vec::new(), records }
    }

    /// The record that answers a call: the n-th one of this method and path for the n-th call. A read repeats the last one
    /// that was recorded before the next write to the same resource, and goes on as soon as that write has come.
    pub fn answer(&mut self, method: &str, path: &str) -> Option<&Record> {
        let wanted = format!("{method} {}", key(path));
        let mine: Vec<usize> = (0..self.records.len()).filter(|&at| self.keys[at] == wanted).collect();
        let next = mine.iter().copied().find(|&at| self.served[at] < self.records[at].repeat);
        let at = if method == "GET" { self.read(&mine) } else { next };
        let Some(at) = at else {
            self.strays.push(format!("{method} {path}"));
            return None;
        };
        self.served[at] += 1;
        self.records.get(at)
    }

    fn read(&self, mine: &[usize]) -> Option<usize> {
        let resource = self.records[*mine.first()?].resource().to_lowercase();
        let writes = || {
            (0..self.records.len()).filter(|&at| {
                self.records[at].is_write() && self.records[at].resource().to_lowercase() == resource
            })
        };
        let written = writes().filter(|&at| self.served[at] > 0).max();
        let to_come = writes().find(|&at| self.served[at] == 0).unwrap_or(usize::MAX);
        let now = || mine.iter().copied().filter(|&at| written.is_none_or(|w| at > w) && at < to_come);
        now()
            .find(|&at| self.served[at] < self.records[at].repeat)
            .or_else(|| now().next_back())
            // A write that nobody read after: as it was read before.
            .or_else(|| mine.iter().copied().rfind(|&at| at < to_come))
    }

    /// Counts a call as made that nobody makes.
    fn skip(&mut self, at: usize) {
        if let (Some(served), Some(record)) = (self.served.get_mut(at), self.records.get(at)) {
            *served = record.repeat;
        }
    }

    /// Calls that were not recorded.
    pub fn strays(&self) -> &[String] {
        &self.strays
    }

    /// Index and number of the answers to a method and path that are still to come.
    pub fn left(&self, method: &str, path: &str) -> Vec<(usize, u32)> {
        let wanted = format!("{method} {}", key(path));
        let all = 0..self.records.len();
        let left = all.filter(|&at| self.keys[at] == wanted && self.served[at] < self.records[at].repeat);
        left.map(|at| (at, self.records[at].repeat - self.served[at])).collect()
    }
}

/// The server, on a port of its own.
#[derive(Clone)]
pub struct Server {
    playing: Arc<Mutex<Replay>>,
    /// The last request for a token.
    asked: Arc<Mutex<BTreeMap<String, String>>>,
    address: SocketAddr,
    ca: Arc<str>,
}

impl Server {
    /// Starts it, without a recording.
    pub async fn start() -> Result<Self, Error> {
        let authority = Authority::new("replay authority")?;
        let identity =
            authority.server(&Subject { user: "localhost", group: None }, &["localhost", "127.0.0.1"])?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("replay port")?;
        let address = listener.local_addr().context("replay port")?;
        let server =
            Self { playing: Arc::default(), asked: Arc::default(), address, ca: authority.cert().into() };
        let router = Router::new()
            .route("/{tenant}/oauth2/v2.0/token", post(token))
            .fallback(arm)
            .with_state(server.clone());
        let tls = TlsListener::new(listener, &identity, None).map_err(std::io::Error::other);
        let tls = tls.context("replay certificate")?;
        tokio::spawn(async move { axum::serve(tls, router).await });
        Ok(server)
    }

    /// URL of its ARM and its Entra.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Certificate of its authority, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// Plays a recording from its beginning.
    pub fn play(&self, recording: &Recording) {
        *self.playing.lock().unwrap_or_else(PoisonError::into_inner) = Replay::new(recording);
    }

    /// The last request for a token, as a form.
    pub fn asked(&self) -> BTreeMap<String, String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes on as if the call of this record had been made.
    pub fn skip(&self, at: usize) {
        self.playing.lock().unwrap_or_else(PoisonError::into_inner).skip(at);
    }

    /// Looks at what is played.
    pub fn look<T>(&self, at: impl FnOnce(&Replay) -> T) -> T {
        at(&self.playing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One of ARM's URLs as this server's.
    fn own(&self, url: &str) -> String {
        url.strip_prefix("https://")
            .and_then(|rest| rest.split_once('/'))
            .map_or_else(|| url.to_owned(), |(_, path)| format!("{}/{path}", self.url()))
    }
}

async fn token(State(server): State<Server>, Form(form): Form<BTreeMap<String, String>>) -> Response {
    *server.asked.lock().unwrap_or_else(PoisonError::into_inner) = form;
    axum::Json(json!({ "token_type": "Bearer", "expires_in": 3600, "access_token": TOKEN })).into_response()
}

async fn arm(
    State(server): State<Server>,
    uri: Uri,
    method: Method,
    headers: HeaderMap,
    _: Bytes,
) -> Response {
    let sent = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    if sent(header::AUTHORIZATION) != Some(format!("Bearer {TOKEN}")) {
        return (StatusCode::UNAUTHORIZED, "no token of this server").into_response();
    }
    let path = uri.path_and_query().map_or("", |p| p.as_str());
    let mut playing = server.playing.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(record) = playing.answer(method.as_str(), path) else {
        return (StatusCode::NOT_IMPLEMENTED, "this call was not recorded").into_response();
    };
    // Preconditions change what a write means.
    let conditions: BTreeMap<_, _> = [header::IF_MATCH, header::IF_NONE_MATCH]
        .into_iter()
        .filter_map(|name| Some((name.to_string(), sent(name)?)))
        .collect();
    let recorded: BTreeMap<_, _> = record
        .req_headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.clone()))
        .filter(|(name, _)| name.starts_with("if-"))
        .collect();
    if conditions != recorded {
        let text = format!("recorded with {recorded:?}, sent with {conditions:?}");
        return (StatusCode::NOT_IMPLEMENTED, text).into_response();
    }
    answer(&server, record)
}

fn answer(server: &Server, record: &Record) -> Response {
    let body = match (&record.resp, &record.resp_text) {
        (Some(body), _) => own_links(server, body.clone()).to_string(),
        (None, Some(text)) => text.clone(),
        (None, None) => String::new(),
    };
    let mut response = body.into_response();
    response.headers_mut().remove(header::CONTENT_TYPE);
    *response.status_mut() = StatusCode::from_u16(record.status).unwrap_or(StatusCode::NOT_IMPLEMENTED);
    for (name, value) in &record.headers {
        let value = if name == "location" || name == "azure-asyncoperation" {
            server.own(value)
        } else {
            value.clone()
        };
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The next page of a list is on this server too.
fn own_links(server: &Server, mut body: Value) -> Value {
    if let Some(next) = body.get("nextLink").and_then(Value::as_str).map(|url| server.own(url)) {
        body["nextLink"] = json!(next);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(exchanges: &[(&str, &str, u16, u32)]) -> Recording {
        let record = |(method, path, status, repeat): &(&str, &str, u16, u32)| {
            serde_json::from_value(
                json!({ "method": method, "path": path, "status": status, "repeat": repeat }),
            )
        };
        Recording {
            name: "r".to_owned(),
            began: None,
            records: exchanges.iter().map(|e| record(e).unwrap()).collect(),
        }
    }

    #[test]
    fn the_nth_call_gets_the_nth_answer() {
        let mut replay = Replay::new(&recording(&[
            ("PUT", "/a", 400, 2),
            ("PUT", "/a", 201, 1),
            ("GET", "/op", 202, 2),
            ("GET", "/op", 200, 1),
        ]));
        let status = |replay: &mut Replay, method, path| replay.answer(method, path).map(|r| r.status);
        let puts: Vec<_> = (0..4).map(|_| status(&mut replay, "PUT", "/A")).collect();
        assert_eq!(puts, [Some(400), Some(400), Some(201), None]);
        assert_eq!(replay.left("GET", "/op"), [(2, 2), (3, 1)]);
        let polls: Vec<_> = (0..5).map(|_| status(&mut replay, "GET", "/op")).collect();
        assert_eq!(polls, [Some(202), Some(202), Some(200), Some(200), Some(200)]);
        assert_eq!(replay.strays(), ["PUT /A"]);
    }

    #[test]
    fn what_is_read_changes_with_the_next_write_only() {
        let mut replay = Replay::new(&recording(&[
            ("GET", "/a", 404, 1),
            ("PUT", "/a", 201, 1),
            ("GET", "/a", 200, 3),
            ("DELETE", "/a", 200, 1),
            ("GET", "/a", 404, 1),
        ]));
        let status = |replay: &mut Replay, method| replay.answer(method, "/a").map(|r| r.status);
        assert_eq!([status(&mut replay, "GET"), status(&mut replay, "GET")], [Some(404), Some(404)]);
        status(&mut replay, "PUT");
        assert_eq!(status(&mut replay, "GET"), Some(200));
        status(&mut replay, "DELETE");
        assert_eq!(status(&mut replay, "GET"), Some(404), "although the read before stands for three");
    }
}
