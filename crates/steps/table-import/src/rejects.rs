//! The error file: rejected rows as they were, with where and why behind them.

use bytes::Bytes;

use crate::codes;
use afterload_core::error::{ErrorCode, Result};
use afterload_core::file::File;
use afterload_tabular::formula::is_spreadsheet_formula;
use afterload_tabular::read::csv_parser::CsvDialect;

/// What is added to every rejected row. In a file that comes in, these columns are not data.
pub const REJECT_COLUMNS: [&str; 6] = ["_run", "_row", "_line", "_error_column", "_error_code", "_error_message"];

/// The faults of rows that cannot be written as they were. Such a row is stamped, so that it is known again if nobody
/// changed it. (What was not text shows as U+FFFD and needs no stamp.)
pub const RESHAPED_CODES: &[ErrorCode] = &[codes::CSV_RAGGED, codes::CSV_STRAY_QUOTE];

const REJECT_BUFFER_SIZE: usize = 256 << 10;

/// How rejected rows are written.
#[derive(Clone, Debug)]
pub struct RejectFormat {
    /// As in the file that came in, so that one pipeline reads both.
    pub dialect: CsvDialect,
    /// The run.
    pub run: String,
    /// The columns of the file that came in.
    pub header: Vec<String>,
    /// Whether a byte order mark says that this is UTF-8, where the file that came in was something else.
    pub write_bom: bool,
}

/// Where the error file goes.
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
    /// Makes the file whole.
    fn finish(self) -> impl Future<Output = Result<File>> + Send;
}

/// Where and why a row was rejected.
pub struct RejectInfo<'a> {
    /// Its number.
    pub row: u64,
    /// Its line.
    pub line: u64,
    /// The column at fault, if one is.
    pub column: &'a str,
    /// The stable code.
    pub code: ErrorCode,
    /// The sentence.
    pub message: &'a str,
}

impl RejectFormat {
    /// The header line.
    pub fn header_line(&self) -> String {
        let mut out = String::from(if self.write_bom { "\u{feff}" } else { "" });
        self.write_line(self.header.iter().map(String::as_str), REJECT_COLUMNS.iter().copied(), &mut out);
        out
    }

    /// A rejected row. Short rows are filled up and the surplus of long ones joins the last field, so that what is added
    /// stands under its header.
    pub fn reject_line<'a>(&self, fields: impl Iterator<Item = &'a [u8]>, place: &RejectInfo<'_>) -> String {
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
        let added = [&self.run, &row, &line, place.column, place.code.name(), &message];
        self.write_line(cells.iter().map(String::as_str), added.into_iter(), &mut out);
        out
    }

    /// A field as far as it can be written.
    fn field_text(&self, field: &[u8]) -> String {
        let text = String::from_utf8_lossy(field).replace('\0', "\u{fffd}");
        match self.dialect.quote {
            Some(_) => text,
            // Without quoting, what would need it can only come from our own messages, or from joined fields.
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

/// Behind the message of a row that was written otherwise than it was: what its fields were then (FNV-1a).
pub fn fields_checksum<'a>(fields: impl Iterator<Item = &'a [u8]>) -> String {
    let bytes = fields.flat_map(|field| field.iter().copied().chain([0x1f]));
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!(" [{hash:08x}]")
}

/// An error file that is begun with its first row.
pub struct ErrorFile<'a, S: FileStore> {
    store: &'a S,
    name: &'a str,
    format: &'a RejectFormat,
    sink: Option<S::Sink>,
    buffer: Vec<u8>,
}

impl<'a, S: FileStore> ErrorFile<'a, S> {
    /// A file that does not exist until a row is written.
    pub fn new(shelf: &'a S, name: &'a str, format: &'a RejectFormat) -> Self {
        Self { store: shelf, name, format, sink: None, buffer: Vec::new() }
    }

    /// Adds a line made by [`RejectFormat::line`].
    ///
    /// # Errors
    /// Those of the store.
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

    /// The file, if anything was written.
    ///
    /// # Errors
    /// Those of the store.
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
        RejectFormat { dialect: CsvDialect { delimiter, quote }, run: "r1".into(), header, write_bom: false }
    }

    #[test]
    fn rows_are_written_as_they_were() {
        let format = format(b',', Some(b'"'));
        let place =
            RejectInfo { row: 7, line: 9, column: "a", code: codes::VALUE_INVALID, message: "`x,y` is not \"it\"" };
        let line = format.reject_line([&b"x,y"[..], b"=1"].into_iter(), &place);
        assert_eq!(format.header_line(), "a,b,_run,_row,_line,_error_column,_error_code,_error_message\n");
        assert_eq!(line, "\"x,y\",'=1,r1,7,9,a,value_invalid,\"`x,y` is not \"\"it\"\"\"\n");
        let short = format.reject_line([&b"x\0\xff"[..]].into_iter(), &place);
        assert!(short.starts_with("x\u{fffd}\u{fffd},,r1,7"), "{short}");
    }

    #[test]
    fn without_quoting_messages_are_made_to_fit() {
        let place = RejectInfo { row: 1, line: 1, column: "", code: codes::VALUE_INVALID, message: "a\tb" };
        let line = format(b'\t', None).reject_line([&b"1"[..], b"2"].into_iter(), &place);
        assert_eq!(line.matches('\t').count(), 7);
    }
}
