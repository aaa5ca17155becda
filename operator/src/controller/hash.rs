//! Short stable hashes for names (pure). They must never change: names in Azure are made from them.

use std::fmt::Write;

use aws_lc_rs::digest;

/// The first `digits` hexadecimal digits (at most 64) of the SHA-256 of the parts, each ended by a zero byte.
pub fn hex(parts: &[&str], digits: usize) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    let mut text = String::new();
    for byte in context.finish().as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text.truncate(digits);
    text
}

/// A UUID of the custom version (8) that follows from the parts.
pub fn uuid(parts: &[&str]) -> String {
    let h = hex(parts, 32);
    format!("{}-{}-8{}-8{}-{}", &h[..8], &h[8..12], &h[13..16], &h[17..20], &h[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_never_change() {
        assert_eq!(hex(&["a", "b"], 10), "8fb20ef63c");
        assert_ne!(hex(&["ab", ""], 10), hex(&["a", "b"], 10));
        assert_eq!(uuid(&["a", "b"]).len(), 36);
        assert_eq!(uuid(&["a", "b"]).as_bytes()[14], b'8');
    }
}
