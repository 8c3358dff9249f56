//! Names of files, buckets and media types that come from clients.

use std::net::Ipv4Addr;

const MAX_FILE_NAME_BYTES: usize = 200;

/// Media types by file extension, for clients that send none.
const MEDIA_TYPES_BY_EXTENSION: &[(&str, &str)] = &[
    ("avif", "image/avif"),
    ("csv", "text/csv"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("heic", "image/heic"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("json", "application/json"),
    ("jsonl", "application/x-ndjson"),
    ("mp4", "video/mp4"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("tsv", "text/tab-separated-values"),
    ("txt", "text/plain"),
    ("webp", "image/webp"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
];
const DEFAULT_MEDIA_TYPE: &str = "application/octet-stream";

/// Returns the last path segment, without control characters and text direction marks. Returns `fallback` if nothing is
/// left.
pub fn sanitize_file_name(name: &str, fallback: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let misleading = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let kept: String = last.chars().filter(|c| !misleading(*c)).collect();
    let kept = truncate_file_name(kept.trim());
    if kept.is_empty() || kept.chars().all(|c| c == '.') { fallback.to_owned() } else { kept }
}

/// Cuts before the extension, so that the file type stays visible.
fn truncate_file_name(name: &str) -> String {
    if name.len() <= MAX_FILE_NAME_BYTES {
        return name.to_owned();
    }
    let ending = name.rfind('.').map(|dot| &name[dot..]).filter(|ending| ending.len() <= 16).unwrap_or_default();
    let mut cut = MAX_FILE_NAME_BYTES - ending.len();
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{ending}", &name[..cut])
}

/// The media type of a file: the given one, or the one of its extension.
pub fn resolve_content_type(given: Option<&str>, name: &str) -> String {
    let given = given.map(str::trim).filter(|given| is_media_type(given));
    let vague = |given: &&str| {
        [DEFAULT_MEDIA_TYPE, "binary/octet-stream"].iter().any(|vague| given.eq_ignore_ascii_case(vague))
    };
    if let Some(given) = given.filter(|given| !vague(given)) {
        return given.to_owned();
    }
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    MEDIA_TYPES_BY_EXTENSION
        .iter()
        .find(|(known, _)| *known == ending)
        .map_or(DEFAULT_MEDIA_TYPE, |(_, media)| media)
        .to_owned()
}

fn is_media_type(text: &str) -> bool {
    let token =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    let essence = text.split(';').next().unwrap_or_default().trim();
    let halves = essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype));
    halves && text.len() <= 127 && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// True if S3 allows this bucket name.
pub fn is_valid_bucket_name(name: &str) -> bool {
    let label = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    (3..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
        && name.split('.').all(label)
        && name.parse::<Ipv4Addr>().is_err()
}

/// Decodes an object key from lists (`encoding-type=url`) and event notifications: `%20` or `+` is a space.
pub fn decode_key(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let mut decoded = [0];
        let escaped = (byte == b'%').then(|| after.get(..2)).flatten();
        match escaped.filter(|pair| hex::decode_to_slice(pair, &mut decoded).is_ok()) {
            Some(_) => {
                bytes.push(decoded[0]);
                rest = &after[2..];
            }
            None => {
                bytes.push(if byte == b'+' { b' ' } else { byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misleading_characters_are_removed_from_file_names() {
        for (given, kept) in [
            ("contacts.csv", "contacts.csv"),
            ("../../etc/passwd", "passwd"),
            (r"C:\Users\me\kontakte größe.csv", "kontakte größe.csv"),
            ("a\r\nSet-Cookie: b.csv", "aSet-Cookie: b.csv"),
            ("photo\u{202e}gpj.exe", "photogpj.exe"),
            ("..", "file"),
            ("", "file"),
            ("folder/", "file"),
        ] {
            assert_eq!(sanitize_file_name(given, "file"), kept, "{given:?}");
        }
        let long = format!("{}.csv", "ä".repeat(300));
        let short = sanitize_file_name(&long, "file");
        assert!(short.len() <= MAX_FILE_NAME_BYTES && short.ends_with("ä.csv"), "{short}");
    }

    #[test]
    fn content_type_is_declared_or_derived_from_the_extension() {
        assert_eq!(resolve_content_type(Some("text/csv; charset=latin1"), "a.json"), "text/csv; charset=latin1");
        assert_eq!(resolve_content_type(Some("application/octet-stream"), "a.CSV"), "text/csv");
        assert_eq!(resolve_content_type(Some("text/html\r\nx: y"), "a.png"), "image/png");
        assert_eq!(resolve_content_type(None, "a"), "application/octet-stream");
    }

    #[test]
    fn keys_from_lists_are_decoded() {
        assert_eq!(decode_key("a%2Fb+c%20d%2Be%C3%A9%0A"), "a/b c d+eé\n");
        assert_eq!(decode_key("100%"), "100%");
        assert_eq!(decode_key("%zz%+"), "%zz% ");
    }
}
