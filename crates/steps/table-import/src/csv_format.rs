//! The format of a file: encoding, delimiter, header, and the start of the data. It is detected from the first bytes.

use encoding_rs::{Encoding, UTF_8};

use super::columns::ImportColumn;
use super::rejects::REJECT_COLUMNS;
use super::{CsvImport, HeaderSpec};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_tabular::read::csv_parser::{CsvDialect, CsvParser, CsvRecord};
use afterload_tabular::read::detect::{self, DetectedEncoding};
use afterload_tabular::read::utf8_decoder::Utf8Decoder;

/// How many bytes are read for the detection. The header must fit into them.
pub const HEADER_SAMPLE_SIZE: usize = 256 << 10;

/// The detected format of a file.
#[derive(Clone, Debug)]
pub struct CsvFormat {
    /// The encoding and its byte order mark.
    pub encoding: DetectedEncoding,
    /// The delimiter and the quote.
    pub dialect: CsvDialect,
    /// The names of the data columns.
    pub header: Vec<String>,
    /// The number of fields in a valid record.
    pub width: usize,
    /// In a corrected error file: the indexes of the data fields.
    pub data_fields: Option<Vec<usize>>,
    /// In a corrected error file: the indexes of `_error_code` and `_error_message`.
    pub error_fields: Option<(usize, usize)>,
    /// The offset at which the data starts.
    pub offset: u64,
    /// The line at which the data starts.
    pub line: u64,
}

impl CsvFormat {
    /// Detects the format from the first bytes of a file. `whole` is true if they are the entire file.
    ///
    /// # Errors
    /// `csv_not_text`, `csv_empty`, `csv_header_too_large`, an error of the parser, or an invalid setting.
    pub fn from_sample(sample: &[u8], whole: bool, spec: &CsvImport) -> Result<Self> {
        if let Some(what) = detect::detect_other_format(sample) {
            return Err(Error::new(codes::CSV_NOT_TEXT, format!("this is {what}, not a CSV")));
        }
        let found = detect::detect_encoding(sample, whole, spec.declared_encoding()?);
        let (text, base) = decode_sample(sample, whole, found);
        let (skipped, line) = skip_lines(&text, spec.skip_rows);
        let quote = spec.quote_byte()?;
        let delimiter = match spec.delimiter_byte()? {
            Some(delimiter) => delimiter,
            None => detect::detect_delimiter(&text[skipped..], whole, quote),
        };
        let dialect = CsvDialect { delimiter, quote };
        let (from, mut record) = (base + skipped as u64, CsvRecord::default());
        let mut parser = CsvParser::new(dialect, from, line);
        let mut input = &text[skipped..];
        let found_record = parser.read_record(&mut input, &mut record)? || (whole && parser.finish(&mut record)?);
        if !found_record && !whole {
            return Err(parser.unfinished_error(&record).context("reading the header"));
        }
        let names =
            record.iter_fields().map(|field| String::from_utf8_lossy(field).trim().to_owned()).collect::<Vec<_>>();
        let names = if found_record { names } else { Vec::new() };
        let corrected = REJECT_COLUMNS.iter().all(|added| names.iter().any(|name| name == added));
        let (header, behind) = match &spec.header {
            HeaderSpec::Names(header) if !corrected => (header.clone(), false),
            _ if !found_record => return Err(Error::new(codes::CSV_EMPTY, "the file has no header: it is empty")),
            _ => (names, true),
        };
        let data = corrected.then(|| {
            (0..header.len()).filter(|at| !REJECT_COLUMNS.contains(&header[*at].as_str())).collect::<Vec<_>>()
        });
        let place = |name: &str| header.iter().position(|known| known == name);
        let notes = if corrected { place("_error_code").zip(place("_error_message")) } else { None };
        let width = header.len();
        let header = match &data {
            Some(data) => data.iter().map(|at| header[*at].clone()).collect(),
            None => header,
        };
        let (offset, line) = if behind { (record.end, parser.current_line()) } else { (from, line) };
        Ok(Self { encoding: found, dialect, header, width, data_fields: data, error_fields: notes, offset, line })
    }

    /// The field index of each configured column; `None` if the column's default is used.
    ///
    /// # Errors
    /// `csv_header_missing` or `csv_header_duplicate`.
    pub fn map_columns(&self, columns: &[(&str, &ImportColumn)]) -> Result<Vec<Option<usize>>> {
        let (mut fields, mut missing) = (Vec::new(), Vec::new());
        for (name, column) in columns {
            let own = [(*name).to_owned()];
            let wanted = if column.matches.is_empty() { &own[..] } else { &column.matches };
            let is_wanted = |at: &usize| wanted.iter().any(|wanted| same_header(wanted, &self.header[*at]));
            let found = (0..self.header.len()).filter(is_wanted).collect::<Vec<_>>();
            match found.as_slice() {
                [field] => fields.push(Some(*field)),
                [] if column.default.is_some() => fields.push(None),
                [] => missing.push(format!("`{name}` (looked for {})", quote_names(wanted))),
                many => {
                    let names = many.iter().map(|at| self.header[*at].clone()).collect::<Vec<_>>();
                    let message = format!("{} headers stand for column `{name}`: {}", many.len(), quote_names(&names));
                    return Err(Error::new(codes::CSV_HEADER_DUPLICATE, message));
                }
            }
        }
        if missing.is_empty() {
            return Ok(fields);
        }
        let message = format!("the file has no header for {}", missing.join(", "));
        Err(Error::new(codes::CSV_HEADER_MISSING, message).with_hint(format!(
            "it has {}; add its spelling to the column's `match`, or give the column a `default`",
            quote_names(&self.header)
        )))
    }
}

fn same_header(one: &str, two: &str) -> bool {
    one.trim().to_lowercase() == two.to_lowercase()
}

fn quote_names(names: &[String]) -> String {
    let some = names.iter().take(30).map(|name| format!("`{}`", name.chars().take(60).collect::<String>()));
    let more = if names.len() > 30 { ", …" } else { "" };
    format!("{}{more}", some.collect::<Vec<_>>().join(", "))
}

/// Decodes the sample to UTF-8, and returns the offset of its first byte.
fn decode_sample(sample: &[u8], whole: bool, found: DetectedEncoding) -> (Vec<u8>, u64) {
    if found.encoding == UTF_8 {
        return (sample[found.bom_len..].to_vec(), found.bom_len as u64);
    }
    let (mut decode, _) = Utf8Decoder::new(found, 0);
    let mut text = Vec::new();
    let kept = decode.decode_chunk(sample, whole, |piece| {
        text.extend_from_slice(piece);
        Ok::<(), std::convert::Infallible>(())
    });
    match kept {
        Ok(()) => (text, 0),
    }
}

/// Skips `count` lines, and returns the offset and line of the next one. The header of a corrected error file ends the
/// search, because an error file does not repeat the lines above the table.
fn skip_lines(text: &[u8], count: u64) -> (usize, u64) {
    let (mut at, mut line) = (0, 1);
    for _ in 0..count {
        let rest = &text[at..];
        let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else { return (text.len(), line) };
        let corrected =
            REJECT_COLUMNS.iter().all(|added| memchr::memmem::find(&rest[..end], added.as_bytes()).is_some());
        if corrected {
            break;
        }
        at += end + if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        line += 1;
    }
    (at, line)
}

/// Finds an encoding by its label in the WHATWG standard.
pub fn encoding_for_label(label: &str) -> Option<&'static Encoding> {
    Encoding::for_label(label.as_bytes()).filter(|encoding| *encoding != encoding_rs::REPLACEMENT)
}
