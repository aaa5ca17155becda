//! The REST API of an Octopus Server on the reef, as the agent uses it. Source of paths and members: Octopus's API
//! reference, 2026-08.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use crate::causes;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Pause before another try at a server that asks for one.
const PAUSE: Duration = Duration::from_secs(2);

/// Tries for one call.
const TRIES: u32 = 5;

/// A server.
pub(super) struct Server<'a> {
    http: Client,
    url: &'a str,
    api_key: &'a str,
}

impl<'a> Server<'a> {
    /// The server at a URL, with a key of its REST API.
    pub(super) fn new(url: &'a str, api_key: &'a str) -> Result<Self, String> {
        // Without TLS: the call stays within the reef's network, and policies let nobody else in.
        let http = Client::builder()
            .timeout(ANSWER)
            .redirect(reqwest::redirect::Policy::none())
            // And so without the system's authorities, which the image may lack.
            .tls_certs_only(Vec::new())
            .build();
        Ok(Self { http: http.map_err(|e| causes(&e))?, url, api_key })
    }

    /// Its nodes.
    pub(super) async fn nodes(&self) -> Result<Vec<Value>, String> {
        let nodes = self.call(Method::GET, "/api/octopusservernodes", None).await?;
        let nodes = nodes["Items"].as_array().cloned().unwrap_or_default();
        if nodes.is_empty() { Err("the server lists no nodes".to_owned()) } else { Ok(nodes) }
    }

    /// Writes these members of a resource if they differ: whether they did. What is not ours in it stays as it was.
    pub(super) async fn set(&self, path: &str, members: Value) -> Result<bool, String> {
        let found = self.call(Method::GET, path, None).await?;
        let Some(next) = with(&found, &members) else { return Ok(false) };
        self.call(Method::PUT, path, Some(&next)).await?;
        Ok(true)
    }

    /// A call, tried several times where that may help.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, String> {
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

    /// Whether the node that answers says that it takes no more tasks: then it answers 418.
    pub(super) async fn is_draining(&self) -> Result<bool, String> {
        let path = "/api/octopusservernodes/ping";
        let answer = self.http.get(format!("{}{path}", self.url)).send().await;
        let status = answer.map_err(|e| format!("GET {path}: {}", causes(&e)))?.status();
        match status {
            StatusCode::IM_A_TEAPOT => Ok(true),
            status if status.is_success() => Ok(false),
            status => Err(format!("GET {path}: {status}")),
        }
    }

    /// One try; the error says whether another one may help.
    async fn once(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, (bool, String)> {
        let url = format!("{}{path}", self.url);
        let mut request = self.http.request(method, url).header("X-Octopus-ApiKey", self.api_key);
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
    use serde_json::json;

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
