//! What Azure says of resources and of operations on them. Only what may have changed is read.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Pauses, Seen,
    lists::{Lists, list_of},
    memory::{Memory, Read, after},
};
use crate::{
    azure::{Arm, ArmError, Progress, operation::is_terminal},
    controller::trouble,
    observed::Observed,
};

/// Asks how our operations go that are due, and forgets those that ended.
pub async fn poll(arm: &Arc<Arm>, memory: &mut Memory, pauses: Pauses, spread: f64, now: Timestamp) {
    let due: Vec<_> = memory
        .operations
        .iter()
        .filter(|(_, running)| running.poll_at <= now)
        .map(|(id, running)| (id.clone(), running.operation.clone()))
        .collect();
    let answers = join_all(due.into_iter().map(|(id, operation)| async move {
        let answer = arm.poll(&operation).await;
        (id, answer)
    }))
    .await;
    for (id, answer) in answers {
        match answer {
            Ok(Progress::Running(operation)) => memory.began(&id, operation, pauses.poll, now),
            Ok(ended @ (Progress::Succeeded | Progress::Lost)) => {
                if ended == Progress::Lost {
                    memory.lost(&id, now);
                }
                memory.operations.remove(&id);
                memory.succeeded(&id);
                memory.stale(&id);
            }
            Ok(Progress::Failed(error)) => {
                memory.operations.remove(&id);
                memory.settled(&id);
                memory.failed(&id, error, spread, now);
            }
            Err(error) => {
                // That we could not ask says nothing about the operation.
                let pause = error.retry_after().unwrap_or(pauses.poll.max(Duration::from_secs(5)));
                let was_asked = matches!(error, ArmError::NoAnswer(_) | ArmError::Answer { .. });
                memory.not_told(&id, was_asked, pause, now);
            }
        }
    }
}

/// What is known of the resource with this id; `else_` where it was never read.
pub fn seen(memory: &Memory, id: &str, else_: Observed<Value>) -> Seen {
    let read = memory.read.get(id);
    Seen {
        state: read.map_or(else_, |read| read.state.clone()),
        blind: read.and_then(|read| read.blind),
        operation: memory.operations.get(id).map(|running| running.operation.message.clone()),
        failure: memory.failures.get(id).cloned(),
    }
}

/// A resource that may have to be read.
#[derive(Clone)]
pub struct Call {
    /// Its id.
    pub id: String,
    /// Version of its API.
    pub api: &'static str,
    /// The client with which it, or its list, is read.
    pub arm: Arc<Arm>,
}

/// Reads those of these resources that are due, all at once.
pub async fn read(memory: &mut Memory, calls: Vec<Call>, (pauses, spread, now): (Pauses, f64, Timestamp)) {
    // What is due soon is read now: the reads of an object stay together.
    let soon = after(now, pauses.resync / 4);
    let due = |id: &String| {
        let read = memory.read.get(id);
        let busy = memory.operations.contains_key(id);
        !busy && read.is_none_or(|read| read.again_at <= if is_settled(&read.state) { soon } else { now })
    };
    let due: Vec<_> = calls.into_iter().filter(|call| due(&call.id)).collect();
    let answers = join_all(due.into_iter().map(|Call { id, api, arm }| async move {
        let answer = arm.get(&id, api).await;
        (id, answer)
    }))
    .await;
    let mut absent = Vec::new();
    for (id, answer) in answers {
        let asked = answer.as_ref().err().and_then(ArmError::retry_after).unwrap_or_default();
        let blind = answer.as_ref().err().map(trouble::reason);
        let state = observed(answer);
        let pause = match &state {
            state if is_settled(state) => routine(pauses.resync, spread),
            Observed::Present(_) => pauses.poll,
            Observed::Absent => pauses.poll.max(pauses.resync / 20),
            Observed::Unknown(_) => pauses.poll.max(Duration::from_secs(5)),
        };
        absent.extend((state == Observed::Absent).then(|| id.clone()));
        memory.read.insert(id, Read { state, again_at: after(now, pause.max(asked)), blind, listed: false });
    }
    // At last, so that what was read of their parts at the same moment does not count either.
    for id in &absent {
        memory.gone(id);
    }
}

/// Until the next routine read: what was read at one moment, as after a restart, does not stay together.
fn routine(resync: Duration, spread: f64) -> Duration {
    resync.mul_f64(0.9 + 0.2 * spread.clamp(0.0, 1.0))
}

/// Looks up those of these resources that are due in their lists, as far as a list will do: for what was settled when it
/// was last read, or is `known` to have been so. What a list does not show as settled is read by itself afterwards, see
/// [`read`].
pub async fn look_up(
    lists: &Lists,
    memory: &mut Memory,
    calls: &[Call],
    is_known: bool,
    (pauses, spread, now): (Pauses, f64, Timestamp),
) {
    let soon = after(now, pauses.resync / 4);
    let due = |id: &String| {
        !memory.operations.contains_key(id)
            && memory.read.get(id).map_or(is_known, |read| {
                is_settled(&read.state) && read.again_at <= soon && read.again_at != Timestamp::MIN
            })
    };
    let due: Vec<_> = calls.iter().filter(|call| due(&call.id)).collect();
    let answers = join_all(due.into_iter().map(|call| async move {
        let answer = lists.get(&call.arm, list_of(&call.id), call.api, pauses.resync / 2, now).await;
        (call, answer)
    }))
    .await;
    for (call, answer) in answers {
        let read = match answer {
            Ok(listing) => match listing.find(&call.id).cloned().map(Observed::Present) {
                Some(state) if is_settled(&state) => {
                    let again_at = after(now, routine(pauses.resync, spread));
                    Read { state, again_at, blind: None, listed: true }
                }
                _ => {
                    memory.stale(&call.id);
                    continue;
                }
            },
            Err(error) => {
                let pause =
                    pauses.poll.max(Duration::from_secs(5)).max(error.retry_after().unwrap_or_default());
                let blind = Some(trouble::reason(&error));
                let state = Observed::Unknown((&error).into());
                Read { state, again_at: after(now, pause), blind, listed: true }
            }
        };
        memory.read.insert(call.id.clone(), read);
    }
}

/// What an answer to GET says about a resource.
pub fn observed(answer: Result<Value, ArmError>) -> Observed<Value> {
    match answer {
        Ok(value) => Observed::Present(value),
        Err(error) if error.is_absence() => Observed::Absent,
        Err(error) => Observed::Unknown((&error).into()),
    }
}

fn is_settled(state: &Observed<Value>) -> bool {
    let Observed::Present(value) = state else { return false };
    is_terminal(super::state(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_at_one_moment_is_read_again_at_many() {
        let resync = Duration::from_secs(600);
        let all: Vec<_> = (0..100).map(|n| routine(resync, f64::from(n) / 100.0).as_secs()).collect();
        assert!(all.iter().all(|seconds| (540..=660).contains(seconds)), "{all:?}");
        let mut moments = all.clone();
        moments.dedup();
        assert!(moments.len() > 90, "a second apart from each other: {moments:?}");
        assert_eq!(routine(resync, 7.0), routine(resync, 1.0), "never later than that");
    }
}
