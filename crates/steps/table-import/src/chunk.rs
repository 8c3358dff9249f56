//! A chunk: the rows that are written, and the rows that are rejected, together.

use std::ops::Range;

use memchr::{memchr, memmem};

use super::column_codec::{ColumnCodec, RowError, ScratchText};
use super::csv_format::CsvFormat;
use super::rejects::{RESHAPED_CODES, RejectFormat, RejectInfo, fields_checksum};
use crate::codes;
use afterload_core::error::ErrorCode;
use afterload_tabular::read::csv_parser::CsvRecord;
use afterload_target_db::RowBatch;

/// A chunk ends early at this size, so that wide rows do not need more memory than narrow ones.
const MAX_CHUNK_BYTES: usize = 4 << 20;

/// Rows that are committed together.
#[derive(Debug, Default)]
pub struct ImportChunk {
    /// The typed rows; its text also holds their original fields.
    pub batch: RowBatch,
    /// Where each of them came from.
    pub accepted: Vec<RowOrigin>,
    /// The ends of the original fields in the batch's text.
    ends: Vec<u32>,
    scratch: ScratchText,
    /// The rows that broke a rule, in order.
    pub rejects: Vec<RejectedRow>,
    rejected_bytes: usize,
    /// Where the next record begins.
    pub offset: u64,
    /// Its line.
    pub line: u64,
    /// Bytes of the file that were read for this.
    pub read: u64,
    /// Whether the file ends here.
    pub last: bool,
}

/// Where a row came from.
#[derive(Clone, Debug)]
pub struct RowOrigin {
    /// Its number, from 1.
    pub row: u64,
    /// Its line, from 1.
    pub line: u64,
    start: u32,
    ends: Range<u32>,
}

/// A row that broke a rule.
#[derive(Debug)]
pub struct RejectedRow {
    /// Its number, from 1.
    pub row: u64,
    /// The column at fault, or nothing for the whole row.
    column: String,
    code: &'static ErrorCode,
    /// Its line in the error file.
    pub text: String,
}

impl RejectedRow {
    /// `column.code`, or `code`.
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
    /// An empty chunk for rows of `width` columns.
    pub fn new(width: usize) -> Self {
        Self { batch: RowBatch::new(width), ..Self::default() }
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.accepted.clear();
        self.ends.clear();
        self.rejects.clear();
        self.rejected_bytes = 0;
        self.last = false;
    }

    /// Rows, good and bad.
    pub fn row_count(&self) -> u64 {
        (self.accepted.len() + self.rejects.len()) as u64
    }

    /// Whether it is time to commit.
    pub fn is_full(&self, rows: u64) -> bool {
        self.row_count() >= rows || self.batch.text_buffer.len() + self.rejected_bytes >= MAX_CHUNK_BYTES
    }

    /// The original fields of a good row.
    pub fn original_fields(&self, origin: &RowOrigin) -> impl Iterator<Item = &[u8]> {
        let ends = &self.ends[origin.ends.start as usize..origin.ends.end as usize];
        let starts = std::iter::once(origin.start).chain(ends.iter().copied());
        starts.zip(ends).map(|(start, end)| &self.batch.text_buffer[start as usize..*end as usize])
    }

    /// Adds a row: among the good ones if it keeps all rules, else among the rejected.
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

    /// Copies the original fields; of a corrected error file only the data, without the formula guard.
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
                    // Too many fields: ours are the last ones then, whatever the header says.
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

    /// In a corrected error file: what could not be written as it was must have been changed since.
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
        // The row is sound, so this is all of it.
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

/// A rule, and the field of the file that it reads.
pub struct BoundColumn {
    /// The rule.
    pub codec: ColumnCodec,
    /// The field; `None` if the file has none and the default stands for it.
    pub field: Option<usize>,
}

/// What befalls a whole row.
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
