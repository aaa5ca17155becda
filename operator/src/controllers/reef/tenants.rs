//! Who lives on a reef, as the management cluster knows it.

use kube::ResourceExt;
use reef_crds::{CloudInstance, Reef, RetainedInstance, condition::Reason};

use crate::controller::{
    Context, Error,
    objects::{Listed, each, may_be_here},
    trouble::Trouble,
};

/// How many are named in a message.
const NAMED: usize = 5;

/// Why a Reef may not go, whatever its policy: without it nobody could reach, change or delete what lives there. Asked
/// of the API server itself, because a cache could miss the newest.
pub async fn in_the_way(context: &Context, reef: &Reef) -> Result<Option<Trouble>, Error> {
    let (mut instances, mut kept, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    each::<CloudInstance>(&context.client, "list CloudInstances", |instance| match instance {
        Listed::Readable(instance) => instances.push(instance.clone()),
        Listed::Unreadable(value) => {
            unreadable.extend(may_be_here(
                "CloudInstance",
                value,
                "/status/placement/reef",
                &reef.name_any(),
            ));
        }
    })
    .await?;
    each::<RetainedInstance>(&context.client, "list RetainedInstances", |retained| match retained {
        Listed::Readable(retained) => kept.push(retained.clone()),
        Listed::Unreadable(value) => {
            unreadable.extend(may_be_here("RetainedInstance", value, "/spec/reefRef/name", &reef.name_any()));
        }
    })
    .await?;
    Ok(refusal(reef, &instances, &kept, &unreadable))
}

/// The same from what was read (pure).
fn refusal(
    reef: &Reef,
    instances: &[CloudInstance],
    kept: &[RetainedInstance],
    unreadable: &[String],
) -> Option<Trouble> {
    let name = reef.name_any();
    let is_promised = |instance: &CloudInstance| {
        let uid = instance.uid().unwrap_or_default();
        reef.status.as_ref().is_some_and(|s| s.reservations.iter().any(|r| r.uid == uid))
    };
    let lives_here = |instance: &&CloudInstance| {
        let placement = instance.status.as_ref().and_then(|s| s.placement.as_ref());
        placement.map_or_else(|| is_promised(instance), |placement| placement.reef == name)
    };
    let live = instances
        .iter()
        .filter(lives_here)
        .map(|i| format!("CloudInstance {}/{}", i.namespace().unwrap_or_default(), i.name_any()));
    let kept = kept.iter().filter(|k| k.spec.reef_ref.name == name);
    let kept = kept.map(|k| format!("RetainedInstance {}", k.name_any()));
    let all: Vec<String> = live.chain(kept).chain(unreadable.iter().cloned()).collect();
    let some = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    (!all.is_empty()).then(|| {
        let message = format!(
            "the reef is not empty: {} objects are on it ({some}): delete them first; nothing was touched",
            all.len()
        );
        Trouble::new(Reason::DeletionBlocked, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reef_with_somebody_on_it_stays() {
        let reef: Reef = serde_json::from_value(json!({
            "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "Reef", "metadata": { "name": "r" },
            "spec": { "regionRef": { "name": "g" }, "classRef": { "name": "c" } },
            "status": { "reservations": [{
                "uid": "promised", "namespace": "n", "name": "p", "storageAccount": "a", "generation": 1,
                "at": "2026-01-01T00:00:00Z",
            }] },
        }))
        .unwrap();
        let instance = |uid: &str, on: Option<&str>| -> CloudInstance {
            let placement =
                on.map(|reef| json!({ "reef": reef, "storageAccount": "a", "generation": 1, "reason": "" }));
            serde_json::from_value(json!({
                "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "CloudInstance",
                "metadata": { "name": uid, "namespace": "n", "uid": uid },
                "spec": { "regionRef": { "name": "g" }, "subdomain": "s", "release": { "version": "2026.2.1" }, "taskCap": 5, "quota": { "share": "1Gi", "database": "1Gi" } },
                "status": { "placement": placement },
            }))
            .unwrap()
        };
        let message = |instances: &[CloudInstance]| refusal(&reef, instances, &[], &[]).map(|t| t.message);
        assert_eq!(message(&[instance("a", Some("other")), instance("b", None)]), None);
        assert_eq!(message(&[instance("promised", Some("other"))]), None, "it went elsewhere");
        assert!(
            message(&[instance("a", Some("r"))]).unwrap().contains("1 objects are on it (CloudInstance n/a)")
        );
        assert!(message(&[instance("promised", None)]).is_some());
        let unreadable =
            |placement| json!({ "metadata": { "name": "x", "namespace": "n" }, "status": placement });
        let here =
            |value: &serde_json::Value| may_be_here("CloudInstance", value, "/status/placement/reef", "r");
        assert_eq!(here(&unreadable(json!({ "placement": { "reef": "other" } }))), None);
        assert_eq!(here(&unreadable(json!({}))).unwrap(), "CloudInstance n/x, which cannot be read");
    }
}
