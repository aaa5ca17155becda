//! Writes to Azure.

use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;

use super::{Pauses, Write, marks, memory::Memory, observe::observed};
use crate::{
    azure::{Arm, ArmError, Begun, Class},
    leader::Claim,
    observed::Observed,
};

/// API of the registration of resource providers.
const PROVIDERS_API: &str = "2021-04-01";

/// Does all writes of a plan at once, each part's with the client for it. True if one is done already, so that its
/// dependants can go on.
pub async fn act<P>(
    arm_of: impl Fn(&P) -> Arc<Arm>,
    claim: &Claim,
    writes: Vec<Write<P>>,
    memory: &mut Memory,
    (pauses, spread, now): (Pauses, f64, Timestamp),
) -> bool {
    let (writes, in_vain): (Vec<_>, Vec<_>) =
        writes.into_iter().partition(|write| memory.may_write(&write.id, &write.why));
    for write in in_vain {
        let message = format!("Azure took {} and does not keep it", write.why);
        memory.failed(&write.id, ArmError::Failed { code: "NotKept".to_owned(), message }, spread, now);
    }
    let writes = writes.into_iter().map(|write| (arm_of(&write.part), write));
    let answers = join_all(writes.map(|(arm, write)| async move {
        let answer = write_one(&arm, claim, &write).await;
        (arm, write, answer)
    }))
    .await;
    let mut done = false;
    for (arm, write, answer) in answers {
        match answer {
            Some(answer) => {
                if answer.is_ok() {
                    memory.took(&write.id, &write.why);
                }
                done |= note(&arm, &write.id, answer, memory, (pauses, spread)).await;
            }
            None => memory.stale(&write.id),
        }
    }
    done
}

/// Looks once more and writes; none if it is not as it was when the plan was made, or we may not write.
async fn write_one<P>(arm: &Arc<Arm>, claim: &Claim, write: &Write<P>) -> Option<Result<Begun, ArmError>> {
    let body = match (observed(arm.get(&write.id, write.api).await), &write.found) {
        (Observed::Absent, None) => write.body.clone(),
        // Another operator may have claimed it meanwhile.
        (Observed::Present(now), Some(then)) if marks(&write.id, &now) == then => write.body_for(&now),
        _ => return None,
    };
    claim.check().ok()?;
    tracing::info!(azure_resource_id = write.id, why = write.why, "writing to Azure");
    Some(arm.put(&write.id, write.api, &body, write.unless.clone()).await)
}

/// Remembers how a write went that was answered just now: pauses begin then, and not when the look began, which may
/// have waited for its turn. True if it is done.
pub async fn note(
    arm: &Arc<Arm>,
    id: &str,
    answer: Result<Begun, ArmError>,
    memory: &mut Memory,
    (pauses, spread): (Pauses, f64),
) -> bool {
    let now = Timestamp::now();
    match answer {
        Ok(Begun::Done(_)) => {
            memory.succeeded(id);
            memory.stale(id);
            true
        }
        Ok(Begun::Running(operation)) => {
            memory.began(id, operation, pauses.poll, now);
            false
        }
        Err(error) => {
            tracing::warn!(azure_resource_id = id, %error, "Azure refused");
            if error.class() == Class::NotRegistered {
                register(arm, id).await;
            }
            memory.failed(id, error, spread, now);
            false
        }
    }
}

/// Asks for the resource provider of an id. It takes minutes, so the write is simply tried again.
async fn register(arm: &Arc<Arm>, id: &str) {
    let mut segments = id.split('/');
    let (Some(subscription), Some(provider)) = (segments.nth(2), provider(id)) else { return };
    let action = format!("/subscriptions/{subscription}/providers/{provider}/register");
    // The write that was refused may have taken long.
    if arm.actor().may_write().is_err() {
        return;
    }
    match arm.post(&action, PROVIDERS_API).await {
        Ok(_) => tracing::info!(provider, "registered the resource provider"),
        Err(error) => {
            tracing::warn!(provider, %error, "cannot register the resource provider");
        }
    }
}

fn provider(id: &str) -> Option<&str> {
    let (_, rest) = id.split_once("/providers/")?;
    rest.split('/').next()
}
