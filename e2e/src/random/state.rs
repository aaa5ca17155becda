//! What a random world's driver knows: its sandbox, what it did to each instance, and what is out of order now.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::Client;
use reef_crds::ReefStatus;
use serde_json::Value;

use super::plan::New;
use crate::harness::{PATIENCE, Sandbox};

/// A reef as the driver needs it.
pub struct ReefOf {
    /// Its name.
    pub name: String,
    /// Name of its AKS cluster.
    pub aks: String,
    /// Name of the API server behind that.
    pub slot: String,
    /// An administrator of it.
    pub client: Client,
}

/// One object of an instance's name, from its creation to its end.
#[derive(Clone, Debug)]
pub struct Life {
    /// How it was made.
    pub new: New,
    /// UID of the object.
    pub uid: String,
    /// When it had been created.
    pub began: Timestamp,
    /// Since when deletion was asked for, confirmed or not.
    pub deleted: Option<Timestamp>,
    /// Since when it may be deleted: asked for, and confirmed where that is needed.
    pub may_go: Option<Timestamp>,
    /// Whether it was ever seen Ready.
    pub served: bool,
    /// Whether what proves that its data is still there was written.
    pub marked: bool,
    /// What its server called itself first.
    pub installation: Option<Value>,
    /// UID of the Secret with its keys.
    pub keys: Option<String>,
    /// Hash of the keys in the database's tags.
    pub tag: Option<String>,
    /// Since when it says Ready and does not serve.
    pub mute: Option<Instant>,
}

/// What changes.
#[derive(Default)]
pub struct State {
    /// Lives of each name, the newest last.
    pub lives: BTreeMap<String, Vec<Life>>,
    /// Short hash of each name, once it was seen.
    pub hashes: BTreeMap<String, String>,
    /// Names of which the driver removes what was kept.
    pub purged: BTreeSet<String>,
    /// Whether calls to Azure may fail.
    pub faults: bool,
    /// How many times Azure was told to accept something and to fail at it later.
    pub late: usize,
    /// How many API servers or leaders stand still.
    pub frozen: usize,
    /// The first thing that was not as it has to be.
    pub violation: Option<String>,
    /// How many looks were taken.
    pub looks: usize,
}

impl State {
    /// The newest life of a name.
    pub fn life(&mut self, name: &str) -> Option<&mut Life> {
        self.lives.get_mut(name)?.last_mut()
    }
}

/// A random world.
pub struct World {
    /// Where it is.
    pub sandbox: Sandbox,
    /// The administrator of its management cluster.
    pub client: Client,
    /// Its reefs.
    pub reefs: Vec<ReefOf>,
    /// Most instances on a reef.
    pub most: usize,
    /// How many of the journal's calls were before this seed.
    pub journal_from: Mutex<usize>,
    /// How much was made before this seed.
    pub made_from: Mutex<usize>,
    state: Mutex<State>,
    pub(super) later: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl World {
    /// A world of a sandbox whose reefs are in service.
    pub async fn new(sandbox: Sandbox, reefs: Vec<(&str, ReefStatus)>, most: usize) -> Self {
        let client = sandbox.client().await;
        let mut all = Vec::new();
        for (name, status) in reefs {
            let cluster = status.cluster.expect("a cluster");
            let slot =
                cluster.issuer.as_ref().and_then(|i| i.rsplit('/').nth(1)).expect("its slot").to_owned();
            let client = sandbox.reef_client(&cluster.name).await;
            all.push(ReefOf { name: name.to_owned(), aks: cluster.name, slot, client });
        }
        Self {
            sandbox,
            client,
            reefs: all,
            most,
            journal_from: Mutex::default(),
            made_from: Mutex::default(),
            state: Mutex::default(),
            later: Mutex::default(),
        }
    }

    /// What the driver knows.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reef of a name.
    pub fn reef(&self, name: &str) -> Option<&ReefOf> {
        self.reefs.iter().find(|reef| reef.name == name)
    }

    /// Forgets everything; the next seed begins.
    pub fn forget(&self) {
        *self.state() = State::default();
        let calls = self.sandbox.azure_control("GET", "/journal", "").lines().count();
        *self.journal_from.lock().unwrap_or_else(PoisonError::into_inner) = calls;
        let made = self.sandbox.azure_made().len();
        *self.made_from.lock().unwrap_or_else(PoisonError::into_inner) = made;
    }
}

/// Asks an API server until it says yes or no: what it does not answer is asked again.
pub async fn firm<T, F>(what: &str, mut ask: impl FnMut() -> F) -> Result<T, kube::core::Status>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = match tokio::time::timeout(Duration::from_secs(20), ask()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(kube::Error::Api(refusal))) if refusal.code < 500 && refusal.code != 429 => {
                return Err(*refusal);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        assert!(Instant::now() < deadline, "{what}: {last}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What stands still cannot be asked for its last words, and would not end.
        let slots = self.reefs.iter().map(|reef| reef.slot.as_str()).chain([crate::cluster::MANAGEMENT]);
        for slot in slots {
            let prefix = format!("\0--etcd-prefix=/{slot}\0");
            for process in self.sandbox.processes() {
                if process.command.contains(&prefix) {
                    crate::harness::send(process.pid, rustix::process::Signal::CONT);
                }
            }
        }
    }
}
