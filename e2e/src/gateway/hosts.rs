//! Host names, exact and with a leading `*.` (pure). The empty name stands for any host.

/// Whether a name, perhaps with a wildcard, means a host. A wildcard stands for one label or more.
pub fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && !host.starts_with('.') && host.ends_with(suffix),
        None => name.is_empty() || name == host,
    }
}

/// What two names have in common, in small letters: the narrower, if the other covers it.
pub fn both(one: &str, other: &str) -> Option<String> {
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    let within = |narrow: &str, wide: &str| match narrow.strip_prefix("*.") {
        Some(rest) => wide.is_empty() || wide == narrow || (wide.starts_with("*.") && covers(wide, rest)),
        None => covers(wide, narrow) && (!narrow.is_empty() || wide.is_empty()),
    };
    if within(&one, &other) {
        Some(one)
    } else if within(&other, &one) {
        Some(other)
    } else {
        None
    }
}

/// How narrow a name is: exact ones before wildcards, longer wildcards before shorter.
pub fn narrowness(name: &str) -> (bool, usize) {
    (!name.is_empty() && !name.starts_with('*'), name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_one_label_or_more() {
        for (name, host, expect) in [
            ("a.example.com", "a.example.com", true),
            ("a.example.com", "b.example.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "a.badexample.com", false),
            ("", "anything", true),
        ] {
            assert_eq!(covers(name, host), expect, "{name} {host}");
        }
    }

    #[test]
    fn the_narrower_name_is_common() {
        for (one, other, expect) in [
            ("A.example.com", "*.example.com", Some("a.example.com")),
            ("*.example.com", "a.example.com", Some("a.example.com")),
            ("*.b.example.com", "*.example.com", Some("*.b.example.com")),
            ("*.example.com", "*.example.com", Some("*.example.com")),
            ("*.example.com", "", Some("*.example.com")),
            ("a.example.com", "", Some("a.example.com")),
            ("a.example.com", "b.example.com", None),
            ("a.example.org", "*.example.com", None),
            ("*.example.org", "*.example.com", None),
            ("*.example.com", "example.com", None),
            ("", "", Some("")),
        ] {
            assert_eq!(both(one, other).as_deref(), expect, "{one} {other}");
        }
    }
}
