//! The crash matrix: the operator is killed before and after each write that it makes, to Azure or to an API server.
//!
//! Which writes there are is found by watching. A write is *before* a crash if it never takes effect, and *after* one
//! if it does and the operator never has its answer: at API servers an admission webhook knows of each write before it
//! takes effect, at Azure a fault keeps the answer back.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

pub mod matrix;
pub mod snapshot;
mod webhook;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, Client, api::DeleteParams};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    azure::faults::glob,
    harness::{Sandbox, eventually, processes, send},
    install::NAMESPACE,
};

/// Label of the fault that keeps an answer of Azure back.
const LABEL: &str = "crash";

/// A write: where, what, and the how manieth of its kind. What differs from run to run is `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    /// `Azure`, or the name of a cluster.
    pub server: String,
    /// Method or operation.
    pub verb: String,
    /// Path in Azure; resource, namespace and name at an API server.
    pub path: String,
    /// How many like it came before.
    pub nth: u32,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} #{}", self.server, self.verb, self.path, self.nth + 1)
    }
}

/// When the operator is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The write never takes effect.
    Before,
    /// It takes effect, and nobody hears of it.
    After,
}

/// What is watched and waited for.
#[derive(Default)]
struct State {
    /// Writes to API servers, in order, without numbers.
    seen: Vec<(String, String, String)>,
    /// The write at an API server at which the operator is to be killed.
    armed: Option<(Write, When)>,
    /// Pod and process of the operator's leader.
    leader: Option<(String, u32)>,
    /// The operator is stopped, or about to be killed.
    due: bool,
    killed: bool,
}

/// Watches the writes of a sandbox's operator, and kills it at one of them.
pub struct Crashes<'a> {
    sandbox: &'a Sandbox,
    client: Client,
    state: Arc<Mutex<State>>,
    hook: webhook::Hook,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Crashes<'a> {
    /// Begins to watch.
    pub async fn begin(sandbox: &'a Sandbox) -> Self {
        let client = sandbox.client().await;
        let state = Arc::<Mutex<State>>::default();
        let hook = webhook::Hook::serve(sandbox.folder(), &state).await;
        let crashes = Self { sandbox, client, state, hook };
        crashes.watch_all().await;
        crashes
    }

    /// Watches each cluster that is not watched yet, those too that no reef has yet.
    pub async fn watch_all(&self) {
        self.hook.install(self.sandbox).await;
    }

    /// What was written since a moment, as [`Crashes::mark`] gave it; `names` differ from run to run.
    pub fn writes_since(&self, mark: (usize, usize), names: &[String]) -> Vec<Write> {
        let of_azure = self.sandbox.azure_journal().into_iter().skip(mark.1);
        let of_azure = of_azure.filter_map(|entry| {
            let (method, path) = (entry["method"].as_str()?, entry["path"].as_str()?);
            is_write(method, path).then(|| ("Azure".to_owned(), method.to_owned(), path.to_owned()))
        });
        let of_servers: Vec<_> = lock(&self.state).seen.iter().skip(mark.0).cloned().collect();
        let mut counts = BTreeMap::new();
        let all = of_servers.into_iter().chain(of_azure).map(|(server, verb, path)| {
            let path = snapshot::plain(&path, names);
            let nth = counts.entry((server.clone(), verb.clone(), path.clone())).or_insert(0);
            *nth += 1;
            Write { server, verb, path, nth: *nth - 1 }
        });
        all.collect()
    }

    /// This moment.
    pub fn mark(&self) -> (usize, usize) {
        (lock(&self.state).seen.len(), self.sandbox.azure_journal().len())
    }

    /// From now on the operator is killed at a write.
    pub async fn arm(&self, write: &Write, when: When) {
        self.watch_all().await;
        let leader = self.leader().await;
        {
            let mut state = lock(&self.state);
            state.leader = Some(leader);
            (state.due, state.killed) = (false, false);
            if write.server != "Azure" {
                state.armed = Some((write.clone(), when));
                return;
            }
        }
        let fault = if when == When::Before { "hang" } else { "noAnswer" };
        self.sandbox.azure_fault(&json!({
            "label": LABEL, "method": write.verb, "path": write.path, "skip": write.nth, "count": 1, "fault": fault,
        }));
    }

    /// Waits until something is so, kills the operator when it comes to the write, and brings it back; whether it came to
    /// the write.
    pub async fn until(&self, what: impl Future<Output = ()>) -> bool {
        let mut what = std::pin::pin!(what);
        let mut is_back = false;
        loop {
            tokio::select! {
                () = &mut what => break,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            let is_armed = lock(&self.state).leader.is_some();
            if is_armed && !lock(&self.state).killed && self.azure_is_met() {
                let pid = leading(&self.state);
                kill_leader(&self.state, pid).await;
            }
            if lock(&self.state).killed && !is_back {
                self.bring_back().await;
                is_back = true;
            }
        }
        // It may have been the last of all writes.
        eventually("the operator is killed", || async {
            let state = lock(&self.state);
            (!state.due || state.killed).then_some(())
        })
        .await;
        if lock(&self.state).killed && !is_back {
            self.bring_back().await;
        }
        self.sandbox.azure_healed_of(LABEL);
        let mut state = lock(&self.state);
        state.armed = None;
        state.leader = None;
        state.killed
    }

    /// Whether the call came whose answer is kept back.
    fn azure_is_met(&self) -> bool {
        let is_for_azure = {
            let state = lock(&self.state);
            state.armed.is_none() && !state.due
        };
        is_for_azure && !self.sandbox.azure_faults().contains(&LABEL.to_owned())
    }

    /// A new pod instead of the old one's back-off.
    async fn bring_back(&self) {
        let Some((pod, _)) = lock(&self.state).leader.clone() else { return };
        let now = DeleteParams::default().grace_period(0);
        let _ = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE).delete(&pod, &now).await;
    }

    /// Pod and process of who leads.
    async fn leader(&self) -> (String, u32) {
        let leases = Api::<Lease>::namespaced(self.client.clone(), NAMESPACE);
        eventually("somebody leads", || async {
            let pod = leases.get("reef-operator").await.ok()?.spec?.holder_identity?;
            let variable = format!("POD_NAME={pod}\0");
            let is_it = |p: &crate::harness::Process| {
                p.command.starts_with("/reef-operator\0run") && p.environment.contains(&variable)
            };
            let process = processes().into_iter().find(is_it)?;
            Some((pod, process.pid))
        })
        .await
    }
}

/// The process of the leader.
fn leading(state: &Mutex<State>) -> Option<u32> {
    lock(state).leader.as_ref().map(|(_, pid)| *pid)
}

/// Kills who led and waits until it is gone, unless another try has begun since.
async fn kill_leader(state: &Mutex<State>, pid: Option<u32>) {
    let Some(pid) = pid.filter(|_| leading(state) == pid) else { return };
    send(pid, Signal::KILL);
    let is_alive = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    };
    while is_alive() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    lock(state).killed = true;
}

/// Stops the leader where it is.
fn stop_leader(pid: Option<u32>) {
    if let Some(pid) = pid {
        send(pid, Signal::STOP);
    }
}

/// Whether a call to Azure changes something there.
fn is_write(method: &str, path: &str) -> bool {
    const NONE: [&str; 4] = ["/token", "/register", "/listClusterUserCredential", "/listKeys"];
    method != "GET" && method != "HEAD" && !NONE.iter().any(|end| path.ends_with(end))
}

impl Write {
    /// Whether this write, its number aside, is of this kind.
    fn is_like(&self, server: &str, verb: &str, path: &str) -> bool {
        self.server == server && self.verb == verb && glob(&self.path, path)
    }
}
