//! Amounts of bytes as people write them.

const UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads `4.5 GiB`, `768MiB`, `56 GB` or a plain number of bytes. `None` when it is none of them.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit = unit.trim_start();
    let factor = match unit {
        "" => 1,
        _ => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    let number = number.replace('_', "");
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    if unit.is_empty() {
        return None;
    }
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    // 2^53: below it every whole number is exact in an f64.
    (bytes.is_finite() && bytes <= 9_007_199_254_740_992.0).then_some(bytes.round() as u64)
}

/// Writes an amount in the largest unit that keeps it short and exact, else rounded to a tenth.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let exact =
        UNITS.iter().filter(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    if let Some((unit, factor)) = exact.max_by_key(|(_, factor)| *factor)
        && (bytes / factor < 10_000)
    {
        return format!("{} {unit}", bytes / factor);
    }
    let binary = UNITS.iter().filter(|(unit, factor)| unit.ends_with("iB") && bytes >= *factor);
    match binary.max_by_key(|(_, factor)| *factor) {
        Some((unit, factor)) => format!("{:.1} {unit}", bytes as f64 / *factor as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        let cases = [
            ("0", Some(0)),
            ("1_048_576", Some(1 << 20)),
            ("768 MiB", Some(768 << 20)),
            ("768mib", Some(768 << 20)),
            ("4.5 GiB", Some(9 << 29)),
            ("5.4 GB", Some(5_400_000_000)),
            ("56GB", Some(56_000_000_000)),
            ("4.5", None),
            ("-1", None),
            ("1e9", None),
            ("GiB", None),
            ("1 GiB extra", None),
            ("99999999999999999999", None),
            ("99999999999 TiB", None),
            ("9999999.5 TiB", None),
            ("", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn amounts_are_written_short() {
        assert_eq!(bytes_text(0), "0 B");
        assert_eq!(bytes_text(768 << 20), "768 MiB");
        assert_eq!(bytes_text(5_400_000_000), "5400 MB");
        assert_eq!(bytes_text(25_231_112_192), "23.5 GiB");
    }
}
