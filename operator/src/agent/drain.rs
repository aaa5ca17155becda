//! Has a node of an Octopus Server take no more tasks and waits for those that it runs, or has it take tasks again.
//! That it takes none stands in the server's database: it outlives a restart.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{input::Drain, octopus::Server};

/// Longest wait for tasks in one run. More is waited for by the next one.
const WAIT: Duration = Duration::from_secs(40);

/// How long no task has to have been seen: a node that asked for one before it heard may still get it. Nodes ask every 20 s
/// (Octopus's page on how high availability works).
const QUIET: Duration = Duration::from_secs(25);

/// Between two looks at what still runs.
const PAUSE: Duration = Duration::from_secs(1);

/// Changes it; where it is to take none, it is done when none runs.
pub async fn run(input: &Drain) -> Result<Value, String> {
    let server = Server::new(&input.url, &input.api_key)?;
    let nodes = server.nodes().await?;
    let node = nodes.iter().find(|node| node["Name"] == input.node.as_str());
    let id = node.and_then(|node| node["Id"].as_str());
    let id = id.ok_or_else(|| format!("the server lists no node {}", input.node))?;
    let path = format!("/api/octopusservernodes/{id}");
    let changed = server.set(&path, json!({ "IsInMaintenanceMode": input.drained })).await?;
    tracing::info!(node = input.node, drained = input.drained, changed, "node");
    if input.drained {
        wait(&server, input).await?;
    }
    Ok(json!({ "changed": changed }))
}

/// Waits until the node has heard of it, so that it takes no more, and has run no task for a while.
async fn wait(server: &Server<'_>, input: &Drain) -> Result<(), String> {
    let deadline = Instant::now() + WAIT;
    let mut idle_since = None;
    loop {
        let heard = server.is_draining().await?;
        let summary = server.call(Method::GET, "/api/octopusservernodes/summary", None).await?;
        let tasks = running(&summary, &input.node)
            .ok_or_else(|| format!("the server says nothing of tasks of node {}", input.node))?;
        let now = Instant::now();
        let idle = (heard && tasks == 0).then(|| *idle_since.get_or_insert(now));
        idle_since = idle;
        if idle.is_some_and(|since| now.duration_since(since) >= QUIET) {
            return Ok(());
        }
        if now >= deadline {
            return Err(match (heard, tasks) {
                (false, _) => "its node still takes tasks".to_owned(),
                (true, 0) => "a task has only just ended".to_owned(),
                (true, 1) => "one task still runs".to_owned(),
                (true, n) => format!("{n} tasks still run"),
            });
        }
        sleep(PAUSE).await;
    }
}

/// How many tasks a node runs, if the summary of all nodes says it (pure).
fn running(summary: &Value, node: &str) -> Option<u64> {
    let nodes = summary["Nodes"].as_array()?;
    nodes.iter().find(|found| found["Name"] == node)?["RunningTaskCount"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_those_of_the_node() {
        let summary = json!({ "Nodes": [
            { "Name": "octopus-0", "RunningTaskCount": 0 }, { "Name": "octopus-1", "RunningTaskCount": 3 }, { "Name": "octopus-2" },
        ] });
        assert_eq!(running(&summary, "octopus-0"), Some(0));
        assert_eq!(running(&summary, "octopus-1"), Some(3));
        assert_eq!(running(&summary, "octopus-2"), None, "not said is not none");
        assert_eq!(running(&summary, "octopus-3"), None);
        assert_eq!(running(&Value::Null, "octopus-0"), None);
    }
}
