//! Decodes bodies: by their byte order mark, else by the `charset` of their type, else as UTF-8.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8};

/// Decodes a body; `None` if it is not text of its encoding, or if that is unknown.
pub(super) fn decode_body(body: &[u8], content_type: &str) -> Option<String> {
    let (encoding, start) = find_encoding(body, content_type)?;
    encoding.decode_without_bom_handling_and_without_replacement(&body[start..]).map(Cow::into_owned)
}

/// Decodes a body of which the end may be missing. What cannot be decoded is replaced.
pub(super) fn decode_body_lossily(body: &[u8], content_type: &str) -> String {
    let (encoding, start) = find_encoding(body, content_type).unwrap_or((UTF_8, 0));
    encoding.decode_without_bom_handling(&body[start..]).0.into_owned()
}

/// Returns the encoding, and where the text starts after the byte order mark.
fn find_encoding(body: &[u8], content_type: &str) -> Option<(&'static Encoding, usize)> {
    Encoding::for_bom(body).or_else(|| match charset_param(content_type) {
        None => Some((UTF_8, 0)),
        Some(label) => Encoding::for_label(label.as_bytes()).map(|encoding| (encoding, 0)),
    })
}

fn charset_param(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|param| {
        let (name, value) = param.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_decoded_by_their_charset() {
        for (body, content_type, text) in [
            (&b"caf\xe9"[..], "text/plain; charset=ISO-8859-1", Some("café")),
            (b"caf\xe9", "text/plain; x=y; Charset=\"latin1\"", Some("café")),
            (b"caf\xc3\xa9", "application/json", Some("café")),
            (b"\xef\xbb\xbf{}", "application/json", Some("{}")),
            (b"\xff\xfe{\0}\0", "application/json; charset=utf-8", Some("{}")),
            (b"caf\xe9", "text/plain", None),
            (b"caf\xe9", "text/plain; charset=nothing", None),
            (b"", "", Some("")),
        ] {
            assert_eq!(decode_body(body, content_type).as_deref(), text, "{content_type}");
        }
        assert_eq!(decode_body_lossily(b"caf\xc3", "text/plain"), "caf\u{fffd}");
        assert_eq!(decode_body_lossily(b"\xef\xbb\xbfx", ""), "x");
    }
}
