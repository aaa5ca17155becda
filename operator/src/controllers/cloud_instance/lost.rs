//! A deleted instance whose status has no place: it never had one, or the status was lost with an older state of the
//! management cluster. Then what belongs to it is found and goes with it; it would be nobody's otherwise.

use jiff::Timestamp;
use kube::{Api, ResourceExt};
use reef_crds::{
    CloudInstance, CloudInstanceStatus, Reef,
    condition::Reason,
    meta::{CONFIRM_FORCE_DELETION, INSTANCE_FINALIZER},
};

use super::{
    existing::{self, Answer, Existing},
    intake, references,
};
use crate::{
    controller::{Context, Error, stop::Stops, trouble::Trouble},
    controllers::reef::{
        references::{Held, arm},
        teardown::annotated,
    },
};

/// The status with the place of what there is; none if nothing of this object is anywhere. While that is not known, it
/// is held, unless deletion by force is confirmed.
pub(super) async fn place(
    context: &Context,
    instance: &CloudInstance,
    now: Timestamp,
) -> Result<Result<Option<CloudInstanceStatus>, Held>, Error> {
    let found = search(context, instance, now).await?;
    Ok(match found {
        Err(_) if annotated(instance, CONFIRM_FORCE_DELETION) => Ok(None),
        Err(Held(trouble, stalled)) => {
            let message = format!(
                "deletion waits, because it is not known whether something was made: {}; annotate with {CONFIRM_FORCE_DELETION}=true if nothing was, and the finalizer {INSTANCE_FINALIZER} goes",
                trouble.message
            );
            Err(Held(Trouble::new(trouble.reason, message), stalled))
        }
        found => found,
    })
}

async fn search(
    context: &Context,
    instance: &CloudInstance,
    now: Timestamp,
) -> Result<Result<Option<CloudInstanceStatus>, Held>, Error> {
    // Without a Region there is no reef of it, because a Region stays while it has Reefs.
    let region = match references::region(context, instance).await? {
        Ok(region) => region,
        Err(held) if held.0.reason == Reason::ReferenceNotFound => return Ok(Ok(None)),
        Err(held) => return Ok(Err(held)),
    };
    let reefs = match intake::reefs(context, &region).await? {
        Ok(reefs) => reefs,
        Err(held) => return Ok(Err(held)),
    };
    // Nothing was ever placed on them.
    if reefs.iter().all(|reef| reef.status.as_ref().is_none_or(|s| s.resource_group.is_none())) {
        return Ok(Ok(None));
    }
    let stops = Stops::of(&region, instance.annotations(), now);
    let arm = match arm(context, &region, context.cells.region(&region.name_any()), &stops.ban(true)) {
        Ok(arm) => arm,
        Err(held) => return Ok(Err(held)),
    };
    let found = match existing::find(context, &arm, instance, &region, &reefs, now).await {
        Ok(Answer::There(found)) => found,
        Ok(Answer::Nowhere { all_answered: true }) => return Ok(Ok(None)),
        // A list may be some minutes old, and the finalizer goes for good.
        Ok(Answer::Nowhere { all_answered: false }) => {
            let message = format!("not every Reef of Region {} says what is on it", region.name_any());
            return Ok(Err(Held(Trouble::new(Reason::AzureUnavailable, message), false)));
        }
        Err(held) => {
            // It is somebody else's, and in its way nothing was made.
            let is_taken = held.0.reason == Reason::NameTaken
                || (held.0.reason == Reason::RetainedExists
                    && intake::retained(context, instance).await?.is_some());
            return Ok(if is_taken { Ok(None) } else { Err(held) });
        }
    };
    if !is_its(instance, &found) {
        return Ok(Ok(None));
    }
    let api = Api::<Reef>::all(context.client.clone());
    let reef = api.get(&found.reef).await.map_err(Error::api("read the Reef"))?;
    tracing::warn!(
        name = instance.name_any(),
        reef = found.reef,
        "a deleted instance without a place was found"
    );
    // Not held like one that is nowhere, which goes by force: it is there, and the reef will soon know its own names.
    let server = intake::server_of(&reef).map_err(|held| Error::Outdated(held.0.message))?;
    Ok(Ok(Some(intake::named(context, instance, &region, server, intake::found(found)))))
}

/// Whether what was found was made for this very object, or taken over by it. That of an earlier one of its name is not
/// its to delete.
fn is_its(instance: &CloudInstance, found: &Existing) -> bool {
    instance.uid().is_some_and(|uid| uid == found.claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_for_this_object_goes_with_it() {
        let mut instance: CloudInstance = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "a" },
            "spec": { "regionRef": { "name": "r" }, "subdomain": "a", "release": { "version": "2026.2.1" }, "taskCap": 5 },
        }))
        .unwrap();
        let found = |claim: &str| Existing {
            reef: "r".to_owned(),
            pool: None,
            account: "a".to_owned(),
            generation: 1,
            claim: claim.to_owned(),
        };
        assert!(!is_its(&instance, &found("")), "one without a UID has nothing");
        instance.metadata.uid = Some("1".to_owned());
        assert!(is_its(&instance, &found("1")));
        assert!(!is_its(&instance, &found("2")));
        assert!(!is_its(&instance, &found("")));
    }
}
