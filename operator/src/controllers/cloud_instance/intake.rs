//! Gives an instance its place and its names, which stand in the status before anything is made under them.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Api, ResourceExt};
use reef_crds::{
    CloudInstance, CloudInstanceStatus, Reef, Region, RetainedInstance,
    cloud_instance::{DatabaseStatus, InstanceIdentityStatus, PlacementStatus, ShareStatus, VersionStatus},
    condition::{ConditionType, Reason, true_since},
    meta::{CONFIRM_ADOPTION, RECONCILE_REQUESTED_AT},
};

use super::{
    existing::{self, Answer, Existing},
    names,
};
use crate::{
    azure::Arm,
    controller::{
        Context, Error,
        objects::{Listed, each},
        stop::Stops,
        trouble::Trouble,
    },
    controllers::reef::{
        references::{Held, arm},
        teardown::annotated,
    },
    resources::memory::Memory,
};

/// Reason of the place of an instance that was found.
const FOUND: &str = "found where it was";

/// Whether what belongs to an earlier CloudInstance of this name may be taken over.
pub fn may_adopt(instance: &CloudInstance, region: &Region, now: Timestamp) -> bool {
    annotated(instance, CONFIRM_ADOPTION)
        || region.spec.adopt_until.as_ref().is_some_and(|until| now < until.0)
}

/// Where an instance is to be.
pub enum Found {
    /// It exists.
    There(PlacementStatus),
    /// It has to be placed; the client of Azure.
    Nowhere(Arc<Arm>),
}

/// Looks whether the instance exists. Its placement follows, in its turn.
pub async fn search(
    context: &Context,
    instance: &CloudInstance,
    region: &Region,
    memory: &mut Memory,
    now: Timestamp,
) -> Result<Result<Found, Held>, Error> {
    let conditions = region.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    if true_since(&conditions, ConditionType::Ready).is_none() || region.metadata.deletion_timestamp.is_some()
    {
        let message = format!("spec.regionRef: Region {} is not Ready", region.name_any());
        return Ok(Err(Held(Trouble::new(Reason::ReferenceNotReady, message), false)));
    }
    let stops = Stops::of(region, instance.annotations(), now);
    let arm = match arm(context, region, context.cells.region(&region.name_any()), &stops.ban(true)) {
        Ok(arm) => arm,
        Err(held) => return Ok(Err(held)),
    };
    if let Some(held) = retained(context, instance).await? {
        return Ok(Err(held));
    }
    let reefs = match reefs(context, region).await? {
        Ok(reefs) => reefs,
        Err(held) => return Ok(Err(held)),
    };
    // While nothing may be made, nothing gets a place.
    let nowhere = |arm| match stops.creations() {
        Some(trouble) => Err(Held(trouble.clone(), false)),
        None => Ok(Found::Nowhere(arm)),
    };
    // While it waits for room it is not made by anybody, so it is not looked for each time.
    let fresh = |at: Timestamp| now.duration_since(at).unsigned_abs() < context.policy.resync;
    let where_ = looked_for(&reefs, instance, may_adopt(instance, region, now));
    if memory.nowhere.as_ref().is_some_and(|(at, before)| fresh(*at) && *before == where_) {
        return Ok(nowhere(arm));
    }
    memory.nowhere = None;
    Ok(match existing::find(context, &arm, instance, region, &reefs, now).await {
        Err(held) => Err(held),
        Ok(Answer::There(found)) => taken_over(instance, region, found, now).map(Found::There),
        Ok(Answer::Nowhere { all_answered }) => {
            memory.nowhere = all_answered.then_some((now, where_));
            nowhere(arm)
        }
    })
}

/// What a search follows from: the reefs, whether what exists is being taken over, and the last wish for a look.
fn looked_for(reefs: &[Reef], instance: &CloudInstance, may_adopt: bool) -> String {
    let one = |reef: &Reef| {
        let status = reef.status.as_ref();
        let server = status.and_then(|s| s.sql_server.as_ref()).map_or("", |server| server.name.as_str());
        format!("{}/{server}", reef.name_any())
    };
    let asked = instance.annotations().get(RECONCILE_REQUESTED_AT).cloned().unwrap_or_default();
    let reefs: Vec<_> = reefs.iter().map(one).collect();
    format!("{} {may_adopt} {asked}", reefs.join(","))
}

/// The reefs of a region, from the API server itself. While one of them cannot be read it is not known what is there.
pub async fn reefs(context: &Context, region: &Region) -> Result<Result<Vec<Reef>, Held>, Error> {
    let (mut reefs, mut unreadable) = (Vec::new(), None);
    let name = region.name_any();
    each::<Reef>(&context.client, "list Reefs", |reef| match reef {
        Listed::Readable(reef) if reef.spec.region_ref.name == name => reefs.push(reef.clone()),
        Listed::Unreadable(reef) if reef["spec"]["regionRef"]["name"] == name.as_str() => {
            unreadable = reef["metadata"]["name"].as_str().map(str::to_owned);
        }
        _ => {}
    })
    .await?;
    Ok(match unreadable {
        None => Ok(reefs),
        Some(reef) => {
            let message = format!(
                "Reef {reef} of region {name} cannot be read, so it is not known what is on it: correct it, or install the CRD chart that belongs to the operator"
            );
            Err(Held(Trouble::new(Reason::SpecInvalid, message), false))
        }
    })
}

fn taken_over(
    instance: &CloudInstance,
    region: &Region,
    found: Existing,
    now: Timestamp,
) -> Result<PlacementStatus, Held> {
    let (reef, claim) = (&found.reef, &found.claim);
    if *claim != instance.uid().unwrap_or_default() && !may_adopt(instance, region, now) {
        let message = format!(
            "the instance exists on Reef {reef} and belongs to an earlier CloudInstance of this name (uid {claim}): annotate this one with {CONFIRM_ADOPTION}=true to take it over"
        );
        return Err(Held(Trouble::new(Reason::AdoptionRequired, message), true));
    }
    Ok(self::found(found))
}

/// The place of what was found.
pub fn found(found: Existing) -> PlacementStatus {
    let Existing { reef, pool, account, generation, .. } = found;
    PlacementStatus { reef, pool, storage_account: account, generation, reason: FOUND.to_owned() }
}

/// Name of a reef's SQL server, which an instance's status keeps; held while a Reef that was restored without its status has
/// not found it again.
pub fn server_of(reef: &Reef) -> Result<String, Held> {
    let server = reef.status.as_ref().and_then(|status| status.sql_server.as_ref());
    server.map(|server| server.name.clone()).ok_or_else(|| {
        let message = format!(
            "Reef {} has not found its own resources yet, and the instance is on it",
            reef.name_any()
        );
        Held(Trouble::new(Reason::ReferenceNotReady, message), false)
    })
}

/// What is kept of a deleted instance of this name is in the way.
pub async fn retained(context: &Context, instance: &CloudInstance) -> Result<Option<Held>, Error> {
    let namespace = instance.namespace().unwrap_or_default();
    let hash = names::hash(&context.fleet, &namespace, &instance.name_any());
    let name = names::namespace(&instance.name_any(), &hash);
    let api = Api::<RetainedInstance>::all(context.client.clone());
    let found = api.get_opt(&name).await.map_err(Error::api("read the RetainedInstance"))?;
    Ok(found.map(|_| {
        let message = format!(
            "RetainedInstance {name} keeps the data of a deleted instance of this name, which is not used again silently: delete it, or choose another name"
        );
        Held(Trouble::new(Reason::RetainedExists, message), true)
    }))
}

/// The status with the place and all names; `server` is the reef's SQL server. Of an instance that was found, not placed,
/// database and share have been there: if they are not now, they are lost and not to be made.
pub fn named(
    context: &Context,
    instance: &CloudInstance,
    region: &Region,
    server: String,
    placement: PlacementStatus,
) -> CloudInstanceStatus {
    let old = instance.status.clone().unwrap_or_default();
    let namespace = instance.namespace().unwrap_or_default();
    let hash = names::hash(&context.fleet, &namespace, &instance.name_any());
    let (spec, incarnation) = (&instance.spec, 1);
    let was_there = placement.reason == FOUND;
    CloudInstanceStatus {
        url: Some(format!("https://{}.{}", spec.subdomain, region.spec.dns.zone_name())),
        version: Some(VersionStatus { running: None, target: spec.release.version.clone() }),
        namespace: Some(names::namespace(&instance.name_any(), &hash)),
        database: Some(DatabaseStatus {
            server,
            name: names::database(&hash, incarnation),
            ready: was_there,
            begun_at: None,
        }),
        share: Some(ShareStatus {
            account: placement.storage_account.clone(),
            name: names::share(&hash, incarnation),
            ready: was_there,
            begun_at: None,
        }),
        identity: Some(InstanceIdentityStatus { name: names::identity(&hash), client_id: None }),
        placement: Some(placement),
        ..old
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reef_that_does_not_know_its_server_holds_who_was_found_on_it() {
        let reef = |status: serde_json::Value| -> Reef {
            serde_json::from_value(json!({ "metadata": { "name": "r" }, "status": status,
                "spec": { "regionRef": { "name": "w" }, "classRef": { "name": "c" } } }))
            .unwrap()
        };
        assert_eq!(server_of(&reef(json!({ "sqlServer": { "name": "s" } }))).ok().as_deref(), Some("s"));
        for status in [json!({}), serde_json::Value::Null] {
            let Err(Held(trouble, stalled)) = server_of(&reef(status)) else { panic!("a name from nowhere") };
            assert_eq!((trouble.reason, stalled), (Reason::ReferenceNotReady, false));
        }
    }

    #[test]
    fn a_search_is_not_taken_for_done_when_something_else_is_asked() {
        let reef = |name: &str, server: Option<&str>| -> Reef {
            let status = server.map(|name| json!({ "sqlServer": { "name": name } }));
            serde_json::from_value(json!({
                "metadata": { "name": name }, "status": status,
                "spec": { "regionRef": { "name": "r" }, "classRef": { "name": "c" } },
            }))
            .unwrap()
        };
        let instance = |asked: &str| -> CloudInstance {
            serde_json::from_value(json!({
                "metadata": { "name": "a", "annotations": { RECONCILE_REQUESTED_AT: asked } },
                "spec": { "regionRef": { "name": "r" }, "subdomain": "a", "release": { "version": "2026.2.1" }, "taskCap": 5 },
            }))
            .unwrap()
        };
        let (one, more) = ([reef("a", Some("s"))], [reef("a", Some("s")), reef("b", None)]);
        let before = looked_for(&one, &instance("1"), false);
        assert_eq!(before, looked_for(&one, &instance("1"), false));
        for other in [
            looked_for(&more, &instance("1"), false),
            looked_for(&[reef("a", None)], &instance("1"), false),
            looked_for(&one, &instance("1"), true),
            looked_for(&one, &instance("2"), false),
        ] {
            assert_ne!(before, other);
        }
    }
}
