//! Whether another node of the reef has room for a server (pure).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Node, Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::ResourceExt;
use reef_crds::{meta::LABEL_INSTANCE, quantity};

use super::sizes::Size;

/// CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Room {
    /// Millicores.
    cpu: u64,
    /// Bytes.
    memory: u64,
}

impl Room {
    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, memory: self.memory + other.memory }
    }

    fn max(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }
}

/// Why a server is not made again for its size now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Another server of the reef is about to change its node, and may take the room.
    Another,
    /// None of so many other nodes has room.
    NoRoom(usize),
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // Whose it is does not concern who reads it.
            Self::Another => f.write_str("another server of the reef is about to change its node"),
            Self::NoRoom(nodes) => write!(f, "none of the {nodes} other nodes of the reef has room for it"),
        }
    }
}

/// Why a server is not made again for this size now: no other node would surely take it. What is reckoned with is what the
/// scheduler reckons with: requests, and allocations of pods that are being resized.
pub fn obstacle(nodes: &[Node], pods: &[Pod], own: &Pod, size: Size) -> Option<Obstacle> {
    // Its node is not known yet, and may be the one that we would count on.
    let comes = |pod: &Pod| {
        let is_server = pod.labels().contains_key(LABEL_INSTANCE) && pod.uid() != own.uid();
        let has_no_node = node_of(pod).is_none();
        is_server && !is_over(pod) && (has_no_node || pod.metadata.deletion_timestamp.is_some())
    };
    if pods.iter().any(comes) {
        return Some(Obstacle::Another);
    }
    let wanted = Room { cpu: size.cpu_request.into(), memory: u64::from(size.memory_request) * 1024 * 1024 };
    let others: Vec<_> = nodes.iter().filter(|node| node_of(own) != Some(&*node.name_any())).collect();
    let has_room = |node: &Node| takes_servers(node) && fits(node, pods, wanted);
    (!others.iter().any(|node| has_room(node))).then_some(Obstacle::NoRoom(others.len()))
}

/// Whether the scheduler would put a server there, which tolerates nothing.
fn takes_servers(node: &Node) -> bool {
    let spec = node.spec.clone().unwrap_or_default();
    let mut conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let is_ready = conditions.any(|c| c.type_ == "Ready" && c.status == "True");
    let mut taints = spec.taints.iter().flatten();
    let is_free = !taints.any(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    let is_linux = node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux");
    is_ready && is_free && is_linux && spec.unschedulable != Some(true)
}

fn fits(node: &Node, pods: &[Pod], wanted: Room) -> bool {
    let name = node.name_any();
    let there: Vec<_> = pods.iter().filter(|pod| node_of(pod) == Some(&name) && !is_over(pod)).collect();
    let Some(allocatable) = node.status.as_ref().and_then(|s| s.allocatable.as_ref()) else { return false };
    let most = allocatable.get("pods").and_then(|q| quantity::bytes(&q.0)).unwrap_or(0);
    let all = room(allocatable);
    let used = there.iter().fold(wanted, |sum, pod| sum.plus(of_pod(pod)));
    i64::try_from(there.len()).is_ok_and(|n| n < most) && used.cpu <= all.cpu && used.memory <= all.memory
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether it has ended and holds nothing any more.
fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What a pod holds of its node.
fn of_pod(pod: &Pod) -> Room {
    let Some(spec) = &pod.spec else { return Room::default() };
    let main = spec.containers.iter().map(|container| of_container(pod, container));
    let main = main.fold(Room::default(), Room::plus);
    let (sidecars, before) = of_init(pod, spec);
    let overhead = spec.overhead.as_ref().map(room).unwrap_or_default();
    main.plus(sidecars).max(before).plus(overhead)
}

/// What sidecars hold all the time, and the most that is held while containers run that run before the others.
fn of_init(pod: &Pod, spec: &PodSpec) -> (Room, Room) {
    let (mut sidecars, mut most) = (Room::default(), Room::default());
    for container in spec.init_containers.iter().flatten() {
        let its = of_container(pod, container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.plus(its);
            most = most.max(sidecars);
        } else {
            most = most.max(sidecars.plus(its));
        }
    }
    (sidecars, most)
}

/// What a container asks for, or more, if it has more as yet.
fn of_container(pod: &Pod, container: &Container) -> Room {
    let asked = container.resources.as_ref().and_then(|r| r.requests.as_ref()).map(room).unwrap_or_default();
    let mut statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let Some(status) = statuses.find(|status| status.name == container.name) else { return asked };
    let allocated = status.allocated_resources.as_ref().map(room).unwrap_or_default();
    let actual = status.resources.as_ref().and_then(|r| r.requests.as_ref()).map(room).unwrap_or_default();
    let has = allocated.max(actual);
    // The scheduler does not reckon with what a node can never give.
    if is_infeasible(pod) && has != Room::default() { has } else { asked.max(has) }
}

fn is_infeasible(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|c| {
        c.type_ == "PodResizePending" && c.status == "True" && c.reason.as_deref() == Some("Infeasible")
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from float saturates, and quantities of pods and nodes are not negative"
)]
fn room(list: &BTreeMap<String, Quantity>) -> Room {
    let cpu = list.get("cpu").and_then(|q| quantity::number(&q.0)).unwrap_or(0.0);
    let memory = list.get("memory").and_then(|q| quantity::bytes(&q.0)).unwrap_or(0);
    Room { cpu: (cpu * 1000.0).ceil() as u64, memory: u64::try_from(memory).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::sizes, *};

    fn node(name: &str, cpu: &str, memory: &str) -> Value {
        json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/os": "linux" } },
            "spec": {},
            "status": {
                "allocatable": { "cpu": cpu, "memory": memory, "pods": "3" },
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        })
    }

    fn pod(name: &str, on: Option<&str>, cpu: &str) -> Value {
        let resources = json!({ "requests": { "cpu": cpu, "memory": "1Gi" } });
        json!({
            "metadata": { "name": name, "namespace": "n", "uid": name },
            "spec": { "nodeName": on, "containers": [{ "name": "c", "resources": resources }] },
            "status": { "phase": "Running" },
        })
    }

    fn server(mut pod: Value) -> Value {
        pod["metadata"]["labels"] = json!({ LABEL_INSTANCE: "abc" });
        pod
    }

    /// For 2 CPUs and 5 GiB beside what is there; the server is on node `a`.
    fn why(nodes: &[Value], pods: &[Value]) -> Option<Obstacle> {
        let own: Pod = serde_json::from_value(server(pod("own", Some("a"), "1"))).unwrap();
        let nodes: Vec<Node> = nodes.iter().map(|n| serde_json::from_value(n.clone()).unwrap()).collect();
        let pods = pods.iter().map(|p| serde_json::from_value(p.clone()).unwrap());
        let pods: Vec<Pod> = pods.chain([own.clone()]).collect();
        obstacle(&nodes, &pods, &own, sizes::of(80))
    }

    #[test]
    fn another_node_with_room_is_enough() {
        let own = node("a", "64", "256Gi");
        let [one, two] = ["b", "c"].map(|name| node(name, "3", "16Gi"));
        assert_eq!(why(std::slice::from_ref(&own), &[]), Some(Obstacle::NoRoom(0)), "its own has none");
        assert_eq!(why(&[own.clone(), one.clone()], &[]), None);
        assert_eq!(why(&[own.clone(), one.clone()], &[pod("x", Some("b"), "1")]), None, "just enough");
        let full = pod("x", Some("b"), "1001m");
        let none = why(&[own.clone(), one.clone()], std::slice::from_ref(&full));
        assert_eq!(none, Some(Obstacle::NoRoom(1)));
        assert_eq!(why(&[own.clone(), one.clone(), two], std::slice::from_ref(&full)), None);
        let mut over = full.clone();
        over["status"]["phase"] = json!("Succeeded");
        assert_eq!(why(&[own.clone(), one.clone()], &[over]), None, "it has ended");
        assert!(why(&[own.clone(), node("b", "3", "4Gi")], &[]).is_some(), "too little memory");
        let many = ["x", "y", "z"].map(|name| pod(name, Some("b"), "1m"));
        assert!(why(&[own, one], &many).is_some(), "as many pods as the node takes");
    }

    #[test]
    fn a_node_that_takes_no_servers_has_no_room() {
        let with = |pointer: &str, value: Value| {
            let mut node = node("b", "64", "256Gi");
            *node.pointer_mut(pointer).unwrap() = value;
            why(&[node], &[])
        };
        assert_eq!(with("/spec", json!({})), None);
        assert!(with("/spec", json!({ "unschedulable": true })).is_some());
        assert!(with("/spec", json!({ "taints": [{ "key": "k", "effect": "NoSchedule" }] })).is_some());
        assert!(with("/spec", json!({ "taints": [{ "key": "k", "effect": "NoExecute" }] })).is_some());
        assert_eq!(with("/spec", json!({ "taints": [{ "key": "k", "effect": "PreferNoSchedule" }] })), None);
        assert!(with("/status/conditions/0/status", json!("Unknown")).is_some());
        assert!(with("/metadata/labels", json!({ "kubernetes.io/os": "windows" })).is_some());
        assert!(with("/status/allocatable", json!({})).is_some());
    }

    #[test]
    fn while_another_server_changes_its_node_none_follows() {
        let nodes = [node("b", "64", "256Gi")];
        let pending = server(pod("octopus-0", None, "1"));
        assert_eq!(why(&nodes, std::slice::from_ref(&pending)), Some(Obstacle::Another));
        let mut ends = server(pod("octopus-0", Some("b"), "1"));
        ends["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(why(&nodes, &[ends]), Some(Obstacle::Another));
        assert_eq!(why(&nodes, &[server(pod("octopus-0", Some("b"), "1"))]), None);
        assert_eq!(why(&nodes, &[pod("other", None, "1")]), None, "no server");
    }

    #[test]
    fn a_pod_holds_what_it_asks_for_or_has() {
        let of = |more: Value| {
            let mut pod = pod("x", Some("b"), "1");
            for (name, value) in more.as_object().unwrap() {
                pod[name].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            }
            of_pod(&serde_json::from_value(pod).unwrap()).cpu
        };
        let cpu = |cpu: &str| json!({ "requests": { "cpu": cpu } });
        assert_eq!(of(json!({})), 1000);
        let init = |cpu_: &str, always: Value| json!({ "name": "i", "resources": cpu(cpu_), "restartPolicy": always });
        assert_eq!(of(json!({ "spec": { "initContainers": [init("3", Value::Null)] } })), 3000);
        assert_eq!(of(json!({ "spec": { "initContainers": [init("500m", Value::Null)] } })), 1000);
        assert_eq!(of(json!({ "spec": { "initContainers": [init("500m", json!("Always"))] } })), 1500);
        assert_eq!(of(json!({ "spec": { "overhead": { "cpu": "250m" } } })), 1250);
        let status = |of: Value| {
            let mut status =
                json!({ "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0 });
            status.as_object_mut().unwrap().extend(of.as_object().unwrap().clone());
            json!({ "status": { "containerStatuses": [status] } })
        };
        assert_eq!(of(status(json!({ "allocatedResources": { "cpu": "2" } }))), 2000);
        assert_eq!(of(status(json!({ "resources": cpu("1500m") }))), 1500);
        assert_eq!(of(status(json!({ "resources": cpu("500m") }))), 1000);
        let mut infeasible = status(json!({ "allocatedResources": { "cpu": "300m" } }));
        infeasible["status"]["conditions"] =
            json!([{ "type": "PodResizePending", "status": "True", "reason": "Infeasible" }]);
        assert_eq!(of(infeasible), 300, "it never gets what it asks for");
    }
}
