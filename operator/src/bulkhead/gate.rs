//! The rates at which calls go to Azure Resource Manager: one bucket for each subscription and class of call, and
//! within it one for each reef, so that none takes it all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Bucket, Rate};

/// The part of a subscription's rate that one reef may use.
const SHARE: f64 = 0.5;

/// Classes of calls that Azure Resource Manager counts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// GET.
    Read,
    /// PUT, PATCH and POST.
    Write,
    /// DELETE.
    Delete,
}

/// Rates for one subscription and identity. Azure's own since 2024: a bucket of 250 reads that fills with 25 a second,
/// and of 200 writes and of 200 deletes that fill with 10 a second
/// (learn.microsoft.com/azure/azure-resource-manager/management/request-limits-and-throttling).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Reads.
    pub reads: Rate,
    /// Writes; deletes have the same, counted apart.
    pub writes: Rate,
}

impl Rates {
    /// From calls a second; bursts are as Azure has them for its own rates.
    pub fn new(reads_per_second: u32, writes_per_second: u32) -> Self {
        let rate = |per_second: u32, seconds: f64| Rate {
            burst: f64::from(per_second) * seconds,
            per_second: f64::from(per_second),
        };
        Self { reads: rate(reads_per_second, 10.0), writes: rate(writes_per_second, 20.0) }
    }

    /// The rate of a class.
    pub fn of(&self, verb: Verb) -> Rate {
        match verb {
            Verb::Read => self.reads,
            Verb::Write | Verb::Delete => self.writes,
        }
    }
}

type Buckets = HashMap<(String, Verb), Bucket>;

/// The buckets of one identity in Azure.
pub struct Gate {
    rates: Rates,
    all: Mutex<Buckets>,
}

/// The buckets of one cell.
#[derive(Default)]
pub struct Share(Mutex<Buckets>);

impl Gate {
    /// With full buckets.
    pub fn new(rates: Rates) -> Arc<Self> {
        Arc::new(Self { rates, all: Mutex::default() })
    }

    /// How long a call has to wait before it goes, at most `longest`; then it counts as gone. Otherwise why not: how
    /// long it would be, and nothing counts.
    pub fn pass(
        &self,
        share: &Share,
        subscription: &str,
        verb: Verb,
        now: Duration,
        longest: Duration,
    ) -> Result<Duration, Duration> {
        let key = || (subscription.to_owned(), verb);
        let rate = self.rates.of(verb);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own = share.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = own.entry(key()).or_insert_with(|| Bucket::new(rate.share(SHARE)));
        let all = all.entry(key()).or_insert_with(|| Bucket::new(rate));
        let wait = own.wait(now).max(all.wait(now));
        if wait > longest {
            return Err(wait);
        }
        own.take(now);
        all.take(now);
        Ok(wait)
    }

    /// Azure asks for a pause: of the whole subscription, or in what one cell works with.
    pub fn close(&self, share: &Share, subscription: &str, verb: Verb, whole: bool, until: Duration) {
        let buckets = if whole { &self.all } else { &share.0 };
        let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(&(subscription.to_owned(), verb)) {
            bucket.close(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn one_cell_leaves_room_for_the_others() {
        let gate = Gate::new(Rates::new(10, 1));
        let (greedy, other) = (Share::default(), Share::default());
        let pass =
            |share: &Share, at| gate.pass(share, "s", Verb::Read, Duration::from_secs(at), LONG).unwrap();
        let waits: Vec<_> = (0..100).map(|_| pass(&greedy, 0)).collect();
        assert_eq!(waits[49], Duration::ZERO, "half of the burst");
        assert_eq!(waits[99], Duration::from_secs(10), "half of the rate");
        assert_eq!(pass(&other, 10), Duration::ZERO);
        assert_eq!(
            gate.pass(&greedy, "s", Verb::Write, Duration::ZERO, LONG),
            Ok(Duration::ZERO),
            "counted apart"
        );
        assert_eq!(
            gate.pass(&greedy, "t", Verb::Read, Duration::ZERO, LONG),
            Ok(Duration::ZERO),
            "another one"
        );
    }

    #[test]
    fn who_would_wait_too_long_is_told_and_takes_nothing() {
        let gate = Gate::new(Rates::new(1, 1));
        let share = Share::default();
        let pass = || gate.pass(&share, "s", Verb::Read, Duration::ZERO, Duration::from_secs(2));
        let waits: Vec<_> = (0..9).map(|_| pass()).collect();
        assert_eq!(
            waits.iter().filter(|wait| wait.is_ok()).count(),
            6,
            "half of the burst, and one that waits 2 s"
        );
        assert_eq!(waits[8], Err(Duration::from_secs(4)));
    }

    #[test]
    fn a_pause_that_azure_asks_for_is_the_cells_own_or_everybodys() {
        let gate = Gate::new(Rates::new(10, 10));
        let (throttled, other) = (Share::default(), Share::default());
        let wait =
            |share: &Share| gate.pass(share, "s", Verb::Write, Duration::ZERO, LONG).unwrap().as_secs();
        assert_eq!([wait(&throttled), wait(&other)], [0, 0]);
        gate.close(&throttled, "s", Verb::Write, false, Duration::from_secs(30));
        assert_eq!([wait(&throttled), wait(&other)], [30, 0]);
        gate.close(&throttled, "s", Verb::Write, true, Duration::from_secs(50));
        assert_eq!([wait(&throttled), wait(&other)], [50, 50]);
    }
}
