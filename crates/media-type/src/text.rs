//! Detects the kinds of text.

use serde::de::IgnoredAny;

/// The type of text without a more specific type.
pub const MEDIA_TYPE_TEXT: &str = "text/plain";

/// Bytes of this length may be the start of a longer file, so that values may end too early.
const CUT_BYTES: usize = 4096;
/// The part of a text in which markup is looked for.
const MARKUP_BYTES: usize = 4096;

pub fn is_text(head: &[u8]) -> bool {
    let utf8 = match std::str::from_utf8(head) {
        Ok(_) => true,
        // `head` may end inside a multi-byte character.
        Err(error) => error.error_len().is_none(),
    };
    // Older encodings allow any byte above ASCII. A long text without control characters counts as text; a short one
    // must be mostly ASCII.
    let plain = || head.len() >= 64 || head.iter().filter(|byte| byte.is_ascii()).count() * 4 >= head.len() * 3;
    !head.iter().any(|byte| *byte < 0x20 && !b"\t\n\r\x0c\x1b".contains(byte)) && (utf8 || plain())
}

pub fn detect_text(head: &[u8]) -> Option<&'static str> {
    if let Some(text) = decode_utf16(head) {
        return Some(detect_markup(text.trim_ascii_start().as_bytes()).unwrap_or(MEDIA_TYPE_TEXT));
    }
    let start = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    if let Some(markup) = detect_markup(start) {
        return Some(markup);
    }
    if head.is_empty() || !is_text(head) {
        return None;
    }
    Some(detect_json(start, head.len() >= CUT_BYTES).unwrap_or(MEDIA_TYPE_TEXT))
}

/// Decodes the start of a text in UTF-16 with a byte order mark, or of XML in UTF-16 without one.
fn decode_utf16(head: &[u8]) -> Option<String> {
    let read_unit = match head {
        [0xff, 0xfe, ..] | [b'<', 0, b'?', 0, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] | [0, b'<', 0, b'?', ..] => u16::from_be_bytes,
        _ => return None,
    };
    let units = head.as_chunks::<2>().0.iter().take(MARKUP_BYTES).map(|unit| read_unit(*unit));
    let text: String = char::decode_utf16(units).map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    Some(text.trim_start_matches('\u{feff}').to_owned())
}

fn detect_markup(start: &[u8]) -> Option<&'static str> {
    let markup = start[..start.len().min(MARKUP_BYTES)].to_ascii_lowercase();
    let begins = |with: &[&[u8]]| with.iter().any(|with| markup.starts_with(with));
    let holds = |name: &[u8]| memchr::memmem::find(&markup, name).is_some();
    if !markup.starts_with(b"<") {
        return None;
    }
    if begins(&[b"<!doctype html", b"<html", b"<head", b"<body", b"<script"]) || holds(b"<html") {
        Some("text/html")
    } else if holds(b"<svg") {
        Some("image/svg+xml")
    } else {
        begins(&[b"<?xml"]).then_some("application/xml")
    }
}

/// Detects one JSON value, or several that stand each on its own line. Where the text is cut, it may end too early.
fn detect_json(text: &[u8], is_cut: bool) -> Option<&'static str> {
    if !matches!(text, [b'{' | b'[', ..]) {
        return None;
    }
    match serde_json::from_slice::<IgnoredAny>(text) {
        Ok(_) => return Some("application/json"),
        Err(error) if is_cut && error.is_eof() => return Some("application/json"),
        Err(_) => {}
    }
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).peekable();
    while let Some(line) = lines.next() {
        match serde_json::from_slice::<IgnoredAny>(line) {
            Ok(_) => {}
            Err(error) if is_cut && error.is_eof() && lines.peek().is_none() => {}
            Err(_) => return None,
        }
    }
    Some("application/x-ndjson")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_differs_from_json_lines_and_text() {
        let long = format!("[{}", "{\"a\": \"b\"},\n".repeat(1000));
        let lines = format!("{}{{\"a\"", "{\"a\": \"b\"}\n".repeat(1000));
        let log = "[info] it works\n".repeat(1000);
        for (text, media) in [
            (&b"{\"a\": 1}"[..], "application/json"),
            (b"\xef\xbb\xbf{\"a\":1}", "application/json"),
            (b" [1,\n2]\n", "application/json"),
            (long.as_bytes(), "application/json"),
            (b"{\"a\":1}\n{\"a\":2}\n", "application/x-ndjson"),
            (b"[1]\r\n\r\n[2]", "application/x-ndjson"),
            (lines.as_bytes(), "application/x-ndjson"),
            (b"{\"a\":1} {\"a\":2}", MEDIA_TYPE_TEXT),
            (b"{\"a\":1}\n{\"a\":", MEDIA_TYPE_TEXT),
            (b"{nothing", MEDIA_TYPE_TEXT),
            (log.as_bytes(), MEDIA_TYPE_TEXT),
        ] {
            assert_eq!(detect_text(text), Some(media), "{}", String::from_utf8_lossy(&text[..text.len().min(40)]));
        }
    }

    #[test]
    fn utf16_markup_is_read() {
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        for (text, media) in [
            ("\u{feff}<?xml version='1.0'?><a/>", "application/xml"),
            ("<?xml version='1.0'?><a/>", "application/xml"),
            ("\u{feff}<html>", "text/html"),
            ("\u{feff}a,b", MEDIA_TYPE_TEXT),
        ] {
            assert_eq!(detect_text(&wide(text)), Some(media), "{text}");
            let swapped: Vec<u8> = wide(text).chunks(2).flat_map(|unit| [unit[1], unit[0]]).collect();
            assert_eq!(detect_text(&swapped), Some(media), "{text}");
        }
    }
}
