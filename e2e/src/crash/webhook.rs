//! What API servers ask before each write of the operator.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path as Segment, State as Shared},
    routing::post,
};
use k8s_openapi::{ByteString, api::admissionregistration::v1::ValidatingWebhookConfiguration};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{State, When, kill_leader, leading, lock, stop_leader};
use crate::{
    cluster::{self, MANAGEMENT},
    harness::{Sandbox, eventually},
    pki::{Authority, Subject},
    tls::TlsListener,
};

/// Longest wait for the answer to a write.
const WRITTEN: Duration = Duration::from_secs(30);

/// The operator's ServiceAccount.
const OPERATOR: &str = "system:serviceaccount:reef-operator:reef-operator";

/// A server of admission reviews.
pub struct Hook {
    port: u16,
    ca: String,
    watched: Mutex<BTreeSet<PathBuf>>,
}

#[derive(Clone)]
struct Reviews {
    state: Arc<Mutex<State>>,
    logs: PathBuf,
}

impl Hook {
    /// Serves on a free port as long as the story lives.
    pub async fn serve(folder: &Path, state: &Arc<Mutex<State>>) -> Self {
        let authority = Authority::new("crash matrix").expect("an authority");
        let identity = authority.server(&Subject { user: "127.0.0.1", group: None }, &["127.0.0.1"]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let tls = TlsListener::new(listener, &identity.expect("a certificate"), None).expect("TLS");
        let reviews = Reviews { state: state.clone(), logs: folder.join("logs") };
        let router = Router::new().route("/{cluster}", post(review)).with_state(reviews);
        tokio::spawn(async move { axum::serve(tls, router).await });
        Self { port, ca: authority.cert(), watched: Mutex::default() }
    }

    /// Has all clusters ask that do not yet, and waits until they do.
    pub async fn install(&self, sandbox: &Sandbox) {
        let slots = fs::read_dir(sandbox.folder().join("slots")).into_iter().flatten().flatten();
        let slots = slots
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "kubeconfig"));
        for path in slots.chain([sandbox.folder().join("management.kubeconfig")]) {
            if lock_set(&self.watched).contains(&path) {
                continue;
            }
            let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
            // A slot may be starting, or be gone.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let Ok(client) = cluster::client(&text).await else { continue };
            if self.ask(&client, &name).await.is_ok() {
                lock_set(&self.watched).insert(path);
            }
        }
    }

    async fn ask(&self, client: &Client, cluster: &str) -> Result<(), kube::Error> {
        let expression = format!(
            "request.userInfo.username == '{OPERATOR}' || (size(request.userInfo.username) == 36 && !request.userInfo.username.contains(':'))"
        );
        let hook = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": "crash-matrix" },
            "webhooks": [{
                "name": "crash.sandbox.reef", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Ignore", "timeoutSeconds": 30, "matchPolicy": "Equivalent",
                "clientConfig": {
                    "url": format!("https://127.0.0.1:{}/{cluster}", self.port),
                    "caBundle": ByteString(self.ca.clone().into_bytes()),
                },
                "rules": [{ "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE", "DELETE"], "resources": ["*/*"], "scope": "*" }],
                "matchConditions": [
                    { "name": "of-the-operator", "expression": expression },
                    // Whoever leads says so all the time; that is nothing of what is made or deleted.
                    { "name": "no-lease", "expression": "request.resource.resource != 'leases'" },
                ],
            }],
        });
        let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
        api.patch("crash-matrix", &PatchParams::apply("reef-sandbox").force(), &Patch::Apply(&hook)).await?;
        Ok(())
    }
}

fn lock_set(set: &Mutex<BTreeSet<PathBuf>>) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
    set.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What is written: resource, namespace and name.
fn path(request: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = &request["resource"];
    let mut kind = format!("{}/{}", text(&resource["group"]), text(&resource["resource"]));
    if let Some(sub) = request["subResource"].as_str().filter(|sub| !sub.is_empty()) {
        kind = format!("{kind}/{sub}");
    }
    // Names of Events are made up.
    let name = if kind.ends_with("/events") { "*".to_owned() } else { text(&request["name"]) };
    format!("{} {}/{name}", kind.trim_start_matches('/'), text(&request["namespace"]))
}

async fn review(
    Shared(reviews): Shared<Reviews>,
    Segment(cluster): Segment<String>,
    Json(review): Json<Value>,
) -> Json<Value> {
    let request = &review["request"];
    let (verb, path) = (request["operation"].as_str().unwrap_or_default().to_owned(), path(request));
    // Each reef's cluster is another API server, and the same for who looks at its writes.
    let server = if cluster == MANAGEMENT { MANAGEMENT } else { "reef" };
    let due = {
        let mut state = lock(&reviews.state);
        state.seen.push((server.to_owned(), verb.clone(), path.clone()));
        match &mut state.armed {
            Some((write, _)) if !write.is_like(server, &verb, &path) => None,
            Some((write, _)) if write.nth > 0 => {
                write.nth -= 1;
                None
            }
            _ => {
                let when = state.armed.take().map(|(_, when)| when);
                state.due |= when.is_some();
                when
            }
        }
    };
    let pid = leading(&reviews.state);
    let is_allowed = match due {
        None => true,
        Some(When::Before) => {
            // In a task of its own: with who asked also this connection ends, and its handler is dropped where it waits.
            let state = reviews.state.clone();
            let _ = tokio::spawn(async move { kill_leader(&state, pid).await }).await;
            false
        }
        Some(When::After) => {
            let log = reviews.logs.join(format!("{cluster}-audit.log"));
            let from = fs::metadata(&log).map_or(0, |meta| meta.len());
            stop_leader(pid);
            let (state, request) = (reviews.state.clone(), request.clone());
            tokio::spawn(async move {
                // Whoever waits in vain kills it all the same, or the story would wait for that for ever.
                let _ = tokio::time::timeout(WRITTEN, is_written(&log, from, &request)).await;
                kill_leader(&state, pid).await;
            });
            true
        }
    };
    let mut response = json!({ "uid": request["uid"], "allowed": is_allowed });
    if !is_allowed {
        response["status"] = json!({ "code": 403, "message": "whoever asked is no more" });
    }
    Json(json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response }))
}

/// Waits until the API server has answered a request.
async fn is_written(log: &Path, from: u64, request: &Value) {
    // An apply that makes something is a patch to whoever audits.
    let verbs: &[&str] = match request["operation"].as_str().unwrap_or_default() {
        "CREATE" => &["create", "patch"],
        "UPDATE" => &["update", "patch"],
        _ => &["delete", "deletecollection"],
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let done = |event: &Value| {
        let of = &event["objectRef"];
        let is_same = verbs.contains(&event["verb"].as_str().unwrap_or_default())
            && text(&of["subresource"]) == text(&request["subResource"])
            && text(&of["namespace"]) == text(&request["namespace"]);
        if !is_same {
            return false;
        }
        event["user"]["username"] == request["userInfo"]["username"]
            && of["resource"] == request["resource"]["resource"]
            && (of["name"] == request["name"] || request["name"] == "")
            && event["stage"] == "ResponseComplete"
    };
    eventually("the write is done", || async {
        let bytes = fs::read(log).ok()?;
        let new = bytes.get(usize::try_from(from).ok()?..)?;
        let lines = String::from_utf8_lossy(new).into_owned();
        lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .any(|e| done(&e))
            .then_some(())
    })
    .await;
}
