//! The cell of a reef: what runs at once for it, and whether its services answer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{Breaker, Bucket, Outcome, Rate, Refused, limits::Verb};
use crate::metrics::{ByCell, ByReef, Metrics};

/// Reads, writes and deletes of one reef that are made or wait for their turn at once. Apart from each other: where writes
/// have to wait, reads go on, and who reads may be who deletes next.
const CALLS: [usize; 3] = [32, 32, 16];

/// Who gives up a call after less knows nothing of the service. Nearly all reads are answered within two seconds.
const LONG: Duration = Duration::from_secs(4);

/// What a reef depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// A resource provider of Azure, as far as the reef's resources go, by its name (`Microsoft.Sql`). Azure Resource
    /// Manager passes calls on to them, and each fails by itself.
    Azure(String),
    /// The API server of its cluster.
    Cluster,
}

impl Service {
    /// For metrics and the log.
    pub fn name(&self) -> &str {
        match self {
            Self::Azure(provider) => provider,
            Self::Cluster => "cluster",
        }
    }
}

/// The bounds and breakers of one reef.
pub struct Cell {
    name: String,
    origin: Instant,
    looks: Semaphore,
    calls: [Semaphore; 3],
    breakers: Mutex<BTreeMap<Service, Breaker>>,
    /// What is left of the routine calls that may wait for another cycle.
    spare: Mutex<Option<Bucket>>,
    metrics: Arc<Metrics>,
    tell: UnboundedSender<String>,
}

impl Cell {
    fn new(name: &str, all: &Cells) -> Self {
        Self {
            name: name.to_owned(),
            origin: all.origin,
            looks: Semaphore::new(all.looks),
            calls: CALLS.map(Semaphore::new),
            breakers: Mutex::default(),
            spare: Mutex::default(),
            metrics: all.metrics.clone(),
            tell: all.tell.clone(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Time since the origin of all cells' clocks.
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Waits until another object of this reef may be looked at; none if nothing is looked at any more. The place is free
    /// again when the permit is dropped.
    pub async fn look(&self) -> Option<SemaphorePermit<'_>> {
        let waiting = self.metrics.cell_waiting.get_or_create(&ByReef { reef: self.name.clone() }).clone();
        waiting.inc();
        let permit = self.looks.acquire().await.ok();
        waiting.dec();
        permit
    }

    /// Waits until another call of this kind may be made to Azure for this reef.
    pub async fn call(&self, verb: Verb) -> Option<SemaphorePermit<'_>> {
        let [reads, writes, deletes] = &self.calls;
        let calls = match verb {
            Verb::Read => reads,
            Verb::Write => writes,
            Verb::Delete => deletes,
        };
        calls.acquire().await.ok()
    }

    /// Whether there is room for a routine call that could as well be made later.
    pub fn spare(&self, rate: Rate) -> bool {
        let now = self.now();
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = spare.get_or_insert_with(|| Bucket::new(rate));
        let is_room = spare.wait(now).is_zero();
        if is_room {
            spare.take(now);
        }
        is_room
    }

    /// Whether a call to a service would pass now.
    pub fn may(&self, service: &Service) -> Result<(), Refused> {
        self.breakers().get(service).map_or(Ok(()), |breaker| breaker.may(self.now()))
    }

    /// Asks to call a service.
    pub fn ask(self: &Arc<Self>, service: Service) -> Result<Call, Refused> {
        let began = self.now();
        self.breakers().entry(service.clone()).or_insert_with(|| self.closed(&service)).ask(began)?;
        Ok(Call { cell: self.clone(), service, began, is_told: false })
    }

    /// The first breaker for a service.
    fn closed(&self, service: &Service) -> Breaker {
        let by = ByCell { reef: self.name.clone(), service: service.name().to_owned() };
        self.metrics.breaker_open.get_or_create(&by).set(0);
        Breaker::default()
    }

    /// Whether the last call to each service was answered: who chooses a reef takes one that answers.
    pub fn answers(&self) -> bool {
        let now = self.now();
        self.breakers().values().all(|breaker| breaker.answers(now))
    }

    /// The services that calls are held back from because they fail.
    pub fn held_back(&self) -> Vec<Service> {
        let breakers = self.breakers();
        breakers.iter().filter(|(_, breaker)| breaker.is_open()).map(|(service, _)| service.clone()).collect()
    }

    fn breakers(&self) -> std::sync::MutexGuard<'_, BTreeMap<Service, Breaker>> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, service: &Service, outcome: Outcome, began: Duration) {
        let (changed, open) = {
            let mut breakers = self.breakers();
            let breaker = breakers.entry(service.clone()).or_default();
            (breaker.tell(outcome, began, self.now()), breaker.is_open())
        };
        if changed {
            let service = service.name();
            let by = ByCell { reef: self.name.clone(), service: service.to_owned() };
            self.metrics.breaker_open.get_or_create(&by).set(i64::from(open));
            if open {
                tracing::warn!(cell = self.name, service, "does not answer: calls are held back");
            } else {
                tracing::info!(cell = self.name, service, "answers again");
            }
            // Nobody listens when the process ends.
            let _ = self.tell.unbounded_send(self.name.clone());
        }
    }
}

/// A call that was let through. Dropped before it is told how it went, it counts as given up by its caller; after
/// [`LONG`] as one without an answer.
pub struct Call {
    cell: Arc<Cell>,
    service: Service,
    began: Duration,
    is_told: bool,
}

impl Call {
    /// Tells whether the service answered.
    pub fn ended(mut self, outcome: Outcome) {
        self.is_told = true;
        self.cell.tell(&self.service, outcome, self.began);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.is_told {
            let is_long = self.cell.now().saturating_sub(self.began) >= LONG;
            let outcome = if is_long { Outcome::Failed } else { Outcome::Unknown };
            self.cell.tell(&self.service, outcome, self.began);
        }
    }
}

/// All cells, by name.
pub struct Cells {
    looks: usize,
    origin: Instant,
    metrics: Arc<Metrics>,
    all: Mutex<BTreeMap<String, Arc<Cell>>>,
    tell: UnboundedSender<String>,
    told: Mutex<Option<UnboundedReceiver<String>>>,
}

impl Cells {
    /// None yet. `looks` is how many objects of one reef are looked at at once.
    pub fn new(looks: u16, metrics: Arc<Metrics>) -> Self {
        let (tell, heard) = unbounded();
        let told = Mutex::new(Some(heard));
        Self { looks: usize::from(looks), origin: Instant::now(), metrics, all: Mutex::default(), tell, told }
    }

    /// The names of cells of which a breaker opened or closed; for one listener.
    pub fn changed(&self) -> Option<UnboundedReceiver<String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The cell of a Reef.
    pub fn reef(&self, name: &str) -> Arc<Cell> {
        self.get(name.to_owned())
    }

    /// The cell for what is not of one reef, but of a Region: names of Reefs hold no slash.
    pub fn region(&self, name: &str) -> Arc<Cell> {
        self.get(format!("region/{name}"))
    }

    /// Nothing is looked at any more: who waits is sent away, and who looks may end.
    pub fn close(&self) {
        self.lock().values().for_each(|cell| cell.looks.close());
    }

    /// Forgets the cell of a Reef that is gone.
    pub fn forget(&self, reef: &str) {
        let gone = self.lock().remove(reef);
        for service in gone.iter().flat_map(|cell| cell.breakers().keys().cloned().collect::<Vec<_>>()) {
            let by = ByCell { reef: reef.to_owned(), service: service.name().to_owned() };
            self.metrics.breaker_open.remove(&by);
        }
        self.metrics.cell_waiting.remove(&ByReef { reef: reef.to_owned() });
    }

    fn get(&self, name: String) -> Arc<Cell> {
        let mut all = self.lock();
        if let Some(cell) = all.get(&name) {
            return cell.clone();
        }
        let cell = Arc::new(Cell::new(&name, self));
        all.insert(name, cell.clone());
        cell
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Cell>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_fails_holds_back_no_other() {
        let cell = Cells::new(1, Arc::default()).reef("weu-1");
        let azure = |name: &str| Service::Azure(name.to_owned());
        while cell.may(&azure("Microsoft.Sql")).is_ok() {
            cell.ask(azure("Microsoft.Sql")).unwrap().ended(Outcome::Failed);
            cell.ask(azure("Microsoft.Storage")).unwrap().ended(Outcome::Answered);
        }
        assert_eq!(cell.held_back(), [azure("Microsoft.Sql")]);
        assert!(cell.ask(Service::Cluster).is_ok() && cell.may(&azure("Microsoft.Storage")).is_ok());
        assert!(!cell.answers(), "nobody is to get a place there");
    }
}
