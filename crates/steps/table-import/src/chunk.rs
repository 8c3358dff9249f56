//! A chunk: accepted and rejected rows that are committed together.

use std::ops::Range;

use memchr::{memchr, memmem};

use super::column_codec::{ColumnCodec, RowError, ScratchText};
use super::csv_format::CsvFormat;
use super::rejects::{RESHAPED_CODES, RejectFormat, RejectInfo, fields_checksum};
use crate::codes;
use afterload_core::error::ErrorCode;
use afterload_tabular::read::csv_parser::CsvRecord;
use afterload_target_db::RowBatch;

/// A chunk ends early at this size, so that wide rows need no more memory than narrow ones.
const MAX_CHUNK_BYTES: usize = 4 << 20;

/// Rows that are committed together.
#[derive(Debug, Default)]
pub struct ImportChunk {
    /// The parsed rows. Their text buffer also holds the original fields.
    pub batch: RowBatch,
    /// The origin of each accepted row.
    pub accepted: Vec<RowOrigin>,
    /// The end offsets of the original fields in the text buffer.
    ends: Vec<u32>,
    scratch: ScratchText,
    /// The rows that broke a rule, in order.
    pub rejects: Vec<RejectedRow>,
    rejected_bytes: usize,
    /// The offset of the next record.
    pub offset: u64,
    /// The line of the next record.
    pub line: u64,
    /// Bytes of the file that have been read so far.
    pub read: u64,
    /// Whether the file ends with this chunk.
    pub last: bool,
}

/// The origin of a row in the file.
#[derive(Clone, Debug)]
pub struct RowOrigin {
    /// The number of the row, from 1.
    pub row: u64,
    /// The line of the row, from 1.
    pub line: u64,
    start: u32,
    ends: Range<u32>,
}

/// A row that broke a rule.
#[derive(Debug)]
pub struct RejectedRow {
    /// The number of the row, from 1.
    pub row: u64,
    /// The column with the error; empty if the whole row is wrong.
    column: String,
    code: &'static ErrorCode,
    /// The line of the row in the error file.
    pub text: String,
}

impl RejectedRow {
    /// Returns `column.code`, or `code` if the whole row is wrong.
    pub fn fault_kind(&self) -> String {
        if self.column.is_empty() { self.code.to_string() } else { format!("{}.{}", self.column, self.code) }
    }
}

impl AsRef<RowBatch> for ImportChunk {
    fn as_ref(&self) -> &RowBatch {
        &self.batch
    }
}

impl ImportChunk {
    /// Creates an empty chunk for rows of `width` columns.
    pub fn new(width: usize) -> Self {
        Self { batch: RowBatch::new(width), ..Self::default() }
    }

    /// Removes all rows and keeps the allocated memory.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.accepted.clear();
        self.ends.clear();
        self.rejects.clear();
        self.rejected_bytes = 0;
        self.last = false;
    }

    /// The number of accepted and rejected rows.
    pub fn row_count(&self) -> u64 {
        (self.accepted.len() + self.rejects.len()) as u64
    }

    /// Whether the chunk is large enough to be committed.
    pub fn is_full(&self, rows: u64) -> bool {
        self.row_count() >= rows || self.batch.text_buffer.len() + self.rejected_bytes >= MAX_CHUNK_BYTES
    }

    /// The original fields of an accepted row.
    pub fn original_fields(&self, origin: &RowOrigin) -> impl Iterator<Item = &[u8]> {
        let ends = &self.ends[origin.ends.start as usize..origin.ends.end as usize];
        let starts = std::iter::once(origin.start).chain(ends.iter().copied());
        starts.zip(ends).map(|(start, end)| &self.batch.text_buffer[start as usize..*end as usize])
    }

    /// Adds a row. It is accepted if it keeps all rules, and rejected otherwise.
    pub fn push_record(
        &mut self,
        record: &CsvRecord,
        row: u64,
        layout: &CsvFormat,
        rules: &[BoundColumn],
        format: &RejectFormat,
    ) {
        let origin = self.copy_fields(record, row, layout);
        let cells = self.batch.cells.len();
        let checked = validate_record(record, layout).and_then(|()| self.check_corrected(&origin, record, layout));
        let checked = checked.map_err(|fault| (String::new(), fault));
        let checked = checked.and_then(|()| self.parse_cells(&origin, rules));
        let Err((column, fault)) = checked else {
            self.accepted.push(origin);
            return;
        };
        let place = RejectInfo { row, line: origin.line, column: &column, code: *fault.code, message: &fault.message };
        let text = format.reject_line(self.original_fields(&origin), &place);
        self.rejected_bytes += text.len();
        self.batch.cells.truncate(cells);
        self.batch.text_buffer.truncate(origin.start as usize);
        self.ends.truncate(origin.ends.start as usize);
        self.rejects.push(RejectedRow { row, column, code: fault.code, text });
    }

    /// Copies the original fields. From a corrected error file, only the data is copied, without formula guards.
    fn copy_fields(&mut self, record: &CsvRecord, row: u64, layout: &CsvFormat) -> RowOrigin {
        let (start, first) = (self.batch.text_buffer.len() as u32, self.ends.len() as u32);
        match &layout.data_fields {
            None => {
                self.batch.text_buffer.extend_from_slice(&record.bytes);
                self.ends.extend(record.ends.iter().map(|end| start + end));
            }
            Some(data) => {
                let surplus = record.ends.len() > layout.width;
                for (index, field) in record.iter_fields().enumerate() {
                    // With too many fields, the header no longer matches. The added columns are the last ones, so the
                    // data comes first.
                    let is_data = match surplus {
                        true => index + (layout.width - data.len()) < record.ends.len(),
                        false => data.contains(&index),
                    };
                    if is_data {
                        self.batch.text_buffer.extend_from_slice(field.strip_prefix(b"'").unwrap_or(field));
                        self.ends.push(self.batch.text_buffer.len() as u32);
                    }
                }
            }
        }
        RowOrigin { row, line: record.line, start, ends: first..self.ends.len() as u32 }
    }

    /// In a corrected error file, a row that could not be written unchanged must have been edited.
    fn check_corrected(&self, origin: &RowOrigin, record: &CsvRecord, layout: &CsvFormat) -> Result<(), RowError> {
        let Some((code, message)) = layout.error_fields else { return Ok(()) };
        if self.original_fields(origin).any(|field| memmem::find(field, "\u{fffd}".as_bytes()).is_some()) {
            let message = "a cell holds U+FFFD, which stands for what was not text; write what it should be";
            return Err(RowError { code: &codes::CSV_INVALID_TEXT, message: message.into() });
        }
        let note = |at: usize| record.iter_fields().nth(at).unwrap_or_default();
        match RESHAPED_CODES.iter().find(|known| known.name().as_bytes() == note(code)) {
            Some(code) if note(message).ends_with(fields_checksum(self.original_fields(origin)).as_bytes()) => {
                let message = "the row is as it was when it was rejected; correct it, or empty its `_error_code`";
                Err(RowError { code, message: message.into() })
            }
            _ => Ok(()),
        }
    }

    fn parse_cells(&mut self, origin: &RowOrigin, rules: &[BoundColumn]) -> Result<(), (String, RowError)> {
        let start = origin.start as usize;
        // The row passed its checks, so it is valid UTF-8 and nothing is lost here.
        let row = std::str::from_utf8(&self.batch.text_buffer[start..]).unwrap_or_default();
        let ends = &self.ends[origin.ends.start as usize..origin.ends.end as usize];
        self.scratch.text.clear();
        self.scratch.at = self.batch.text_buffer.len();
        for BoundColumn { codec: rule, field } in rules {
            let (from, to) = match *field {
                None => (0, 0),
                Some(0) => (0, ends[0] as usize - start),
                Some(field) => (ends[field - 1] as usize - start, ends[field] as usize - start),
            };
            match rule.parse_cell(row.get(from..to).unwrap_or_default(), start + from, &mut self.scratch) {
                Ok(cell) => self.batch.cells.push(cell),
                Err(fault) => return Err((rule.name.clone(), fault)),
            }
        }
        self.batch.text_buffer.extend_from_slice(&self.scratch.text);
        Ok(())
    }
}

/// The codec of a column, and the field of the file that it reads.
pub struct BoundColumn {
    /// The compiled rules.
    pub codec: ColumnCodec,
    /// The field; `None` if the file lacks it and the default is used.
    pub field: Option<usize>,
}

/// Checks the record as a whole.
fn validate_record(record: &CsvRecord, layout: &CsvFormat) -> Result<(), RowError> {
    let fault = |code, message: String| Err(RowError { code, message });
    if record.ends.len() != layout.width {
        let message = format!("the row has {} fields, the header has {}", record.ends.len(), layout.width);
        return fault(&codes::CSV_RAGGED, message);
    }
    if record.stray_quote {
        return fault(&codes::CSV_STRAY_QUOTE, "text follows a closing quote".into());
    }
    if memchr(0, &record.bytes).is_some() {
        return fault(&codes::CSV_NUL, "the row holds a NUL character".into());
    }
    let cuts_well = |text: &str| record.ends.iter().all(|end| text.is_char_boundary(*end as usize));
    match record.bytes.is_ascii() || std::str::from_utf8(&record.bytes).is_ok_and(cuts_well) {
        true => Ok(()),
        false => fault(
            &codes::CSV_INVALID_TEXT,
            "the row is not valid UTF-8; name the file's `encoding` if it has another".into(),
        ),
    }
}
