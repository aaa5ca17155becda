//! Amounts and dimensions in words (pure).

use std::fmt;

use super::types::Dimension;

const KI: u64 = 1024;
const MI: u64 = KI * KI;
const GI: u64 = KI * MI;

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Instances => "instances",
            Self::Identities => "identities",
            Self::Databases => "databases on the server",
            Self::Pods => "pods",
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::PoolDatabases => "databases",
            Self::PoolStorage => "database storage",
            Self::PoolGuarantee => "guaranteed capacity",
            Self::Shares => "shares",
            Self::ShareStorage => "share storage",
        })
    }
}

impl Dimension {
    /// Whether it is counted in whole things.
    pub(super) const fn is_count(self) -> bool {
        !matches!(
            self,
            Self::Cpu | Self::Memory | Self::PoolStorage | Self::PoolGuarantee | Self::ShareStorage
        )
    }

    /// An amount of it with its unit.
    pub(super) fn amount(self, amount: u64) -> String {
        match self {
            Self::Cpu => format!("{amount}m"),
            Self::Memory | Self::PoolStorage | Self::ShareStorage => bytes(amount),
            Self::PoolGuarantee => thousandths(amount),
            _ => amount.to_string(),
        }
    }
}

/// Bytes as a quantity, in the largest unit that is exact.
fn bytes(amount: u64) -> String {
    for (unit, name) in [(GI, "Gi"), (MI, "Mi"), (KI, "Ki")] {
        if amount >= unit && amount.is_multiple_of(unit) {
            return format!("{}{name}", amount / unit);
        }
    }
    amount.to_string()
}

/// Thousandths as a decimal number without needless zeros.
fn thousandths(amount: u64) -> String {
    let text = format!("{}.{:03}", amount / 1000, amount % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Parts joined by `; ` in at most `limit` bytes, with how many were left out.
pub(super) fn joined(parts: &[String], limit: usize) -> String {
    let all = parts.join("; ");
    if all.len() <= limit {
        return all;
    }
    let more = |kept: usize| format!("; and {} more", parts.len() - kept);
    let fits = |kept: &usize| parts[..*kept].join("; ").len() + more(*kept).len() <= limit;
    match (1..parts.len()).rev().find(fits) {
        Some(kept) => parts[..kept].join("; ") + &more(kept),
        None => cut(all, limit),
    }
}

/// At most `limit` bytes of a text; what is cut ends in three dots.
pub(super) fn cut(text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let end = text.floor_char_boundary(limit.saturating_sub(3));
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_and_short() {
        for (dimension, amount, expect) in [
            (Dimension::Cpu, 1500, "1500m"),
            (Dimension::Memory, 3 * GI, "3Gi"),
            (Dimension::Memory, 1500 * MI, "1500Mi"),
            (Dimension::ShareStorage, 1025, "1025"),
            (Dimension::ShareStorage, 0, "0"),
            (Dimension::PoolGuarantee, 250, "0.25"),
            (Dimension::PoolGuarantee, 50_000, "50"),
            (Dimension::Shares, 7, "7"),
        ] {
            assert_eq!(dimension.amount(amount), expect);
        }
    }

    #[test]
    fn texts_stay_within_their_bytes() {
        let parts: Vec<String> = (0..5).map(|n| format!("part {n}")).collect();
        assert_eq!(joined(&parts, 100), "part 0; part 1; part 2; part 3; part 4");
        assert_eq!(joined(&parts, 30), "part 0; part 1; and 3 more");
        assert_eq!(joined(&parts, 8), "part ...");
        assert_eq!(cut("aé".repeat(10), 8), "aéa...");
    }
}
