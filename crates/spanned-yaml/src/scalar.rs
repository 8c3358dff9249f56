//! Resolves plain scalars by YAML 1.2's core schema, without its surprising cases.

use super::YamlValue;

/// The value of a plain scalar. Only `true` and `false` are booleans. A number with a leading zero (a postcode) and the
/// words for infinity are text.
pub fn resolve_scalar(text: &str) -> YamlValue {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => YamlValue::Null,
        "true" => YamlValue::Bool(true),
        "false" => YamlValue::Bool(false),
        _ => parse_number(text).unwrap_or_else(|| YamlValue::Str(text.to_owned())),
    }
}

fn parse_number(text: &str) -> Option<YamlValue> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let first = digits.bytes().next()?;
    if !first.is_ascii_digit() && first != b'.' {
        return None;
    }
    if let Some(hex) = text.strip_prefix("0x").filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return i64::from_str_radix(hex, 16).ok().map(YamlValue::Int);
    }
    if let Some(octal) = text.strip_prefix("0o").filter(|octal| octal.bytes().all(|byte| byte.is_ascii_digit())) {
        return i64::from_str_radix(octal, 8).ok().map(YamlValue::Int);
    }
    let leading_zero = first == b'0' && digits.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    if leading_zero || !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
        return None;
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(whole) = text.parse()
    {
        return Some(YamlValue::Int(whole));
    }
    text.parse::<f64>().ok().filter(|number| number.is_finite()).map(YamlValue::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_resolve_as_people_expect() {
        let text = ["yes", "no", "on", "True", "007", "1.2.3", "1e", ".inf", "-", ".", "0x", "12:30:00", "2026-01-01"];
        for word in text {
            assert!(matches!(resolve_scalar(word), YamlValue::Str(_)), "{word}: {:?}", resolve_scalar(word));
        }
        for (word, number) in [("0", 0), ("-5", -5), ("+7", 7), ("0x1f", 31), ("0o17", 15)] {
            assert!(matches!(resolve_scalar(word), YamlValue::Int(found) if found == number), "{word}");
        }
        for (word, number) in [("1.10", 1.1), ("-.5", -0.5), ("1e3", 1000.0), ("99999999999999999999", 1e20)] {
            assert!(matches!(resolve_scalar(word), YamlValue::Float(found) if found == number), "{word}");
        }
    }
}
