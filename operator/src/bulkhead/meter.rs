//! How much of one limit is used up (pure). Times are counted from any origin.

use std::{collections::VecDeque, time::Duration};

use super::limits::Quota;

/// Counts the calls that went, and keeps what Azure said of them.
#[derive(Clone, Debug)]
pub struct Meter {
    used: Used,
    closed_until: Duration,
}

#[derive(Clone, Debug)]
enum Used {
    Bucket {
        burst: u32,
        refill: Duration,
        /// When it is full again if nothing more is taken. Time instead of tokens: nothing is ever rounded.
        full_at: Duration,
    },
    Window {
        most: u32,
        length: Duration,
        /// When calls went, oldest first.
        went: VecDeque<Duration>,
    },
}

impl Meter {
    /// With nothing used.
    pub fn new(quota: Quota) -> Self {
        let used = match quota {
            Quota::Bucket { refill, .. } => {
                let refill = refill.max(Duration::from_nanos(1));
                Used::Bucket { burst: quota.most(), refill, full_at: Duration::ZERO }
            }
            Quota::Window { length, .. } => {
                Used::Window { most: quota.most(), length, went: VecDeque::new() }
            }
        };
        Self { used, closed_until: Duration::ZERO }
    }

    /// How many calls may go now; none while it is closed.
    pub fn room(&self, now: Duration) -> u32 {
        if now < self.closed_until { 0 } else { self.free(now) }
    }

    /// How many would be let through by the number alone.
    fn free(&self, now: Duration) -> u32 {
        match &self.used {
            Used::Bucket { burst, refill, full_at } => {
                let missing = full_at.saturating_sub(now).as_nanos().div_ceil(refill.as_nanos());
                burst.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
            }
            Used::Window { most, length, went } => most.saturating_sub(count(live(went, *length, now).1)),
        }
    }

    /// When so many calls will have had room, if they all go as soon as they may and no others do. Exact up to what the
    /// quota lets through at once.
    pub fn when(&self, calls: u32, now: Duration) -> Duration {
        let at = match &self.used {
            Used::Bucket { burst, refill, full_at } => match calls.checked_sub(*burst) {
                None => full_at.saturating_sub(refill.saturating_mul(burst - calls)),
                Some(more) => (*full_at).max(now).saturating_add(refill.saturating_mul(more)),
            },
            Used::Window { most, length, went } => {
                let (from, live) = live(went, *length, now);
                // What is counted now makes room one by one, then what goes now, and so on in rounds.
                match calls.checked_sub(most.saturating_sub(count(live)).saturating_add(1)) {
                    None => now,
                    Some(more) => {
                        let place = usize::try_from(more % most).unwrap_or(usize::MAX);
                        let went = if place < live { went.get(from + place) } else { None };
                        let rounds = (more / most).saturating_add(1);
                        went.unwrap_or(&now).saturating_add(length.saturating_mul(rounds))
                    }
                }
            }
        };
        at.max(now).max(self.closed_until)
    }

    /// Counts a call.
    pub fn take(&mut self, now: Duration) {
        match &mut self.used {
            Used::Bucket { refill, full_at, .. } => *full_at = (*full_at).max(now).saturating_add(*refill),
            Used::Window { went, .. } => went.push_back(now),
        }
    }

    /// Azure says how many are left. Fewer than counted here are believed: others use the same limit. More are not:
    /// Azure was seen to show more than it documents, and what is missing comes back by itself.
    pub fn left(&mut self, remaining: u32, now: Duration) {
        let more = self.free(now).saturating_sub(remaining);
        match &mut self.used {
            Used::Bucket { refill, full_at, .. } => {
                *full_at = (*full_at).max(now).saturating_add(refill.saturating_mul(more));
            }
            // When they went is not known; now is the latest it can have been.
            Used::Window { went, .. } => went.extend((0..more).map(|_| now)),
        }
    }

    /// Lets nothing through until then. Never shortens an earlier pause. Azure takes no more because nothing is left: a
    /// bucket has one call then, and others as it fills again, so that not all that wait go at once.
    pub fn close(&mut self, until: Duration) {
        self.closed_until = self.closed_until.max(until);
        if let Used::Bucket { burst, refill, full_at } = &mut self.used {
            let one_left = until.saturating_add(refill.saturating_mul(burst.saturating_sub(1)));
            *full_at = (*full_at).max(one_left);
        }
    }

    /// Forgets what does not count any more.
    pub fn settle(&mut self, now: Duration) {
        if let Used::Window { length, went, .. } = &mut self.used {
            let gone = live(went, *length, now).0;
            went.drain(..gone);
        }
    }

    /// Whether it is as good as new.
    pub fn is_full(&self, now: Duration) -> bool {
        let nothing_used = match &self.used {
            Used::Bucket { full_at, .. } => *full_at <= now,
            Used::Window { length, went, .. } => live(went, *length, now).1 == 0,
        };
        nothing_used && self.closed_until <= now
    }
}

/// From where on, and how many, calls still count.
fn live(went: &VecDeque<Duration>, length: Duration, now: Duration) -> (usize, usize) {
    let from = went.partition_point(|at| at.saturating_add(length) <= now);
    (from, went.len() - from)
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::tests_common::{Lcg, ms, s};
    use super::*;

    const BUCKET: Quota = Quota::Bucket { burst: 3, refill: Duration::from_millis(500) };
    const WINDOW: Quota = Quota::Window { most: 3, length: Duration::from_secs(10) };

    fn went(quota: Quota, gaps: &[u64]) -> Vec<Duration> {
        let (mut meter, mut now, mut went) = (Meter::new(quota), Duration::ZERO, Vec::new());
        for gap in gaps {
            now = meter.when(1, now + ms(*gap));
            assert!(meter.room(now) > 0, "there is room when it says so");
            assert!(now.is_zero() || meter.when(1, now.saturating_sub(ms(1))) >= now.saturating_sub(ms(1)));
            meter.take(now);
            meter.settle(now);
            went.push(now);
        }
        went
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        assert_eq!(went(BUCKET, &[0; 6]), [ms(0), ms(0), ms(0), ms(500), ms(1000), ms(1500)]);
        assert_eq!(went(BUCKET, &[0, 0, 0, 100_000, 0, 0, 0])[3..], [s(100), s(100), s(100), ms(100_500)]);
        assert_eq!(went(WINDOW, &[0, 1000, 0, 0, 0, 0]), [s(0), s(1), s(1), s(10), s(11), s(11)]);
    }

    #[test]
    fn never_more_than_the_burst_and_the_rate() {
        let mut lcg = Lcg::new(1);
        for _ in 0..50 {
            let gaps: Vec<_> = (0..200).map(|_| lcg.below(900)).collect();
            let went = went(BUCKET, &gaps);
            for (n, from) in went.iter().enumerate() {
                for (m, to) in went.iter().enumerate().skip(n) {
                    let calls = u128::try_from(m - n + 1).unwrap();
                    assert!(calls <= 3 + to.saturating_sub(*from).as_millis() / 500, "{from:?} to {to:?}");
                }
            }
        }
    }

    #[test]
    fn a_window_is_exact() {
        let mut lcg = Lcg::new(2);
        for _ in 0..50 {
            let gaps: Vec<_> = (0..200).map(|_| lcg.below(6000)).collect();
            let went = went(WINDOW, &gaps);
            for pair in went.windows(4) {
                assert!(pair[3].saturating_sub(pair[0]) >= s(10), "{pair:?}");
            }
            // And no call waits without need: what waited went when the third before it had been there long enough.
            assert!(went.windows(4).any(|pair| pair[3].saturating_sub(pair[0]) == s(10)));
        }
    }

    #[test]
    fn the_estimate_is_what_comes_to_pass() {
        let mut lcg = Lcg::new(3);
        for quota in [BUCKET, WINDOW] {
            for _ in 0..200 {
                let mut meter = Meter::new(quota);
                let mut now = Duration::ZERO;
                for _ in 0..lcg.below(6) {
                    now = meter.when(1, now + ms(lcg.below(5000)));
                    meter.take(now);
                }
                now += ms(lcg.below(5000));
                let expect: Vec<_> = (1..20).map(|calls| meter.when(calls, now)).collect();
                let mut at = now;
                for (n, expect) in expect.into_iter().enumerate() {
                    at = meter.when(1, at);
                    assert_eq!(at, expect, "call {n} of {quota:?}");
                    meter.take(at);
                }
            }
        }
    }

    #[test]
    fn what_azure_says_lowers_the_count_and_never_raises_it() {
        for quota in [BUCKET, WINDOW] {
            let mut meter = Meter::new(quota);
            meter.left(11_999, s(1));
            assert_eq!(meter.room(s(1)), 3, "no more than documented");
            meter.left(1, s(1));
            assert_eq!(meter.room(s(1)), 1);
            meter.left(2, s(1));
            assert_eq!(meter.room(s(1)), 1, "comes back by itself");
            meter.take(s(1));
            meter.left(0, s(1));
            assert_eq!(meter.room(s(1)), 0);
            assert!(!meter.is_full(s(1)));
            assert_eq!(meter.room(s(11)), 3);
            assert!(meter.is_full(s(11)));
        }
    }

    #[test]
    fn a_pause_is_never_shortened_and_ends_with_one_call() {
        let mut meter = Meter::new(BUCKET);
        meter.close(s(7));
        meter.close(s(5));
        assert_eq!((meter.room(ms(6999)), meter.room(s(7))), (0, 1));
        assert_eq!((meter.room(ms(7500)), meter.room(s(8)), meter.room(s(60))), (2, 3, 3));
        assert_eq!((meter.when(1, s(1)), meter.when(2, s(1))), (s(7), ms(7500)));
        assert!(!meter.is_full(s(6)));
        meter.close(s(9));
        assert_eq!(meter.room(s(8)), 0);
    }
}
