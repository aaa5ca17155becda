//! Messages of ARM as they can stand in a condition: the same failure gives the same text each time (pure).

/// Longest text, characters.
const LONGEST: usize = 500;

/// One line without what differs from one time to the next: URLs, which may also be signed, ids of requests and operations,
/// times, and how long something takes. Ids in the paths of resources stay.
pub fn stable(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().collect();
    let mut line = String::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let next = words.get(at + 1).copied().unwrap_or_default();
        let (text, taken) = if is_moment(word, next) {
            // A date and a time of day, and which half of the day.
            let time = if is_date(word) { at + 2 } else { at + 1 };
            let half = words.get(time).is_some_and(|w| matches!(bare(w), "AM" | "PM" | "UTC" | "GMT"));
            ("<time>".to_owned(), time - at + usize::from(half))
        } else if is_amount(word) && is_unit(next) {
            ("<n>".to_owned(), 1)
        } else if is_url(word) {
            ("<url>".to_owned(), 1)
        } else if let Some(name) = before_moment(word) {
            (format!("{name}<time>"), 1)
        } else {
            (without_ids(word), 1)
        };
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&text);
        at += taken;
    }
    line.chars().take(LONGEST).collect()
}

/// Without quotation marks and the like around it.
fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| "'\"()[]{}<>,.;:".contains(c))
}

fn is_url(word: &str) -> bool {
    let bare = bare(word);
    bare.contains("https://") || bare.contains("http://")
}

fn is_amount(word: &str) -> bool {
    let bare = bare(word);
    !bare.is_empty() && bare.chars().all(|c| c.is_ascii_digit() || c == '.')
}

fn is_unit(word: &str) -> bool {
    ["millisecond", "second", "minute", "hour", "ms", "sec"].iter().any(|unit| bare(word).starts_with(unit))
}

/// `2026-11-22T10:00:00Z`, `10:00:00`, or a date that a time of day follows.
fn is_moment(word: &str, next: &str) -> bool {
    let with_time = is_date_and_time(bare(word));
    with_time || is_time(word) || (is_date(word) && is_time(next))
}

/// `2026-11-22T10:00:00Z`.
fn is_date_and_time(word: &str) -> bool {
    word.split_once('T').is_some_and(|(date, time)| is_date(date) && is_time(time))
}

/// What stands before a moment in the same word, as `Time:` in `Time:2026-11-22T10:00:00Z`; none if there is no moment.
fn before_moment(word: &str) -> Option<&str> {
    let ends = word.match_indices([':', '=']).map(|(at, _)| at + 1);
    ends.filter_map(|end| word.split_at_checked(end))
        .find(|(_, rest)| is_date_and_time(bare(rest)))
        .map(|(name, _)| name)
}

/// `2026-11-22` or `11/22/2026`.
fn is_date(word: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    let bare = bare(word);
    ['-', '/'].iter().any(|separator| {
        let parts: Vec<_> = bare.split(*separator).collect();
        parts.len() == 3 && parts.iter().all(|part| digits(part)) && parts.iter().any(|part| part.len() == 4)
    })
}

/// `10:00`, `10:00:00.123Z`, `10:00:00+00:00`.
fn is_time(word: &str) -> bool {
    let bare = bare(word);
    let begins = bare.as_bytes().first().is_some_and(u8::is_ascii_digit);
    begins && bare.contains(':') && bare.chars().all(|c| c.is_ascii_digit() || ":.Z+-".contains(c))
}

/// A word with its ids taken out.
fn without_ids(word: &str) -> String {
    let mut text = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        text.push_str(if is_id(run) && !is_in_path(&text) { "<id>" } else { run });
        let end = after.find(is_part).unwrap_or(after.len());
        let (between, after) = after.split_at(end);
        text.push_str(between);
        rest = after;
    }
    text
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

/// Whether what comes next is a name in a path of a resource, and not that of an operation.
fn is_in_path(before: &str) -> bool {
    let Some(path) = before.strip_suffix('/') else { return false };
    let parent = path.rsplit('/').next().unwrap_or_default().to_lowercase();
    !parent.contains("operation") && path.contains('/')
}

/// A UUID, or something as long that a machine made up.
fn is_id(run: &str) -> bool {
    let letters = run.chars().filter(|c| *c != '-');
    let is_hex = letters.clone().all(|c| c.is_ascii_hexdigit());
    let is_mixed = run.chars().any(|c| c.is_ascii_digit()) && run.chars().any(|c| c.is_ascii_alphabetic());
    let length = letters.count();
    (is_hex && is_mixed && length >= 16) || (is_hex && length == 32) || (is_mixed && length >= 40)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "286c2cd7-d2fa-4fae-8f80-d62585cd9b9a";

    #[test]
    fn what_differs_from_time_to_time_is_left_out() {
        for (message, expect) in [
            ("busy,\n see 'https://management.azure.com/x?s=signature'.".to_owned(), "busy, see <url>"),
            (format!("broken. Tracking ID: '{ID}'"), "broken. Tracking ID: '<id>'"),
            (format!("broken.\r\nRequestID={ID}"), "broken. RequestID=<id>"),
            (format!("Operation Put ({}) runs", ID.to_uppercase()), "Operation Put (<id>) runs"),
            (format!("Activity {}.", ID.replace('-', "")), "Activity <id>."),
            (format!("locations/w/operations/{ID}"), "locations/w/operations/<id>"),
            ("retried in 14 seconds.".to_owned(), "retried in <n> seconds."),
            ("took 1.5 ms, 3 of 4 nodes".to_owned(), "took <n> ms, 3 of 4 nodes"),
            ("at 2026-11-22T10:00:00.1Z.".to_owned(), "at <time>"),
            ("at 1/19/2026 8:50:38 PM, then".to_owned(), "at <time> then"),
            ("at 2026-11-22 10:00:00 UTC".to_owned(), "at <time>"),
            ("at 10:00 it".to_owned(), "at <time> it"),
            ("gone.\nTime:2022-11-18T07:04:21.4535382Z".to_owned(), "gone. Time:<time>"),
            ("since=2026-11-22T10:00:00Z, then".to_owned(), "since=<time> then"),
        ] {
            assert_eq!(stable(&message), expect, "{message}");
        }
    }

    #[test]
    fn what_tells_resources_apart_stays() {
        for message in [
            format!("Resource '/subscriptions/{ID}/resourceGroups/rg/providers/a/b/c' is busy"),
            format!(
                "/subscriptions/{ID}/providers/Microsoft.Authorization/roleAssignments/{ID} is not there"
            ),
            "The api-version 2024-01-01 is not supported in northeurope".to_owned(),
            "Server 'reef-weu-1-5f3c9a1b' is busy with 40881 of 3".to_owned(),
            "Version 1.33.5 of Standard_D16s_v5".to_owned(),
        ] {
            assert_eq!(stable(&message), message);
        }
    }

    proptest! {
        /// Nothing that differs gets through in any place, and what is stable stays as it is.
        #[test]
        fn the_same_failure_has_one_text(before in "[ a-zA-Z(='\"]{0,12}", after in "[ .,)'\"]{0,3}[ a-z]{0,9}", a: u128, b: u128) {
            let id = |n: u128| {
                let hex = format!("{n:032x}");
                format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            };
            let text = |id: String| format!("{before}{}{id}{after}", if before.ends_with(|c: char| c.is_ascii_alphanumeric()) { " " } else { "" });
            prop_assume!(!after.starts_with(|c: char| c.is_ascii_alphanumeric()));
            prop_assert_eq!(stable(&text(id(a))), stable(&text(id(b))));
        }

        #[test]
        fn it_is_one_line_and_stays_so(message in ".*") {
            let once = stable(&message);
            prop_assert!(once.lines().count() <= 1);
            prop_assert_eq!(stable(&once), once);
        }
    }
}
