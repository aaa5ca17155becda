//! When a failed reconcile is tried again (pure).

use std::time::Duration;

/// What kind of failure it was; decides the pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Passes by itself: connections, timeouts, 5xx.
    Transient,
    /// Somebody else wrote first: look again at once.
    Conflict,
    /// We ask too often.
    Throttled,
    /// Credentials or permissions are missing.
    Auth,
    /// The request itself is refused; only a change helps.
    Invalid,
    /// What is written to is not there.
    Missing,
}

/// The class of an API server's answer.
pub fn classify(error: &kube::Error) -> ErrorClass {
    match error {
        kube::Error::Api(status) => match status.code {
            409 => ErrorClass::Conflict,
            429 => ErrorClass::Throttled,
            401 | 403 => ErrorClass::Auth,
            404 | 410 => ErrorClass::Missing,
            400 | 422 => ErrorClass::Invalid,
            _ => ErrorClass::Transient,
        },
        _ => ErrorClass::Transient,
    }
}

/// The pause after the `failures`-th failure in a row. Doubles up to a bound and is spread by up to a
/// fifth, so that objects that failed together do not come back together. `spread` is 0 to 1.
pub fn delay(class: ErrorClass, failures: u32, spread: f64) -> Duration {
    let (first, longest) = match class {
        ErrorClass::Conflict => (0.1, 10.0),
        ErrorClass::Transient | ErrorClass::Missing => (1.0, 60.0),
        ErrorClass::Throttled => (5.0, 120.0),
        ErrorClass::Auth => (10.0, 300.0),
        ErrorClass::Invalid => (30.0, 600.0),
    };
    let doublings = i32::try_from(failures.saturating_sub(1).min(16)).unwrap_or(16);
    let seconds = f64::min(first * f64::powi(2.0, doublings), longest);
    Duration::from_secs_f64(seconds * (1.0 + 0.2 * spread.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;
    use proptest::prelude::*;

    #[test]
    fn answers_are_classified() {
        for (code, class) in [
            (400, ErrorClass::Invalid),
            (401, ErrorClass::Auth),
            (403, ErrorClass::Auth),
            (404, ErrorClass::Missing),
            (409, ErrorClass::Conflict),
            (410, ErrorClass::Missing),
            (422, ErrorClass::Invalid),
            (429, ErrorClass::Throttled),
            (500, ErrorClass::Transient),
            (503, ErrorClass::Transient),
            (504, ErrorClass::Transient),
        ] {
            let status = Status::failure("", "").with_code(code);
            assert_eq!(classify(&kube::Error::Api(Box::new(status))), class, "{code}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        let millis = |class, n| delay(class, n, 0.0).as_millis();
        assert_eq!(
            [1, 2, 3, 7, 99].map(|n| millis(ErrorClass::Transient, n)),
            [1000, 2000, 4000, 60_000, 60_000]
        );
        assert!(millis(ErrorClass::Conflict, 1) < 200);
        assert!(millis(ErrorClass::Invalid, 1) >= 30_000);
    }

    proptest! {
        #[test]
        fn no_pause_is_zero_or_above_twelve_minutes(failures in 0u32.., spread in -1.0f64..3.0) {
            for class in [ErrorClass::Transient, ErrorClass::Conflict, ErrorClass::Throttled, ErrorClass::Auth, ErrorClass::Invalid, ErrorClass::Missing] {
                let pause = delay(class, failures, spread);
                prop_assert!(pause > Duration::ZERO && pause <= Duration::from_secs(720));
            }
        }
    }
}
