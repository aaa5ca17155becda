//! The heartbeat: the node says that it is alive, looks who else is, and works on tasks.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::sleep;

use super::{
    nodes::{self, Seen},
    server::{Server, corrupt},
    start,
    store::{Rows, StoreError, Table},
    tasks,
};

/// Time between two heartbeats in which nothing happens. Often enough for others to know that it lives, and no more: some
/// stories have hundreds.
const PERIOD: Duration = Duration::from_secs(10);

/// Time to the next when the database did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Beats until it is aborted.
pub(super) async fn run(server: Arc<Server>) {
    loop {
        let now = Timestamp::now();
        let pause = match beat(&server, now).await {
            Ok(due) => {
                server.seen(now);
                due.map_or(PERIOD, |due| due.min(PERIOD))
            }
            Err(error) => {
                server.lost(&error);
                RETRY
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = server.wake.notified() => {}
        }
    }
}

/// One heartbeat; when the next is due because of a task.
pub(super) async fn beat(server: &Server, now: Timestamp) -> Result<Option<Duration>, StoreError> {
    let store = &*server.store;
    let seen = Seen::all(&store.read(Table::NodesSeen).await?);
    if let Some(why) = meeting(server, &store.read(Table::SchemaVersions).await?, &seen) {
        corrupt(store, &why, now).await?;
    }
    let nodes = store.read(Table::Nodes).await?;
    if let Some(node) = nodes.get(&server.node_id()) {
        let cap = node["MaxConcurrentTasks"].as_u64().and_then(|cap| u32::try_from(cap).ok());
        nodes::follow(server, node, cap.unwrap_or(server.settings.task_cap));
    }
    store.write(vec![this(server, now, false).put()]).await?;
    tasks::work(server, now).await
}

/// Says in the database that this node is gone, and what became of its tasks.
pub(super) async fn farewell(server: &Server, now: Timestamp) -> Result<(), StoreError> {
    let mut changes = vec![this(server, now, true).put()];
    changes.extend(tasks::abandoned(&server.store.read(Table::Tasks).await?, &server.settings.node, now));
    server.store.write(changes).await
}

fn this(server: &Server, now: Timestamp, is_offline: bool) -> Seen {
    Seen {
        name: server.settings.node.clone(),
        version: server.settings.version.to_string(),
        run: server.run.clone(),
        last_seen: now,
        is_offline,
    }
}

/// What must never meet in one database, and does: the reason for its corruption.
///
/// Only who was heard of after this process had started counts: what came before may be a row that a kill
/// or a restored backup left.
fn meeting(server: &Server, versions: &Rows, seen: &[Seen]) -> Option<String> {
    let (node, own) = (&server.settings.node, server.settings.version);
    if let Some(schema) = start::schema(versions).filter(|schema| *schema > own) {
        return Some(format!("node {node} with {own} was running when the schema was upgraded to {schema}"));
    }
    let mut others = seen.iter().filter(|other| other.run != server.run);
    let others = others.by_ref().filter(|other| !other.is_offline && other.last_seen > server.started);
    let clash = others.into_iter().find(|other| other.name == *node || other.version != own.to_string())?;
    Some(if clash.name == *node {
        format!("two processes run as node {node}")
    } else {
        format!("node {node} with {own} met node {} with {}", clash.name, clash.version)
    })
}
