//! The REST API: its routes, who may use them, and its errors.

use std::{io, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{
    nodes, packages,
    resources::{self, FEATURES, LICENSE, MAINTENANCE, SERVER},
    server::{Server, hash},
    status,
    store::{Change, Rows, StoreError, Table},
    tasks,
};

/// The header with the API key.
const KEY: &str = "x-octopus-apikey";

/// An error of the API.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// An error with this status.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The request is wrong.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// There is no such thing.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let status = match error {
            StoreError::Away(_) => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::Conflict => StatusCode::CONFLICT,
            StoreError::Refused(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "ErrorMessage": self.message, "Errors": [] }))).into_response()
    }
}

/// All routes.
pub(super) fn router(server: &Arc<Server>) -> Router {
    let open = Router::new()
        .route("/", get(status::portal))
        .route("/api", get(status::root))
        .route("/api/octopusservernodes/ping", get(status::ping))
        .route("/api/serverstatus", get(status::status))
        .route("/api/serverstatus/health", get(status::health))
        .route("/api/serverstatus/hosted/internal", get(status::hosted))
        .route("/api/serverstatus/hosted/external", get(status::hosted));
    let guarded = Router::new()
        .route("/api/featuresconfiguration", resources::routes(&FEATURES))
        .route("/api/serverconfiguration", resources::routes(&SERVER))
        .route("/api/licenses/licenses-current", resources::routes(&LICENSE))
        .route("/api/maintenanceconfiguration", resources::routes(&MAINTENANCE))
        .route("/api/octopusservernodes", get(nodes::list))
        .route("/api/octopusservernodes/summary", get(nodes::summary))
        .route("/api/octopusservernodes/{id}", get(nodes::get).put(nodes::put).delete(nodes::delete))
        .route("/api/tasks", get(tasks::list).post(tasks::post))
        .route("/api/tasks/{id}", get(tasks::get))
        .route("/api/tasks/{id}/cancel", post(tasks::cancel))
        .route("/api/projects", get(projects).post(add_project))
        .route("/api/projects/{id}", get(project).delete(delete_project))
        .route("/api/{space}/packages/raw", get(packages::get).post(packages::post))
        .route_layer(middleware::from_fn_with_state(server.clone(), authenticate));
    open.merge(guarded)
        .fallback(|| async { ApiError::not_found("There is nothing here.") })
        .with_state(server.clone())
}

/// Lets through whoever has the key of a user.
async fn authenticate(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let refused = || ApiError::new(StatusCode::UNAUTHORIZED, "The API key is missing or wrong.");
    let key = request.headers().get(KEY).ok_or_else(refused)?;
    let hash = hash(&server.installation, key.as_bytes());
    let users = server.store.read(Table::Users).await?;
    if users.values().any(|user| user["ApiKeyHash"] == hash.as_str()) {
        Ok(next.run(request).await)
    } else {
        Err(refused())
    }
}

/// The id after the highest of a table: `Kind-7`.
pub(super) fn next_id(kind: &str, rows: &Rows) -> String {
    let numbers = rows.keys().filter_map(|id| id.rsplit('-').next()?.parse::<u64>().ok());
    format!("{kind}-{}", numbers.max().unwrap_or(0) + 1)
}

async fn projects(State(server): State<Arc<Server>>) -> Result<Json<Value>, ApiError> {
    let items: Vec<_> = server.store.read(Table::Projects).await?.into_values().collect();
    Ok(Json(json!({ "ItemType": "Project", "TotalResults": items.len(), "Items": items })))
}

async fn project(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let project = server.store.read(Table::Projects).await?.remove(&id);
    project.map(Json).ok_or_else(|| ApiError::not_found(format!("There is no project {id}.")))
}

async fn add_project(
    State(server): State<Arc<Server>>,
    Json(mut body): Json<Value>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let named = body["Name"].as_str().filter(|n| !n.is_empty()).map(str::to_owned);
    let name = named.ok_or_else(|| ApiError::bad("A project needs a Name."))?;
    loop {
        let rows = server.store.read(Table::Projects).await?;
        if rows.values().any(|p| p["Name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(&name))) {
            return Err(ApiError::bad(format!("A project {name} exists.")));
        }
        let id = next_id("Projects", &rows);
        body["Id"] = id.as_str().into();
        match server.store.write(vec![Change::Insert(Table::Projects, id, body.clone())]).await {
            Ok(()) => return Ok((StatusCode::CREATED, Json(body))),
            // Somebody else got the number.
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn delete_project(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    if !server.store.read(Table::Projects).await?.contains_key(&id) {
        return Err(ApiError::not_found(format!("There is no project {id}.")));
    }
    server.store.write(vec![Change::Delete(Table::Projects, id)]).await?;
    Ok(StatusCode::OK)
}
