//! What tests of limits share: time in numbers, and chance that is the same each time.

use std::time::Duration;

/// Seconds.
pub fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Milliseconds.
pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Numbers without order, by Knuth's linear congruential generator.
pub struct Lcg(u64);

impl Lcg {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        let mut lcg = Self(seed);
        lcg.below(2);
        lcg
    }

    /// The next number, below an end.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// One that is true once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
