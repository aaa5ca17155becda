//! The gate that all calls to Azure go through: who waits is let through by the [`Limiter`], in real time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{
    limiter::{Limiter, Ticket, Waits},
    limits::{Call, Limit, Priority, Rates},
};

/// Least time between two looks at who may go.
const TICK: Duration = Duration::from_millis(1);

/// A call that was not let through in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// How long it would still have waited.
    pub wait: Duration,
    /// Its place, for example `position 12 of 40 for Storage writes (1200 per hour)`.
    pub place: String,
}

/// One for all calls of the process: providers count by subscription, whoever calls.
pub struct Gate {
    rates: Rates,
    origin: Instant,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    limiter: Limiter,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    /// Whether a task lets go who may.
    is_pumped: bool,
}

impl State {
    fn pump(&mut self, now: Duration) {
        for ticket in self.limiter.go(now) {
            if let Some(waiting) = self.waiting.remove(&ticket) {
                // Whoever has gone meanwhile had its turn.
                let _ = waiting.send(());
            }
        }
    }
}

/// A place in the queue, which is given up when its caller goes.
struct Place<'a> {
    gate: &'a Gate,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.waiting.remove(&self.ticket);
        state.limiter.leave(self.ticket);
    }
}

impl Gate {
    /// With nothing used.
    pub fn new(rates: Rates) -> Arc<Self> {
        Arc::new(Self { rates, origin: Instant::now(), state: Mutex::default(), wake: Notify::new() })
    }

    /// The limits that a call of a cell counts against, with the one that closes when a provider asks the cell (`of`) to wait.
    pub fn limits(&self, of: &str, provider: &str, call: &Call<'_>) -> Vec<Limit> {
        let mut limits = self.rates.limits(call);
        limits.push(Limit::own(of, provider, call.verb));
        limits
    }

    /// Waits until a call may go; how long that took. Otherwise, after the longest time or at once if it would take
    /// longer, its place; then nothing counts.
    pub async fn pass(
        self: &Arc<Self>,
        cell: &str,
        priority: Priority,
        limits: &[Limit],
        longest: Duration,
    ) -> Result<Duration, Queued> {
        let began = self.now();
        let (tell, mut told) = oneshot::channel();
        let ticket = {
            let mut state = self.lock();
            let ticket = state.limiter.ask(cell, priority, limits);
            state.waiting.insert(ticket, tell);
            state.pump(began);
            ticket
        };
        let place = Place { gate: self, ticket };
        if told.try_recv().is_ok() {
            return Ok(Duration::ZERO);
        }
        let is_too_long = |waits: &Waits| waits.until.is_some_and(|until| until > began + longest);
        let waits = self.lock().limiter.waits(ticket, began);
        if let Some(waits) = waits.filter(is_too_long) {
            return Err(queued(&waits, began));
        }
        self.keep_pumping();
        match timeout(longest, told).await {
            Ok(Ok(())) => Ok(self.now().saturating_sub(began)),
            Ok(Err(_)) | Err(_) => {
                let now = self.now();
                let waits = self.lock().limiter.waits(ticket, now);
                drop(place);
                // It went in the last moment, if it does not wait any more.
                waits.map_or(Ok(now.saturating_sub(began)), |waits| Err(queued(&waits, now)))
            }
        }
    }

    /// Azure asks for a pause before the next call that counts against this limit.
    pub fn close(&self, limit: &Limit, pause: Duration) {
        let until = self.now() + pause;
        self.lock().limiter.close(limit, until);
    }

    /// Azure says how many calls are left.
    pub fn left(&self, limit: &Limit, remaining: u32) {
        let now = self.now();
        self.lock().limiter.left(limit, remaining, now);
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that who waits goes when it may.
    fn keep_pumping(self: &Arc<Self>) {
        let was_pumped = std::mem::replace(&mut self.lock().is_pumped, true);
        if was_pumped {
            // The new one may have room sooner.
            self.wake.notify_one();
        } else {
            tokio::spawn(self.clone().pump());
        }
    }

    async fn pump(self: Arc<Self>) {
        // However it ends: whoever waits then begins another.
        let _ended = Pumping(&self);
        loop {
            let next = {
                let mut state = self.lock();
                let now = self.now();
                state.pump(now);
                match state.limiter.next(now) {
                    Some(next) => next.max(now + TICK),
                    None => {
                        // While nobody else can begin to wait.
                        state.is_pumped = false;
                        return;
                    }
                }
            };
            tokio::select! {
                () = sleep_until(self.origin + next) => {}
                () = self.wake.notified() => {}
            }
        }
    }
}

struct Pumping<'a>(&'a Gate);

impl Drop for Pumping<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().is_pumped = false;
        }
    }
}

fn queued(waits: &Waits, now: Duration) -> Queued {
    let wait = waits.until.unwrap_or(now).saturating_sub(now).max(TICK);
    Queued { wait, place: waits.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulkhead::limits::Verb;

    const LONG: Duration = Duration::from_secs(3600);

    fn limits(gate: &Gate, cell: &str, verb: Verb) -> Vec<Limit> {
        let path = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Sql/servers/s";
        gate.limits(cell, "Microsoft.Sql", &Call { verb, path, location: "westeurope" })
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_when_there_is_room() {
        let gate = Gate::new(Rates { reads_per_second: 1, writes_per_second: 1 });
        let limits = limits(&gate, "a", Verb::Read);
        let pass = || gate.pass("a", Priority::Visible, &limits, LONG);
        let mut waits = Vec::new();
        for _ in 0..12 {
            waits.push(pass().await.unwrap().as_millis());
        }
        assert_eq!(waits[..7], [0; 7], "what one cell may use of ten at once");
        assert!(waits[8..].iter().all(|wait| (999..1010).contains(wait)), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_is_told_its_place_and_takes_nothing() {
        let gate = Gate::new(Rates { reads_per_second: 1, writes_per_second: 1 });
        let limits = limits(&gate, "a", Verb::Read);
        gate.close(&limits[0], Duration::from_secs(60));
        let patient = gate.clone();
        let waiting = limits.clone();
        let patient = tokio::spawn(async move { patient.pass("a", Priority::Visible, &waiting, LONG).await });
        tokio::task::yield_now().await;
        for _ in 0..3 {
            let queued =
                gate.pass("a", Priority::Visible, &limits, Duration::from_secs(10)).await.unwrap_err();
            assert_eq!(queued.place, "position 2 of 2 for ARM reads (1 per second, 10 at once)");
            assert!(queued.wait >= Duration::from_secs(59), "{queued:?}");
        }
        assert!(patient.await.unwrap().unwrap() >= Duration::from_secs(59));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_leaves_its_place() {
        let gate = Gate::new(Rates { reads_per_second: 1, writes_per_second: 1 });
        let limits = limits(&gate, "a", Verb::Write);
        gate.close(&limits[0], Duration::from_secs(5));
        let gone = timeout(Duration::from_secs(1), gate.pass("a", Priority::Visible, &limits, LONG)).await;
        assert!(gone.is_err() && gate.lock().waiting.is_empty());
        let waited = gate.pass("a", Priority::Visible, &limits, LONG).await.unwrap();
        assert!(waited < Duration::from_millis(4100), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_provider_asks_of_one_cell_holds_up_no_other() {
        let gate = Gate::new(Rates::default());
        let [mine, others] = ["a", "b"].map(|cell| limits(&gate, cell, Verb::Write));
        gate.close(mine.last().unwrap(), Duration::from_secs(30));
        let pass = |cell, limits| gate.pass(cell, Priority::Visible, limits, Duration::from_secs(1));
        assert_eq!(pass("b", &others).await, Ok(Duration::ZERO));
        let queued = pass("a", &mine).await.unwrap_err();
        assert!(
            queued.place.ends_with("for writes that Microsoft.Sql asked to wait with"),
            "{}",
            queued.place
        );
        let reads = limits(&gate, "a", Verb::Read);
        assert_eq!(pass("a", &reads).await, Ok(Duration::ZERO), "only its own limit");
    }
}
