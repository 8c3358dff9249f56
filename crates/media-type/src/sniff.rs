//! Detects media types by the first bytes of a file.
//!
//! Not crate `infer`: it takes texts that begin with `BM`, `GIF`, `MZ` or `ID3` for images, programs and music, and knows
//! neither SVG nor JSON, nor Word and Excel files whose entries stand in an unusual order.

/// The type of unknown bytes.
pub const MEDIA_TYPE_BINARY: &str = "application/octet-stream";
/// The type of text without a more specific type.
pub const MEDIA_TYPE_TEXT: &str = "text/plain";

/// Byte signatures at the start of a file.
const MAGIC_BYTES: &[(&[u8], &str)] = &[
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"\0\0\x01\0", "image/x-icon"),
    (b"\xff\x0a", "image/jxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "image/jp2"),
    (b"qoif", "image/qoi"),
    (b"%PDF-", "application/pdf"),
    (b"%!PS", "application/postscript"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
    (b"PAR1", "application/vnd.apache.parquet"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (b"\x7fELF", "application/x-executable"),
    (b"MZ", "application/vnd.microsoft.portable-executable"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"{\\rtf", "application/rtf"),
];

/// Detects the media type by the first bytes of a file; a few kilobytes are enough. Text without a more specific type
/// is `text/plain`, unknown bytes are `application/octet-stream`. File names are ignored.
pub fn detect_media_type(head: &[u8]) -> &'static str {
    if let Some(container) = detect_riff(head).or_else(|| detect_iso_media(head)).or_else(|| detect_zip(head)) {
        return container;
    }
    // A signature of two bytes is weak: text may begin with the same letters.
    let strong = |magic: &[u8]| magic.len() > 2 || !is_text(head);
    match MAGIC_BYTES.iter().find(|(magic, _)| head.starts_with(magic) && strong(magic)) {
        Some((_, media)) => media,
        None => detect_text(head).unwrap_or(MEDIA_TYPE_BINARY),
    }
}

fn detect_riff(head: &[u8]) -> Option<&'static str> {
    match (head.get(..4)?, head.get(8..12)?) {
        (b"RIFF", b"WEBP") => Some("image/webp"),
        (b"RIFF", b"WAVE") => Some("audio/wav"),
        (b"RIFF", b"AVI ") => Some("video/x-msvideo"),
        _ => None,
    }
}

/// MP4 and related formats.
fn detect_iso_media(head: &[u8]) -> Option<&'static str> {
    if head.get(4..8)? != b"ftyp" {
        return None;
    }
    Some(match head.get(8..12)? {
        b"avif" | b"avis" => "image/avif",
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"mif1" | b"msf1" => "image/heic",
        b"qt  " => "video/quicktime",
        b"M4A " => "audio/mp4",
        _ => "video/mp4",
    })
}

/// Office documents are ZIP archives; their first entries identify the type.
fn detect_zip(head: &[u8]) -> Option<&'static str> {
    if !head.starts_with(b"PK\x03\x04") {
        return head.starts_with(b"PK\x05\x06").then_some("application/zip");
    }
    let holds = |name: &[u8]| memchr::memmem::find(head, name).is_some();
    let documents: [(&[u8], &str); 7] = [
        (b"mimetypeapplication/epub+zip", "application/epub+zip"),
        (b"mimetypeapplication/vnd.oasis.opendocument.text", "application/vnd.oasis.opendocument.text"),
        (b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", "application/vnd.oasis.opendocument.spreadsheet"),
        (b"mimetypeapplication/vnd.oasis.opendocument.presentation", "application/vnd.oasis.opendocument.presentation"),
        (b"xl/", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        (b"word/", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (b"ppt/", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ];
    Some(documents.iter().find(|(name, _)| holds(name)).map_or("application/zip", |(_, media)| media))
}

fn is_text(head: &[u8]) -> bool {
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

fn detect_text(head: &[u8]) -> Option<&'static str> {
    let wide = head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff");
    let start = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let markup = start[..start.len().min(4096)].to_ascii_lowercase();
    let begins = |with: &[&[u8]]| with.iter().any(|with| markup.starts_with(with));
    if begins(&[b"<"]) {
        let holds = |name: &[u8]| memchr::memmem::find(&markup, name).is_some();
        if begins(&[b"<!doctype html", b"<html", b"<head", b"<body", b"<script"]) || holds(b"<html") {
            return Some("text/html");
        }
        if holds(b"<svg") {
            return Some("image/svg+xml");
        }
        if begins(&[b"<?xml"]) {
            return Some("application/xml");
        }
    }
    match head {
        [] => None,
        _ if wide => Some(MEDIA_TYPE_TEXT),
        _ if !is_text(head) => None,
        _ if begins(&[b"{", b"["]) && serde_json::from_slice::<serde::de::IgnoredAny>(head).is_ok() => {
            Some("application/json")
        }
        _ => Some(MEDIA_TYPE_TEXT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_identify_the_media_type() {
        for (head, media) in [
            (&b"\xff\xd8\xff\xe0\0\x10JFIF"[..], "image/jpeg"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png"),
            (b"GIF89a\x01\0\x01\0", "image/gif"),
            (b"RIFF\x24\0\0\0WEBPVP8 ", "image/webp"),
            (b"RIFF\x24\0\0\0WAVEfmt ", "audio/wav"),
            (b"\0\0\0\x1cftypheic\0\0", "image/heic"),
            (b"\0\0\0\x1cftypavif\0\0", "image/avif"),
            (b"\0\0\0\x1cftypisom\0\0", "video/mp4"),
            (b"BM\x46\0\0\0\0\0", "image/bmp"),
            (b"BMW, Audi and others\n", MEDIA_TYPE_TEXT),
            (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x --><svg xmlns=''>", "image/svg+xml"),
            (b"  <SVG onload=alert(1)>", "image/svg+xml"),
            (b"<!-- GIF89a --><html><script>", "text/html"),
            (b"\n<!DOCTYPE html>", "text/html"),
            (b"<?xml version='1.0'?><feed/>", "application/xml"),
            (b"%PDF-1.7\n", "application/pdf"),
            (
                b"PK\x03\x04\x14\0\0\0\0\0xl/workbook.xml",
                "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            ),
            (b"PK\x03\x04\x14\0\0\0\0\0a.txt", "application/zip"),
            (b"{\"a\": 1}", "application/json"),
            (b"{nothing", MEDIA_TYPE_TEXT),
            (b"name,email\nZo\xc3", MEDIA_TYPE_TEXT),
            (b"\xff\xfea\0,\0", MEDIA_TYPE_TEXT),
            (b"name,city\nMax,M\xfcnchen\n", MEDIA_TYPE_TEXT),
            (b"\xe4\xf6\xfc\xdf", MEDIA_TYPE_BINARY),
            (b"name\0email", MEDIA_TYPE_BINARY),
            (b"", MEDIA_TYPE_BINARY),
        ] {
            assert_eq!(detect_media_type(head), media, "{}", String::from_utf8_lossy(head));
        }
    }
}
