//! What all parts of a running server share.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::Notify;

use super::{
    settings::Settings,
    start::Opened,
    store::{Change, Store, StoreError, Table},
};
use crate::hex;

/// Id of the mark that makes a database corrupted. Nothing ever removes it.
pub(super) const CORRUPTED: &str = "corrupted";

/// A running server.
pub(super) struct Server {
    /// What the environment said.
    pub(super) settings: Settings,
    /// The database.
    pub(super) store: Arc<dyn Store>,
    /// Id of the installation: that of the database.
    pub(super) installation: String,
    /// Id of this process.
    pub(super) run: String,
    /// When this process had opened the database.
    pub(super) started: Timestamp,
    /// Whether this node is drained, as last heard.
    pub(super) draining: AtomicBool,
    /// Task cap of this node, as last heard.
    pub(super) cap: AtomicU32,
    /// Wakes the heartbeat: there is something to do.
    pub(super) wake: Notify,
    /// Held by whoever reads tasks and then changes them.
    pub(super) tasks: tokio::sync::Mutex<()>,
    last_seen: Mutex<Timestamp>,
    away: AtomicBool,
}

impl Server {
    /// A server on an opened database.
    pub(super) fn new(settings: Settings, store: Arc<dyn Store>, opened: Opened) -> Self {
        Self {
            settings,
            store,
            installation: opened.installation,
            run: opened.run,
            started: opened.at,
            draining: AtomicBool::new(opened.draining),
            cap: AtomicU32::new(opened.cap),
            wake: Notify::new(),
            tasks: tokio::sync::Mutex::default(),
            last_seen: Mutex::new(opened.at),
            away: AtomicBool::new(false),
        }
    }

    /// Id of this node's resource.
    pub(super) fn node_id(&self) -> String {
        node_id(&self.settings.node)
    }

    /// When the database last heard of this node.
    pub(super) fn last_seen(&self) -> Timestamp {
        *self.last_seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database heard of this node.
    pub(super) fn seen(&self, now: Timestamp) {
        *self.last_seen.lock().unwrap_or_else(PoisonError::into_inner) = now;
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("The database is back");
        }
    }

    /// The database did not answer; told once.
    pub(super) fn lost(&self, error: &StoreError) {
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::error!("The database is lost: {error}");
        }
    }
}

/// Id of a node's resource.
pub(super) fn node_id(name: &str) -> String {
    format!("OctopusServerNodes-{name}")
}

/// Marks the database as corrupted, unless it is.
pub(super) async fn corrupt(store: &dyn Store, why: &str, now: Timestamp) -> Result<(), StoreError> {
    let mark = json!({ "Since": now, "Why": why });
    match store.write(vec![Change::Insert(Table::Settings, CORRUPTED.to_owned(), mark)]).await {
        Ok(()) => tracing::error!("THE DATABASE IS CORRUPTED: {why}"),
        Err(StoreError::Conflict) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// A random id.
pub(super) fn guid() -> Result<String, StoreError> {
    let mut bytes = [0u8; 16];
    rand::fill(&mut bytes).map_err(|_| StoreError::Refused("no random numbers".to_owned()))?;
    let hex = hex(&bytes);
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// What is kept of a secret: bound to the installation, so that equal secrets look different elsewhere.
pub(super) fn hash(installation: &str, secret: &[u8]) -> String {
    hex(digest(&SHA256, &[installation.as_bytes(), b":", secret].concat()).as_ref())
}
