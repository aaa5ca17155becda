//! Settings that the API shows as one resource each.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    routing::{MethodRouter, get as on_get},
};
use serde_json::{Value, json};

use super::{
    api::ApiError,
    server::{Server, hash},
    store::{Change, Rows, Table},
};

/// A resource of which there is one.
pub(super) struct Resource {
    /// Id of the resource and of its document.
    pub(super) id: &'static str,
    /// The members that the server knows, with what they are unless somebody says otherwise.
    pub(super) defaults: fn() -> Value,
}

/// Features of the server.
pub(super) const FEATURES: Resource = Resource {
    id: "features",
    defaults: || json!({ "IsBuiltInWorkerEnabled": true, "IsConfigureFeedsWithLocalOrSmbPathsEnabled": true }),
};

/// The server's public address.
pub(super) const SERVER: Resource =
    Resource { id: "serverconfiguration", defaults: || json!({ "ServerUri": "" }) };

/// The license.
pub(super) const LICENSE: Resource =
    Resource { id: "licenses-current", defaults: || json!({ "LicenseText": "", "SerialNumber": "" }) };

/// Maintenance of the whole cluster of servers, not to be confused with the drain of a node.
pub(super) const MAINTENANCE: Resource =
    Resource { id: "maintenance", defaults: || json!({ "IsInMaintenanceMode": false }) };

/// GET and PUT of a resource.
pub(super) fn routes(resource: &'static Resource) -> MethodRouter<Arc<Server>> {
    let read = move |State(server): State<Arc<Server>>| async move {
        let rows = server.store.read(Table::Settings).await?;
        Ok::<_, ApiError>(Json(of(resource, &rows)))
    };
    let write = move |State(server): State<Arc<Server>>, Json(body): Json<Value>| async move {
        let mut body = complete(resource, body)?;
        if resource.id == LICENSE.id {
            let text = body["LicenseText"].as_str().unwrap_or_default().to_owned();
            if text.trim().is_empty() {
                return Err(ApiError::bad("LicenseText is empty."));
            }
            body["SerialNumber"] = license(&text)["SerialNumber"].clone();
        }
        body["Id"] = resource.id.into();
        server.store.write(vec![Change::Put(Table::Settings, resource.id.to_owned(), body.clone())]).await?;
        Ok(Json(body))
    };
    on_get(read).put(write)
}

/// A resource as it is.
pub(super) fn of(resource: &Resource, rows: &Rows) -> Value {
    let stored = rows.get(resource.id).cloned().unwrap_or_else(|| json!({}));
    // A stored document was checked before.
    let mut body = complete(resource, stored).unwrap_or_else(|_| (resource.defaults)());
    body["Id"] = resource.id.into();
    body
}

/// A body with all known members: what is left out is what it is by default, as for a client that does not
/// send the whole resource; what the server does not know stays.
pub(super) fn complete(resource: &Resource, body: Value) -> Result<Value, ApiError> {
    let Value::Object(mut body) = body else { return Err(ApiError::bad("The body must be an object.")) };
    let Value::Object(defaults) = (resource.defaults)() else { return Ok(Value::Object(body)) };
    for (name, default) in defaults {
        let kind = |v: &Value| (v.is_boolean(), v.is_string(), v.is_number());
        match body.get(&name) {
            None | Some(Value::Null) => drop(body.insert(name, default)),
            Some(value) if kind(value) != kind(&default) => {
                return Err(ApiError::bad(format!("{name} has the wrong type.")));
            }
            Some(_) => {}
        }
    }
    Ok(Value::Object(body))
}

/// The document of a license.
pub(super) fn license(text: &str) -> Value {
    let hash = hash("license", text.trim().as_bytes());
    json!({ "Id": LICENSE.id, "LicenseText": text, "SerialNumber": format!("SANDBOX-{}", &hash[..12]) })
}
