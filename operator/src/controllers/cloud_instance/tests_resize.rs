//! What is decided about the size of a pod.

use proptest::prelude::*;

use super::*;

/// A pod that asks for a size and has it, `started` and `ready`.
fn pod(size: Size, started: Option<bool>, ready: bool) -> Pod {
    let conditions = json!([{ "type": "Ready", "status": if ready { "True" } else { "False" } }]);
    let status = started.map(|started| {
        json!([{
            "name": SERVER, "image": "i", "imageID": "", "ready": ready, "restartCount": 0, "started": started,
            "resources": size.resources(), "allocatedResources": size.resources()["requests"],
        }])
    });
    serde_json::from_value(json!({
        "metadata": { "name": "octopus-0", "uid": "u", "generation": 1 },
        "spec": { "containers": [{ "name": SERVER, "resources": size.resources() }] },
        "status": { "observedGeneration": 1, "conditions": conditions, "containerStatuses": status },
    }))
    .unwrap()
}

/// The API server takes a resize.
fn taken(mut pod: Pod, size: Size) -> Pod {
    let resources = serde_json::from_value(size.resources()).unwrap();
    pod.spec.as_mut().unwrap().containers[0].resources = Some(resources);
    pod.metadata.generation = pod.metadata.generation.map(|g| g + 1);
    pod
}

/// The node gives what is asked for.
fn given(mut pod: Pod) -> Pod {
    let resources = pod.spec.as_ref().unwrap().containers[0].resources.clone();
    let status = pod.status.as_mut().unwrap();
    status.observed_generation = pod.metadata.generation;
    status.conditions.as_mut().unwrap().retain(|c| c.type_ == "Ready");
    for container in status.container_statuses.iter_mut().flatten() {
        container.allocated_resources = resources.as_ref().and_then(|r| r.requests.clone());
        container.resources.clone_from(&resources);
    }
    pod
}

/// The node says something of the resize.
fn told(mut pod: Pod, type_: &str, reason: &str) -> Pod {
    let status = pod.status.as_mut().unwrap();
    status.observed_generation = pod.metadata.generation;
    status.conditions.as_mut().unwrap().push(PodCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()).filter(|r| !r.is_empty()),
        message: Some("cpu, requested: 3500".to_owned()),
        ..PodCondition::default()
    });
    pod
}

fn steady(cap: u8) -> Size {
    sizes::of(cap)
}

fn starting(cap: u8) -> Size {
    sizes::starting(sizes::of(cap))
}

#[test]
fn each_situation_has_its_step() {
    // The memory limit that a server was started with stays.
    let shrunk = Size { memory_limit: steady(40).memory_limit, ..steady(5) };
    for (what, (size, started, ready), cap, expect) in [
        ("it starts", (starting(10), Some(false), false), 10, Step::Nothing),
        ("nothing runs yet", (starting(10), None, false), 10, Step::Nothing),
        ("it is ready", (starting(10), Some(true), true), 10, Step::Resize(steady(10))),
        ("it is ready and as wanted", (steady(10), Some(true), true), 10, Step::Nothing),
        ("it has started and does not serve yet", (starting(10), Some(true), false), 10, Step::Nothing),
        ("it does not serve for a while", (steady(10), Some(true), false), 10, Step::Nothing),
        ("its container starts again", (steady(10), Some(false), false), 10, Step::Resize(starting(10))),
        ("it is to grow", (steady(10), Some(true), true), 40, Step::Resize(steady(40))),
        ("it is to grow while it starts", (starting(10), Some(false), false), 40, Step::Resize(starting(40))),
        ("it is to shrink", (steady(40), Some(true), true), 5, Step::Resize(shrunk)),
        ("it is to shrink before anything runs", (starting(40), None, false), 5, Step::Resize(starting(5))),
    ] {
        assert_eq!(decide(&pod(size, started, ready), cap), expect, "{what}");
    }
    let mut ending = pod(starting(10), Some(true), true);
    ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(decide(&ending, 10), Step::Nothing, "it ends");
    let mut other = pod(steady(10), Some(true), true);
    other.spec.as_mut().unwrap().containers[0].name = "other".to_owned();
    assert_eq!(decide(&other, 40), Step::Nothing, "not a server of ours");
}

#[test]
fn what_the_node_says_is_told() {
    let grown = taken(pod(steady(10), Some(true), true), steady(160));
    assert!(matches!(decide(&grown, 160), Step::Working(_)), "it has not answered");
    assert!(matches!(decide(&told(grown.clone(), "PodResizeInProgress", ""), 160), Step::Working(_)));
    for (type_, reason, expect) in [
        ("PodResizePending", "Infeasible", Reason::ResizeInfeasible),
        ("PodResizePending", "Deferred", Reason::ResizeDeferred),
        ("PodResizeInProgress", "Error", Reason::ResizeDeferred),
    ] {
        let waiting = told(grown.clone(), type_, reason);
        match decide(&waiting, 160) {
            Step::Pending(trouble) => {
                assert_eq!(trouble.reason, expect);
                for words in ["3500m CPU and 6000Mi memory", "goes on with what it has", "requested: 3500"] {
                    assert!(trouble.message.contains(words), "{}", trouble.message);
                }
            }
            other => panic!("{other:?}"),
        }
        // It never had the memory, so that goes too.
        assert_eq!(decide(&waiting, 10), Step::Resize(steady(10)), "another wish ends the wait");
        assert_eq!(bearable(&waiting, 160), 10);
    }
}

#[test]
fn a_server_gets_no_more_tasks_than_it_has_room_for() {
    for (has, wanted, expect) in
        [(40, 40, 40), (10, 40, 10), (20, 160, 20), (40, 5, 5), (10, 5, 5), (5, 10, 10)]
    {
        let pod = pod(steady(has), Some(true), true);
        assert_eq!(bearable(&pod, wanted), expect, "{has} {wanted}");
    }
    assert_eq!(bearable(&pod(steady(10), None, false), 40), 40, "nothing is known");
    let mut bare = pod(steady(10), Some(true), true);
    bare.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].allocated_resources = None;
    assert_eq!(bearable(&bare, 40), 10, "from what it uses");
}

#[test]
fn our_own_quota_is_told_from_anothers() {
    let refusal = |name: &str| {
        format!(
            "pods \"octopus-0\" is forbidden: exceeded quota: {name}, requested: limits.cpu=1500m, used: limits.cpu=1, limited: limits.cpu=2"
        )
    };
    assert!(is_of_quota(&refusal("instance")));
    assert!(!is_of_quota(&refusal("instance-2")) && !is_of_quota("node didn't have enough"));
    assert!(!is_of_caller(&refusal("instance")), "that is about the size");
    assert!(is_of_caller(
        "pods \"octopus-0\" is forbidden: User \"u\" cannot patch resource \"pods/resize\" in API group \"\""
    ));
}

#[test]
fn a_refusal_for_any_node_is_told_from_that_of_its_own() {
    let why = "pods \"octopus-0\" is forbidden: node didn't have enough allocatable resources: cpu, requested: 3500";
    assert_eq!(refused(steady(160), why).reason, Reason::ResizeInfeasible);
    for why in ["exceeded quota: team, requested: limits.cpu=7", "denied by a policy"] {
        let trouble = refused(steady(160), why);
        assert_eq!(trouble.reason, Reason::ResizeRefused);
        assert!(trouble.message.contains(why), "{}", trouble.message);
    }
}

#[test]
fn what_a_node_said_before_it_saw_the_newest_size_does_not_count() {
    let mut live = pod(steady(10), Some(true), true);
    let pending =
        json!({ "type": "PodResizePending", "status": "True", "reason": "Infeasible", "message": "no" });
    let conditions = live.status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions.push(serde_json::from_value(pending).unwrap());
    (live.metadata.generation, live.status.as_mut().unwrap().observed_generation) = (Some(3), Some(2));
    assert!(matches!(decide(&live, 10), Step::Working(_)));
    live.status.as_mut().unwrap().observed_generation = Some(3);
    assert!(matches!(decide(&live, 10), Step::Pending(_)));
}

#[test]
fn only_cpu_and_memory_of_this_very_pod_are_changed() {
    let patch = patch(&pod(steady(10), Some(true), true), steady(20));
    assert_eq!(patch["metadata"], json!({ "uid": "u" }));
    let container = json!({ "name": SERVER, "resources": {
        "requests": { "cpu": "1", "memory": "3000Mi" }, "limits": { "cpu": "2", "memory": "6000Mi" } } });
    assert_eq!(patch["spec"], json!({ "containers": [container] }));
}

proptest! {
    /// Whatever is edited while whatever happens: one resize at most is asked for, and nothing after it.
    #[test]
    fn it_converges(
        first in 0usize..6,
        events in prop::collection::vec((0usize..6, any::<Option<bool>>(), any::<bool>(), any::<bool>()), 1..8),
    ) {
        let mut live = pod(starting(sizes::CAPS[first]), None, false);
        for (cap, started, ready, gives) in events {
            let cap = sizes::CAPS[cap];
            if let Some(started) = started {
                let size = asked(&live).unwrap();
                let fresh = pod(size, Some(started), ready && started);
                let status = live.status.as_mut().unwrap();
                let statuses = status.container_statuses.get_or_insert_default();
                if statuses.is_empty() {
                    statuses.clone_from(&fresh.status.as_ref().unwrap().container_statuses.clone().unwrap());
                }
                statuses[0].started = Some(started);
                let is_ready = if ready && started { "True" } else { "False" };
                status.conditions.as_mut().unwrap()[0].status = is_ready.to_owned();
            }
            let had = container_status(&live)
                .and_then(|s| mebibytes(s.resources.as_ref()?.limits.as_ref()?));
            if let Step::Resize(size) = decide(&live, cap) {
                let least = steady(cap);
                prop_assert!(size.memory_limit >= least.memory_limit && size.cpu_limit >= least.cpu_limit);
                prop_assert_eq!((size.cpu_request, size.memory_request), (least.cpu_request, least.memory_request));
                prop_assert!(had.is_none_or(|had| size.memory_limit >= had), "no memory is taken");
                live = taken(live, size);
                prop_assert!(!matches!(decide(&live, cap), Step::Resize(_)), "asked for once");
            }
            if gives {
                live = given(live);
                prop_assert_eq!(decide(&live, cap), Step::Nothing);
            }
        }
    }
}
