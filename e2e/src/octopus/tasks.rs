//! Tasks: a queue in the database, and nodes that take from it. A task does nothing for a given time.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    api::{ApiError, next_id},
    server::{Server, node_id},
    store::{Change, Rows, StoreError, Table},
};

/// The longest task, seconds.
const LONGEST: f64 = 86_400.0;

/// What a node does with a task.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Take(String),
    Finish(String),
}

/// What a node does now (pure): ends what is over, and takes the oldest that wait while it may.
fn plan(tasks: &Rows, node: &str, cap: Option<u32>, now: Timestamp) -> Vec<Step> {
    let (over, running): (Vec<_>, Vec<_>) =
        executing(tasks, node).partition(|(_, task)| end(task).is_none_or(|end| end <= now));
    let free = usize::try_from(cap.unwrap_or(0)).unwrap_or(0).saturating_sub(running.len());
    let mut queued: Vec<_> = tasks.iter().filter(|(_, task)| task["State"] == "Queued").collect();
    queued.sort_by_key(|(id, _)| number(id));
    let finish = over.into_iter().map(|(id, _)| Step::Finish(id.clone()));
    finish.chain(queued.into_iter().take(free).map(|(id, _)| Step::Take(id.clone()))).collect()
}

/// The tasks that a node executes.
pub(super) fn executing<'a>(tasks: &'a Rows, node: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    tasks.iter().filter(move |(_, task)| task["State"] == "Executing" && task["ServerNode"] == node)
}

/// When a task that has started is over.
fn end(task: &Value) -> Option<Timestamp> {
    let start: Timestamp = task["StartTime"].as_str()?.parse().ok()?;
    start.checked_add(SignedDuration::from_secs_f64(seconds(task))).ok()
}

fn seconds(task: &Value) -> f64 {
    task["Arguments"]["Seconds"].as_f64().unwrap_or(0.0).clamp(0.0, LONGEST)
}

fn number(id: &str) -> u64 {
    id.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Works on the queue; how long until the next task of this node is over.
pub(super) async fn work(server: &Server, now: Timestamp) -> Result<Option<Duration>, StoreError> {
    let node = &server.settings.node;
    let _held = server.tasks.lock().await;
    let mut tasks = server.store.read(Table::Tasks).await?;
    let draining = server.draining.load(Ordering::Relaxed);
    let cap = (!draining).then(|| server.cap.load(Ordering::Relaxed));
    for step in plan(&tasks, node, cap, now) {
        let (Step::Take(id) | Step::Finish(id)) = &step;
        let Some(mut task) = tasks.remove(id) else { continue };
        let mut changes = Vec::new();
        if matches!(step, Step::Take(_)) {
            task["State"] = "Executing".into();
            task["StartTime"] = json!(now);
            task["ServerNode"] = node.as_str().into();
            changes.push(Change::Insert(Table::TaskClaims, id.clone(), json!({ "Run": server.run })));
        } else {
            finish(&mut task, "Success", now);
        }
        changes.push(Change::Put(Table::Tasks, id.clone(), task.clone()));
        match server.store.write(changes).await {
            Ok(()) => drop(tasks.insert(id.clone(), task)),
            // Another node took it.
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    let ends = executing(&tasks, node).filter_map(|(_, task)| end(task));
    Ok(ends.min().map(|end| Duration::try_from(end.duration_since(now)).unwrap_or_default()))
}

fn finish(task: &mut Value, state: &str, now: Timestamp) {
    task["State"] = state.into();
    task["IsCompleted"] = true.into();
    task["CompletedTime"] = json!(now);
}

/// Cancels what a node leaves behind when it ends, or finds when it is back.
pub(super) fn abandoned(tasks: &Rows, node: &str, now: Timestamp) -> Vec<Change> {
    let cancel = |(id, task): (&String, &Value)| {
        let mut task = task.clone();
        finish(&mut task, "Canceled", now);
        Change::Put(Table::Tasks, id.clone(), task)
    };
    executing(tasks, node).map(cancel).collect()
}

/// Lists tasks, the newest first; `states`, `node`, `name` and `running` choose.
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, ApiError> {
    let get = |name: &str| query.get(name).map(String::as_str).filter(|v| !v.is_empty());
    let chosen = |task: &Value| {
        let state = task["State"].as_str().unwrap_or_default();
        let node = task["ServerNode"].as_str().unwrap_or_default();
        get("states").is_none_or(|states| states.split(',').any(|s| s.eq_ignore_ascii_case(state)))
            && get("node").is_none_or(|n| n == node || n == node_id(node))
            && get("name").is_none_or(|n| task["Name"] == n)
            && get("running").is_none_or(|r| (r == "true") == (state == "Executing"))
    };
    let mut tasks: Vec<_> = server.store.read(Table::Tasks).await?.into_iter().collect();
    tasks.retain(|(_, task)| chosen(task));
    tasks.sort_by_key(|(id, _)| std::cmp::Reverse(number(id)));
    let items: Vec<_> = tasks.into_iter().map(|(_, task)| task).collect();
    Ok(Json(json!({ "ItemType": "Task", "TotalResults": items.len(), "Items": items })))
}

/// One task.
pub(super) async fn get(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let task = server.store.read(Table::Tasks).await?.remove(&id);
    task.map(Json).ok_or_else(|| ApiError::not_found(format!("There is no task {id}.")))
}

/// Queues a task: `{Name, Arguments: {Seconds}}`.
pub(super) async fn post(
    State(server): State<Arc<Server>>,
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let name = body["Name"].as_str().filter(|n| !n.is_empty());
    let name = name.ok_or_else(|| ApiError::bad("A task needs a Name."))?;
    let arguments = if body["Arguments"].is_object() { body["Arguments"].clone() } else { json!({}) };
    loop {
        let _held = server.tasks.lock().await;
        let id = next_id("ServerTasks", &server.store.read(Table::Tasks).await?);
        let task = json!({
            "Id": id, "Name": name, "Description": body["Description"].as_str().unwrap_or(name),
            "Arguments": arguments, "State": "Queued", "IsCompleted": false, "QueueTime": Timestamp::now(),
        });
        match server.store.write(vec![Change::Insert(Table::Tasks, id, task.clone())]).await {
            Ok(()) => {
                server.wake.notify_one();
                return Ok((StatusCode::CREATED, Json(task)));
            }
            // Another node gave the number away.
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Cancels a task that waits or runs.
pub(super) async fn cancel(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let _held = server.tasks.lock().await;
    let task = server.store.read(Table::Tasks).await?.remove(&id);
    let mut task = task.ok_or_else(|| ApiError::not_found(format!("There is no task {id}.")))?;
    if task["IsCompleted"] == true {
        return Err(ApiError::bad(format!("Task {id} is over.")));
    }
    finish(&mut task, "Canceled", Timestamp::now());
    server.store.write(vec![Change::Put(Table::Tasks, id, task.clone())]).await?;
    server.wake.notify_one();
    Ok(Json(task))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: u64, state: &str, node: &str, seconds: u64) -> (String, Value) {
        let start = Timestamp::UNIX_EPOCH;
        let body = json!({ "State": state, "ServerNode": node, "StartTime": start, "Arguments": { "Seconds": seconds } });
        (format!("ServerTasks-{id}"), body)
    }

    #[test]
    fn a_node_takes_the_oldest_up_to_its_cap_and_none_while_drained() {
        let tasks: Rows = [
            task(2, "Queued", "", 1),
            task(10, "Queued", "", 1),
            task(3, "Executing", "a", 60),
            task(4, "Executing", "a", 5),
            task(5, "Executing", "b", 5),
            task(1, "Success", "a", 1),
        ]
        .into();
        let now = Timestamp::from_second(5).unwrap();
        let id = |n: u64| format!("ServerTasks-{n}");
        let over = Step::Finish(id(4));
        assert_eq!(plan(&tasks, "a", Some(2), now), [Step::Finish(id(4)), Step::Take(id(2))]);
        assert_eq!(plan(&tasks, "a", None, now), [Step::Finish(id(4))], "drained");
        assert_eq!(plan(&tasks, "a", Some(0), now), [over]);
        let three = plan(&tasks, "a", Some(9), now);
        assert_eq!(three[1..], [Step::Take(id(2)), Step::Take(id(10))]);
        assert_eq!(abandoned(&tasks, "a", now).len(), 2);
    }
}
