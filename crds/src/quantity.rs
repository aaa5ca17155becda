//! Quantities such as `100Gi` or `250m` as numbers.

/// The number that a quantity stands for; none if it is none. Decimal suffixes m, k, M, G, T and binary
/// ones Ki, Mi, Gi, Ti are known.
pub fn number(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "m" => 0.001,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => return None,
    };
    digits.parse::<f64>().ok().map(|n| n * factor)
}

/// The whole number of bytes that a quantity stands for, rounded down.
pub fn bytes(text: &str) -> Option<i64> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let factor: i128 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1000 * 1000,
        "G" => 1000 * 1000 * 1000,
        "T" => 1000 * 1000 * 1000 * 1000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    let scale = 10i128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let value = format!("{whole}{part}").parse::<i128>().ok()?.checked_mul(factor)?;
    i64::try_from(value / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        for (text, expect) in [
            ("5", Some(5.0)),
            ("250m", Some(0.25)),
            ("0.5", Some(0.5)),
            ("1k", Some(1000.0)),
            ("x", None),
            ("", None),
            ("1Qi", None),
            ("1.2.3", None),
        ] {
            assert_eq!(number(text), expect, "{text}");
        }
        assert_eq!(bytes("100Gi"), Some(107_374_182_400));
        assert_eq!(bytes("1Ti"), Some(1_099_511_627_776));
        assert_eq!(bytes("1.5Gi"), Some(1_610_612_736));
        for bad in ["9999999999Ti", "250m", "", "Gi", "1.2.3"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
