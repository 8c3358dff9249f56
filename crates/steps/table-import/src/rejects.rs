//! The error file: rejected rows in their original form, with the position and the reason in added columns.

use bytes::Bytes;

use crate::codes;
use afterload_core::error::{ErrorCode, Result};
use afterload_core::file::File;
use afterload_core::units::group_digits;
use afterload_tabular::formula::is_spreadsheet_formula;
use afterload_tabular::read::csv_parser::CsvDialect;
use afterload_tabular::read::utf8_decoder::show_invalid_bytes;

/// The columns that are added to every rejected row. In an imported file, these columns are not data.
pub const REJECT_COLUMNS: [&str; 6] = ["_run", "_row", "_line", "_error_column", "_error_code", "_error_message"];

/// The errors of rows that cannot be written in their original form. Such a row gets a checksum, so that an unedited
/// row is recognized.
pub const RESHAPED_CODES: &[ErrorCode] = &[
    codes::CELL_ERROR,
    codes::CSV_FIELD_TOO_LARGE,
    codes::CSV_INVALID_TEXT,
    codes::CSV_NUL,
    codes::CSV_RAGGED,
    codes::CSV_RECORD_TOO_LARGE,
    codes::CSV_STRAY_QUOTE,
    codes::CSV_TOO_MANY_COLUMNS,
    codes::CSV_UNCLOSED_QUOTE,
    codes::JSON_LINE_INVALID,
];

/// The codes of notes behind the rejected rows. They are no data.
pub const NOTE_CODES: &[ErrorCode] = &[codes::CSV_ERRORS_OMITTED, codes::CSV_ROWS_CUT];

const REJECT_BUFFER_SIZE: usize = 256 << 10;

/// The format of rejected rows.
#[derive(Clone, Debug)]
pub struct RejectFormat {
    /// The dialect of the imported file, so that one pipeline can read both.
    pub dialect: CsvDialect,
    /// The ID of the run.
    pub run: String,
    /// The columns of the imported file.
    pub header: Vec<String>,
    /// Whether to write a byte order mark, because the imported file had one or was not UTF-8.
    pub write_bom: bool,
    /// Whether the decoder has marked the bytes that it could not read, because the imported file was not UTF-8.
    pub marked_bytes: bool,
}

/// Creates error files.
pub trait FileStore: Send + Sync {
    /// A file that is being written.
    type Sink: RejectSink;
    /// Starts a file.
    fn create(&self, name: &str, content_type: &str) -> impl Future<Output = Result<Self::Sink>> + Send;
}

/// A file that is being written.
pub trait RejectSink: Send {
    /// Adds bytes.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<()>> + Send;
    /// Completes the file.
    fn finish(self) -> impl Future<Output = Result<File>> + Send;
}

/// The position and the reason of a rejected row.
pub struct RejectInfo<'a> {
    /// The number of the row.
    pub row: u64,
    /// The line of the row.
    pub line: u64,
    /// The column with the error; empty if the whole row is wrong.
    pub column: &'a str,
    /// The error code.
    pub code: ErrorCode,
    /// The error message.
    pub message: &'a str,
}

impl RejectFormat {
    /// Formats the header line.
    pub fn header_line(&self) -> String {
        let mut out = String::from(if self.write_bom { "\u{feff}" } else { "" });
        self.write_line(self.header.iter().map(String::as_str), REJECT_COLUMNS.iter().copied(), &mut out);
        out
    }

    /// Formats a rejected row. Short rows are filled up, and the surplus fields of long rows join the last one. The
    /// added values therefore stay under their headers.
    pub fn reject_line<'a>(&self, fields: impl Iterator<Item = &'a [u8]>, place: &RejectInfo<'_>) -> String {
        self.reject_line_with_codes(fields, place, place.code.name())
    }

    /// Formats a note about the import, in a row without data.
    pub fn note_line(&self, row: u64, line: u64, code: ErrorCode, message: &str) -> String {
        self.reject_line(std::iter::empty(), &RejectInfo { row, line, column: "", code, message })
    }

    /// Formats a rejected row with several codes. `place` has the first of them.
    pub fn reject_line_with_codes<'a>(
        &self,
        fields: impl Iterator<Item = &'a [u8]>,
        place: &RejectInfo<'_>,
        code_text: &str,
    ) -> String {
        let mut out = String::new();
        let (row, line) = (place.row.to_string(), place.line.to_string());
        let mut cells = fields.map(|field| self.field_text(field)).collect::<Vec<_>>();
        if let (true, Some(last)) = (cells.len() > self.header.len(), self.header.len().checked_sub(1)) {
            let joined = cells.split_off(last).join(&(self.dialect.delimiter as char).to_string());
            cells.push(self.field_text(joined.as_bytes()));
        }
        cells.resize(self.header.len(), String::new());
        let stamped = RESHAPED_CODES.contains(&place.code);
        let stamp = if stamped { fields_checksum(cells.iter().map(String::as_bytes)) } else { String::new() };
        let message = format!("{}{stamp}", place.message);
        let added = [&self.run, &row, &line, place.column, code_text, &message];
        self.write_line(cells.iter().map(String::as_str), added.into_iter(), &mut out);
        out
    }

    /// Formats a field as far as the dialect allows.
    fn field_text(&self, field: &[u8]) -> String {
        let text = show_invalid_bytes(field, self.marked_bytes).replace('\0', "\\x00");
        match self.dialect.quote {
            Some(_) => text,
            // Without quoting, only our own messages and joined fields can contain these characters.
            None => text.replace([self.dialect.delimiter as char, '\n', '\r'], " "),
        }
    }

    fn write_line<'a>(
        &self,
        fields: impl Iterator<Item = &'a str>,
        added: impl Iterator<Item = &'a str>,
        out: &mut String,
    ) {
        let mut first = true;
        for field in fields.chain(added) {
            if !std::mem::take(&mut first) {
                out.push(self.dialect.delimiter as char);
            }
            self.write_field(&self.field_text(field.as_bytes()), out);
        }
        out.push('\n');
    }

    fn write_field(&self, text: &str, out: &mut String) {
        let guard = if is_spreadsheet_formula(text.as_bytes()) { "'" } else { "" };
        let delimiter = self.dialect.delimiter as char;
        let special = |c: char| c == delimiter || c == '\n' || c == '\r';
        match self.dialect.quote.map(char::from) {
            Some(quote) if text.contains(|c| special(c) || c == quote) => {
                let doubled = text.replace(quote, &format!("{quote}{quote}"));
                out.extend([&quote.to_string(), guard, &doubled, &quote.to_string()]);
            }
            _ => out.extend([guard, text]),
        }
    }
}

/// The checksum (FNV-1a) of the written fields. It is appended to the message of a row whose form has changed.
pub fn fields_checksum<'a>(fields: impl Iterator<Item = &'a [u8]>) -> String {
    let bytes = fields.flat_map(|field| field.iter().copied().chain([0x1f]));
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!(" [{hash:08x}]")
}

/// The message about rejected rows that the error file lacks.
pub fn omitted_message(omitted: u64, max: u64) -> String {
    format!("{} more rejected rows are not in this file (`errors.max` is {})", group_digits(omitted), group_digits(max))
}

/// The message about a file of which only the first rows were read.
pub fn cut_message(max: u64) -> String {
    format!("the file has more rows; `max_rows` ended the import after {}", group_digits(max))
}

/// An error file that is created with its first row.
pub struct ErrorFile<'a, S: FileStore> {
    store: &'a S,
    name: &'a str,
    format: &'a RejectFormat,
    sink: Option<S::Sink>,
    buffer: Vec<u8>,
}

impl<'a, S: FileStore> ErrorFile<'a, S> {
    /// Prepares an error file. It is not created until a row is written.
    pub fn new(shelf: &'a S, name: &'a str, format: &'a RejectFormat) -> Self {
        Self { store: shelf, name, format, sink: None, buffer: Vec::new() }
    }

    /// Appends a line from [`RejectFormat::reject_line`].
    pub async fn write_line(&mut self, line: &str) -> Result<()> {
        let sink = match &mut self.sink {
            Some(sink) => sink,
            None => {
                self.buffer.extend_from_slice(self.format.header_line().as_bytes());
                self.sink.insert(self.store.create(self.name, "text/csv").await?)
            }
        };
        self.buffer.extend_from_slice(line.as_bytes());
        if self.buffer.len() >= REJECT_BUFFER_SIZE {
            sink.write(Bytes::from(std::mem::take(&mut self.buffer))).await?;
        }
        Ok(())
    }

    /// Whether a row was written.
    pub fn has_rows(&self) -> bool {
        self.sink.is_some()
    }

    /// Completes the file; `None` if no row was written.
    pub async fn finish(self) -> Result<Option<File>> {
        let Some(mut sink) = self.sink else { return Ok(None) };
        sink.write(Bytes::from(self.buffer)).await?;
        sink.finish().await.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(delimiter: u8, quote: Option<u8>) -> RejectFormat {
        let header = vec!["a".to_owned(), "b".to_owned()];
        let dialect = CsvDialect::new(delimiter, quote);
        RejectFormat { dialect, run: "r1".into(), header, write_bom: false, marked_bytes: false }
    }

    #[test]
    fn rejected_rows_keep_their_fields() {
        let format = format(b',', Some(b'"'));
        let place =
            RejectInfo { row: 7, line: 9, column: "a", code: codes::VALUE_INVALID, message: "`x,y` is not \"it\"" };
        let line = format.reject_line([&b"x,y"[..], b"=1"].into_iter(), &place);
        assert_eq!(format.header_line(), "a,b,_run,_row,_line,_error_column,_error_code,_error_message\n");
        assert_eq!(line, "\"x,y\",'=1,r1,7,9,a,value_invalid,\"`x,y` is not \"\"it\"\"\"\n");
        let short = format.reject_line([&b"x\0\xff"[..]].into_iter(), &place);
        assert!(short.starts_with("x\\x00\\xFF,,r1,7"), "{short}");
    }

    #[test]
    fn unquoted_messages_replace_special_characters() {
        let place = RejectInfo { row: 1, line: 1, column: "", code: codes::VALUE_INVALID, message: "a\tb" };
        let line = format(b'\t', None).reject_line([&b"1"[..], b"2"].into_iter(), &place);
        assert_eq!(line.matches('\t').count(), 7);
    }
}
