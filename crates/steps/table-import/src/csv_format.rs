//! The format of a file: encoding, delimiter, header, and the start of the data. It is detected from the first bytes.

use std::sync::Arc;

use super::columns::ImportColumn;
use super::header_search::{HeadText, HeaderRecord, WantedHeaders, find_header};
use super::rejects::REJECT_COLUMNS;
use super::{BlankRows, Confidence, CsvImport, DetectedFormat, FormulaGuards, HeaderSpec, ShortRows};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_tabular::read::csv_parser::{CsvDialect, CsvLimits};
use afterload_tabular::read::detect::{self, CANDIDATE_DELIMITERS, DetectedEncoding};
use afterload_tabular::read::header_name::{find_near_headers, normalize_header};
use afterload_tabular::read::json_lines::JsonColumns;
use afterload_tabular::read::utf8_decoder::Utf8Decoder;

/// How many bytes are read for the detection. The header must fit into them.
pub const HEADER_SAMPLE_SIZE: usize = 256 << 10;

/// The kind of a file.
#[derive(Clone, Debug)]
pub enum FileFormat {
    /// CSV.
    Csv,
    /// JSON Lines with these columns.
    JsonLines(Arc<JsonColumns>),
    /// A sheet of a workbook. Its rows have the numbers of the sheet as lines and offsets.
    Xlsx,
}

/// What is known of a file before its header.
pub struct FormatStart {
    /// The encoding and its byte order mark.
    pub encoding: DetectedEncoding,
    /// The delimiter and the quote.
    pub dialect: CsvDialect,
    /// How sure the detection of the delimiter is.
    pub confidence: detect::Confidence,
    /// The offset at which the data starts if there is no header.
    pub offset: u64,
    /// The line at which the data starts if there is no header.
    pub line: u64,
    /// Whether the sample is the entire file.
    pub whole: bool,
}

/// The detected format of a file.
#[derive(Clone, Debug)]
pub struct CsvFormat {
    /// The kind of the file.
    pub format: FileFormat,
    /// The name of the archive's format around the file.
    pub archive: Option<&'static str>,
    /// The name of the sheet.
    pub sheet: Option<String>,
    /// The encoding and its byte order mark.
    pub encoding: DetectedEncoding,
    /// The delimiter and the quote.
    pub dialect: CsvDialect,
    /// The limits of records.
    pub limits: CsvLimits,
    /// How sure the detection of the delimiter is.
    pub confidence: detect::Confidence,
    /// The names of the data columns.
    pub header: Vec<String>,
    /// The line of the header; `None` if the pipeline names the columns.
    pub header_line: Option<u64>,
    /// The number of fields in a valid record.
    pub width: usize,
    /// In a corrected error file: the indexes of the data fields.
    pub data_fields: Option<Vec<usize>>,
    /// In a corrected error file: the indexes of `_error_code` and `_error_message`.
    pub error_fields: Option<(usize, usize)>,
    /// Whether blank rows are left out.
    pub skip_blank: bool,
    /// Whether short rows are filled up.
    pub pad_short: bool,
    /// Whether the guards of formulas are taken off.
    pub strip_guards: bool,
    /// The offset at which the data starts.
    pub offset: u64,
    /// The line at which the data starts.
    pub line: u64,
}

/// Where the cells of a column come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnSource {
    /// A field of the file.
    Field(usize),
    /// The constant of the column.
    Constant,
    /// The file lacks the column, so new rows have its default.
    Missing,
}

impl CsvFormat {
    /// Detects the format from the first bytes of a file. `whole` is true if they are the entire file.
    ///
    /// # Errors
    /// `csv_not_text`, `csv_empty`, a fault of the header, or an invalid setting.
    pub fn from_sample(sample: &[u8], whole: bool, spec: &CsvImport) -> Result<Self> {
        if let Some(what) = detect::detect_other_format(sample) {
            let error = Error::new(codes::CSV_NOT_TEXT, format!("this is {what}, not a CSV"));
            return Err(match what {
                "an Excel workbook" | "a zip archive" | "JSON" if !spec.any_format => {
                    error.with_hint("`uses: table.import` reads workbooks, zip archives and JSON Lines")
                }
                _ => error,
            });
        }
        let encoding = detect::detect_encoding(sample, whole, spec.declared_encoding()?);
        let (text, base) = decode_sample(sample, whole, encoding);
        let sep = read_sep_line(&text);
        let (skipped, line) = match (sep, spec.skip_rows) {
            (Some((end, _)), 0) => (end, 2),
            _ => skip_lines(&text, spec.skip_rows),
        };
        let limits = spec.limits();
        let dialect = spec.base_dialect()?;
        let head = HeadText { text: &text[skipped..], whole, limits, offset: base + skipped as u64, line };
        let (delimiters, sure) = match (spec.delimiter_byte()?, sep) {
            (Some(delimiter), _) => (vec![delimiter], true),
            (None, Some((_, delimiter))) => (vec![delimiter], true),
            (None, None) => (candidates(&head, dialect), false),
        };
        let wanted = WantedHeaders::new(&spec.columns);
        let deep = spec.skip_rows == 0 && matches!(spec.header, HeaderSpec::Flag(true));
        let found = find_header(&head, &delimiters, dialect, &wanted, deep);
        let delimiter = found.as_ref().map_or(delimiters[0], |found| found.delimiter);
        let confidence = match &found {
            _ if sure => detect::Confidence::High,
            Some(found) if found.matched > 1 => detect::Confidence::High,
            _ => detect::detect_delimiter(head.text, whole, dialect).1,
        };
        let dialect = CsvDialect { delimiter, ..dialect };
        Self::assemble(found, FormatStart { encoding, dialect, confidence, offset: head.offset, line, whole }, spec)
    }

    /// Makes the format of a file from its header.
    ///
    /// # Errors
    /// `csv_empty`, or a fault of the header.
    pub fn assemble(found: Option<HeaderRecord>, start: FormatStart, spec: &CsvImport) -> Result<Self> {
        let FormatStart { encoding, dialect, confidence, offset, line, whole } = start;
        let corrected = found.as_ref().is_some_and(|found| is_error_file(&found.names));
        let (header, place) = match (&spec.header, found) {
            (HeaderSpec::Names(header), _) if !corrected => (header.clone(), None),
            (_, None) => return Err(Error::new(codes::CSV_EMPTY, "the file has no header: it is empty")),
            (_, Some(found)) => {
                check_header_record(&found, whole)?;
                (found.names, Some((found.line, found.end, found.next_line)))
            }
        };
        let data = corrected.then(|| {
            (0..header.len()).filter(|at| !REJECT_COLUMNS.contains(&header[*at].as_str())).collect::<Vec<_>>()
        });
        let index = |name: &str| header.iter().position(|known| known == name);
        let notes = if corrected { index("_error_code").zip(index("_error_message")) } else { None };
        let width = header.len();
        let header = match &data {
            Some(data) => data.iter().map(|at| header[*at].clone()).collect(),
            None => header,
        };
        let (header_line, offset, line) = match place {
            Some((header_line, offset, line)) => (Some(header_line), offset, line),
            None => (None, offset, line),
        };
        Ok(Self {
            format: FileFormat::Csv,
            archive: None,
            sheet: None,
            encoding,
            dialect,
            limits: spec.limits(),
            confidence,
            header,
            header_line,
            width,
            data_fields: data,
            error_fields: notes,
            skip_blank: spec.blank_rows == BlankRows::Skip,
            pad_short: spec.short_rows == ShortRows::Pad,
            strip_guards: spec.formula_guards == FormulaGuards::Strip,
            offset,
            line,
        })
    }

    /// The source of each configured column.
    ///
    /// # Errors
    /// `csv_header_missing` or `csv_header_duplicate`.
    pub fn map_columns(&self, columns: &[(&str, &ImportColumn)]) -> Result<Vec<ColumnSource>> {
        let headers = self.header.iter().map(|name| normalize_header(name)).collect::<Vec<_>>();
        let (mut sources, mut missing) = (Vec::new(), Vec::new());
        for (name, column) in columns {
            if column.value.is_some() {
                sources.push(ColumnSource::Constant);
                continue;
            }
            let wanted = column.wanted_headers(name).iter().map(|name| normalize_header(name)).collect::<Vec<_>>();
            let found = (0..headers.len()).filter(|at| wanted.contains(&headers[*at])).collect::<Vec<_>>();
            match found.as_slice() {
                [field] => sources.push(ColumnSource::Field(*field)),
                [] if column.default.is_some() => sources.push(ColumnSource::Missing),
                [] => missing.push((*name, column.wanted_headers(name))),
                many => {
                    let names = many.iter().map(|at| self.header[*at].clone()).collect::<Vec<_>>();
                    let message = format!("{} headers stand for column `{name}`: {}", many.len(), quote_names(&names));
                    return Err(Error::new(codes::CSV_HEADER_DUPLICATE, message));
                }
            }
        }
        if missing.is_empty() { Ok(sources) } else { Err(self.missing_headers_error(&missing)) }
    }

    fn missing_headers_error(&self, missing: &[(&str, Vec<String>)]) -> Error {
        let (mut parts, mut near) = (Vec::new(), serde_json::Map::new());
        for (name, wanted) in missing {
            let headers = || self.header.iter().map(String::as_str);
            let mut close = wanted.iter().flat_map(|wanted| find_near_headers(wanted, headers())).collect::<Vec<_>>();
            close.dedup();
            close.truncate(3);
            let close = close.into_iter().map(str::to_owned).collect::<Vec<_>>();
            let hint = if close.is_empty() { String::new() } else { format!("; near: {}", quote_names(&close)) };
            parts.push(format!("`{name}` (looked for {}{hint})", quote_names(wanted)));
            near.insert((*name).to_owned(), close.into());
        }
        let line = self.header_line.map_or_else(String::new, |line| format!(" on line {line}"));
        let message = format!("the file has no header for {}", parts.join(", "));
        Error::new(codes::CSV_HEADER_MISSING, message)
            .with_hint(format!(
                "the header{line} has {}; if the table begins further down, set `skip_rows`; or add the spelling to the \
                 column's `match`, or give the column a `default`",
                quote_names(&self.header)
            ))
            .with_details(serde_json::json!({ "near": near, "headers": self.header, "line": self.header_line }))
    }

    /// Whether the file is an error file that people have corrected.
    pub fn is_corrected(&self) -> bool {
        self.data_fields.is_some()
    }

    /// Converts the format for the outputs.
    pub fn to_detected(&self) -> DetectedFormat {
        DetectedFormat {
            format: match &self.format {
                FileFormat::Csv => "csv",
                FileFormat::JsonLines(_) => "json_lines",
                FileFormat::Xlsx => "xlsx",
            }
            .into(),
            archive: self.archive.map(str::to_owned),
            sheet: self.sheet.clone(),
            encoding: self.encoding.encoding.name(),
            delimiter: (self.dialect.delimiter as char).to_string(),
            confidence: match self.confidence.min(self.encoding.confidence) {
                detect::Confidence::Low => Confidence::Low,
                detect::Confidence::Medium => Confidence::Medium,
                detect::Confidence::High => Confidence::High,
            },
            header_line: self.header_line,
        }
    }
}

/// Whether the names are those of an error file.
pub fn is_error_file(names: &[String]) -> bool {
    REJECT_COLUMNS.iter().all(|added| names.iter().any(|name| name == added))
}

/// The delimiters to try, the detected one first.
fn candidates(head: &HeadText<'_>, dialect: CsvDialect) -> Vec<u8> {
    let likely = detect::detect_delimiter(head.text, head.whole, dialect).0;
    let others = CANDIDATE_DELIMITERS.into_iter().filter(|delimiter| *delimiter != likely);
    std::iter::once(likely).chain(others).collect()
}

fn check_header_record(found: &HeaderRecord, whole: bool) -> Result<()> {
    let error = |code, message: String| {
        Err(Error::new(code, message)
            .context("reading the header")
            .with_details(serde_json::json!({ "line": found.line, "offset": found.end })))
    };
    match found.fault {
        Some(fault) => error(*fault.code(), fault.message()),
        None if found.unfinished && !whole => {
            let message = format!("the header is larger than {} KiB", HEADER_SAMPLE_SIZE >> 10);
            error(codes::CSV_RECORD_TOO_LARGE, message)
        }
        None => Ok(()),
    }
}

/// Formats names for a message.
pub fn quote_names(names: &[String]) -> String {
    let some = names.iter().take(30).map(|name| format!("`{}`", name.chars().take(60).collect::<String>()));
    let more = if names.len() > 30 { ", …" } else { "" };
    format!("{}{more}", some.collect::<Vec<_>>().join(", "))
}

/// Decodes the sample to UTF-8, and returns the offset of its first byte.
fn decode_sample(sample: &[u8], whole: bool, found: DetectedEncoding) -> (Vec<u8>, u64) {
    if found.encoding.is_utf8() {
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

/// Reads a first line such as `sep=;`, by which Excel names the delimiter. Returns the end of the line, too.
fn read_sep_line(text: &[u8]) -> Option<(usize, u8)> {
    let end = memchr::memchr2(b'\n', b'\r', text)?;
    let line = text[..end].trim_ascii_end();
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    let (name, delimiter) = line.split_at_checked(4)?;
    // A tab at the end of the line is no blank here.
    let delimiter = match (delimiter, text[..end].get(4)) {
        ([delimiter], _) => *delimiter,
        ([], Some(b'\t')) => b'\t',
        _ => return None,
    };
    let fits = name.eq_ignore_ascii_case(b"sep=") && delimiter.is_ascii() && delimiter != b'"';
    fits.then(|| (end + line_end_length(&text[end..]), delimiter))
}

fn line_end_length(text: &[u8]) -> usize {
    if text.starts_with(b"\r\n") { 2 } else { 1 }
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
        at += end + line_end_length(&rest[end..]);
        line += 1;
    }
    (at, line)
}
