//! Detects media types by the first bytes of a file.
//!
//! Not crate `infer`: it takes texts that begin with `BM`, `GIF`, `MZ` or `ID3` for images, programs and music, and knows
//! neither SVG nor JSON, nor Word and Excel files whose entries stand in an unusual order.

use super::text::{detect_text, is_text};
use super::zip::detect_zip;

/// The type of unknown bytes.
pub const MEDIA_TYPE_BINARY: &str = "application/octet-stream";
/// The type of Microsoft's older documents, if their kind is not known.
pub const MEDIA_TYPE_OLE: &str = "application/x-ole-storage";

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
    (b"%!PS", "application/postscript"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
    (b"PAR1", "application/vnd.apache.parquet"),
    (b"\x7fELF", "application/x-executable"),
    (b"MZ", "application/vnd.microsoft.portable-executable"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"{\\rtf", "application/rtf"),
];

/// Detects the media type by the first bytes of a file; a few kilobytes are enough, but the more there are, the more
/// documents in ZIP archives are recognized. Text without a more specific type
/// is `text/plain`, unknown bytes are `application/octet-stream`. File names are ignored.
pub fn detect_media_type(head: &[u8]) -> &'static str {
    let detectors = [detect_riff, detect_iso_media, detect_zip, detect_ole, detect_pdf];
    if let Some(media) = detectors.iter().find_map(|detect| detect(head)) {
        return media;
    }
    // A signature of two bytes is weak: text may begin with the same letters.
    let strong = |magic: &[u8]| magic.len() > 2 || !is_text(head);
    match MAGIC_BYTES.iter().find(|(magic, _)| head.starts_with(magic) && strong(magic)) {
        Some((_, media)) => media,
        None => detect_text(head).or_else(|| detect_mp3(head)).unwrap_or(MEDIA_TYPE_BINARY),
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
    // The other brands of the file stand behind the first one and its version.
    let end = u32::from_be_bytes(*head.first_chunk()?) as usize;
    let others = head.get(16..end.min(head.len())).unwrap_or_default();
    let is_avif = || others.as_chunks::<4>().0.iter().any(|brand| brand == b"avif" || brand == b"avis");
    Some(match head.get(8..12)? {
        b"avif" | b"avis" => "image/avif",
        // These brands tell the container only.
        b"mif1" | b"msf1" if is_avif() => "image/avif",
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"mif1" | b"msf1" => "image/heic",
        b"qt  " => "video/quicktime",
        b"M4A " => "audio/mp4",
        _ => "video/mp4",
    })
}

/// Some writers put empty lines first, and all readers skip them.
fn detect_pdf(head: &[u8]) -> Option<&'static str> {
    let start = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    start.starts_with(b"%PDF-").then_some("application/pdf")
}

/// Microsoft's older documents are storages; the name of their main stream identifies the type.
fn detect_ole(head: &[u8]) -> Option<&'static str> {
    if !head.starts_with(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
        return None;
    }
    let streams = [
        ("Workbook", "application/vnd.ms-excel"),
        ("Book", "application/vnd.ms-excel"),
        ("WordDocument", "application/msword"),
        ("PowerPoint Document", "application/vnd.ms-powerpoint"),
        ("__properties_version1.0", "application/vnd.ms-outlook"),
    ];
    let place = |name: &str| {
        // An entry of the directory begins with the name in 64 bytes.
        let mut entry: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        entry.resize(64, 0);
        memchr::memmem::find(head, &entry)
    };
    // Embedded documents come behind the main stream.
    let first = streams.iter().filter_map(|(name, media)| Some((place(name)?, *media))).min();
    Some(first.map_or(MEDIA_TYPE_OLE, |(_, media)| media))
}

/// MP3 without ID3 tags begins with a frame, and behind it follows the next one.
fn detect_mp3(head: &[u8]) -> Option<&'static str> {
    let next = head.get(read_mp3_frame_length(head)?..).unwrap_or_default();
    // The file may end in its first frame.
    (next.len() < 4 || read_mp3_frame_length(next).is_some()).then_some("audio/mpeg")
}

fn read_mp3_frame_length(frame: &[u8]) -> Option<usize> {
    const KILOBITS: [usize; 14] = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
    const KILOBITS_LOW: [usize; 14] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
    const HERTZ: [usize; 3] = [44_100, 48_000, 32_000];
    let [0xff, kind, rates, _, ..] = *frame else { return None };
    // Eleven bits of ones, and the third layer.
    if kind & 0xe6 != 0xe2 {
        return None;
    }
    let (kilobits, samples, slower): ([usize; 14], usize, usize) = match kind >> 3 & 3 {
        3 => (KILOBITS, 144, 1),
        2 => (KILOBITS_LOW, 72, 2),
        0 => (KILOBITS_LOW, 72, 4),
        _ => return None,
    };
    let kilobits = kilobits.get(usize::from(rates >> 4).checked_sub(1)?)?;
    let hertz = HERTZ.get(usize::from(rates >> 2 & 3))? / slower;
    Some(samples * kilobits * 1000 / hertz + usize::from(rates >> 1 & 1))
}

#[cfg(test)]
mod tests {
    use super::super::MEDIA_TYPE_TEXT;
    use super::*;

    #[test]
    fn streams_identify_older_documents() {
        let entry = |name: &str| {
            let mut entry: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
            entry.resize(128, 0);
            entry
        };
        let start = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec();
        for (names, media) in [
            (&["Root Entry", "Workbook"][..], "application/vnd.ms-excel"),
            (&["Root Entry", "WordDocument", "Workbook"], "application/msword"),
            (&["Root Entry", "PowerPoint Document"], "application/vnd.ms-powerpoint"),
            (&["Root Entry", "Workbooks"], MEDIA_TYPE_OLE),
        ] {
            let entries = names.iter().flat_map(|name| entry(name));
            let head: Vec<u8> = start.iter().copied().chain(entries).collect();
            assert_eq!(detect_media_type(&head), media, "{names:?}");
        }
    }

    #[test]
    fn mp3_frames_follow_each_other() {
        let frame = [&b"\xff\xfb\x90\x64"[..], &[0; 413]].concat();
        assert_eq!(detect_media_type(&frame.repeat(2)), "audio/mpeg");
        assert_eq!(detect_media_type(&[&frame[..], b"no frame"].concat()), MEDIA_TYPE_BINARY);
    }

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
            (b"\r\n%PDF-1.4\n", "application/pdf"),
            (b"see %PDF-1.4\n", MEDIA_TYPE_TEXT),
            (b"\0\0\0\x1cftypmif1\0\0\0\0miafavif", "image/avif"),
            (b"\0\0\0\x1cftypmif1\0\0\0\0miafheic", "image/heic"),
            (b"\xff\xfb\x90\x64\0\0\0\0", "audio/mpeg"),
            (b"\xff\xfb\xf0\x64\0\0\0\0", MEDIA_TYPE_BINARY),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", MEDIA_TYPE_OLE),
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
