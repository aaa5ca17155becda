//! What all controllers share: context, the wrapper around each reconcile, retries, status, Events.

pub mod finalizers;
pub mod hash;
pub mod objects;
pub mod pause;
pub mod requeue;
pub mod standing;
pub mod status;
pub mod stop;
pub mod trouble;
pub mod watch;

use std::{
    collections::HashMap,
    fmt::Display,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::{
        controller::Action,
        events::{Event, EventType, Recorder, Reporter},
        watcher,
    },
};
use reef_crds::condition::Reason;

use crate::{
    args::RunArgs,
    azure::{Arms, trace},
    bulkhead::Cells,
    cluster::{Clusters, drift::Drifts, watch::Heard},
    leader::{Claim, NotLeader},
    metrics::{ByController, Metrics},
    resources::lists::Lists,
};
pub use requeue::ErrorClass;
use requeue::delay;

/// A reconcile that takes longer is given up and tried again: one that hangs would hold its object for ever.
/// Longer than three rounds of reads, a look at a cluster and a round of writes that all hang in Azure.
const LONGEST: Duration = Duration::from_secs(300);

/// Settings that decisions depend on.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// A good object is looked at again after this.
    pub resync: Duration,
    /// An object without progress for this long is Stalled.
    pub progress_deadline: Duration,
    /// Pause between looks at an Azure operation about which Azure does not say when to ask again.
    pub azure_poll: Duration,
}

/// What a controller works with.
pub struct Context {
    /// The management cluster.
    pub client: Client,
    /// Azure.
    pub arms: Arc<Arms>,
    /// Whether we may write.
    pub claim: Claim,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// Settings that decisions depend on.
    pub policy: Policy,
    /// The fleet: part of the identity of everything that the operator makes.
    pub fleet: String,
    /// Namespace of the operator.
    pub namespace: String,
    /// Name of this replica in Events.
    pub identity: String,
    /// Connections to the clusters of reefs.
    pub clusters: Clusters,
    /// Changes in the reefs' clusters, for the one controller that takes them.
    pub heard: Mutex<Option<Heard>>,
    /// What was put back in the reefs' clusters and is to be told.
    pub drifts: Drifts,
    /// Image of the reefs' agents.
    pub agent_image: String,
    /// Image of Octopus Server, without a tag.
    pub octopus_image: String,
    /// Certificates of the authorities that are trusted for Azure's endpoints, PEM, if not the system's.
    pub azure_ca: Option<String>,
    /// What Azure lists of the reefs.
    pub lists: Lists,
    /// What keeps the reefs from each other.
    pub cells: Cells,
    /// Reconciles at once, per kind and reef.
    pub concurrency: u16,
}

impl Context {
    /// From the flags.
    pub fn new(client: Client, arms: Arc<Arms>, claim: Claim, metrics: Arc<Metrics>, args: &RunArgs) -> Self {
        let (clusters, heard) = Clusters::new(&args.fleet);
        Self {
            client,
            arms,
            claim,
            policy: Policy {
                resync: Duration::from_secs(u64::from(args.resync_seconds)),
                azure_poll: Duration::from_secs(u64::from(args.azure_poll_seconds)),
                progress_deadline: Duration::from_secs(u64::from(args.progress_deadline_seconds)),
            },
            fleet: args.fleet.clone(),
            namespace: args.place.namespace.clone(),
            identity: args.identity.clone(),
            agent_image: args.agent_image.clone(),
            octopus_image: args.octopus_image.clone(),
            // That it can be read was seen when the client of Azure was made.
            azure_ca: args.azure.azure_ca_file.as_ref().and_then(|path| std::fs::read_to_string(path).ok()),
            lists: Lists::default(),
            cells: Cells::new(args.concurrency, metrics.clone()),
            metrics,
            clusters,
            drifts: Drifts::default(),
            heard: Mutex::new(Some(heard)),
            concurrency: args.concurrency,
        }
    }

    /// A publisher of Events for one controller; it aggregates repeats, so it lives as long as the process.
    pub fn recorder(&self, controller: &'static str) -> Recorder {
        let reporter = Reporter {
            controller: format!("{}/{controller}-controller", reef_crds::meta::GROUP),
            instance: Some(self.identity.clone()),
        };
        Recorder::new(self.client.clone(), reporter)
    }
}

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The management API server refused or did not answer.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// The system gave no random bytes.
    #[error("no random bytes for keys")]
    NoRandom,
    /// It took too long.
    #[error("gave up after {} s", LONGEST.as_secs())]
    TooLong,
    /// Something changed while it was being decided on: look again.
    #[error("out of date: {0}")]
    Outdated(String),
    /// We may not write any more.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
}

impl Error {
    /// Names what was tried.
    pub fn api(what: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api { what, source: Box::new(source) }
    }

    /// How to go on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Api { source, .. } => requeue::classify(source),
            Self::Outdated(_) => ErrorClass::Conflict,
            Self::NotLeader(_) | Self::TooLong | Self::NoRandom => ErrorClass::Transient,
        }
    }
}

/// Counts, times and logs reconciles of one controller, and remembers how often an object failed in a row.
pub struct Reconciles<K> {
    controller: &'static str,
    metrics: Arc<Metrics>,
    failures: Mutex<HashMap<K, u32>>,
}

impl<K: Hash + Eq + Display> Reconciles<K> {
    /// For one controller that runs at most `concurrency` reconciles at once.
    pub fn new(controller: &'static str, metrics: Arc<Metrics>, concurrency: u16) -> Self {
        let by = ByController { controller };
        metrics.max_concurrent.get_or_create(&by).set(i64::from(concurrency));
        metrics.active_workers.get_or_create(&by).set(0);
        Self { controller, metrics, failures: Mutex::default() }
    }

    /// Runs one reconcile. A failure becomes a later try, never an error of the controller.
    pub async fn run(&self, object: K, reconcile: impl Future<Output = Result<Action, Error>>) -> Action {
        let by = ByController { controller: self.controller };
        let active = self.metrics.active_workers.get_or_create(&by).clone();
        active.inc();
        let began = Instant::now();
        let look = tokio::time::timeout(LONGEST, trace::collect(reconcile));
        let result = look.await.unwrap_or(Err(Error::TooLong));
        active.dec();
        let outcome = if result.is_ok() { "success" } else { "error" };
        self.metrics.reconciled(self.controller, outcome, began.elapsed());
        match result {
            Ok(action) => {
                self.failures().remove(&object);
                action
            }
            Err(error) => {
                let failures = self.count(object, &error);
                // Any spread will do; the clock's last digits differ from object to object.
                let spread = f64::from(Timestamp::now().subsec_nanosecond() % 1000) / 1000.0;
                Action::requeue(delay(error.class(), failures, spread))
            }
        }
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, object: &K) {
        self.failures().remove(object);
    }

    fn count(&self, object: K, error: &Error) -> u32 {
        let name = object.to_string();
        let mut map = self.failures();
        let failures = map.entry(object).or_insert(0);
        *failures += 1;
        tracing::warn!(controller = self.controller, name, %error, failures, "reconcile failed");
        *failures
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<K, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What API servers take as the note of an Event, bytes.
const LONGEST_NOTE: usize = 1024;

/// The beginning of a text, so many bytes at most.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

/// Publishes an Event, with the id of the call to Azure whose failure it tells of. One that cannot be published is a line in the log: Events are for people, and
/// nothing depends on them.
pub async fn publish(
    recorder: &Recorder,
    object: &ObjectReference,
    reason: Reason,
    warning: bool,
    action: &str,
    note: &str,
) {
    // As Azure's support asks for it.
    let id = trace::correlation_of(note).map(|id| format!(" (correlation id {id})")).unwrap_or_default();
    let note = format!("{}{id}", cut(note, LONGEST_NOTE.saturating_sub(id.len())));
    let event = Event {
        type_: if warning { EventType::Warning } else { EventType::Normal },
        reason: reason.as_str().to_owned(),
        note: Some(note),
        action: action.to_owned(),
        secondary: None,
    };
    send(recorder, object, &event).await;
}

async fn send(recorder: &Recorder, object: &ObjectReference, event: &Event) {
    if let Err(error) = recorder.publish(event, object).await {
        tracing::warn!(%error, name = object.name, reason = event.reason, "Event");
    }
}

/// Tells what somebody changed of an object's in a reef's cluster, each change once.
pub async fn tell_drifts(context: &Context, recorder: &Recorder, object: &ObjectReference, whose: &str) {
    for drift in context.drifts.take(whose) {
        // The recorder makes one of Events that differ in their notes alone.
        let action: String = format!("PutBack {}", drift.field).chars().take(100).collect();
        let event = Event {
            type_: EventType::Warning,
            reason: Reason::DriftCorrected.as_str().to_owned(),
            note: Some(cut(&drift.note(), LONGEST_NOTE).to_owned()),
            action,
            secondary: Some(drift.object),
        };
        send(recorder, object, &event).await;
    }
}

/// Logs and counts the failures of a watch: the first one, and the recovery. For `inspect` on its stream.
pub fn watch_log<T>(
    controller: &'static str,
    resource: &'static str,
    metrics: Arc<Metrics>,
) -> impl FnMut(&Result<T, watcher::Error>) {
    let mut failing = false;
    move |event| match event {
        Ok(_) if failing => {
            failing = false;
            tracing::info!(controller, resource, "the watch works again");
        }
        Ok(_) => {}
        Err(error) => {
            metrics.watch_errors.get_or_create(&ByController { controller }).inc();
            if !failing {
                tracing::warn!(controller, resource, %error, "the watch fails; it is tried again");
            }
            failing = true;
        }
    }
}
