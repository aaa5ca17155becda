//! A token bucket (pure).

use std::time::Duration;

/// How much may be done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How many at once after a rest.
    pub burst: f64,
    /// How many a second in the long run.
    pub per_second: f64,
}

/// Tokens that come back with time. One that is taken in advance is waited for, so whoever came first goes first.
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Duration,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate) -> Self {
        Self { rate, tokens: rate.burst, at: Duration::ZERO }
    }

    /// How long the next token would have to be waited for. Times are counted from any origin.
    pub fn wait(&self, now: Duration) -> Duration {
        let missing = 1.0 - self.tokens_at(now);
        let seconds = if missing > 0.0 { missing / self.rate.per_second } else { 0.0 };
        Duration::from_secs_f64(seconds)
    }

    /// Takes a token; the caller waits as long as [`Self::wait`] said.
    pub fn take(&mut self, now: Duration) {
        self.tokens = self.tokens_at(now) - 1.0;
        self.at = self.at.max(now);
    }

    fn tokens_at(&self, now: Duration) -> f64 {
        let gone = now.saturating_sub(self.at).as_secs_f64();
        f64::min(self.tokens + gone * self.rate.per_second, self.rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: Rate = Rate { burst: 3.0, per_second: 2.0 };

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(RATE);
        let mut waits = Vec::new();
        for _ in 0..6 {
            waits.push(bucket.wait(Duration::ZERO).as_millis());
            bucket.take(Duration::ZERO);
        }
        assert_eq!(waits, [0, 0, 0, 500, 1000, 1500]);
        assert_eq!(bucket.wait(Duration::from_secs(100)), Duration::ZERO);
    }

    proptest! {
        /// Over any time, no more go than the burst and the rate allow.
        #[test]
        fn the_rate_holds(gaps in prop::collection::vec(0u64..700, 1..300)) {
            let (mut bucket, mut now, mut went) = (Bucket::new(RATE), Duration::ZERO, Vec::new());
            for gap in gaps {
                now += Duration::from_millis(gap);
                went.push(now + bucket.wait(now));
                bucket.take(now);
            }
            for (first, from) in went.iter().enumerate() {
                for (last, to) in went.iter().enumerate().skip(first) {
                    let most = RATE.burst + RATE.per_second * to.saturating_sub(*from).as_secs_f64() + 1e-6;
                    prop_assert!(f64::from(u32::try_from(last - first + 1).unwrap()) <= most + 1.0);
                }
            }
        }
    }
}
