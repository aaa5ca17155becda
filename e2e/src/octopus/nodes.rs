//! The nodes of the cluster of servers: what people want of them and how they are.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    api::ApiError,
    resources::{self, Resource},
    server::{Server, node_id},
    store::{Change, Rows, StoreError, Table},
    tasks,
};

/// A node that was heard of within this time runs, seconds.
const ALIVE_SECONDS: i64 = 30;

/// A node as it was last heard of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Seen {
    /// Its name.
    pub(super) name: String,
    /// Its release.
    pub(super) version: String,
    /// Id of its process.
    pub(super) run: String,
    /// When.
    pub(super) last_seen: Timestamp,
    /// Whether it said that it ends.
    pub(super) is_offline: bool,
}

impl Seen {
    /// All of a table.
    pub(super) fn all(rows: &Rows) -> Vec<Self> {
        rows.values().filter_map(|row| serde_json::from_value(row.clone()).ok()).collect()
    }

    /// Whether it runs, as far as one can know.
    pub(super) fn alive(&self, now: Timestamp) -> bool {
        !self.is_offline && now.as_second() - self.last_seen.as_second() < ALIVE_SECONDS
    }

    /// The change that enters it.
    pub(super) fn put(&self) -> Change {
        Change::Put(Table::NodesSeen, node_id(&self.name), json!(self))
    }
}

/// A node's resource.
const NODE: Resource = Resource {
    id: "",
    defaults: || json!({ "Name": "", "IsInMaintenanceMode": false, "MaxConcurrentTasks": 5 }),
};

/// Lists nodes.
pub(super) async fn list(State(server): State<Arc<Server>>) -> Result<Json<Value>, ApiError> {
    let nodes: Vec<_> = server.store.read(Table::Nodes).await?.into_values().collect();
    Ok(Json(json!({ "ItemType": "OctopusServerNode", "TotalResults": nodes.len(), "Items": nodes })))
}

/// Lists nodes with how they are.
pub(super) async fn summary(State(server): State<Arc<Server>>) -> Result<Json<Value>, ApiError> {
    let now = Timestamp::now();
    let running = server.store.read(Table::Tasks).await?;
    let seen = Seen::all(&server.store.read(Table::NodesSeen).await?);
    let nodes = server.store.read(Table::Nodes).await?.into_values().map(|mut node| {
        let name = node["Name"].as_str().unwrap_or_default().to_owned();
        let of = seen.iter().find(|s| s.name == name);
        node["RunningTaskCount"] = tasks::executing(&running, &name).count().into();
        node["IsOffline"] = of.is_none_or(|s| !s.alive(now)).into();
        node["LastSeen"] = json!(of.map(|s| s.last_seen));
        node["Version"] = json!(of.map(|s| &s.version));
        node
    });
    Ok(Json(json!({ "Nodes": nodes.collect::<Vec<_>>() })))
}

/// One node.
pub(super) async fn get(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(find(&server, &id).await?))
}

async fn find(server: &Server, id: &str) -> Result<Value, ApiError> {
    let node = server.store.read(Table::Nodes).await?.remove(id);
    node.ok_or_else(|| ApiError::not_found(format!("There is no node {id}.")))
}

/// Changes task cap and drain; the whole resource.
pub(super) async fn put(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Json<Value>, ApiError> {
    let before = find(&server, &id).await?;
    let mut node = resources::complete(&NODE, body)?;
    node["Id"] = before["Id"].clone();
    node["Name"] = before["Name"].clone();
    let cap = node["MaxConcurrentTasks"].as_u64().and_then(|cap| u32::try_from(cap).ok());
    let cap = cap.ok_or_else(|| ApiError::bad("MaxConcurrentTasks must be a number from 0."))?;
    server.store.write(vec![Change::Put(Table::Nodes, id.clone(), node.clone())]).await?;
    if id == server.node_id() {
        follow(&server, &node, cap);
    }
    server.wake.notify_one();
    Ok(Json(node))
}

/// Takes over what people want of this node.
pub(super) fn follow(server: &Server, node: &Value, cap: u32) {
    let drain = node["IsInMaintenanceMode"] == true;
    if server.draining.swap(drain, Ordering::Relaxed) != drain {
        let what = if drain { "drained: it takes no new tasks" } else { "no longer drained" };
        tracing::info!("Node {} is {what}", server.settings.node);
    }
    server.cap.store(cap, Ordering::Relaxed);
}

/// Forgets a node that is gone.
pub(super) async fn delete(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    find(&server, &id).await?;
    let seen = server.store.read(Table::NodesSeen).await?;
    if Seen::all(&seen).iter().any(|s| node_id(&s.name) == id && s.alive(Timestamp::now())) {
        return Err(ApiError::bad(format!("Node {id} is online.")));
    }
    let gone = [Table::Nodes, Table::NodesSeen].map(|table| Change::Delete(table, id.clone()));
    server.store.write(gone.into()).await.map_err(|e: StoreError| e.into()).map(|()| StatusCode::OK)
}
