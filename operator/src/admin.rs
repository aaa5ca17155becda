//! The port for kubelet and Prometheus: /livez, /readyz, /metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// What has to be in order before the operator calls itself ready, each with what is wrong.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

impl Readiness {
    /// Adds a gate, closed for now.
    pub fn expect(&self, gate: &'static str) {
        self.close(gate, "not looked at yet");
    }

    /// The gate is in order.
    pub fn open(&self, gate: &'static str) {
        self.set(gate, None);
    }

    /// The gate is not in order, and why.
    pub fn close(&self, gate: &'static str, why: impl Into<String>) {
        self.set(gate, Some(why.into()));
    }

    fn set(&self, gate: &'static str, state: Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(gate, state);
    }

    /// What is not in order, by gate.
    pub fn closed(&self) -> BTreeMap<&'static str, String> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter_map(|(gate, why)| Some((*gate, why.clone()?))).collect()
    }
}

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        // Alive means that requests are answered at all: trouble with an API server is no reason to die.
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Admin { readiness, metrics });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let closed = admin.readiness.closed();
    if closed.is_empty() {
        return "ok\n".into_response();
    }
    let lines: Vec<_> = closed.iter().map(|(gate, why)| format!("{gate}: {why}")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines.join("\n") + "\n").into_response()
}

async fn metrics_text(State(admin): State<Admin>) -> Response {
    match admin.metrics.render() {
        Ok(text) => {
            let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, format)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_every_expected_gate_is_open() {
        let readiness = Readiness::default();
        assert!(readiness.closed().is_empty());
        readiness.expect("crds");
        readiness.expect("lease");
        readiness.open("lease");
        assert_eq!(readiness.closed().keys().collect::<Vec<_>>(), [&"crds"]);
        readiness.open("crds");
        assert!(readiness.closed().is_empty());
        readiness.close("lease", "lost");
        assert_eq!(readiness.closed()["lease"], "lost");
    }
}
