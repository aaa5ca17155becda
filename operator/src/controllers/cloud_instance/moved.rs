//! Moves a server whose node cannot give it its size to a node that can: in its maintenance window, after its tasks have
//! ended, and only while a node is there that has room for it. One after the other on a reef, so that no two count on the
//! same room.
//!
//! That a server takes no tasks stands at its namespace before it is told so. Whoever leads next sees it there and has it
//! take tasks again: on its new node, or on the old one if it is not to move any more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, ResourceExt, api::ListParams};
use reef_crds::{cloud_instance::MaintenanceWindow, condition::Reason};

use super::{
    agent_job,
    done::Done,
    elsewhere::{self, Obstacle},
    in_cluster::Wanted,
    jobs,
    look::WAITING,
    manifests, resize, resized, restart, sizes, window,
};
use crate::{
    cluster::keep::{keep_one, unread},
    controller::{Context, trouble::Trouble},
    resources::{Verdict, memory::after},
};

/// Shortest time between the ends of two pods on one reef, seconds: the next one is made meanwhile, and is seen.
const APART: i64 = 60;

/// When a pod was last ended, by reef; held while one is looked for room for.
#[derive(Default)]
pub struct Moves(Mutex<HashMap<String, Turn>>);

type Turn = Arc<tokio::sync::Mutex<Option<Timestamp>>>;

impl Moves {
    fn turn(&self, reef: &str) -> Turn {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(reef.to_owned()).or_default().clone()
    }
}

/// What is to be done about where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Leave,
    /// Nothing yet: it could be moved in its window.
    Await,
    /// It is on its way.
    Arrives,
    /// It is to move.
    Move,
    /// It is to take tasks again.
    Open,
}

/// What the decision follows from.
#[derive(Clone, Copy, Debug)]
struct Facts<'a> {
    /// UID of the pod, if there is one that does not end.
    pod: Option<&'a str>,
    /// Whether the server in it has started.
    started: bool,
    /// Whether it serves.
    serves: bool,
    /// Whether its node does not give it its size.
    lacks: bool,
    /// UID of the pod for which it takes no tasks.
    drained: Option<&'a str>,
    /// Whether its window is open; none without a window.
    is_open: Option<bool>,
}

/// Decides (pure).
fn decide(facts: &Facts<'_>) -> Step {
    let Facts { pod, started, serves, lacks, drained, is_open } = *facts;
    match (drained, lacks, is_open) {
        // Whether one that takes no tasks counts as Ready is for its release to say, so that is not waited for.
        (Some(_), ..) if pod.is_none() || !started => Step::Arrives,
        (Some(drained), true, Some(true)) if Some(drained) == pod => Step::Move,
        (Some(_), ..) => Step::Open,
        (None, true, Some(true)) if pod.is_some() && serves => Step::Move,
        (None, true, Some(false)) => Step::Await,
        (None, ..) => Step::Leave,
    }
}

/// Has a server take tasks again that was told to take none, where it cannot be gone on with for another reason: how that
/// stands, if there is something to be done.
pub async fn undo(
    context: &Context,
    client: &Client,
    wanted: &Wanted<'_>,
    done: &mut Done,
    now: Timestamp,
) -> Option<Verdict> {
    done.drained()?;
    let pod = match resized::pod(client, &wanted.server.inputs.namespace()).await {
        Ok(pod) => pod.filter(|pod| pod.metadata.deletion_timestamp.is_none() && resize::has_started(pod)),
        Err(verdict) => return Some(verdict),
    };
    let Some(pod) = pod else { return Some(moving("its pod starts")) };
    let uid = pod.uid().unwrap_or_default();
    let case = Case { context, client, wanted, pod: &pod, uid: &uid, now };
    open(&case, done).await.err()
}

/// Brings a server to a node that has room for it: how its size stands then.
pub async fn keep(
    context: &Context,
    client: &Client,
    wanted: &Wanted<'_>,
    (pod, serves): (Option<&Pod>, bool),
    resized: Verdict,
    done: &mut Done,
    now: Timestamp,
) -> Verdict {
    let pod = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let uid = pod.and_then(ResourceExt::uid);
    let cap = wanted.server.task_cap;
    let lacking = match &resized {
        // A pod that has what its tasks need is not ended: another one would not have more.
        Verdict::Failed(trouble) => {
            let is_of_node = matches!(trouble.reason, Reason::ResizeDeferred | Reason::ResizeInfeasible);
            let is_less = pod.is_some_and(|pod| resize::bearable(pod, cap) < cap);
            Some(trouble).filter(|_| is_of_node && is_less)
        }
        _ => None,
    };
    let step = decide(&Facts {
        pod: uid.as_deref(),
        started: pod.is_some_and(resize::has_started),
        serves,
        lacks: lacking.is_some(),
        drained: done.drained(),
        is_open: wanted.window.map(|window| window::is_open(window, now)),
    });
    let (Some(pod), Some(uid)) = (pod, &uid) else {
        return if step == Step::Arrives { moving("its pod starts on another node") } else { resized };
    };
    match (step, lacking, wanted.window) {
        (Step::Await, Some(trouble), Some(window)) => also(
            trouble,
            &format!(
                "it can be moved to another node in its maintenance window, {}",
                window::in_words(window)
            ),
        ),
        (Step::Move, Some(trouble), _) => {
            let case = Case { context, client, wanted, pod, uid, now };
            go(&case, trouble, done).await.unwrap_or_else(|verdict| verdict)
        }
        (Step::Open, ..) => {
            let case = Case { context, client, wanted, pod, uid, now };
            open(&case, done).await.err().unwrap_or(resized)
        }
        (Step::Arrives, ..) => moving("its pod starts on another node"),
        _ => resized,
    }
}

/// When to look again at a server that could be moved: when its window opens, and often while it is open.
pub fn again(window: Option<&MaintenanceWindow>, now: Timestamp) -> Option<Timestamp> {
    let window = window?;
    if window::is_open(window, now) { Some(after(now, WAITING)) } else { window::opens(window, now) }
}

struct Case<'a> {
    context: &'a Context,
    client: &'a Client,
    wanted: &'a Wanted<'a>,
    pod: &'a Pod,
    uid: &'a str,
    now: Timestamp,
}

/// Has its tasks end, then ends the pod, if another node has room both before and then.
async fn go(case: &Case<'_>, trouble: &Trouble, done: &mut Done) -> Result<Verdict, Verdict> {
    let Case { context, client, wanted, pod, now, .. } = *case;
    let turn = wanted.moves.turn(&wanted.server.inputs.reef);
    if done.drained().is_none() {
        let last = turn.lock().await;
        if let Some(obstacle) = obstacle(case, *last).await? {
            return Ok(also(trouble, &format!("its maintenance window is open, but {obstacle}")));
        }
    }
    drain(case, done).await.map_err(|verdict| match verdict {
        Verdict::Working(_) => moving("it takes no new tasks, and those that run end first"),
        Verdict::Failed(why) => moving(&format!("its tasks end first: {}", why.message)),
        other => other,
    })?;
    let mut last = turn.lock().await;
    match obstacle(case, *last).await? {
        None => {
            restart::end(context, client, &wanted.server.inputs.namespace(), pod).await?;
            *last = Some(now);
            Ok(moving("its pod starts on another node"))
        }
        // That is over soon.
        Some(obstacle @ Obstacle::Another) => Ok(moving(&format!("it takes no tasks and waits: {obstacle}"))),
        // It does not wait for room without taking tasks.
        Some(obstacle @ Obstacle::NoRoom(_)) => {
            open(case, done).await?;
            Ok(also(trouble, &format!("its maintenance window is open, but {obstacle}")))
        }
    }
}

/// Why it is not moved now; `last` is when a pod of the reef was last ended.
async fn obstacle(case: &Case<'_>, last: Option<Timestamp>) -> Result<Option<Obstacle>, Verdict> {
    if last.is_some_and(|last| case.now.as_second() - last.as_second() < APART) {
        return Ok(Some(Obstacle::Another));
    }
    let size = sizes::of(case.wanted.server.task_cap);
    let all = ListParams::default();
    let nodes = Api::<Node>::all(case.client.clone()).list(&all).await;
    let nodes = nodes.map_err(|e| unread("Node", "of the reef", &e))?;
    let pods = Api::<Pod>::all(case.client.clone()).list(&all).await;
    let pods = pods.map_err(|e| unread("Pod", "of the reef", &e))?;
    Ok(elsewhere::obstacle(&nodes.items, &pods.items, case.pod, size))
}

/// Has the server take no more tasks; good when it runs none.
async fn drain(case: &Case<'_>, done: &mut Done) -> Result<(), Verdict> {
    note(case, done, case.uid).await?;
    let work = jobs::drain(&case.wanted.server, case.uid, true);
    let Case { context, client, wanted, now, .. } = *case;
    agent_job::run(context, client, wanted.server.inputs, &work, &wanted.agent, now).await.map(drop)
}

/// Has the server take tasks again.
async fn open(case: &Case<'_>, done: &mut Done) -> Result<(), Verdict> {
    let work = jobs::drain(&case.wanted.server, case.uid, false);
    let Case { context, client, wanted, now, .. } = *case;
    agent_job::run(context, client, wanted.server.inputs, &work, &wanted.agent, now).await.map_err(
        |verdict| match verdict {
            Verdict::Working(_) => moving("it is told to take tasks again"),
            // Tried again soon.
            Verdict::Failed(why) => moving(&format!("it is told to take tasks again: {}", why.message)),
            other => other,
        },
    )?;
    note(case, done, "").await
}

/// Writes to the namespace for which pod the server takes no tasks.
async fn note(case: &Case<'_>, done: &mut Done, uid: &str) -> Result<(), Verdict> {
    done.drained = Some(uid.to_owned());
    let namespace = manifests::namespace(case.wanted.server.inputs, done);
    keep_one(case.context, case.client, &namespace).await.map(drop)
}

fn moving(how: &str) -> Verdict {
    let message = format!("the server gets its size on another node: {how}");
    Verdict::Failed(Trouble::new(Reason::ResizeMoving, message))
}

/// A trouble with more words.
fn also(trouble: &Trouble, more: &str) -> Verdict {
    Verdict::Failed(Trouble::new(trouble.reason, format!("{}; {more}", trouble.message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_moves_only_in_its_window_and_takes_tasks_again_in_any_case() {
        let base = Facts {
            pod: Some("a"),
            started: true,
            serves: true,
            lacks: true,
            drained: None,
            is_open: Some(true),
        };
        let drained = Facts { drained: Some("a"), serves: false, ..base };
        let moved = Facts { drained: Some("b"), serves: false, ..base };
        for (facts, expect) in [
            (base, Step::Move),
            (Facts { is_open: Some(false), ..base }, Step::Await),
            (Facts { is_open: None, ..base }, Step::Leave),
            (Facts { lacks: false, ..base }, Step::Leave),
            (Facts { serves: false, ..base }, Step::Leave),
            (Facts { pod: None, ..base }, Step::Leave),
            // It was told to take no tasks.
            (Facts { serves: true, ..drained }, Step::Move),
            (drained, Step::Move),
            (Facts { is_open: Some(false), ..drained }, Step::Open),
            (Facts { is_open: None, ..drained }, Step::Open),
            (Facts { lacks: false, ..drained }, Step::Open),
            (Facts { started: false, ..drained }, Step::Arrives),
            (Facts { pod: None, ..drained }, Step::Arrives),
            // Its pod is another, whatever it lacks.
            (moved, Step::Open),
            (Facts { lacks: false, ..moved }, Step::Open),
            (Facts { started: false, ..moved }, Step::Arrives),
        ] {
            assert_eq!(decide(&facts), expect, "{facts:?}");
        }
    }
}
