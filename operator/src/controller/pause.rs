//! Shows that an object is paused: in its conditions, in the metrics, in Events. What a pause is, [`stop`] says.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt, runtime::events::Recorder};
use reef_crds::condition::{ConditionType, true_since};

use super::{Context, publish, stop};
use crate::metrics::ByObject;

fn labels<K: Resource<DynamicType = ()>>(object: &K) -> ByObject {
    ByObject {
        kind: K::kind(&()).into_owned(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

/// The conditions of the next status with what the object's annotation says. `before` are those that it has; the
/// generation is the one that the next status speaks of.
pub fn with<K: Resource<DynamicType = ()>>(
    context: &Context,
    object: &K,
    before: &[Condition],
    conditions: Vec<Condition>,
    (generation, now): (i64, Timestamp),
) -> Vec<Condition> {
    let next = stop::with_pause(conditions, before, object.annotations(), generation, now);
    match true_since(&next, ConditionType::Paused) {
        Some(since) => {
            let seconds = since.as_duration().as_secs_f64();
            context.metrics.paused_since.get_or_create(&labels(object)).set(seconds);
        }
        None => forget(context, object),
    }
    next
}

/// Forgets an object that is gone, or is not paused.
pub fn forget<K: Resource<DynamicType = ()>>(context: &Context, object: &K) {
    context.metrics.paused_since.remove(&labels(object));
}

/// Tells people of stops and pauses that began, last, or are over, after the status was written.
pub async fn tell<K: Resource<DynamicType = ()>>(
    context: &Context,
    recorder: &Recorder,
    object: &K,
    before: &[Condition],
    next: &[Condition],
) {
    for (trouble, warns) in stop::news(before, next) {
        let name = super::objects::key(object);
        tracing::info!(kind = %K::kind(&()), name, reason = trouble.reason.as_str(), trouble.message, "stop");
        if context.claim.check().is_ok() {
            let object = object.object_ref(&());
            publish(recorder, &object, trouble.reason, warns, "Reconcile", &trouble.message).await;
        }
    }
}
