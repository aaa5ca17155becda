//! Which crashes are tried: all, or a sample that a seed chooses.

use super::{When, Write};

/// What is chosen differs from run to run; `REEF_SEED` repeats one.
pub fn seed() -> u64 {
    let now =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_micros();
    let given = std::env::var("REEF_SEED").ok().and_then(|s| s.parse().ok());
    given.unwrap_or_else(|| u64::try_from(now() % 1_000_000).expect("a time"))
}

/// One crash.
pub type Crash = (Write, When);

/// Before and after each write, in the order of the writes.
pub fn all(writes: &[Write]) -> Vec<Crash> {
    writes.iter().flat_map(|write| [When::Before, When::After].map(|when| (write.clone(), when))).collect()
}

/// So many of them, each once; all if there are no more. The order is the seed's, so that who stops early has seen some
/// of everything.
pub fn sample(crashes: &[Crash], most: usize, seed: u64) -> Vec<Crash> {
    let mut left = crashes.to_vec();
    let mut dice = seed | 1;
    let mut chosen = Vec::new();
    while chosen.len() < most && !left.is_empty() {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let at = usize::try_from(dice % left.len() as u64).unwrap_or(0);
        chosen.push(left.swap_remove(at));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_each_crash_at_most_once_and_a_large_one_has_all() {
        let write = |n: u32| Write { server: "a".into(), verb: "b".into(), path: "c".into(), nth: n };
        let crashes = all(&(0..20).map(write).collect::<Vec<_>>());
        assert_eq!(crashes.len(), 40);
        for (seed, most, expect) in [(1, 7, 7), (2, 40, 40), (3, 99, 40)] {
            let chosen = sample(&crashes, most, seed);
            assert_eq!(chosen.len(), expect);
            let once = chosen.iter().enumerate().all(|(at, one)| !chosen[..at].contains(one));
            assert!(once, "{seed}");
            assert_eq!(chosen, sample(&crashes, most, seed));
        }
        assert_ne!(sample(&crashes, 7, 1), sample(&crashes, 7, 2));
    }
}
