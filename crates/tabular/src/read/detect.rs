//! Detects the encoding and the delimiter of a file.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::csv_parser::{CsvDialect, CsvParser, CsvRecord};

/// The delimiters that are tried, the more likely ones first.
const CANDIDATE_DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// How many bytes the encoding detection reads.
const ENCODING_SAMPLE_SIZE: usize = 256 << 10;
/// How many records the delimiter detection reads.
const DELIMITER_SAMPLE_RECORDS: usize = 50;

/// An encoding, and the length of the byte order mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectedEncoding {
    /// The encoding.
    pub encoding: &'static Encoding,
    /// The length of the byte order mark.
    pub bom_len: usize,
}

/// Detects the encoding from the first bytes. A byte order mark has priority over the declared encoding.
pub fn detect_encoding(start: &[u8], whole: bool, declared: Option<&'static Encoding>) -> DetectedEncoding {
    if let Some((encoding, mark)) = Encoding::for_bom(start) {
        return DetectedEncoding { encoding, bom_len: mark };
    }
    let sample = &start[..start.len().min(ENCODING_SAMPLE_SIZE)];
    let encoding = declared.or_else(|| detect_utf16(sample)).unwrap_or_else(|| match is_utf8(sample, whole) {
        true => UTF_8,
        false => {
            let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
            detector.feed(sample, whole && sample.len() == start.len());
            detector.guess(None, Utf8Detection::Deny)
        }
    });
    DetectedEncoding { encoding, bom_len: 0 }
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

/// Whether the sample is UTF-8. Its end may split a character.
fn is_utf8(sample: &[u8], whole: bool) -> bool {
    match std::str::from_utf8(sample) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none() && !(whole && sample.len() < ENCODING_SAMPLE_SIZE),
    }
}

/// Recognizes common wrong uploads by their first bytes.
pub fn detect_other_format(start: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 4] = [
        (b"PK\x03\x04", "an Excel workbook or another zip archive"),
        (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"%PDF-", "a PDF"),
    ];
    kinds.into_iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, what)| what)
}

/// Detects the delimiter: the one by which most records have as many fields as the first.
pub fn detect_delimiter(start: &[u8], whole: bool, quote: Option<u8>) -> u8 {
    let rated = CANDIDATE_DELIMITERS
        .iter()
        .rev()
        .map(|delimiter| (rate_delimiter(start, whole, *delimiter, quote), *delimiter));
    let best = rated.max_by(|(one, _), (two, _)| one.cmp(two));
    best.filter(|(rate, _)| rate.1 > 1).map_or(b',', |(_, delimiter)| delimiter)
}

/// Returns the percentage of records like the first (0 if that has only one field), and the fields of the first.
fn rate_delimiter(start: &[u8], whole: bool, delimiter: u8, quote: Option<u8>) -> (usize, usize) {
    let mut parser = CsvParser::new(CsvDialect { delimiter, quote }, 0, 1);
    let (mut record, mut input, mut counts) = (CsvRecord::default(), start, Vec::new());
    while counts.len() < DELIMITER_SAMPLE_RECORDS && matches!(parser.read_record(&mut input, &mut record), Ok(true)) {
        counts.push(record.ends.len());
    }
    if counts.len() < DELIMITER_SAMPLE_RECORDS
        && (whole || counts.is_empty())
        && matches!(parser.finish(&mut record), Ok(true))
    {
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
        let cases: [(&[u8], _, _); 6] = [
            (text.as_bytes(), UTF_8, 0),
            (b"\xef\xbb\xbfa,b", UTF_8, 3),
            (&marked, UTF_16LE, 2),
            (&utf16(text, false), UTF_16LE, 0),
            (&utf16(text, true), UTF_16BE, 0),
            (&latin, WINDOWS_1252, 0),
        ];
        for (bytes, encoding, mark) in cases {
            assert_eq!(super::detect_encoding(bytes, true, None), DetectedEncoding { encoding, bom_len: mark });
        }
    }

    #[test]
    fn sample_may_split_a_character() {
        assert_eq!(detect_encoding(&"aé".as_bytes()[..2], false, None).encoding, UTF_8);
        assert_ne!(detect_encoding(&"aé".as_bytes()[..2], true, None).encoding, UTF_8);
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
                super::detect_delimiter(text.as_bytes(), true, Some(b'"')) as char,
                delimiter as char,
                "{text:?}"
            );
        }
    }

    #[test]
    fn workbooks_and_archives_are_detected() {
        assert_eq!(detect_other_format(b"PK\x03\x04\x14\0"), Some("an Excel workbook or another zip archive"));
        assert_eq!(detect_other_format(b"\x1f\x8b\x08"), Some("a gzip archive"));
        assert_eq!(detect_other_format(b"PK,name\n1,a\n"), None);
    }
}
