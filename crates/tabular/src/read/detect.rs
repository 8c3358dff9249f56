//! Detects the encoding and the delimiter of a file.

use afterload_media_type::detect_media_type;
use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_16BE, UTF_16LE};
use memchr::memchr;

use super::csv_parser::{CsvDialect, CsvParser, CsvRecord};
use super::text_encoding::TextEncoding;

/// The delimiters that are tried, the more likely ones first.
pub const CANDIDATE_DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// How many bytes the encoding detection reads.
const ENCODING_SAMPLE_SIZE: usize = 256 << 10;
/// How many records the delimiter detection reads.
const DELIMITER_SAMPLE_RECORDS: usize = 50;

/// How sure a detection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// A guess.
    Low,
    /// Likely.
    Medium,
    /// Declared by the pipeline or the file, or without a sensible alternative.
    High,
}

/// An encoding, and the length of the byte order mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectedEncoding {
    /// The encoding.
    pub encoding: TextEncoding,
    /// The length of the byte order mark.
    pub bom_len: usize,
    /// How sure the detection is.
    pub confidence: Confidence,
}

/// Detects the encoding from the first bytes. A byte order mark has priority over the declared encoding.
///
/// A few bytes that are not UTF-8 do not change the encoding of a file that is UTF-8 otherwise.
pub fn detect_encoding(start: &[u8], whole: bool, declared: Option<TextEncoding>) -> DetectedEncoding {
    if let Some((encoding, bom_len)) = Encoding::for_bom(start) {
        return DetectedEncoding { encoding: TextEncoding::Standard(encoding), bom_len, confidence: Confidence::High };
    }
    let found = |encoding, confidence| DetectedEncoding { encoding, bom_len: 0, confidence };
    if let Some(encoding) = declared {
        return found(encoding, Confidence::High);
    }
    let sample = &start[..start.len().min(ENCODING_SAMPLE_SIZE)];
    if let Some(encoding) = detect_utf16(sample) {
        return found(TextEncoding::Standard(encoding), Confidence::Medium);
    }
    let whole = whole && sample.len() == start.len();
    match count_utf8(sample, whole) {
        (_, 0) => found(TextEncoding::utf8(), Confidence::High),
        (valid, invalid) if invalid <= valid => found(TextEncoding::utf8(), Confidence::Medium),
        _ => {
            let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
            detector.feed(sample, whole);
            found(TextEncoding::Standard(detector.guess(None, Utf8Detection::Deny)), Confidence::Low)
        }
    }
}

/// Detects UTF-16 without a mark: in mostly Latin text, every second byte is zero.
fn detect_utf16(sample: &[u8]) -> Option<&'static Encoding> {
    let pairs = sample.len() / 2;
    let zeros = |from: usize| sample.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    match pairs > 1 {
        true if odd * 10 > pairs * 4 && even * 10 < pairs => Some(UTF_16LE),
        true if even * 10 > pairs * 4 && odd * 10 < pairs => Some(UTF_16BE),
        _ => None,
    }
}

/// Counts the characters beyond ASCII, and the sequences that are not UTF-8. The end of the sample may split a character.
fn count_utf8(sample: &[u8], whole: bool) -> (usize, usize) {
    let (mut valid, mut invalid, mut at) = (0, 0, 0);
    for chunk in sample.utf8_chunks() {
        valid += chunk.valid().bytes().filter(|byte| *byte >= 0xc0).count();
        at += chunk.valid().len() + chunk.invalid().len();
        let is_split = at == sample.len() && !whole && chunk.invalid().len() < 4;
        invalid += usize::from(!chunk.invalid().is_empty() && !is_split);
    }
    (valid, invalid)
}

/// Recognizes files of other kinds by their bytes, whatever their name says.
pub fn detect_other_format(start: &[u8]) -> Option<&'static str> {
    let media = detect_media_type(start);
    let known = match media {
        "text/html" => "HTML",
        "application/json" | "application/x-ndjson" => "JSON",
        "application/xml" | "image/svg+xml" => "XML",
        "application/rtf" => "an RTF document",
        "application/pdf" => "a PDF",
        "application/gzip" => "a gzip archive",
        "application/zstd" | "application/x-xz" | "application/x-7z-compressed" | "application/vnd.rar" => "an archive",
        "application/vnd.ms-excel" | "application/x-ole-storage" => "an old Excel workbook",
        "application/vnd.sqlite3" => "a SQLite database",
        "image/jpeg" | "image/png" | "image/webp" | "image/heic" | "image/avif" => "an image",
        // The signature of this format could also begin a text.
        "application/vnd.apache.parquet" if memchr(0, start).is_some() => "a Parquet file",
        _ if start.starts_with(b"PK\x03\x04") => match media {
            "application/zip" => "a zip archive",
            "application/vnd.oasis.opendocument.spreadsheet" => "an ODS workbook",
            media if media.contains("spreadsheetml") || media.contains("ms-excel") => "an Excel workbook",
            _ => "a zip archive or an office document",
        },
        _ => return None,
    };
    Some(known)
}

/// Detects the delimiter: the one by which most records have as many fields as the first.
pub fn detect_delimiter(start: &[u8], whole: bool, dialect: CsvDialect) -> (u8, Confidence) {
    let rated = CANDIDATE_DELIMITERS.iter().rev().map(|delimiter| {
        let dialect = CsvDialect { delimiter: *delimiter, ..dialect };
        (rate_delimiter(start, whole, dialect), *delimiter)
    });
    let best = rated.max_by(|(one, _), (two, _)| one.cmp(two));
    match best.filter(|(rate, _)| rate.1 > 1) {
        Some(((share, _), delimiter)) if share >= 90 => (delimiter, Confidence::Medium),
        Some((_, delimiter)) => (delimiter, Confidence::Low),
        // A file of one column has no delimiter.
        None => (b',', Confidence::Medium),
    }
}

/// Returns the percentage of records like the first (0 if that has only one field), and the fields of the first.
fn rate_delimiter(start: &[u8], whole: bool, dialect: CsvDialect) -> (usize, usize) {
    let mut parser = CsvParser::new(dialect, 0, 1);
    let (mut record, mut input, mut counts) = (CsvRecord::default(), start, Vec::new());
    while counts.len() < DELIMITER_SAMPLE_RECORDS && parser.read_record(&mut input, &mut record) {
        counts.push(record.ends.len());
    }
    while counts.len() < DELIMITER_SAMPLE_RECORDS && (whole || counts.is_empty()) && parser.finish(&mut record) {
        counts.push(record.ends.len());
    }
    match counts.first() {
        Some(&first) if first > 1 => {
            let like = counts.iter().filter(|count| **count == first).count();
            (like * 100 / counts.len(), first)
        }
        _ => (0, counts.first().copied().unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use encoding_rs::WINDOWS_1252;

    use super::*;

    fn utf16(text: &str, big: bool) -> Vec<u8> {
        text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    }

    #[test]
    fn encodings_are_detected() {
        let text = "name;city\nZoë;Zürich\nJürgen;Köln\n";
        let (latin, ..) = WINDOWS_1252.encode(text);
        let marked = [b"\xff\xfe".to_vec(), utf16(text, false)].concat();
        let standard = TextEncoding::Standard;
        let stray = [text.repeat(3).as_bytes(), b"J\xfcrgen;x\n"].concat();
        let cases: [(&[u8], _, _, _); 8] = [
            (text.as_bytes(), TextEncoding::utf8(), 0, Confidence::High),
            (b"\xef\xbb\xbfa,b", TextEncoding::utf8(), 3, Confidence::High),
            (&marked, standard(UTF_16LE), 2, Confidence::High),
            (&utf16(text, false), standard(UTF_16LE), 0, Confidence::Medium),
            (&utf16(text, true), standard(UTF_16BE), 0, Confidence::Medium),
            (&latin, standard(WINDOWS_1252), 0, Confidence::Low),
            (&stray, TextEncoding::utf8(), 0, Confidence::Medium),
            (b"a,b\n1,J\xfcrgen\n", standard(WINDOWS_1252), 0, Confidence::Low),
        ];
        for (bytes, encoding, bom_len, confidence) in cases {
            assert_eq!(super::detect_encoding(bytes, true, None), DetectedEncoding { encoding, bom_len, confidence });
        }
    }

    #[test]
    fn sample_may_split_a_character() {
        assert!(detect_encoding(&"aé".as_bytes()[..2], false, None).encoding.is_utf8());
        assert!(!detect_encoding(&"aé".as_bytes()[..2], true, None).encoding.is_utf8());
    }

    #[test]
    fn delimiters_are_detected() {
        let cases: [(&str, u8); 8] = [
            ("a,b\n1,2\n", b','),
            ("a;b;c\n1,5;2,5;3,5\n", b';'),
            ("a\tb\n1,2\t3\n", b'\t'),
            ("a|b\n1|2\n", b'|'),
            ("a\n1\n", b','),
            ("", b','),
            ("\"a;b;c\",d\n\"1;2;3\",4\n", b','),
            ("name, first;age\nx;1\ny;2\n", b';'),
        ];
        for (text, delimiter) in cases {
            assert_eq!(
                super::detect_delimiter(text.as_bytes(), true, CsvDialect::new(b',', Some(b'"'))).0 as char,
                delimiter as char,
                "{text:?}"
            );
        }
    }

    #[test]
    fn other_kinds_of_files_are_recognized() {
        for (start, kind) in [
            (&b"PK\x03\x04\x14\0"[..], Some("a zip archive")),
            (b"\x1f\x8b\x08", Some("a gzip archive")),
            (b"<html><body><table><tr><th>Email</th></tr></table></body></html>", Some("HTML")),
            (b"[{\"Email\":\"a@example.org\"}]", Some("JSON")),
            (b"{\"a\":1}\n{\"a\":2}\n", Some("JSON")),
            (b"<?xml version='1.0'?><a/>", Some("XML")),
            (b"PK,name\n1,a\n", None),
            (b"ID3,name\n1,a\n", None),
            (b"PAR1,name\n1,a\n", None),
            (b"[a],b\n1,2\n", None),
            (b"", None),
        ] {
            assert_eq!(detect_other_format(start), kind, "{}", String::from_utf8_lossy(start));
        }
    }
}
