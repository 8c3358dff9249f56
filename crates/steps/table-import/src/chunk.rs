//! A chunk: accepted and rejected rows that are committed together.

use std::ops::Range;

use memchr::{memchr, memchr2, memmem};

use super::column_codec::{ColumnCodec, RowError, ScratchText};
use super::csv_format::CsvFormat;
use super::rejects::{RESHAPED_CODES, RejectFormat, RejectInfo, fields_checksum};
use crate::codes;
use afterload_tabular::formula::strip_formula_guard;
use afterload_tabular::read::csv_parser::CsvRecord;
use afterload_target_db::RowBatch;

/// A chunk ends early at this size, so that wide rows need no more memory than narrow ones.
const MAX_CHUNK_BYTES: usize = 4 << 20;
/// The most faults of a row that its message lists.
const MAX_ROW_FAULTS: usize = 10;

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
    /// Blank rows that were left out.
    pub blank: u64,
    /// Whether the import ends with this chunk, and whether the file has more rows then.
    pub last: bool,
    /// Whether the file has more rows than the import may read.
    pub cut: bool,
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
    /// Its faults as `column.code`, or `code` if the whole row is wrong.
    pub fault_kinds: Vec<String>,
    /// The line of the row in the error file.
    pub text: String,
}

/// A fault of a row, with the column; empty if the whole row is wrong.
type RowFault = (String, RowError);

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
        (self.blank, self.last, self.cut) = (0, false, false);
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
        // One search finds what few rows have: a NUL, or an apostrophe that may guard a formula.
        let special = memchr2(0, b'\'', &record.bytes).is_some();
        let origin = self.copy_fields(record, row, layout, special && layout.strip_guards);
        let cells = self.batch.cells.len();
        let checked =
            validate_record(record, layout, special).and_then(|()| self.check_corrected(&origin, record, layout));
        let checked = checked.map_err(|fault| vec![(String::new(), fault)]);
        let Err(faults) = checked.and_then(|()| self.parse_cells(&origin, rules)) else {
            self.accepted.push(origin);
            return;
        };
        let text = format_reject(format, self.original_fields(&origin), &origin, &faults);
        self.rejected_bytes += text.len();
        self.batch.cells.truncate(cells);
        self.batch.text_buffer.truncate(origin.start as usize);
        self.ends.truncate(origin.ends.start as usize);
        self.rejects.push(RejectedRow { row, fault_kinds: faults.iter().map(fault_kind).collect(), text });
    }

    /// Copies the original fields, without formula guards. From a corrected error file, only the data is copied.
    fn copy_fields(&mut self, record: &CsvRecord, row: u64, layout: &CsvFormat, guarded: bool) -> RowOrigin {
        let (start, first) = (self.batch.text_buffer.len() as u32, self.ends.len() as u32);
        match &layout.data_fields {
            None if guarded => {
                for field in record.iter_fields() {
                    self.batch.text_buffer.extend_from_slice(strip_formula_guard(field));
                    self.ends.push(self.batch.text_buffer.len() as u32);
                }
            }
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
                        self.batch.text_buffer.extend_from_slice(strip_formula_guard(field));
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
        let note = |at: usize| record.iter_fields().nth(at).unwrap_or_default();
        let shows_bytes =
            [codes::CSV_INVALID_TEXT, codes::CSV_NUL].iter().any(|known| known.name().as_bytes() == note(code));
        if shows_bytes && self.original_fields(origin).any(holds_shown_byte) {
            let message =
                "a cell still shows bytes such as `\\xFC`; write the text that they stand for, or empty `_error_code`";
            return Err(RowError { code: &codes::CSV_INVALID_TEXT, message: message.into() });
        }
        match RESHAPED_CODES.iter().find(|known| known.name().as_bytes() == note(code)) {
            Some(code) if note(message).ends_with(fields_checksum(self.original_fields(origin)).as_bytes()) => {
                let message = "the row is as it was when it was rejected; correct it, or empty its `_error_code`";
                Err(RowError { code, message: message.into() })
            }
            _ => Ok(()),
        }
    }

    /// Parses the cells of a row, and collects the faults of all of them.
    fn parse_cells(&mut self, origin: &RowOrigin, rules: &[BoundColumn]) -> Result<(), Vec<RowFault>> {
        let start = origin.start as usize;
        // The row passed its checks, so it is valid UTF-8 and nothing is lost here.
        let row = std::str::from_utf8(&self.batch.text_buffer[start..]).unwrap_or_default();
        let ends = &self.ends[origin.ends.start as usize..origin.ends.end as usize];
        self.scratch.text.clear();
        self.scratch.at = self.batch.text_buffer.len();
        let mut faults = Vec::new();
        for BoundColumn { codec: rule, field } in rules {
            let cell = match *field {
                None => rule.make_cell(&mut self.scratch),
                Some(field) => {
                    let from = if field == 0 { 0 } else { ends[field - 1] as usize - start };
                    let text = row.get(from..ends[field] as usize - start).unwrap_or_default();
                    rule.parse_cell(text, start + from, &mut self.scratch)
                }
            };
            match cell {
                Ok(cell) => self.batch.cells.push(cell),
                Err(fault) => faults.push((rule.name.clone(), fault)),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        self.batch.text_buffer.extend_from_slice(&self.scratch.text);
        Ok(())
    }
}

fn fault_kind((column, fault): &RowFault) -> String {
    if column.is_empty() { fault.code.to_string() } else { format!("{column}.{}", fault.code) }
}

/// Formats a row of the error file with all of its faults.
fn format_reject<'a>(
    format: &RejectFormat,
    fields: impl Iterator<Item = &'a [u8]>,
    origin: &RowOrigin,
    faults: &[RowFault],
) -> String {
    let shown = &faults[..faults.len().min(MAX_ROW_FAULTS)];
    let joined = |text: &dyn Fn(&RowFault) -> String| shown.iter().map(text).collect::<Vec<_>>().join("; ");
    let column = joined(&|(column, _)| column.clone());
    let mut message = joined(&|(_, fault)| fault.message.clone());
    if faults.len() > shown.len() {
        message.push_str(&format!("; and {} more", faults.len() - shown.len()));
    }
    // `parse_cells` and the checks of the whole row return at least one fault.
    let code = faults.first().map_or(codes::CSV_INVALID_TEXT, |(_, fault)| *fault.code);
    let code_text = joined(&|(_, fault)| fault.code.to_string());
    let place = RejectInfo { row: origin.row, line: origin.line, column: &column, code, message: &message };
    format.reject_line_with_codes(fields, &place, &code_text)
}

/// Whether a cell holds `\x` and two hexadecimal digits, as the error file shows bytes.
fn holds_shown_byte(field: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
    memmem::find_iter(field, b"\\x")
        .any(|at| field.get(at + 2..at + 4).is_some_and(|digits| digits.iter().all(is_digit)))
}

/// The codec of a column, and the field of the file that it reads.
pub struct BoundColumn {
    /// The compiled rules.
    pub codec: ColumnCodec,
    /// The field; `None` if the file lacks it and the default is used.
    pub field: Option<usize>,
}

/// Checks the record as a whole. `special` says whether it may hold a NUL.
fn validate_record(record: &CsvRecord, layout: &CsvFormat, special: bool) -> Result<(), RowError> {
    let fault = |code, message: String| Err(RowError { code, message });
    if let Some(found) = record.fault {
        return fault(found.code(), found.message());
    }
    let fields = record.ends.len();
    if fields != layout.width {
        let hint = match fields < layout.width {
            true => "; `short_rows: pad` fills short rows up",
            false => "",
        };
        return fault(
            &codes::CSV_RAGGED,
            format!("the row has {fields} fields, the header has {}{hint}", layout.width),
        );
    }
    if special && memchr(0, &record.bytes).is_some() {
        return fault(&codes::CSV_NUL, "the row holds a NUL character".into());
    }
    if record.bytes.is_ascii() {
        return Ok(());
    }
    let cuts_well = |text: &str| record.ends.iter().all(|end| text.is_char_boundary(*end as usize));
    if !std::str::from_utf8(&record.bytes).is_ok_and(cuts_well) {
        let encoding = layout.encoding.encoding.name();
        let message = format!(
            "the row is not valid {encoding}, and its bytes are shown as `\\xFC`; name the file's `encoding` if it has another"
        );
        return fault(&codes::CSV_INVALID_TEXT, message);
    }
    // Few texts have a character that begins with this byte.
    if memchr(0xef, &record.bytes).is_some() && memmem::find(&record.bytes, "\u{fffd}".as_bytes()).is_some() {
        let message = "a cell holds U+FFFD, which stands for text that was lost; write what it should be";
        return fault(&codes::CSV_INVALID_TEXT, message.into());
    }
    Ok(())
}
