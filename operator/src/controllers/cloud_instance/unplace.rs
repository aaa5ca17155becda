//! Takes an instance off a reef on which Azure has no room for its database or share, so that it is placed on another
//! one. Only before it ever served: a part that never was there kept the server from being started, so what else was
//! made for it holds nothing. That it leaves stands in the status before anything is removed.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt, runtime::controller::Action};
use reef_crds::{
    CloudInstance, CloudInstanceStatus, Reef, cloud_instance::RefusedOnStatus, condition::Reason,
    reef::DeletionPolicy,
};

use super::{
    Shared,
    bodies::Inputs,
    delete::{self, Advance},
    intake,
    look::{WAITING, held, pauses, write},
    parts::Part,
    placing,
    plan::Plan,
    references::{self, Home},
};
use crate::{
    azure::Class,
    controller::{Context, Error, publish, trouble::Trouble},
    controllers::reef::references::Held,
    observed::Observed,
    resources::{Seen, memory::Memory, observe::observed},
};

/// As many reefs are remembered as the schema takes.
const REMEMBERED: usize = 16;

/// Pause between two steps.
const SHORT: Duration = Duration::from_millis(500);

/// Why an instance cannot stay: Azure has just refused, for want of room, a part that holds data and never was there,
/// and nothing else is under way (pure).
pub fn refused(
    status: &CloudInstanceStatus,
    inputs: &Inputs,
    (plan, seen): (&Plan, &BTreeMap<Part, Seen>),
    memory: &Memory,
    now: Timestamp,
) -> Option<String> {
    let served = status.version.as_ref().is_some_and(|v| v.running.is_some());
    let is_busy = Part::ALL.iter().any(|part| memory.operations.contains_key(&inputs.id(*part)));
    if served || is_busy || status.leaving.is_some() {
        return None;
    }
    let never_there = |part: &Part| match part {
        Part::Database => status.database.as_ref().is_some_and(|d| !d.ready),
        _ => status.share.as_ref().is_some_and(|s| !s.ready),
    };
    let parts = [Part::Database, Part::Share];
    parts.into_iter().filter(never_there).find_map(|part| {
        let is_absent = seen.get(&part).is_some_and(|s| s.state == Observed::Absent && s.operation.is_none());
        let was_asked = plan.writes.iter().any(|write| write.part == part);
        let failure = memory.failures.get(&inputs.id(part))?;
        let error = &failure.error;
        let for_want_of_room = error.class() == Class::Capacity && memory.is_refused(&inputs.id(part), now);
        (is_absent && was_asked && for_want_of_room).then(|| format!("{}: {error}", part.what()))
    })
}

/// Lets the instance leave if another reef would take it. True if it leaves.
pub async fn leave(
    instance: &CloudInstance,
    shared: &Shared,
    home: &Home,
    why: String,
    now: Timestamp,
) -> Result<bool, Error> {
    let context = &*shared.context;
    let Some(next) = instance.status.as_ref().and_then(|status| without(status, now)) else {
        return Ok(false);
    };
    let Ok(reefs) = intake::reefs(context, &home.region).await? else { return Ok(false) };
    let homeless = CloudInstance { status: Some(next), ..instance.clone() };
    placing::prepare(context, &home.arm, &reefs, now).await;
    let turn = shared.turn(&home.region.name_any());
    let mut before = turn.lock().await;
    let other = placing::elsewhere(context, &mut before, &homeless, &reefs, now).await?;
    drop(before);
    let Some(other) = other else { return Ok(false) };
    let reef = home.reef.name_any();
    let note = format!(
        "{why}: it holds nothing yet, so it is taken off Reef {reef} and placed again; Reef {other} would take it"
    );
    let leaving: String = why.chars().take(1024).collect();
    let status =
        CloudInstanceStatus { leaving: Some(leaving), ..instance.status.clone().unwrap_or_default() };
    write(instance, shared, &status).await?;
    let object = instance.object_ref(&());
    publish(&shared.recorder, &object, Reason::QuotaExceeded, true, "TakeOff", &note).await;
    Ok(true)
}

/// The status of an instance that was on a reef which had no room for it, and is nowhere now (pure).
fn without(status: &CloudInstanceStatus, now: Timestamp) -> Option<CloudInstanceStatus> {
    let place = status.placement.as_ref()?;
    let at = Time(Timestamp::from_second(now.as_second()).unwrap_or(Timestamp::UNIX_EPOCH));
    let mut refused_on = status.refused_on.clone();
    refused_on.push(RefusedOnStatus { reef: place.reef.clone(), generation: place.generation, at });
    let too_many = refused_on.len().saturating_sub(REMEMBERED);
    refused_on.drain(..too_many);
    Some(CloudInstanceStatus {
        refused_on,
        leaving: None,
        placement: None,
        url: None,
        namespace: None,
        database: None,
        share: None,
        identity: None,
        ..status.clone()
    })
}

/// One step of taking it off.
pub async fn step(
    instance: &CloudInstance,
    shared: &Shared,
    home: &Home,
    memory: &mut Memory,
) -> Result<Action, Error> {
    let context = &*shared.context;
    let now = Timestamp::now();
    let inputs = match references::inputs(context, instance, home) {
        Ok(inputs) => inputs,
        Err(Held(trouble, stalled)) => return held(instance, shared, &trouble, stalled).await,
    };
    let status = instance.status.clone().unwrap_or_default();
    let why = status.leaving.clone().unwrap_or_default();
    if came_after_all(home, &inputs).await {
        tracing::info!(name = instance.name_any(), why, "what was refused is there: the instance stays");
        write(instance, shared, &CloudInstanceStatus { leaving: None, ..status }).await?;
        return Ok(Action::requeue(SHORT));
    }
    let spread = f64::from(now.subsec_nanosecond() % 1000) / 1000.0;
    let (begun, times) = (delete::begun(&status), (pauses(context), spread, now));
    let policy = (DeletionPolicy::Delete, begun.as_slice());
    match delete::advance(context, home, &inputs, policy, memory, times).await? {
        Advance::Done(_) => {
            gone(instance, shared, home, &status, now).await?;
            *memory = Memory::default();
            Ok(Action::requeue(SHORT))
        }
        Advance::Held(trouble) | Advance::Refused(trouble) => held(instance, shared, &trouble, false).await,
        Advance::GoesOn(what) => {
            let message = format!("{why}; being taken off Reef {}: {what}", home.reef.name_any());
            held(instance, shared, &Trouble::new(Reason::QuotaExceeded, message), false).await?;
            let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
            let polls = memory.operations.values().map(|running| until(running.poll_at)).min();
            Ok(Action::requeue(polls.unwrap_or(SHORT).clamp(SHORT, WAITING)))
        }
        // Nothing is kept of what never was used.
        Advance::MakeRetained => Ok(Action::requeue(WAITING)),
    }
}

/// Whether database and share are both there, although Azure said that it has no room for one of them.
async fn came_after_all(home: &Home, inputs: &Inputs) -> bool {
    let is_there = async |part: Part| {
        let answer = home.arm.get(&inputs.id(part), inputs.wanted(part).api).await;
        matches!(observed(answer), Observed::Present(_))
    };
    is_there(Part::Database).await && is_there(Part::Share).await
}

/// Nothing of it is on the reef any more: it has no place, and is placed like a new one.
async fn gone(
    instance: &CloudInstance,
    shared: &Shared,
    home: &Home,
    status: &CloudInstanceStatus,
    now: Timestamp,
) -> Result<(), Error> {
    let context: &Context = &shared.context;
    let reefs = kube::Api::<Reef>::all(context.client.clone());
    let reef = reefs.get(&home.reef.name_any()).await.map_err(Error::api("read the Reef"))?;
    // The place that may still be kept for it there is given up first.
    placing::release(context, instance, &reef).await?;
    let Some(next) = without(status, now) else { return Ok(()) };
    write(instance, shared, &next).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{plan::Plan, tests::inputs},
        *,
    };
    use crate::{azure::ArmError, resources::Write};
    use serde_json::json;

    fn status() -> CloudInstanceStatus {
        serde_json::from_value(json!({
            "placement": { "reef": "weu-1", "storageAccount": "a", "generation": 3, "reason": "" },
            "database": { "server": "s", "name": "d", "ready": false },
            "share": { "account": "a", "name": "f", "ready": true },
            "version": { "target": "v" },
        }))
        .unwrap()
    }

    fn leaves(
        status: &CloudInstanceStatus,
        state: Observed<serde_json::Value>,
        code: &str,
        asked: bool,
    ) -> bool {
        let inputs = inputs();
        let id = inputs.id(Part::Database);
        let body = format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#);
        let mut memory = Memory::default();
        memory.failed(&id, ArmError::from_answer(409, None, body.as_bytes()), 0.0, Timestamp::UNIX_EPOCH);
        let seen = Seen { state, operation: None, blind: None, failure: None };
        let wanted = inputs.wanted(Part::Database);
        let write = Write {
            part: Part::Database,
            id,
            api: wanted.api,
            body: json!({}),
            found: None,
            unless: wanted.unless,
            grows: &[],
            whole: None,
            why: "absent".to_owned(),
        };
        let plan = Plan {
            verdicts: BTreeMap::new(),
            writes: if asked { vec![write] } else { Vec::new() },
            was_good: false,
        };
        refused(status, &inputs, (&plan, &[(Part::Database, seen)].into()), &memory, Timestamp::UNIX_EPOCH)
            .is_some()
    }

    #[test]
    fn only_what_never_was_there_and_was_refused_for_want_of_room_lets_an_instance_leave() {
        let absent = || Observed::Absent;
        assert!(leaves(&status(), absent(), "40881", true));
        assert!(!leaves(&status(), absent(), "ConflictingServerOperation", true), "that passes");
        assert!(!leaves(&status(), absent(), "40881", false), "an answer of long ago");
        assert!(!leaves(&status(), Observed::Present(json!({})), "40881", true), "it is there");
        assert!(!leaves(&status(), Observed::Unknown("".into()), "40881", true), "it may be there");
        let mut was_there = status();
        was_there.database.as_mut().unwrap().ready = true;
        assert!(!leaves(&was_there, absent(), "40881", true), "it held data");
        let mut served = status();
        served.version.as_mut().unwrap().running = Some("v".to_owned());
        assert!(!leaves(&served, absent(), "40881", true));
        let leaving = CloudInstanceStatus { leaving: Some("x".to_owned()), ..status() };
        assert!(!leaves(&leaving, absent(), "40881", true), "it does already");
    }

    #[test]
    fn where_it_was_refused_is_remembered_and_all_else_forgotten() {
        let mut status = CloudInstanceStatus { leaving: Some("x".to_owned()), ..status() };
        for _ in 0..20 {
            let next = without(&status, Timestamp::UNIX_EPOCH).unwrap();
            assert!(next.placement.is_none() && next.database.is_none() && next.leaving.is_none());
            assert_eq!(next.refused_on.last().unwrap().generation, 3);
            status = CloudInstanceStatus { placement: status.placement.clone(), ..next };
        }
        assert_eq!(status.refused_on.len(), REMEMBERED);
    }
}
