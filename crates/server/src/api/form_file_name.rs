//! The file name of a form part.

use axum::http::header::CONTENT_DISPOSITION;
use multer::Field;

use afterload_core::work::count_steps;

/// The file name on the client; `None` if the part has none. `filename*=` takes precedence over `filename=`, which
/// cannot hold every name.
pub(super) fn file_name(field: &Field<'_>) -> Option<String> {
    let header =
        field.headers().get(CONTENT_DISPOSITION).and_then(|header| std::str::from_utf8(header.as_bytes()).ok());
    header.and_then(parse_extended_name).or_else(|| field.file_name().map(unescape_name))
}

/// The HTML standard escapes `"`, CR and LF in this way and nothing else: `100%25.csv` is the real name.
fn unescape_name(name: &str) -> String {
    name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

/// Parses `filename*=UTF-8''na%C3%AFve.csv`, as RFC 5987 defines it.
fn parse_extended_name(header: &str) -> Option<String> {
    let (mut quoted, mut escaped) = (false, false);
    let ends = |c: char| {
        count_steps(1);
        let (was_escaped, ends) = (escaped, c == ';' && !quoted);
        escaped = c == '\\' && quoted && !was_escaped;
        quoted ^= c == '"' && !was_escaped;
        ends
    };
    let value = header.split(ends).find_map(|attribute| {
        let (name, value) = attribute.split_once('=')?;
        name.trim().eq_ignore_ascii_case("filename*").then(|| value.trim())
    })?;
    let mut pieces = value.splitn(3, '\'');
    let (charset, _language, encoded) = (pieces.next()?, pieces.next()?, pieces.next()?);
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let mut rest = encoded.as_bytes();
    let mut name = Vec::with_capacity(rest.len());
    while let Some((&first, after)) = rest.split_first() {
        count_steps(1);
        rest = after;
        if first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            name.push(hex::decode(digits).ok()?[0]);
            rest = after;
        } else {
            name.push(first);
        }
    }
    String::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::work::assert_linear;

    #[test]
    fn file_names_are_read_as_browsers_write_them() {
        assert_eq!(unescape_name("a%22b%0D%0A.csv"), "a\"b\r\n.csv");
        assert_eq!(unescape_name("100%25 %41.csv"), "100%25 %41.csv");
    }

    #[test]
    fn hostile_headers_take_linear_work() {
        for (before, repeated) in
            [("", ";"), ("", "\""), ("", "\"\\"), ("", "filename*="), ("", "a=b;"), ("filename*=UTF-8''", "%41")]
        {
            let shape = |count: usize| format!("{before}{}", repeated.repeat(count));
            assert_linear(repeated, shape, |header| drop(parse_extended_name(header)));
        }
    }

    #[test]
    fn extended_file_names_are_found() {
        for (header, name) in [
            ("form-data; name=\"file\"; filename*=UTF-8''na%C3%AFve%20%22x%22.csv", Some("na\u{ef}ve \"x\".csv")),
            ("form-data; filename=\"a.csv\"; FileName* = utf-8'de'b.csv", Some("b.csv")),
            ("form-data; filename=\"a; filename*=UTF-8''b.csv\"", None),
            ("form-data; filename=\"a\\\"; filename*=UTF-8''b.csv\"", None),
            ("form-data; filename*=latin-1''b.csv", None),
            ("form-data; filename*=UTF-8''%ff.csv", None),
            ("form-data; filename*=UTF-8''%2", None),
            ("form-data; filename*=b.csv", None),
            ("form-data; filename=\"a.csv\"", None),
        ] {
            assert_eq!(parse_extended_name(header).as_deref(), name, "{header}");
        }
    }
}
