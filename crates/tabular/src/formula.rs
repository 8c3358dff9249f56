//! Guards against spreadsheet formulas: our CSV writers put a `'` in front of cells that a spreadsheet would run.

/// Whether a spreadsheet would run the cell as a formula, or the cell already begins with a guard.
pub fn is_spreadsheet_formula(text: &[u8]) -> bool {
    matches!(text.first(), Some(b'=' | b'+' | b'-' | b'@' | b'\t' | b'\r' | b'\n' | b'\'')) && !is_number(text)
}

/// Takes the guard off a cell that one of our writers has guarded. Other cells stay as they are.
pub fn strip_formula_guard(text: &[u8]) -> &[u8] {
    match text.strip_prefix(b"'") {
        Some(rest) if is_spreadsheet_formula(rest) => rest,
        _ => text,
    }
}

/// Matches a sign, digits with at most one point or comma, and an exponent.
fn is_number(text: &[u8]) -> bool {
    let unsigned = |text: &[u8]| usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = &text[unsigned(text)..];
    let (mantissa, exponent) = split_at_byte(text, |byte| matches!(byte, b'e' | b'E'));
    let (whole, fraction) = split_at_byte(mantissa, |byte| matches!(byte, b'.' | b','));
    digits(whole) && fraction.is_none_or(digits) && exponent.is_none_or(|part| digits(&part[unsigned(part)..]))
}

/// Splits the text at the first byte that matches.
fn split_at_byte(text: &[u8], at: impl Fn(u8) -> bool) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| at(*byte)) {
        Some(place) => (&text[..place], Some(&text[place + 1..])),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_detected_and_numbers_are_not() {
        for text in [
            "=1+1", "+SUM(A1)", "-cmd", "@x", "\t=1", "\r=1", "\n=1", "'quoted", "-", "+1-2", "-1e", "=1", "-1.", "-.5",
        ] {
            assert!(is_spreadsheet_formula(text.as_bytes()), "{text:?}");
        }
        for text in ["", "a", "-1", "+1.5", "-1,5", "-1.5e-3", "a=b", " =1"] {
            assert!(!is_spreadsheet_formula(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn guards_are_taken_off() {
        for (text, stripped) in [
            ("'+49 30 123", "+49 30 123"),
            ("'@bob", "@bob"),
            ("'- todo", "- todo"),
            ("''tis", "'tis"),
            ("''", "'"),
            ("'tis", "'tis"),
            ("'-5", "'-5"),
            ("'", "'"),
            ("a'b", "a'b"),
        ] {
            assert_eq!(strip_formula_guard(text.as_bytes()), stripped.as_bytes(), "{text}");
        }
    }
}
