//! What becomes of what is kept (pure).

use reef_crds::{
    CloudInstance, RetainedInstance, condition::Reason, meta::CONFIRM_DELETION, reef::DeletionPolicy,
};
use serde_json::Value;

use crate::{
    controller::trouble::Trouble,
    controllers::{
        cloud_instance::names::{self, TAG_CLAIM, TAG_INSTANCE},
        reef::{names::TAG_FLEET, teardown::annotated},
    },
    observed::Observed,
    resources::{Verdict, marks},
};

/// Something that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The database.
    Database,
    /// The file share.
    Share,
}

impl Part {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Database, Self::Share];

    /// In words, for messages.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Share => "file share",
        }
    }

    /// Its id.
    pub fn id(self, retained: &RetainedInstance) -> &str {
        match self {
            Self::Database => &retained.spec.database.id,
            Self::Share => &retained.spec.share.id,
        }
    }
}

/// Whether a part that was found is still what was kept: it carries the marks of the instance that it was.
fn is_kept(retained: &RetainedInstance, part: Part, fleet: &str, found: &Value) -> bool {
    let found = marks(part.id(retained), found);
    let origin = &retained.spec.origin;
    let wanted = [
        (TAG_FLEET, fleet.to_owned()),
        (TAG_INSTANCE, format!("{}/{}", origin.namespace, origin.name)),
        (TAG_CLAIM, origin.uid.clone()),
    ];
    // Metadata of shares takes no dashes in names.
    wanted.iter().all(|(name, value)| {
        let either = [(*name).to_owned(), name.replace('-', "_")];
        either.iter().any(|name| found[name.as_str()] == value.as_str())
    })
}

/// How a part is.
pub fn verdict(retained: &RetainedInstance, part: Part, fleet: &str, state: &Observed<Value>) -> Verdict {
    let (what, id) = (part.what(), part.id(retained));
    let trouble = |reason, why: &str| Trouble::new(reason, format!("{what} {id} {why}"));
    match state {
        Observed::Present(found) if is_kept(retained, part, fleet, found) => Verdict::Good,
        Observed::Present(_) => {
            Verdict::Blocked(trouble(Reason::NameTaken, "does not carry the marks of the instance any more"))
        }
        Observed::Absent => Verdict::Blocked(trouble(Reason::DataResourceMissing, "is gone")),
        Observed::Unknown(why) => Verdict::Unknown(trouble(why.reason, &why.text)),
    }
}

/// The next step of a deletion.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing is left to do: the object may go.
    Done,
    /// Delete this.
    Delete(Part),
    /// It cannot go on.
    Held(Trouble, bool),
}

/// Whether nothing is kept once the tombstone's work is done: then the object goes by itself.
pub fn leaves_nothing(retained: &RetainedInstance) -> bool {
    retained.spec.tombstone.as_ref().is_some_and(|t| t.deletion_policy == DeletionPolicy::Delete)
}

/// Whether deletion may begin at all. What is kept has no other protection, so it is always asked for.
pub fn may_begin(retained: &RetainedInstance) -> Option<Trouble> {
    (!annotated(retained, CONFIRM_DELETION)).then(|| {
        let message = format!("deletion is asked for and nothing was touched: annotate with {CONFIRM_DELETION}=true if database and file share are to be deleted");
        Trouble::new(Reason::DeletionUnconfirmed, message)
    })
}

/// Id of the managed identity that the instance had: it is deleted before its data is only kept.
pub fn identity(retained: &RetainedInstance, fleet: &str) -> String {
    let (group, _) = retained.spec.database.id.split_once("/providers/").unwrap_or_default();
    let origin = &retained.spec.origin;
    let name = names::identity(&names::hash(fleet, &origin.namespace, &origin.name));
    format!("{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}")
}

/// Why nothing is done for this object: the CloudInstance that it speaks of lives, so its data is not kept but used.
pub fn in_use(retained: &RetainedInstance, instance: Option<&CloudInstance>) -> Option<Trouble> {
    let origin = &retained.spec.origin;
    let lives = instance.is_some_and(|i| {
        i.metadata.uid.as_deref() == Some(&origin.uid) && i.metadata.deletion_timestamp.is_none()
    });
    lives.then(|| used(retained, &format!("CloudInstance {}/{} lives", origin.namespace, origin.name)))
}

fn used(retained: &RetainedInstance, why: &str) -> Trouble {
    let message = format!(
        "database {} is in use ({why}): this object keeps nothing, and nothing is removed for it",
        retained.spec.database.id
    );
    Trouble::new(Reason::NameTaken, message)
}

/// Decides how a deletion goes on. `remains` are the identity that the instance had, the database and the share.
pub fn teardown(retained: &RetainedInstance, fleet: &str, remains: [&Observed<Value>; 3]) -> Step {
    let [identity, database, share] = remains;
    match identity {
        Observed::Unknown(why) => {
            let message = format!("managed identity: {why}");
            return Step::Held(Trouble::new(why.reason, message), false);
        }
        Observed::Present(found) if found["tags"][TAG_CLAIM] == retained.spec.origin.uid.as_str() => {
            return Step::Held(used(retained, "its instance still has its managed identity"), true);
        }
        _ => {}
    }
    for (part, state) in Part::ALL.into_iter().zip([database, share]) {
        match state {
            Observed::Unknown(why) => {
                let message = format!("{}: {why}", part.what());
                return Step::Held(Trouble::new(why.reason, message), false);
            }
            // What is not what was kept is somebody else's.
            Observed::Present(found) if is_kept(retained, part, fleet, found) => return Step::Delete(part),
            _ => {}
        }
    }
    Step::Done
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const UID: &str = "00000000-0000-4000-8000-000000000001";

    fn retained() -> RetainedInstance {
        serde_json::from_value(json!({
            "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "RetainedInstance",
            "metadata": { "name": "r" },
            "spec": {
                "origin": { "namespace": "acme", "name": "one", "uid": UID },
                "regionRef": { "name": "g" }, "reefRef": { "name": "r" },
                "database": { "id": "/s/providers/x/databases/db", "name": "db", "isolation": { "tier": "Shared" } },
                "share": { "id": "/a/shares/fs", "name": "fs", "quota": { "share": "1Gi", "database": "1Gi" } },
                "keysSecretRef": { "name": "k" }, "version": "2026.2.1", "subdomain": "one",
            },
        }))
        .unwrap()
    }

    fn database(uid: &str) -> Observed<Value> {
        Observed::Present(json!({ "tags": {
            TAG_FLEET: "f", TAG_INSTANCE: "acme/one", TAG_CLAIM: uid,
        } }))
    }

    fn share() -> Observed<Value> {
        Observed::Present(json!({ "properties": { "metadata": {
            "reef_operator_fleet": "f", "reef_operator_instance": "acme/one", "reef_operator_claim": UID,
        } } }))
    }

    #[test]
    fn only_what_was_kept_is_deleted_and_only_after_a_certain_look() {
        let (retained, absent) = (retained(), Observed::Absent);
        let unknown = Observed::Unknown("no answer".into());
        let next = |d: &Observed<Value>, s: &Observed<Value>| teardown(&retained, "f", [&absent, d, s]);
        assert_eq!(next(&database(UID), &share()), Step::Delete(Part::Database));
        assert_eq!(next(&absent, &share()), Step::Delete(Part::Share));
        assert_eq!(next(&absent, &absent), Step::Done);
        assert_eq!(next(&database("other"), &absent), Step::Done, "somebody else took it over");
        assert!(matches!(next(&unknown, &share()), Step::Held(_, false)));
        assert!(matches!(next(&absent, &unknown), Step::Held(_, false)));
        let other = teardown(&retained, "other", [&absent, &database(UID), &share()]);
        assert_eq!(other, Step::Done, "another fleet's");
    }

    #[test]
    fn data_that_is_used_is_not_removed() {
        let retained = retained();
        let next =
            |identity: &Observed<Value>| teardown(&retained, "f", [identity, &database(UID), &share()]);
        assert!(matches!(next(&database(UID)), Step::Held(t, true) if t.reason == Reason::NameTaken));
        assert!(matches!(next(&Observed::Unknown("no answer".into())), Step::Held(_, false)));
        assert_eq!(next(&database("a later instance")), Step::Delete(Part::Database));
        let instance = |uid: &str, deleted: Option<&str>| -> CloudInstance {
            serde_json::from_value(json!({
                "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "CloudInstance",
                "metadata": { "name": "one", "namespace": "acme", "uid": uid, "deletionTimestamp": deleted },
                "spec": { "regionRef": { "name": "g" }, "subdomain": "one", "release": { "version": "2026.2.1" }, "taskCap": 5,
                    "quota": { "share": "1Gi", "database": "1Gi" } },
            }))
            .unwrap()
        };
        assert!(in_use(&retained, Some(&instance(UID, None))).is_some());
        assert_eq!(in_use(&retained, Some(&instance(UID, Some("2026-01-01T00:00:00Z")))), None);
        assert_eq!(in_use(&retained, Some(&instance("a later one", None))), None);
        assert_eq!(in_use(&retained, None), None);
        let id = identity(&retained, "f");
        let hash = names::hash("f", "acme", "one");
        assert_eq!(id, format!("/s/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-{hash}"));
    }

    #[test]
    fn deletion_is_always_to_be_confirmed() {
        let mut retained = retained();
        assert!(may_begin(&retained).is_some_and(|t| t.reason == Reason::DeletionUnconfirmed));
        retained.metadata.annotations = Some([(CONFIRM_DELETION.to_owned(), "true".to_owned())].into());
        assert_eq!(may_begin(&retained), None);
    }

    #[test]
    fn what_is_gone_or_not_ours_is_told() {
        let retained = retained();
        let reason = |state| match verdict(&retained, Part::Database, "f", &state) {
            Verdict::Blocked(trouble) | Verdict::Unknown(trouble) => Some(trouble.reason),
            _ => None,
        };
        assert_eq!(reason(database(UID)), None);
        assert_eq!(reason(database("other")), Some(Reason::NameTaken));
        assert_eq!(reason(Observed::Absent), Some(Reason::DataResourceMissing));
        assert_eq!(reason(Observed::Unknown("".into())), Some(Reason::AzureUnavailable));
    }
}
