//! How a Reef goes: each situation with the next step.

use reef_crds::condition::Reason;
use serde_json::{Value, json};

use super::{
    names::TAG_CLAIM,
    teardown::{self, Remains, Step},
    tests::{inputs, reef},
};
use crate::observed::Observed;

fn remains() -> Remains {
    let tags = inputs().tags();
    let mut group = json!({ "tags": tags, "properties": { "provisioningState": "Succeeded" } });
    group["tags"][TAG_CLAIM] = json!("u");
    Remains {
        group: Observed::Present(group),
        record: Observed::Present(json!({ "properties": { "metadata": tags } })),
        resources: Observed::Present(vec![
            json!({ "id": "/x", "type": "Microsoft.Sql/servers", "tags": tags }),
            json!({ "id": "/x/databases/master", "type": "Microsoft.Sql/servers/databases" }),
        ]),
        data: Observed::Present(vec![]),
        restorable: Observed::Present(vec![]),
        locks: Observed::Present(vec!["/lock".to_owned()]),
        is_second_look: false,
    }
}

fn next(change: &Value, remains: &Remains) -> Step {
    teardown::next(&reef(change), remains, &inputs().tags())
}

#[test]
fn a_reef_goes_step_by_step() {
    let mut left = remains();
    let go = json!({});
    assert_eq!(next(&go, &left), Step::DeleteRecord);
    left.record = Observed::Absent;
    assert_eq!(next(&go, &left), Step::DeleteLocks(vec!["/lock".to_owned()]));
    left.locks = Observed::Present(vec![]);
    assert_eq!(next(&go, &left), Step::LookAgain, "one list may be wrong");
    left.is_second_look = true;
    assert_eq!(next(&go, &left), Step::DeleteGroup);
    left.group = match left.group {
        Observed::Present(mut group) => {
            group["properties"]["provisioningState"] = json!("Deleting");
            Observed::Present(group)
        }
        other => other,
    };
    assert!(matches!(next(&go, &left), Step::Wait(_)));
    left.group = Observed::Absent;
    assert!(matches!(next(&go, &left), Step::Done(_)));
    assert!(matches!(next(&json!({ "spec": { "deletionPolicy": "Retain" } }), &remains()), Step::Done(_)));
}

#[test]
fn nothing_is_deleted_on_what_was_not_seen_or_is_not_ours_or_would_lose_data() {
    let unknown = || Observed::Unknown("no answer".into());
    let go = json!({});
    for blind in [
        Remains { group: Observed::Unknown("x".into()), ..remains() },
        Remains { record: Observed::Unknown("x".into()), ..remains() },
        Remains { resources: Observed::Unknown("x".into()), ..remains() },
        Remains { data: unknown(), ..remains() },
        Remains { restorable: unknown(), ..remains() },
        Remains { locks: unknown(), record: Observed::Absent, ..remains() },
    ] {
        assert!(matches!(next(&go, &blind), Step::Held(_, false)), "{blind:?}");
    }
    let some = |text: &str| Observed::Present(vec![text.to_owned()]);
    for (left, expect) in [
        (Remains { data: some("database d"), ..remains() }, "not empty"),
        (Remains { restorable: some("database d"), ..remains() }, "can still be restored"),
        (
            Remains {
                resources: Observed::Present(vec![
                    json!({ "id": "/foreign", "type": "Microsoft.Network/publicIPAddresses" }),
                ]),
                ..remains()
            },
            "/foreign",
        ),
    ] {
        let Step::Held(trouble, true) = next(&go, &left) else { panic!("{left:?}") };
        assert!(
            trouble.reason == Reason::DeletionBlocked && trouble.message.contains(expect),
            "{}",
            trouble.message
        );
    }
    let forced =
        json!({ "metadata": { "annotations": { "confirmation.cloud.octopus.com/force-deletion": "true" } } });
    let restorable = Remains { restorable: some("database d"), ..remains() };
    assert_eq!(next(&forced, &restorable), Step::DeleteRecord);
    let data = Remains { data: some("database d"), ..remains() };
    assert!(matches!(next(&forced, &data), Step::Held(..)), "live data is never given up");
    // Another object's group, and a record that somebody else made.
    let mut other = remains();
    let Observed::Present(group) = &mut other.group else { panic!() };
    group["tags"][TAG_CLAIM] = json!("later");
    assert!(matches!(next(&go, &other), Step::Done(_)));
    let mut unmarked = remains();
    let Observed::Present(group) = &mut unmarked.group else { panic!() };
    group["tags"] = json!({ "cost": "1" });
    assert!(matches!(next(&go, &unmarked), Step::Done(_)), "a group that was never ours");
    let was_made = json!({ "status": { "agentIdentity": { "clientId": "c", "principalId": "p" } } });
    assert!(
        matches!(next(&was_made, &unmarked), Step::Held(_, true)),
        "a group that lost its tags is asked about"
    );
    let foreign = Observed::Present(json!({ "properties": { "metadata": {} } }));
    let left = Remains { record: foreign.clone(), group: Observed::Absent, ..remains() };
    assert!(matches!(next(&go, &left), Step::Done(_)), "somebody else's record stays");
    assert!(matches!(next(&go, &Remains { record: foreign, ..remains() }), Step::DeleteLocks(_)));
}

#[test]
fn deletion_begins_only_when_it_is_confirmed() {
    let confirm =
        json!({ "metadata": { "annotations": { "confirmation.cloud.octopus.com/deletion": "true" } } });
    assert_eq!(teardown::may_begin(&reef(&json!({}))).unwrap().reason, Reason::DeletionUnconfirmed);
    assert_eq!(teardown::may_begin(&reef(&confirm)), None);
    let yes = json!({ "metadata": { "annotations": { "confirmation.cloud.octopus.com/deletion": "yes" } } });
    assert!(teardown::may_begin(&reef(&yes)).is_some());
    assert_eq!(teardown::may_begin(&reef(&json!({ "spec": { "deletionProtection": false } }))), None);
}
