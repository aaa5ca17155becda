//! The task of one pod: from its first sight to its removal.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Shared,
    address::Address,
    event,
    object::{remove, write},
    probe::{self, Verdict},
    resize,
    status::{self, Ended, State, Tracked},
    template, volumes,
};
use crate::{
    net::{Caller, proxy},
    runtime::{PodHandle, PodSpec, spec::Report},
};

/// How often Secrets, ConfigMaps and tokens of running pods are looked at again.
const REFRESH: Duration = Duration::from_secs(10);

/// Pause before the second restart of a container; doubles up to [`LONGEST_BACKOFF`]. A kubelet begins
/// with 10 s; the sandbox has less patience, because its users wait for crashes that they caused.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// A run this long makes the next crash a first one again.
const BACKOFF_RESET_SECONDS: i64 = 600;

/// A verdict with the container and the run that it is about.
type ProbeVerdict = (String, i32, Verdict);

struct Worker {
    shared: Arc<Shared>,
    pod: Pod,
    uid: String,
    folder: PathBuf,
    sockets: String,
    address: Address,
    began: Timestamp,
    init: Vec<Tracked>,
    main: Vec<Tracked>,
    /// When containers that crashed may start again.
    backoff: Option<Instant>,
    /// Whether the last status was accepted.
    written: bool,
    /// Why a resize waits.
    pending: Option<resize::Pending>,
    handle: PodHandle,
    reports: mpsc::UnboundedReceiver<Report>,
    verdicts: (mpsc::UnboundedSender<ProbeVerdict>, mpsc::UnboundedReceiver<ProbeVerdict>),
    probes: Vec<(String, JoinHandle<()>)>,
    egress: JoinHandle<()>,
}

/// Runs a pod. Ends when the pod is gone from the API server.
pub(super) async fn run(shared: Arc<Shared>, uid: String, mut pods: watch::Receiver<Option<Pod>>) {
    let folder = shared.pod_folder(&uid);
    match set_up(&shared, &uid, &mut pods).await {
        Some(mut worker) => {
            let deleted = worker.work(&mut pods).await;
            worker.finish(deleted).await;
        }
        None => {
            // Deleted before anything ran: nobody else will take the object away.
            let pod = pods.borrow().clone();
            if let Some(pod) = pod {
                remove(&shared, &pod).await;
            }
        }
    }
    let _ = std::fs::remove_dir_all(folder);
}

/// Prepares volumes, network and pod process; tries until it works or the pod is deleted.
async fn set_up(shared: &Arc<Shared>, uid: &str, pods: &mut watch::Receiver<Option<Pod>>) -> Option<Worker> {
    let (ip, sockets) = shared.allocate();
    let folder = shared.pod_folder(uid);
    let began = Timestamp::now();
    let mut said = String::new();
    loop {
        let pod = pods.borrow_and_update().clone();
        let Some(pod) = pod.filter(|p| p.metadata.deletion_timestamp.is_none()) else {
            shared.free(ip);
            return None;
        };
        match prepare(shared, &pod, uid, ip, &sockets).await {
            Ok((handle, reports, egress)) => {
                let spec = pod.spec.clone().unwrap_or_default();
                let ingress = shared.sockets.socket(&format!("{sockets}i"));
                shared.ledger.keep(uid, resize::requested(&spec.containers));
                return Some(Worker {
                    shared: shared.clone(),
                    uid: uid.to_owned(),
                    folder,
                    sockets,
                    address: Address::attach(shared, ip, ingress),
                    began,
                    init: spec.init_containers.into_iter().flatten().map(Tracked::new).collect(),
                    main: spec.containers.into_iter().map(Tracked::new).collect(),
                    backoff: None,
                    written: true,
                    pending: None,
                    handle,
                    reports,
                    verdicts: mpsc::unbounded_channel(),
                    probes: Vec::new(),
                    egress,
                    pod,
                });
            }
            Err(message) => {
                waiting(shared, &pod, began, &message).await;
                if said != message {
                    event::cannot_start(shared, &pod, &message).await;
                    said = message;
                }
            }
        }
        tokio::select! {
            () = sleep(Duration::from_secs(1)) => {}
            changed = pods.changed() => if changed.is_err() {
                shared.free(ip);
                return None;
            },
        }
    }
}

type Prepared = (PodHandle, mpsc::UnboundedReceiver<Report>, JoinHandle<()>);

async fn prepare(
    shared: &Arc<Shared>,
    pod: &Pod,
    uid: &str,
    ip: Ipv4Addr,
    sockets: &str,
) -> Result<Prepared, String> {
    if let Some(what) = template::unsupported(pod) {
        return Err(what);
    }
    let folder = shared.pod_folder(uid);
    for name in ["logs", "volumes", "containers"] {
        std::fs::create_dir_all(folder.join(name)).map_err(|e| e.to_string())?;
    }
    volumes::refresh(shared, pod, &ip.to_string(), &folder.join("volumes")).await?;
    let egress = shared.sockets.socket(&format!("{sockets}e"));
    let caller = Caller::Pod(ObjectRef::from_obj(pod));
    let proxy = proxy::serve(&egress, caller, shared.network.clone()).map_err(|e| e.to_string())?;
    let spec = PodSpec {
        hostname: template::hostname(pod),
        ip,
        egress,
        ingress: shared.sockets.socket(&format!("{sockets}i")),
    };
    let diagnostics = folder.join("logs/pod.log");
    let started = PodHandle::start(&spec, &diagnostics).await.map_err(|e| e.to_string());
    let (handle, mut reports) = started?;
    match reports.recv().await {
        Some(Report::Ready) => Ok((handle, reports, proxy)),
        _ => {
            proxy.abort();
            Err(format!("pod process: {}", std::fs::read_to_string(diagnostics).unwrap_or_default().trim()))
        }
    }
}

/// Shows why nothing runs yet.
async fn waiting(shared: &Shared, pod: &Pod, began: Timestamp, message: &str) {
    let state = State::Waiting("ContainerCreating".to_owned(), message.to_owned());
    let containers = pod.spec.iter().flat_map(|s| s.containers.clone());
    let main: Vec<_> = containers.map(|c| Tracked { state: state.clone(), ..Tracked::new(c) }).collect();
    let init: Vec<_> =
        pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().cloned()).map(Tracked::new).collect();
    write(shared, pod, &status::status(pod, None, &init, &main, began, Timestamp::now())).await;
}

impl Worker {
    /// Until the pod is to go. True if its object still has to be removed.
    async fn work(&mut self, pods: &mut watch::Receiver<Option<Pod>>) -> bool {
        let mut refresh = Instant::now() + REFRESH;
        loop {
            self.start_what_is_due().await;
            self.resize();
            self.write_status().await;
            if resize::is_due(&self.main) {
                self.give().await;
                continue;
            }
            let again = if self.written { refresh } else { Instant::now() + Duration::from_secs(1) };
            let wake = self.backoff.unwrap_or(refresh).min(refresh).min(again);
            tokio::select! {
                report = self.reports.recv() => match report {
                    Some(report) => self.on_report(report),
                    None => self.on_pod_process_gone().await,
                },
                Some((name, attempt, verdict)) = self.verdicts.1.recv() => {
                    self.on_verdict(&name, attempt, verdict).await;
                }
                changed = pods.changed() => {
                    let pod = pods.borrow_and_update().clone();
                    match (changed, pod) {
                        (Ok(()), Some(pod)) => self.pod = pod,
                        _ => return false,
                    }
                    if self.pod.metadata.deletion_timestamp.is_some() {
                        return true;
                    }
                }
                () = self.shared.ledger.freed.notified(), if self.pending.is_some() => {}
                () = sleep_until(wake) => {}
            }
            if Instant::now() >= refresh {
                refresh = Instant::now() + REFRESH;
                self.refresh_volumes().await;
            }
        }
    }

    /// Allocates what the pod asks for since it was changed, if the node has it.
    fn resize(&mut self) {
        let asked = self.pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
        self.pending = None;
        if !resize::is_asked(asked, &self.main) {
            return;
        }
        match self.shared.ledger.ask(&self.uid, resize::requested(asked)) {
            Ok(()) => resize::allocate(asked, &mut self.main),
            Err(pending) => self.pending = Some(pending),
        }
    }

    /// Gives the containers what is allocated to them.
    async fn give(&mut self) {
        let restart = resize::give(&mut self.main);
        if !restart.is_empty() {
            let grace = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
            self.end_containers(&restart, grace.unwrap_or(30)).await;
        }
    }

    async fn refresh_volumes(&self) {
        let folder = self.folder.join("volumes");
        if let Err(error) =
            volumes::refresh(&self.shared, &self.pod, &self.address.ip.to_string(), &folder).await
        {
            tracing::debug!(%error, pod = self.pod.name_any(), "refresh volumes");
        }
    }

    /// Starts init containers one after another, then all others; restarts what may be restarted.
    async fn start_what_is_due(&mut self) {
        let policy = self.pod.spec.as_ref().and_then(|s| s.restart_policy.clone());
        let policy = policy.unwrap_or_else(|| "Always".to_owned());
        if self.backoff.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.backoff = None;
        let next_init = self.init.iter().position(|c| !c.succeeded());
        let (init, due): (bool, Vec<usize>) = match next_init {
            Some(at) => (true, vec![at]),
            None => (false, (0..self.main.len()).collect()),
        };
        for at in due {
            let tracked = if init { &self.init[at] } else { &self.main[at] };
            let start = match &tracked.state {
                State::Running(_) => false,
                State::Waiting(..) => true,
                State::Ended(ended) => match policy.as_str() {
                    "Never" => false,
                    "OnFailure" => ended.code != 0,
                    _ => !init || ended.code != 0,
                },
            };
            if start {
                self.start(init, at).await;
            }
        }
    }

    async fn start(&mut self, init: bool, at: usize) {
        let tracked = if init { &mut self.init[at] } else { &mut self.main[at] };
        if let State::Ended(ended) = tracked.state.clone() {
            tracked.last = Some(ended);
            tracked.attempt += 1;
        }
        (tracked.started, tracked.ready) = (false, false);
        let (container, attempt) = (tracked.container.clone(), tracked.attempt);
        let ip = self.address.ip.to_string();
        let spec = template::container(&self.shared, &self.pod, &ip, &container, attempt).await;
        let state = match spec {
            Ok(spec) => match self.handle.start_container(spec).await {
                Ok(()) => State::Running(Timestamp::now()),
                Err(error) => State::Waiting("RunContainerError".to_owned(), error.to_string()),
            },
            Err(cannot) => {
                self.backoff = Some(Instant::now() + Duration::from_secs(2));
                State::Waiting(cannot.reason.to_owned(), cannot.message)
            }
        };
        let running = matches!(state, State::Running(_));
        let tracked = if init { &mut self.init[at] } else { &mut self.main[at] };
        tracked.state = state;
        if running && !init {
            let task =
                probe::run(container.clone(), self.address.ingress.clone(), attempt, self.verdicts.0.clone());
            self.probes.push((container.name, tokio::spawn(task)));
        }
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Ready => {}
            Report::Exited { name, code } => self.ended(&name, code, None),
            Report::Failed { name, message } => self.ended(&name, 128, Some(message)),
        }
    }

    fn ended(&mut self, name: &str, code: i32, message: Option<String>) {
        self.probes.retain(|(probed, task)| {
            if probed == name {
                task.abort();
            }
            probed != name
        });
        let folder = self.folder.clone();
        let Some(tracked) = self.tracked(name) else { return };
        let State::Running(started) = tracked.state else { return };
        let message = message.or_else(|| {
            let written = template::last_words(&folder, &tracked.container, tracked.attempt, code);
            Some(written).filter(|m| !m.is_empty())
        });
        let message = message.map(|m| m.chars().take(4096).collect());
        let finished = Timestamp::now();
        tracked.state = State::Ended(Ended { code, started, finished, message });
        (tracked.started, tracked.ready) = (false, false);
        let attempt = tracked.attempt;
        let long = finished.as_second() - started.as_second() >= BACKOFF_RESET_SECONDS;
        if attempt > 0 && !long {
            let doubled = FIRST_BACKOFF.saturating_mul(1 << (attempt - 1).clamp(0, 9));
            self.backoff = Some(Instant::now() + doubled.min(LONGEST_BACKOFF));
        }
    }

    /// Without its pod process a pod has nothing left; a new one is started under the same address, as a
    /// kubelet makes a new sandbox.
    async fn on_pod_process_gone(&mut self) {
        for name in self.main.iter().chain(&self.init).map(|c| c.container.name.clone()).collect::<Vec<_>>() {
            self.ended(&name, 137, Some("the pod process ended".to_owned()));
        }
        self.egress.abort();
        match prepare(&self.shared, &self.pod, &self.uid, self.address.ip, &self.sockets).await {
            Ok((handle, reports, egress)) => {
                (self.handle, self.reports, self.egress) = (handle, reports, egress);
            }
            Err(error) => {
                tracing::warn!(error, pod = self.pod.name_any(), "no new pod process");
                // The closed channel brings us here again.
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn on_verdict(&mut self, name: &str, attempt: i32, verdict: Verdict) {
        let Some(tracked) = self.tracked(name).filter(|t| t.attempt == attempt) else { return };
        match verdict {
            Verdict::Started => tracked.started = true,
            Verdict::Ready(ready) => tracked.ready = ready,
            Verdict::Unhealthy(why) => {
                tracing::info!(pod = self.pod.name_any(), container = name, why, "restart");
                let grace = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
                self.end_containers(&[name.to_owned()], grace.unwrap_or(30)).await;
            }
        }
    }

    fn tracked(&mut self, name: &str) -> Option<&mut Tracked> {
        self.main.iter_mut().chain(&mut self.init).find(|c| c.container.name == name)
    }

    /// SIGTERM, then SIGKILL after the grace period; returns when all have ended.
    async fn end_containers(&mut self, names: &[String], grace: i64) {
        let deadline = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        for name in names {
            let _ = self.handle.signal(name, 15).await;
        }
        let mut killed = false;
        loop {
            let all = self.main.iter().chain(&self.init);
            let still: Vec<_> = all
                .filter(|c| matches!(c.state, State::Running(_)) && names.contains(&c.container.name))
                .map(|c| c.container.name.clone())
                .collect();
            if still.is_empty() {
                return;
            }
            if Instant::now() >= deadline && !killed {
                killed = true;
                for name in &still {
                    let _ = self.handle.signal(name, 9).await;
                }
            }
            let wake = if killed { Instant::now() + Duration::from_secs(5) } else { deadline };
            tokio::select! {
                report = self.reports.recv() => match report {
                    Some(report) => self.on_report(report),
                    None => return,
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    async fn write_status(&mut self) {
        let now = Timestamp::now();
        let ip = self.address.ip.to_string();
        let mut status = status::status(&self.pod, Some(&ip), &self.init, &self.main, self.began, now);
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            self.address.release();
            self.shared.ledger.free(&self.uid);
        }
        resize::show(&mut status, self.pending.as_ref(), &self.main, now);
        if self.backoff.is_some() {
            // What a kubelet shows between a crash and the next start.
            for container in status.container_statuses.iter_mut().flatten() {
                let ended = container.state.as_ref().and_then(|s| s.terminated.clone());
                if let Some(ended) = ended.filter(|_| container.restart_count > 0) {
                    container.last_state = container.state.take();
                    let waiting = State::Waiting(
                        "CrashLoopBackOff".to_owned(),
                        format!("back-off after exit code {}", ended.exit_code),
                    );
                    container.state = Some(status::container_state(&waiting));
                }
            }
        }
        self.written = write(&self.shared, &self.pod, &status).await;
        if self.written {
            self.pod.status = Some(status);
        }
    }

    async fn finish(mut self, remove_object: bool) {
        let names: Vec<_> = self.main.iter().chain(&self.init).map(|c| c.container.name.clone()).collect();
        let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        self.end_containers(&names, if remove_object { grace } else { 0 }).await;
        self.address.release();
        self.egress.abort();
        for (_, task) in &self.probes {
            task.abort();
        }
        if remove_object {
            self.write_status().await;
        }
        self.handle.stop().await;
        self.shared.ledger.free(&self.uid);
        if remove_object {
            remove(&self.shared, &self.pod).await;
        }
        tracing::debug!(pod = self.pod.name_any(), uid = self.uid, "gone");
    }
}
