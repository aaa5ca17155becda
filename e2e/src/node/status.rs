//! A pod's status from what its task knows (pure).

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

/// A container over its runs.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    /// What the pod asks for; of CPU and memory, what is allocated.
    pub container: Container,
    /// CPU and memory that it has.
    pub actual: Option<ResourceRequirements>,
    /// Number of the current run, 0 for the first.
    pub attempt: i32,
    /// How the current run is.
    pub state: State,
    /// How the run before ended.
    pub last: Option<Ended>,
    /// What the startup probe says.
    pub started: bool,
    /// What the readiness probe says.
    pub ready: bool,
}

/// How a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not running; reason and message.
    Waiting(String, String),
    /// Running since.
    Running(Timestamp),
    /// Ended.
    Ended(Ended),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Exit code.
    pub code: i32,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// What it wrote to its termination message file.
    pub message: Option<String>,
}

impl Tracked {
    pub(super) fn new(container: Container) -> Self {
        Self {
            actual: container.resources.clone(),
            container,
            attempt: 0,
            state: State::Waiting("ContainerCreating".to_owned(), String::new()),
            last: None,
            started: false,
            ready: false,
        }
    }

    /// Whether it ended with success.
    pub(super) fn succeeded(&self) -> bool {
        matches!(&self.state, State::Ended(e) if e.code == 0)
    }

    /// Whether it ended.
    pub(super) fn ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Whether it has what is allocated to it.
    pub(super) fn has_its_resources(&self) -> bool {
        self.actual == self.container.resources
    }

    fn status(&self, uid: &str) -> ContainerStatus {
        let running = matches!(self.state, State::Running(_));
        let image = self.container.image.clone().unwrap_or_default();
        ContainerStatus {
            name: self.container.name.clone(),
            container_id: Some(format!("reef-sandbox://{uid}/{}/{}", self.container.name, self.attempt)),
            image_id: image.clone(),
            image,
            ready: running && self.ready,
            started: Some(running && self.started),
            restart_count: self.attempt,
            state: Some(container_state(&self.state)),
            last_state: self.last.clone().map(|e| container_state(&State::Ended(e))),
            resources: self.actual.clone(),
            allocated_resources: self.container.resources.as_ref().and_then(|r| r.requests.clone()),
            ..ContainerStatus::default()
        }
    }
}

/// A state as the API shows it.
pub(super) fn container_state(state: &State) -> ContainerState {
    let mut out = ContainerState::default();
    match state {
        State::Waiting(reason, message) => {
            let message = Some(message.clone()).filter(|m| !m.is_empty());
            out.waiting = Some(ContainerStateWaiting { reason: Some(reason.clone()), message });
        }
        State::Running(at) => out.running = Some(ContainerStateRunning { started_at: Some(Time(*at)) }),
        State::Ended(ended) => {
            let reason = match ended.code {
                0 => "Completed",
                _ => "Error",
            };
            out.terminated = Some(ContainerStateTerminated {
                exit_code: ended.code,
                reason: Some(reason.to_owned()),
                message: ended.message.clone(),
                started_at: Some(Time(ended.started)),
                finished_at: Some(Time(ended.finished)),
                ..ContainerStateTerminated::default()
            });
        }
    }
    out
}

/// The pod's phase.
pub(super) fn phase(pod: &Pod, init: &[Tracked], main: &[Tracked]) -> &'static str {
    let policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always");
    if policy == "Never" && init.iter().any(|c| c.ended() && !c.succeeded()) {
        return "Failed";
    }
    // A container that will be started again has not ended for good.
    let over = |c: &Tracked| match policy {
        "Never" => c.ended(),
        "OnFailure" => c.succeeded(),
        _ => false,
    };
    if main.iter().all(over) {
        return if main.iter().all(Tracked::succeeded) { "Succeeded" } else { "Failed" };
    }
    let creating = |c: &Tracked| matches!(c.state, State::Waiting(..)) && c.last.is_none();
    if main.iter().all(creating) { "Pending" } else { "Running" }
}

/// The whole status. Conditions that others own (PodScheduled) are kept.
pub(super) fn status(
    pod: &Pod,
    ip: Option<&str>,
    init: &[Tracked],
    main: &[Tracked],
    began: Timestamp,
    now: Timestamp,
) -> PodStatus {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let phase = phase(pod, init, main);
    let old = pod.status.clone().unwrap_or_default();
    let initialized = init.iter().all(Tracked::succeeded);
    let all_ready = initialized && main.iter().all(|c| matches!(c.state, State::Running(_)) && c.ready);
    let conditions = [
        ("PodReadyToStartContainers", ip.is_some()),
        ("Initialized", initialized),
        ("ContainersReady", all_ready),
        ("Ready", all_ready),
    ];
    let mut list: Vec<PodCondition> = old.conditions.unwrap_or_default();
    for (type_, good) in conditions {
        set(&mut list, type_, good, pod.metadata.generation, now);
    }
    PodStatus {
        phase: Some(phase.to_owned()),
        observed_generation: pod.metadata.generation,
        conditions: Some(list),
        pod_ip: ip.map(str::to_owned),
        pod_ips: ip.map(|ip| vec![PodIP { ip: ip.to_owned() }]),
        host_ip: Some("127.0.0.1".to_owned()),
        host_ips: Some(vec![HostIP { ip: "127.0.0.1".to_owned() }]),
        start_time: Some(old.start_time.unwrap_or(Time(began))),
        container_statuses: Some(main.iter().map(|c| c.status(uid)).collect()),
        init_container_statuses: Some(init.iter().map(|c| c.status(uid)).collect())
            .filter(|l: &Vec<_>| !l.is_empty()),
        qos_class: old.qos_class,
        ..PodStatus::default()
    }
}

fn set(list: &mut Vec<PodCondition>, type_: &str, good: bool, generation: Option<i64>, now: Timestamp) {
    let status = if good { "True" } else { "False" };
    let at = list.iter().position(|c| c.type_ == type_);
    let since =
        at.filter(|at| list[*at].status == status).and_then(|at| list[at].last_transition_time.clone());
    let new = PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        observed_generation: generation,
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..PodCondition::default()
    };
    match at {
        Some(at) => list[at] = new,
        None => list.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tracked(state: State) -> Tracked {
        Tracked { state, ..Tracked::new(Container { name: "c".to_owned(), ..Container::default() }) }
    }

    fn ended(code: i32) -> State {
        let at = Timestamp::UNIX_EPOCH;
        State::Ended(Ended { code, started: at, finished: at, message: None })
    }

    #[test]
    fn phases() {
        let waiting = || tracked(State::Waiting("ContainerCreating".to_owned(), String::new()));
        let running = || tracked(State::Running(Timestamp::UNIX_EPOCH));
        for (policy, init, main, expect) in [
            ("Never", vec![], vec![waiting()], "Pending"),
            ("Never", vec![], vec![running(), waiting()], "Running"),
            ("Never", vec![], vec![tracked(ended(0)), tracked(ended(0))], "Succeeded"),
            ("Never", vec![], vec![tracked(ended(0)), tracked(ended(1))], "Failed"),
            ("Never", vec![tracked(ended(1))], vec![waiting()], "Failed"),
            ("Never", vec![tracked(ended(0))], vec![waiting()], "Pending"),
            ("Always", vec![], vec![tracked(ended(0))], "Running"),
            ("Always", vec![], vec![tracked(ended(1))], "Running"),
            ("OnFailure", vec![], vec![tracked(ended(1))], "Running"),
            ("OnFailure", vec![], vec![tracked(ended(0))], "Succeeded"),
            ("OnFailure", vec![tracked(ended(1))], vec![waiting()], "Pending"),
        ] {
            let spec = json!({ "containers": [], "restartPolicy": policy });
            let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
            assert_eq!(phase(&pod, &init, &main), expect, "{policy}");
        }
    }

    #[test]
    fn ready_needs_every_container_and_keeps_its_time() {
        let pod: Pod =
            serde_json::from_value(json!({ "metadata": { "uid": "u" }, "spec": { "containers": [] },
            "status": { "conditions": [{ "type": "PodScheduled", "status": "True" }] } }))
            .unwrap();
        let now = Timestamp::from_second(50).unwrap();
        let ready = Tracked { ready: true, started: true, ..tracked(State::Running(now)) };
        let status = super::status(&pod, Some("100.64.1.2"), &[], std::slice::from_ref(&ready), now, now);
        let conditions = status.conditions.clone().unwrap();
        assert_eq!(conditions[0].type_, "PodScheduled");
        assert!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        let pod = Pod { status: Some(status), ..pod };
        let later = Timestamp::from_second(90).unwrap();
        let next = super::status(&pod, Some("100.64.1.2"), &[], &[ready], now, later);
        assert_eq!(next.conditions.unwrap(), conditions);
    }
}
