//! The client against a server that answers anything, and one that does not even speak HTTP.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderName, HeaderValue, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use reef_e2e::{
    pki::{Authority, Identity, Subject},
    tls::TlsListener,
};
use reef_operator::azure::{Arm, ArmError, Begun, Class, Proof, Unless};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::client::client_of;

/// Answers that are tried; each gets four calls.
const ANSWERS: usize = 250;

#[derive(Clone, Debug)]
struct Anything {
    status: u16,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
}

/// Answers of which each part is now and then as ARM would have it.
fn anything(base: &str) -> impl Strategy<Value = Anything> + use<> {
    let urls = vec![
        format!("{base}/subscriptions/s/operation?s=signed"),
        "https://evil.example/steal".to_owned(),
        "/relative".to_owned(),
        "//evil.example".to_owned(),
    ];
    let value = prop_oneof![
        prop::sample::select(urls).prop_map(String::into_bytes),
        prop::sample::select(vec!["0", "15", "-1", "99999999999999999999", "1.5"])
            .prop_map(|t| t.as_bytes().to_vec()),
        prop::collection::vec(32u8..=255, 0..40),
    ];
    let names = [
        "azure-asyncoperation",
        "location",
        "retry-after",
        "etag",
        "x-ms-ratelimit-remaining-subscription-reads",
    ];
    let header = (prop::sample::select(names.to_vec()), value);
    let words = ["Succeeded", "Failed", "InProgress", "Canceled", ""];
    let body = prop_oneof![
        any::<Vec<u8>>(),
        prop::sample::select(words.to_vec()).prop_map(|word| {
            let error = json!({ "code": "ResourceNotFound", "message": "m" });
            json!({ "status": word, "error": error, "properties": { "provisioningState": word } })
                .to_string()
                .into_bytes()
        }),
        Just(br#"{"error":{"code":"ResourceNotFound"}}"#.to_vec()),
        Just(br#"{"value":[],"nextLink":"https://evil.example/next"}"#.to_vec()),
    ];
    let status = prop_oneof![
        prop::sample::select(vec![200u16, 201, 202, 204, 400, 401, 403, 404, 409, 410, 412, 429, 500, 503]),
        200u16..=599,
    ];
    (status, prop::collection::vec(header, 0..4), body).prop_map(|(status, headers, body)| Anything {
        status,
        headers,
        body,
    })
}

type Shared = Arc<Mutex<(Anything, Vec<String>)>>;

async fn answer(State(shared): State<Shared>, method: Method, _: Bytes) -> Response {
    let mut shared = shared.lock().unwrap();
    shared.1.push(method.to_string());
    let Anything { status, headers, body } = shared.0.clone();
    let mut response = body.into_response();
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            response.headers_mut().append(HeaderName::from_static(name), value);
        }
    }
    response
}

async fn token() -> Response {
    axum::Json(json!({ "token_type": "Bearer", "expires_in": 3600, "access_token": "t" })).into_response()
}

async fn listen() -> (TcpListener, Identity, String, SocketAddr) {
    let authority = Authority::new("anything").unwrap();
    let identity = authority.server(&Subject { user: "localhost", group: None }, &["localhost"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, identity, authority.cert(), address)
}

#[tokio::test]
async fn whatever_is_answered_nothing_is_lost_and_nothing_else_is_called() {
    let (listener, identity, ca, address) = listen().await;
    let base = format!("https://localhost:{}", address.port());
    let shared: Shared =
        Arc::new(Mutex::new((Anything { status: 200, headers: vec![], body: vec![] }, Vec::new())));
    let router = Router::new()
        .route("/{tenant}/oauth2/v2.0/token", post(token))
        .fallback(answer)
        .with_state(shared.clone());
    let tls = TlsListener::new(listener, &identity, None).unwrap();
    tokio::spawn(async move { axum::serve(tls, router).await });
    let folder = tempfile::tempdir().unwrap();
    let mut runner = TestRunner::deterministic();
    let strategy = anything(&base);
    let (mut operations, mut refusals) = (0, 0);
    for _ in 0..ANSWERS {
        let given = strategy.new_tree(&mut runner).unwrap().current();
        *shared.lock().unwrap() = (given.clone(), Vec::new());
        // One of its own for each call: a pause that was asked for, or a breaker, is not for the next.
        let arm = || client_of(&base, &ca, folder.path(), Proof::WorkloadIdentity);
        let seen = calls(arm, &given).await;
        operations += seen.0;
        refusals += seen.1;
        let called = shared.lock().unwrap().1.clone();
        let expected = ["GET", "GET", "PUT", "DELETE"];
        assert!(
            called.iter().zip(expected).all(|(called, wanted)| called == wanted),
            "{called:?} for {given:?}"
        );
        assert!(called.len() <= expected.len(), "{called:?} for {given:?}");
    }
    println!("{ANSWERS} answers: {operations} operations, {refusals} refusals");
    assert!(operations > 10 && refusals > 100, "it tried nothing: {operations} and {refusals}");
}

/// Makes the four calls; how many operations began, and how many were refused.
async fn calls(arm: impl Fn() -> Arc<Arm>, given: &Anything) -> (usize, usize) {
    let is_good = (200..300).contains(&given.status);
    let (mut operations, mut refusals) = (0, 0);
    let own = arm().cloud().resource_manager.clone();
    let get = arm().get("/g", "v").await;
    assert!(get.is_err() || is_good, "{given:?}");
    let list = arm().list("/g/all", "v").await;
    assert!(list.is_err() || is_good, "{given:?}");
    let put = arm().put("/g", "v", &json!({}), Unless::Never).await;
    let delete = arm().delete("/g", "v").await;
    for error in [get.err(), list.err(), put.as_ref().err().cloned(), delete.as_ref().err().cloned()]
        .into_iter()
        .flatten()
    {
        refusals += 1;
        assert_eq!(error.to_string().lines().count(), 1, "{given:?}");
        assert!(!error.is_absence() || given.status == 404, "{given:?}");
    }
    let is_missing = ArmError::from_answer(given.status, None, &given.body).class() == Class::Missing;
    assert!(put.is_err() || is_good, "{given:?}");
    assert!(delete.is_err() || is_good || is_missing, "{given:?}");
    for begun in [put, delete].into_iter().flatten() {
        if let Begun::Running(operation) = begun {
            operations += 1;
            if let Some(url) = operation.url() {
                assert!(url.starts_with(&own), "{url} for {given:?}");
                assert!(!format!("{operation:?}").contains("signed"));
            }
        } else {
            assert_ne!(given.status, 202, "accepted is not done: {given:?}");
        }
    }
    (operations, refusals)
}

#[tokio::test]
async fn what_is_no_http_is_no_answer() {
    let (listener, identity, ca, address) = listen().await;
    let base = format!("https://localhost:{}", address.port());
    let mut tls = TlsListener::new(listener, &identity, None).unwrap();
    tokio::spawn(async move {
        use axum::serve::Listener;
        let mut runner = TestRunner::deterministic();
        let bytes = prop_oneof![
            any::<Vec<u8>>(),
            Just(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort".to_vec()),
            Just(b"HTTP/1.1 999 X\r\n\r\n".to_vec()),
            Just(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec()),
        ];
        loop {
            let (mut stream, _) = tls.accept().await;
            let sent = bytes.new_tree(&mut runner).unwrap().current();
            let _ = stream.write_all(&sent).await;
            let _ = stream.shutdown().await;
        }
    });
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..40 {
        let arm = client_of(&base, &ca, folder.path(), Proof::ClientSecret("s".into()));
        let error = arm.get("/g", "v").await.unwrap_err();
        assert!(matches!(error.class(), Class::Transient | Class::Throttled), "{error}");
        assert!(!error.is_absence() && !error.is_refusal(), "{error}");
    }
}
