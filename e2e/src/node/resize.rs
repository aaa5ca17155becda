//! Resizes of pods that run, as kubelets do them: what is asked for is allocated if the node has room, and then given.
//! Limits bound nothing here, because containers have no cgroups: what is kept is the account of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, PodCondition, PodStatus, ResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};
use reef_crds::quantity;
use tokio::sync::Notify;

use super::status::Tracked;

/// CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// Millicores.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
}

/// Why a resize waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// `Deferred` or `Infeasible`.
    pub reason: &'static str,
    /// In the words of kubelets.
    pub message: String,
}

/// What a node has, and what it has allocated to its pods.
pub(super) struct Ledger {
    all: Room,
    allocated: Mutex<HashMap<String, Room>>,
    /// Wakes who waits for room.
    pub freed: Notify,
}

impl Ledger {
    /// A node with this much, and no pods.
    pub(super) fn new(all: Room) -> Self {
        Self { all, allocated: Mutex::default(), freed: Notify::new() }
    }

    /// What a pod gets that the scheduler sent.
    pub(super) fn keep(&self, uid: &str, room: Room) {
        self.lock().insert(uid.to_owned(), room);
    }

    /// What a pod asks for instead of what it has. It is its own at once if the node has it.
    pub(super) fn ask(&self, uid: &str, wanted: Room) -> Result<(), Pending> {
        let mut allocated = self.lock();
        let others = allocated.iter().filter(|(other, _)| other.as_str() != uid);
        let others = others.fold(Room::default(), |sum, (_, room)| sum.plus(*room));
        judge(wanted, others, self.all)?;
        allocated.insert(uid.to_owned(), wanted);
        drop(allocated);
        self.freed.notify_waiters();
        Ok(())
    }

    /// The pod has ended.
    pub(super) fn free(&self, uid: &str) {
        if self.lock().remove(uid).is_some() {
            self.freed.notify_waiters();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Room>> {
        self.allocated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, memory: self.memory + other.memory }
    }
}

/// Whether a pod may have this much.
fn judge(wanted: Room, others: Room, all: Room) -> Result<(), Pending> {
    let dimensions =
        [("cpu", wanted.cpu, others.cpu, all.cpu), ("memory", wanted.memory, others.memory, all.memory)];
    if let Some((name, wanted, _, all)) = dimensions.iter().find(|(_, wanted, _, all)| wanted > all) {
        let message =
            format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {all}");
        return Err(Pending { reason: "Infeasible", message });
    }
    match dimensions.iter().find(|(_, wanted, others, all)| wanted + others > *all) {
        None => Ok(()),
        Some((name, wanted, used, all)) => {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {all}"
            );
            Err(Pending { reason: "Deferred", message })
        }
    }
}

/// What containers request in all.
pub(super) fn requested<'a>(containers: impl IntoIterator<Item = &'a Container>) -> Room {
    let one = |container: &Container| {
        let requests = container.resources.as_ref().and_then(|r| r.requests.clone()).unwrap_or_default();
        Room { cpu: millicores(&requests), memory: bytes(&requests) }
    };
    containers.into_iter().fold(Room::default(), |sum, container| sum.plus(one(container)))
}

#[expect(clippy::cast_possible_truncation, reason = "a cast from float saturates")]
fn millicores(list: &BTreeMap<String, Quantity>) -> i64 {
    let cpu = list.get("cpu").and_then(|quantity| quantity::number(&quantity.0));
    cpu.map_or(0, |cores| (cores * 1000.0).round() as i64)
}

fn bytes(list: &BTreeMap<String, Quantity>) -> i64 {
    list.get("memory").and_then(|quantity| quantity::bytes(&quantity.0)).unwrap_or(0)
}

/// Whether something else is asked for than what is allocated.
pub(super) fn is_asked(asked: &[Container], main: &[Tracked]) -> bool {
    main.iter().any(|tracked| {
        named(asked, tracked).is_some_and(|container| container.resources != tracked.container.resources)
    })
}

/// Allocates what is asked for.
pub(super) fn allocate(asked: &[Container], main: &mut [Tracked]) {
    for tracked in main {
        if let Some(container) = named(asked, tracked) {
            tracked.container.resources.clone_from(&container.resources);
        }
    }
}

fn named<'a>(asked: &'a [Container], tracked: &Tracked) -> Option<&'a Container> {
    asked.iter().find(|container| container.name == tracked.container.name)
}

/// Gives the containers what is allocated to them; names of those that have to start again for it.
pub(super) fn give(main: &mut [Tracked]) -> Vec<String> {
    let mut restart = Vec::new();
    for tracked in main.iter_mut().filter(|tracked| !tracked.has_its_resources()) {
        if restarts(&tracked.container, tracked.actual.as_ref()) {
            restart.push(tracked.container.name.clone());
        }
        tracked.actual.clone_from(&tracked.container.resources);
    }
    restart
}

/// Whether one of the resources that change asks for a restart.
fn restarts(container: &Container, actual: Option<&ResourceRequirements>) -> bool {
    let of = |resources: Option<&ResourceRequirements>, name: &str| {
        let get = |list: Option<&BTreeMap<String, Quantity>>| list.and_then(|list| list.get(name)).cloned();
        resources.map(|r| (get(r.requests.as_ref()), get(r.limits.as_ref())))
    };
    container.resize_policy.iter().flatten().any(|policy| {
        let name = policy.resource_name.as_str();
        policy.restart_policy == "RestartContainer"
            && of(container.resources.as_ref(), name) != of(actual, name)
    })
}

/// Whether something is allocated and not given yet.
pub(super) fn is_due(main: &[Tracked]) -> bool {
    main.iter().any(|tracked| !tracked.has_its_resources())
}

/// Puts into a status what is to be said of resizes.
pub(super) fn show(status: &mut PodStatus, pending: Option<&Pending>, main: &[Tracked], now: Timestamp) {
    let list = status.conditions.get_or_insert_default();
    conditions(list, pending, is_due(main), status.observed_generation, now);
}

/// The conditions with what is to be said of resizes; both are there only while they are true.
fn conditions(
    list: &mut Vec<PodCondition>,
    pending: Option<&Pending>,
    in_progress: bool,
    generation: Option<i64>,
    now: Timestamp,
) {
    let pending = pending.map(|p| (Some(p.reason.to_owned()), Some(p.message.clone())));
    let all = [("PodResizePending", pending), ("PodResizeInProgress", in_progress.then_some((None, None)))];
    for (type_, said) in all {
        let before = list.iter().position(|c| c.type_ == type_).map(|at| list.remove(at));
        let Some((reason, message)) = said else { continue };
        list.push(PodCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason,
            message,
            observed_generation: generation,
            last_transition_time: Some(before.and_then(|c| c.last_transition_time).unwrap_or(Time(now))),
            ..PodCondition::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(cpu: &str, memory: &str, more: &Value) -> Container {
        let mut container =
            json!({ "name": "c", "resources": { "requests": { "cpu": cpu, "memory": memory } } });
        container["resizePolicy"] = more.clone();
        serde_json::from_value(container).unwrap()
    }

    #[test]
    fn what_no_node_of_this_size_has_is_infeasible_and_what_others_have_is_deferred() {
        let room = |cpu, memory| Room { cpu, memory };
        let ledger = Ledger::new(room(4000, 100));
        ledger.keep("a", room(1000, 10));
        ledger.keep("b", room(2000, 10));
        for (wanted, expect) in [
            (room(2000, 10), None),
            (room(2001, 10), Some(("Deferred", "cpu"))),
            (room(1000, 91), Some(("Deferred", "memory"))),
            (room(4001, 10), Some(("Infeasible", "capacity: cpu, requested: 4001, capacity: 4000"))),
        ] {
            let answer = ledger.ask("a", wanted);
            match expect {
                None => assert_eq!(answer, Ok(())),
                Some((reason, words)) => {
                    let pending = answer.unwrap_err();
                    assert_eq!(pending.reason, reason);
                    assert!(pending.message.contains(words), "{}", pending.message);
                }
            }
        }
        assert!(ledger.ask("b", room(2001, 10)).is_err(), "what a was given is its own");
        ledger.free("a");
        assert_eq!(ledger.ask("b", room(4000, 100)), Ok(()));
    }

    #[test]
    fn what_is_asked_for_is_allocated_and_then_given() {
        let none = json!([{ "resourceName": "cpu", "restartPolicy": "NotRequired" },
            { "resourceName": "memory", "restartPolicy": "RestartContainer" }]);
        let mut main = [Tracked::new(container("150m", "1Gi", &none))];
        let asked = [container("1", "1Gi", &none)];
        assert_eq!(requested(&asked), Room { cpu: 1000, memory: 1 << 30 });
        assert!(is_asked(&asked, &main));
        allocate(&asked, &mut main);
        assert!(!is_asked(&asked, &main) && !main[0].has_its_resources());
        assert!(give(&mut main).is_empty(), "CPU asks for no restart");
        assert!(main[0].has_its_resources());
        allocate(&[container("1", "2Gi", &none)], &mut main);
        assert_eq!(give(&mut main), ["c"], "memory does, here");
    }

    #[test]
    fn what_is_said_of_a_resize_goes_with_it() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let pending = Pending { reason: "Deferred", message: "no room".to_owned() };
        let mut list = vec![PodCondition { type_: "Ready".to_owned(), ..PodCondition::default() }];
        conditions(&mut list, Some(&pending), false, Some(2), at(5));
        conditions(&mut list, Some(&pending), false, Some(3), at(9));
        assert_eq!(
            (list[1].type_.as_str(), list[1].reason.as_deref()),
            ("PodResizePending", Some("Deferred"))
        );
        assert_eq!(list[1].last_transition_time, Some(Time(at(5))));
        conditions(&mut list, None, true, Some(3), at(10));
        assert_eq!((list.len(), list[1].type_.as_str()), (2, "PodResizeInProgress"));
        conditions(&mut list, None, false, Some(3), at(11));
        assert_eq!(list.len(), 1);
    }
}
