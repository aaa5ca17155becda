//! Settings of an Octopus Server, made through its public REST API. Each is read first and written as a whole,
//! with what is not ours in it as it was. Source of paths and members: Octopus's API reference, 2026-08.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use super::input::Configure;
use crate::causes;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Pause before another try at a server that asks for one.
const PAUSE: Duration = Duration::from_secs(2);

/// Tries for one call.
const TRIES: u32 = 5;

/// Makes the settings; the result says which release answered and what was changed.
pub async fn run(input: &Configure) -> Result<Value, String> {
    // Without TLS: the call stays within the reef's network, and policies let nobody else in.
    let http = Client::builder()
        .timeout(ANSWER)
        .redirect(reqwest::redirect::Policy::none())
        // And so without the system's authorities, which the image may lack.
        .tls_certs_only(Vec::new())
        .build();
    let server = Server { http: http.map_err(|e| causes(&e))?, input };
    let api = server.call(Method::GET, "/api", None).await?;
    let version = api["Version"].as_str().unwrap_or_default().to_owned();
    if version != input.version {
        return Err(format!("the server is {version}, and {} is to be configured", input.version));
    }
    let mut changed = Vec::new();
    // No customer's code on the server: it would run beside the instance's keys.
    server
        .set("/api/featuresconfiguration", json!({ "IsBuiltInWorkerEnabled": false }), &mut changed)
        .await?;
    server.set("/api/serverconfiguration", json!({ "ServerUri": input.server_uri }), &mut changed).await?;
    let nodes = server.call(Method::GET, "/api/octopusservernodes", None).await?;
    let nodes = nodes["Items"].as_array().cloned().unwrap_or_default();
    if nodes.is_empty() {
        return Err("the server lists no nodes".to_owned());
    }
    for node in nodes {
        let Some(id) = node["Id"].as_str() else { continue };
        let path = format!("/api/octopusservernodes/{id}");
        server.set(&path, json!({ "MaxConcurrentTasks": input.task_cap }), &mut changed).await?;
    }
    tracing::info!(version, ?changed, "configured");
    Ok(json!({ "version": version, "changed": changed }))
}

struct Server<'a> {
    http: Client,
    input: &'a Configure,
}

impl Server<'_> {
    /// Writes these members of a resource if they differ.
    async fn set(&self, path: &str, members: Value, changed: &mut Vec<String>) -> Result<(), String> {
        let found = self.call(Method::GET, path, None).await?;
        let Some(next) = with(&found, &members) else { return Ok(()) };
        self.call(Method::PUT, path, Some(&next)).await?;
        changed.push(path.to_owned());
        Ok(())
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let mut error = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            match self.once(method.clone(), path, body).await {
                Ok(value) => return Ok(value),
                Err((again, why)) => {
                    error = format!("{method} {path}: {why}");
                    if !again {
                        break;
                    }
                }
            }
        }
        Err(error)
    }

    /// One try; the error says whether another one may help.
    async fn once(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, (bool, String)> {
        let url = format!("{}{path}", self.input.url);
        let mut request = self.http.request(method, url).header("X-Octopus-ApiKey", &self.input.api_key);
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.map_err(|e| (true, causes(&e)))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| (true, causes(&e)))?;
        if status.is_success() {
            return serde_json::from_str(&text).map_err(|e| (false, format!("not JSON: {e}")));
        }
        let again = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::IM_A_TEAPOT)
            || status.is_server_error();
        Err((again, format!("{status}: {}", text.chars().take(300).collect::<String>())))
    }
}

/// A resource with these members, if they differ.
fn with(found: &Value, members: &Value) -> Option<Value> {
    let members = members.as_object()?;
    if members.iter().all(|(name, value)| found[name] == *value) {
        return None;
    }
    let mut next = found.clone();
    for (name, value) in members {
        next[name] = value.clone();
    }
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_written_whole_and_only_if_it_differs() {
        let found = json!({ "Id": "features", "IsBuiltInWorkerEnabled": true, "Other": { "kept": 1 } });
        let wish = json!({ "IsBuiltInWorkerEnabled": false });
        let next = with(&found, &wish).unwrap();
        assert_eq!(
            next,
            json!({ "Id": "features", "IsBuiltInWorkerEnabled": false, "Other": { "kept": 1 } })
        );
        assert_eq!(with(&next, &wish), None);
    }
}
