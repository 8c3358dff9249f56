//! Cells that a spreadsheet would run: in every CSV that we write, they get a `'` in front.

/// Whether a spreadsheet would take the cell for a formula; or whether it begins like a guarded one.
pub fn is_spreadsheet_formula(text: &[u8]) -> bool {
    matches!(text.first(), Some(b'=' | b'+' | b'-' | b'@' | b'\t' | b'\r' | b'\n' | b'\'')) && !is_number(text)
}

/// A sign, digits, at most one point or comma between them, and an exponent.
fn is_number(text: &[u8]) -> bool {
    let unsigned = |text: &[u8]| usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = &text[unsigned(text)..];
    let (mantissa, exponent) = split_at_byte(text, |byte| matches!(byte, b'e' | b'E'));
    let (whole, fraction) = split_at_byte(mantissa, |byte| matches!(byte, b'.' | b','));
    digits(whole) && fraction.is_none_or(digits) && exponent.is_none_or(|part| digits(&part[unsigned(part)..]))
}

/// What stands before and behind the first such byte.
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
    fn formulas_are_guarded_and_numbers_are_not() {
        for text in [
            "=1+1", "+SUM(A1)", "-cmd", "@x", "\t=1", "\r=1", "\n=1", "'quoted", "-", "+1-2", "-1e", "=1", "-1.", "-.5",
        ] {
            assert!(is_spreadsheet_formula(text.as_bytes()), "{text:?}");
        }
        for text in ["", "a", "-1", "+1.5", "-1,5", "-1.5e-3", "a=b", " =1"] {
            assert!(!is_spreadsheet_formula(text.as_bytes()), "{text:?}");
        }
    }
}
