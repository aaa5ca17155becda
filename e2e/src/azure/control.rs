//! The control API: what tests ask of the emulator, and what it tells them.

use std::{convert::Infallible, net::Shutdown};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

use super::{
    faults::Rule,
    server::{Azure, lock},
};

/// Every call so far, one JSON object a line.
pub(super) async fn journal(State(azure): State<Azure>) -> String {
    let journal = lock(&azure.0.journal);
    journal.iter().map(|entry| format!("{entry}\n")).collect::<Vec<_>>().concat()
}

/// The ids of everything that exists, one a line: for comparing the whole of two worlds.
pub(super) async fn resources(State(azure): State<Azure>) -> String {
    lock(azure.cloud()).ids().into_iter().map(|id| id + "\n").collect()
}

pub(super) async fn add_fault(
    State(azure): State<Azure>,
    Json(rule): Json<Rule>,
) -> Result<StatusCode, Infallible> {
    lock(&azure.0.faults).add(rule);
    Ok(StatusCode::NO_CONTENT)
}

/// The labels of the rules that are not used up, one a line.
pub(super) async fn labels(State(azure): State<Azure>) -> String {
    lock(&azure.0.faults).labels().map(|label| ["label ", label, "\n"].concat()).collect()
}

pub(super) async fn remove_faults(State(azure): State<Azure>, Path(label): Path<String>) -> StatusCode {
    lock(&azure.0.faults).remove(&label);
    StatusCode::NO_CONTENT
}

/// How long Entra's tokens live from now on, seconds.
pub(super) async fn token_life(State(azure): State<Azure>, Json(seconds): Json<u64>) -> StatusCode {
    lock(azure.entra()).set_life(seconds);
    StatusCode::NO_CONTENT
}

/// Ends every connection to a database, as a failover or maintenance of Azure SQL does.
pub(super) async fn end_sessions(State(azure): State<Azure>) -> StatusCode {
    for session in lock(&azure.0.sessions).1.values() {
        let _ = session.shutdown(Shutdown::Both);
    }
    StatusCode::NO_CONTENT
}

pub(super) async fn clear_faults(State(azure): State<Azure>) -> StatusCode {
    lock(&azure.0.faults).clear();
    StatusCode::NO_CONTENT
}
