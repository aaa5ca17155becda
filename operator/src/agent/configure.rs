//! Settings of an Octopus Server, made through its public REST API. Each is read first and written as a whole,
//! with what is not ours in it as it was.

use reqwest::Method;
use serde_json::{Value, json};

use super::{input::Configure, octopus::Server};

/// Makes the settings; the result says which release answered and what was changed.
pub async fn run(input: &Configure) -> Result<Value, String> {
    let server = Server::new(&input.url, &input.api_key)?;
    let api = server.call(Method::GET, "/api", None).await?;
    let version = api["Version"].as_str().unwrap_or_default().to_owned();
    if version != input.version {
        return Err(format!("the server is {version}, and {} is to be configured", input.version));
    }
    let mut wanted = vec![
        // No customer's code on the server: it would run beside the instance's keys.
        ("/api/featuresconfiguration".to_owned(), json!({ "IsBuiltInWorkerEnabled": false })),
        ("/api/serverconfiguration".to_owned(), json!({ "ServerUri": input.server_uri })),
    ];
    for node in server.nodes().await? {
        let Some(id) = node["Id"].as_str() else { continue };
        let path = format!("/api/octopusservernodes/{id}");
        // A drain that nobody remembers, because its note went with a namespace, ends here.
        wanted.push((path, json!({ "MaxConcurrentTasks": input.task_cap, "IsInMaintenanceMode": false })));
    }
    let mut changed = Vec::new();
    for (path, members) in wanted {
        if server.set(&path, members).await? {
            changed.push(path);
        }
    }
    tracing::info!(version, ?changed, "configured");
    Ok(json!({ "version": version, "changed": changed }))
}
