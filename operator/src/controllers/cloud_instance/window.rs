//! Maintenance windows (pure). All is in UTC, so no clock change moves them.

use jiff::Timestamp;
use reef_crds::cloud_instance::{Day, MaintenanceWindow};

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;

/// Nothing is begun so shortly before the end, seconds: tasks have to end, and a server to start.
const LAST: i64 = 30 * MINUTE;

/// The days as Unix time counts them: it begins with a Thursday.
const DAYS: [Day; 7] =
    [Day::Thursday, Day::Friday, Day::Saturday, Day::Sunday, Day::Monday, Day::Tuesday, Day::Wednesday];

/// Whether something may be begun now.
pub fn is_open(window: &MaintenanceWindow, now: Timestamp) -> bool {
    let now = now.as_second();
    let today = now.div_euclid(DAY);
    let last = i64::from(window.duration_seconds) - LAST;
    // What began yesterday may still be open.
    [today - 1, today].iter().filter_map(|day| begin(window, *day)).any(|at| (at..at + last).contains(&now))
}

/// When it opens next, after now.
pub fn opens(window: &MaintenanceWindow, now: Timestamp) -> Option<Timestamp> {
    let today = now.as_second().div_euclid(DAY);
    let mut begins = (today..=today + 7).filter_map(|day| begin(window, day));
    begins.find(|at| *at > now.as_second()).and_then(|at| Timestamp::from_second(at).ok())
}

/// In words, for example `at 02:00 UTC for 2 h on Saturday`.
pub fn in_words(window: &MaintenanceWindow) -> String {
    let minutes = i64::from(window.duration_seconds) / MINUTE;
    let long = match (minutes / 60, minutes % 60) {
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    };
    let days: Vec<_> = window.days.iter().map(|day| format!("{day:?}")).collect();
    let days = if days.is_empty() { "every day".to_owned() } else { format!("on {}", days.join(", ")) };
    format!("at {} UTC for {long} {days}", window.start)
}

/// When it begins on a day since 1970, if it does.
fn begin(window: &MaintenanceWindow, day: i64) -> Option<i64> {
    let (hours, minutes) = window.start.split_once(':')?;
    let (hours, minutes) = (hours.parse::<i64>().ok()?, minutes.parse::<i64>().ok()?);
    let of_week = DAYS[usize::try_from(day.rem_euclid(7)).ok()?];
    let begins = window.days.is_empty() || window.days.contains(&of_week);
    begins.then_some(day * DAY + hours * 60 * MINUTE + minutes * MINUTE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(start: &str, hours: u32, days: &[Day]) -> MaintenanceWindow {
        MaintenanceWindow { start: start.to_owned(), duration_seconds: hours * 3600, days: days.to_vec() }
    }

    #[test]
    fn a_window_is_open_from_its_start_until_shortly_before_its_end() {
        // 2026-11-21 is a Saturday.
        let daily = window("02:00", 2, &[]);
        let saturday = window("23:00", 3, &[Day::Saturday]);
        let whole = window("00:00", 24, &[]);
        for (window, now, expect) in [
            (&daily, "2026-11-21T01:59:59Z", false),
            (&daily, "2026-11-21T02:00:00Z", true),
            (&daily, "2026-11-21T03:29:59Z", true),
            (&daily, "2026-11-21T03:30:00Z", false),
            (&saturday, "2026-11-21T22:59:59Z", false),
            (&saturday, "2026-11-21T23:00:00Z", true),
            (&saturday, "2026-11-22T01:29:59Z", true),
            (&saturday, "2026-11-22T01:30:00Z", false),
            (&saturday, "2026-11-22T23:30:00Z", false),
            (&saturday, "2026-11-21T00:30:00Z", false),
            (&whole, "2026-11-21T12:00:00Z", true),
        ] {
            assert_eq!(is_open(window, now.parse().unwrap()), expect, "{window:?} at {now}");
        }
    }

    #[test]
    fn a_window_says_when_it_opens_next_and_what_it_is() {
        let opens = |window: &MaintenanceWindow, now: &str| {
            super::opens(window, now.parse().unwrap()).unwrap().to_string()
        };
        let daily = window("02:00", 2, &[]);
        assert_eq!(opens(&daily, "2026-11-21T01:00:00Z"), "2026-11-21T02:00:00Z");
        assert_eq!(opens(&daily, "2026-11-21T02:00:00Z"), "2026-11-22T02:00:00Z");
        let saturday = window("23:00", 3, &[Day::Saturday]);
        assert_eq!(opens(&saturday, "2026-11-21T23:00:00Z"), "2026-11-28T23:00:00Z");
        assert_eq!(in_words(&daily), "at 02:00 UTC for 2 h every day");
        let odd = MaintenanceWindow { duration_seconds: 9000, ..saturday };
        assert_eq!(in_words(&odd), "at 23:00 UTC for 2 h 30 min on Saturday");
    }

    proptest! {
        /// As jiff's calendar says it, minute by minute back to the beginning.
        #[test]
        fn it_is_what_a_calendar_says(
            now in 0i64..4_000_000_000,
            (hour, minute) in (0i8..24, 0i8..60),
            hours in 2u32..=24,
            days in proptest::sample::subsequence(DAYS.to_vec(), 0..=7),
        ) {
            let window = window(&format!("{hour:02}:{minute:02}"), hours, &days);
            let now = Timestamp::from_second(now).unwrap();
            let is_its = |at: &jiff::Zoned| {
                let day = format!("{:?}", at.weekday());
                days.is_empty() || days.iter().any(|d| format!("{d:?}") == day)
            };
            let here = now.to_zoned(jiff::tz::TimeZone::UTC);
            let begins = (0..=8).filter_map(|n| {
                let day = here.date().checked_add(jiff::ToSpan::days(n - 1)).unwrap();
                let at = day.at(hour, minute, 0, 0).to_zoned(jiff::tz::TimeZone::UTC).unwrap();
                is_its(&at).then(|| at.timestamp())
            });
            let begins: Vec<_> = begins.collect();
            let long = i64::from(hours) * 3600 - LAST;
            let open = begins.iter().any(|at| {
                (0..long).contains(&(now.as_second() - at.as_second()))
            });
            prop_assert_eq!(is_open(&window, now), open);
            prop_assert_eq!(opens(&window, now), begins.into_iter().find(|at| *at > now));
        }
    }
}
