//! Gets an instance its place: it is looked for first, and placed only if it is nowhere.

use jiff::Timestamp;
use kube::{Api, Resource, ResourceExt};
use reef_crds::{
    CloudInstance, Reef, Region,
    cloud_instance::PlacementStatus,
    condition::{ConditionType, Reason},
};

use super::{
    Shared,
    intake::{self, Found},
    look::write,
    placing::{self, Before, Placing},
    references,
};
use crate::{
    controller::{Error, publish, trouble::Trouble},
    controllers::reef::references::Held,
};

/// The instance with its place and names in the status, which stand there before anything is made.
pub(super) async fn placed(
    instance: &CloudInstance,
    shared: &Shared,
) -> Result<Result<CloudInstance, Held>, Error> {
    let context = &*shared.context;
    if instance.status.as_ref().is_some_and(|s| s.placement.is_some()) {
        return Ok(Ok(instance.clone()));
    }
    let region = match references::region(context, instance).await? {
        Ok(region) => region,
        Err(held) => return Ok(Err(held)),
    };
    let now = Timestamp::now();
    let uid = instance.uid().unwrap_or_default();
    let mut memory = shared.memories.take(&uid);
    let found = intake::search(context, instance, &region, &mut memory, now).await;
    shared.memories.put(&uid, memory);
    let found = match found? {
        Ok(found) => found,
        Err(held) => return Ok(Err(held)),
    };
    if let Found::Nowhere(arm) = &found {
        let reefs = match intake::reefs(context, &region).await? {
            Ok(reefs) => reefs,
            Err(held) => return Ok(Err(held)),
        };
        placing::prepare(context, arm, &reefs, now).await;
    }
    let turn = shared.turn(&region.name_any());
    let mut before = turn.lock().await;
    let mut note = None;
    let placement = match found {
        Found::There(placement) => placement,
        Found::Nowhere(_) => match chosen(instance, shared, &region, (&mut before, &mut note), now).await? {
            Ok(placement) => placement,
            Err(held) => return Ok(Err(held)),
        },
    };
    let reefs = Api::<Reef>::all(context.client.clone());
    let reef = reefs.get(&placement.reef).await.map_err(Error::api("read the Reef"))?;
    let server = match intake::server_of(&reef) {
        Ok(server) => server,
        Err(held) => return Ok(Err(held)),
    };
    let note = note.unwrap_or_else(|| format!("{}: {}", placing::placement(&placement), placement.reason));
    let next = intake::named(context, instance, &region, server, placement);
    // Only while the instance is as it was placed: somebody else may have placed it.
    let instance = &write(instance, shared, &next).await?;
    drop(before);
    let is_first = next.refused_on.is_empty();
    let action = if is_first { "Place" } else { "PlaceAgain" };
    publish(&shared.recorder, &instance.object_ref(&()), Reason::Scheduled, false, action, &note).await;
    // The place stands in the instance's own status now. If this fails, the next placement on that reef does it.
    if let Err(error) = placing::release(context, instance, &reef).await {
        tracing::debug!(%error, name = instance.name_any(), "reservation");
    }
    Ok(Ok(instance.clone()))
}

/// A place on one of the reefs of the region; `note` gets the words for it.
async fn chosen(
    instance: &CloudInstance,
    shared: &Shared,
    region: &Region,
    (before, note): (&mut Before, &mut Option<String>),
    now: Timestamp,
) -> Result<Result<PlacementStatus, Held>, Error> {
    let context = &*shared.context;
    // The reefs first, and the instances after: what a reef no longer keeps a place for stands in its instance.
    let reefs = match intake::reefs(context, region).await? {
        Ok(reefs) => reefs,
        Err(held) => return Ok(Err(held)),
    };
    let placement = placing::place(Placing { context, before, note }, instance, &reefs, now).await?;
    if let Err(held) = &placement {
        refused(instance, shared, &held.0, note.as_deref()).await;
    }
    Ok(placement)
}

/// Tells why each reef was refused, when that is news.
async fn refused(instance: &CloudInstance, shared: &Shared, trouble: &Trouble, note: Option<&str>) {
    let conditions = instance.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let ready = conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str());
    let is_known = ready.is_some_and(|c| c.reason == trouble.reason.as_str() && c.message == trouble.message);
    if let Some(note) = note.filter(|_| !is_known && shared.context.claim.check().is_ok()) {
        publish(&shared.recorder, &instance.object_ref(&()), trouble.reason, true, "Place", note).await;
    }
}
