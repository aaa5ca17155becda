//! What the server says of itself without asking who wants to know.

use std::sync::{Arc, atomic::Ordering};

use axum::{Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    api::ApiError,
    nodes::Seen,
    resources::{self, LICENSE, MAINTENANCE, SERVER},
    server::{CORRUPTED, Server, node_id},
    store::{Rows, StoreError, Table},
};

type Shared = State<Arc<Server>>;

/// The root of the API.
pub(super) async fn root(State(server): Shared) -> Json<Value> {
    Json(json!({
        "Application": "Octopus Deploy",
        "Version": server.settings.version.to_string(),
        "ApiVersion": "3.0.0",
        "InstallationId": server.installation,
    }))
}

/// The web portal: a page that tells instances apart.
pub(super) async fn portal(State(server): Shared) -> Result<String, ApiError> {
    let uri = resources::of(&SERVER, &server.store.read(Table::Settings).await?)["ServerUri"].clone();
    let uri = uri.as_str().unwrap_or_default();
    Ok(format!("Octopus Deploy\nServerUri: {uri}\nInstallationId: {}\n", server.installation))
}

/// Whether this node runs and takes tasks. It answers without the database: a node that lost it is not
/// helped by being killed.
pub(super) async fn ping(State(server): Shared) -> (StatusCode, Json<Value>) {
    let draining = server.draining.load(Ordering::Relaxed);
    let body = json!({
        "Id": server.node_id(),
        "Name": server.settings.node,
        "Version": server.settings.version.to_string(),
        "IsInMaintenanceMode": draining,
        "IsOffline": false,
        "LastSeen": server.last_seen(),
        "MaxConcurrentTasks": server.cap.load(Ordering::Relaxed),
    });
    (if draining { StatusCode::IM_A_TEAPOT } else { StatusCode::OK }, Json(body))
}

/// Whether requests are answered with what is in the database.
pub(super) async fn hosted(State(server): Shared) -> (StatusCode, Json<Value>) {
    match server.store.has(Table::SchemaVersions).await {
        Ok(true) => (StatusCode::OK, Json(json!({ "Status": "Ready" }))),
        Ok(false) => unready("the database has no schema"),
        Err(error) => unready(&error.to_string()),
    }
}

fn unready(why: &str) -> (StatusCode, Json<Value>) {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "Status": "Unavailable", "Description": why })))
}

/// How the server is.
pub(super) async fn status(State(server): Shared) -> Result<Json<Value>, ApiError> {
    let rows = server.store.read(Table::Settings).await?;
    Ok(Json(json!({
        "IsInMaintenanceMode": resources::of(&MAINTENANCE, &rows)["IsInMaintenanceMode"],
        "IsDatabaseEncrypted": true,
        "IsPotentialClone": false,
        "IsUpgradeAvailable": false,
        "IsMajorMinorUpgrade": false,
        "MaximumAvailableVersion": server.settings.version.to_string(),
        "MaintenanceExpires": null,
    })))
}

/// The health of the whole cluster of servers: 200 or 418.
pub(super) async fn health(State(server): Shared) -> (StatusCode, Json<Value>) {
    let tables = async {
        let config = server.store.read(Table::Settings).await?;
        let nodes = server.store.read(Table::Nodes).await?;
        Ok::<_, StoreError>((config, nodes, server.store.read(Table::NodesSeen).await?))
    };
    let body = match tables.await {
        Ok((config, nodes, seen)) => judge(&config, &nodes, &Seen::all(&seen), Timestamp::now()),
        Err(error) => json!({
            "IsOperatingNormally": false,
            "IsEntireClusterDrainingTasks": false,
            "IsEntireClusterReadOnly": true,
            "IsCompliantWithLicense": true,
            "Description": error.to_string(),
        }),
    };
    let good = body["IsOperatingNormally"] == true;
    (if good { StatusCode::OK } else { StatusCode::IM_A_TEAPOT }, Json(body))
}

/// The health that the database shows (pure).
fn judge(config: &Rows, nodes: &Rows, seen: &[Seen], now: Timestamp) -> Value {
    let mut online = seen.iter().filter(|s| s.alive(now)).peekable();
    let drained = |s: &Seen| nodes.get(&node_id(&s.name)).is_some_and(|n| n["IsInMaintenanceMode"] == true);
    let draining = online.peek().is_some() && online.all(drained);
    let licensed = resources::of(&LICENSE, config)["LicenseText"].as_str().is_some_and(|t| !t.is_empty());
    let corrupted = config.get(CORRUPTED).map(|mark| mark["Why"].as_str().unwrap_or_default());
    let description = match corrupted {
        Some(why) => format!("The database is corrupted: {why}."),
        None if draining => "All nodes are drained: no task is taken.".to_owned(),
        None if !licensed => "There is no license.".to_owned(),
        None => "Octopus is operating normally.".to_owned(),
    };
    json!({
        "IsOperatingNormally": corrupted.is_none() && !draining && licensed,
        "IsEntireClusterDrainingTasks": draining,
        "IsEntireClusterReadOnly": resources::of(&MAINTENANCE, config)["IsInMaintenanceMode"],
        "IsCompliantWithLicense": licensed,
        "Description": description,
    })
}
