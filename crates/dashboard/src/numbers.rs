//! Numbers as people read them.

/// Counts stop here: to count a million runs takes longer than anybody wants to know.
pub(crate) const COUNT_CAP: i64 = 10_000;

/// Groups the digits: `1,234,567`.
pub(crate) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// As [`grouped`], for a count that stops at [`COUNT_CAP`] and one.
pub(crate) fn capped(number: i64) -> String {
    if number > COUNT_CAP { format!("{}+", grouped(COUNT_CAP)) } else { grouped(number) }
}

/// The number and its noun: `1 run`, `2 runs`.
pub(crate) fn counted(number: i64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

/// A size in bytes with one unit: `12.3 MB`.
pub(crate) fn byte_size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1_000.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if size < 999.95 {
            break;
        }
        size /= 1_000.0;
        unit = next;
    }
    format!("{size:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_capped() {
        assert_eq!([0, 999, 1_000, -1_234_567].map(grouped), ["0", "999", "1,000", "-1,234,567"]);
        assert_eq!([9_999, 10_000, 10_001].map(capped), ["9,999", "10,000", "10,000+"]);
        assert_eq!([counted(1, "run"), counted(2_000, "run")], ["1 run", "2,000 runs"]);
        assert_eq!([12, 1_000, 999_999, 12_345_678].map(byte_size), ["12 B", "1.0 kB", "1.0 MB", "12.3 MB"]);
        assert!(byte_size(u64::MAX).ends_with(" TB"));
    }
}
