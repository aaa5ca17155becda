//! A breaker: a service that does not answer is left alone for a while, then one call finds out (pure).

use std::time::Duration;

/// So many failures in a row open it.
const FAILURES: u32 = 5;

/// For so long a single failure tells that the service does not answer.
const RECENT: Duration = Duration::from_secs(60);

/// How long it stays open the first time. Twice as long each further time, until a probe succeeds.
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// How long it stays open at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// A probe of which nothing is heard for so long is given up. Longer than any call may take.
const PROBE: Duration = Duration::from_secs(150);

/// How a call ended, for its breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service answered, whatever it said.
    Answered,
    /// It did not answer, or with a failure of its own.
    Failed,
    /// The caller gave up before anything was known.
    Unknown,
}

/// The breaker is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When the next probe is due, since the clock's origin.
    pub until: Duration,
}

/// Closed: calls pass. Open: none do. Half-open: one passes, and decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Failures in a row while closed.
    failures: u32,
    /// When the last of them ended.
    failed_at: Option<Duration>,
    /// Since when the service fails, how often the breaker was opened in a row, and until when it is open.
    open: Option<Open>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Open {
    times: u32,
    until: Duration,
    /// When the probe began that runs now.
    probe: Option<Duration>,
}

impl Breaker {
    /// Whether a call would pass now.
    pub fn may(&self, now: Duration) -> Result<(), Refused> {
        let Some(open) = &self.open else { return Ok(()) };
        let until = open.probe.map_or(open.until, |began| began + PROBE);
        if now < until { Err(Refused { until }) } else { Ok(()) }
    }

    /// Asks to make a call. Times are counted from any origin, by a clock that only goes forward.
    pub fn ask(&mut self, now: Duration) -> Result<(), Refused> {
        self.may(now)?;
        if let Some(open) = &mut self.open {
            open.probe = Some(now);
        }
        Ok(())
    }

    /// Tells how a call went that was asked for at `began`. True if the breaker opened or closed by it.
    pub fn tell(&mut self, outcome: Outcome, began: Duration, now: Duration) -> bool {
        match (outcome, &mut self.open) {
            (Outcome::Answered, open) => {
                self.failures = 0;
                self.failed_at = None;
                open.take().is_some()
            }
            (Outcome::Failed, None) => {
                self.failures += 1;
                self.failed_at = Some(now);
                if self.failures < FAILURES {
                    return false;
                }
                self.open = Some(Open { times: 1, until: now + FIRST_PAUSE, probe: None });
                true
            }
            // Only the probe counts: calls from before say nothing new.
            (Outcome::Failed, Some(open)) if open.probe == Some(began) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << open.times.min(10)).min(LONGEST_PAUSE);
                *open = Open { times: open.times.saturating_add(1), until: now + pause, probe: None };
                false
            }
            (Outcome::Unknown, Some(open)) if open.probe == Some(began) => {
                *open = Open { until: now, probe: None, ..open.clone() };
                false
            }
            (Outcome::Failed, Some(_)) | (Outcome::Unknown, _) => false,
        }
    }

    /// Whether the last call that ended was answered, or is so long ago that it says nothing any more.
    pub fn answers(&self, now: Duration) -> bool {
        let is_recent = self.failed_at.is_some_and(|at| now.saturating_sub(at) < RECENT);
        self.open.is_none() && (self.failures == 0 || !is_recent)
    }

    /// Whether it is open or half-open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for n in 1..=FAILURES {
            breaker.ask(s(0)).unwrap();
            assert_eq!(breaker.answers(s(1)), n == 1);
            assert!(breaker.answers(s(1) + RECENT), "nobody has called it for long");
            assert_eq!(breaker.tell(Outcome::Failed, s(0), s(1)), n == FAILURES, "failure {n}");
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_answer_between_them_does_not() {
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            for _ in 1..FAILURES {
                assert!(!breaker.tell(Outcome::Failed, s(0), s(0)));
            }
            breaker.tell(Outcome::Answered, s(0), s(0));
        }
        assert!(!breaker.is_open());
        assert_eq!(opened().ask(s(2)), Err(Refused { until: s(11) }));
    }

    #[test]
    fn one_probe_decides_and_pauses_grow() {
        let mut breaker = opened();
        let mut now = s(11);
        for pause in [20, 40, 80, 120, 120] {
            breaker.ask(now).unwrap();
            assert!(breaker.ask(now).is_err(), "one at a time");
            assert!(!breaker.tell(Outcome::Failed, s(0), now), "an earlier call says nothing");
            assert!(breaker.ask(now).is_err());
            breaker.tell(Outcome::Failed, now, now);
            assert_eq!(breaker.ask(now), Err(Refused { until: now + s(pause) }));
            now += s(pause);
        }
        breaker.ask(now).unwrap();
        assert!(breaker.tell(Outcome::Answered, now, now));
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn a_probe_that_is_given_up_is_followed_by_another() {
        let mut breaker = opened();
        breaker.ask(s(11)).unwrap();
        breaker.tell(Outcome::Unknown, s(11), s(12));
        breaker.ask(s(12)).unwrap();
        // Nothing is heard of this one at all.
        assert!(breaker.ask(s(100)).is_err());
        breaker.ask(s(12) + PROBE).unwrap();
    }

    proptest! {
        /// Whatever happens, a call passes within the longest pause, and one answer closes it.
        #[test]
        fn it_never_stays_shut(steps in prop::collection::vec((0u64..60, 0u8..3), 0..200)) {
            let (mut breaker, mut now) = (Breaker::default(), Duration::ZERO);
            for (wait, what) in steps {
                now += s(wait);
                let outcome = [Outcome::Answered, Outcome::Failed, Outcome::Unknown][usize::from(what)];
                if breaker.ask(now).is_ok() {
                    breaker.tell(outcome, now, now);
                }
            }
            now += LONGEST_PAUSE.max(PROBE);
            prop_assert!(breaker.ask(now).is_ok());
            breaker.tell(Outcome::Answered, now, now);
            prop_assert!(!breaker.is_open());
        }
    }
}
