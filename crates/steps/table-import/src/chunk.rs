//! A chunk: the rows that are written, and the rows that are rejected, together.

use std::ops::Range;

use memchr::{memchr, memmem};

use super::layout::Layout;
use super::parser::Record;
use super::rejects::{Place, RESHAPED, RejectFormat, stamp};
use super::rule::{Fault, Fresh, Rule};
use afterload_target_db::Batch;

/// A chunk ends early at this size, so that wide rows do not need more memory than narrow ones.
const SIZE: usize = 4 << 20;

/// Rows that are committed together.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The typed rows; its text also holds their original fields.
    pub batch: Batch,
    /// Where each of them came from.
    pub good: Vec<Origin>,
    /// The ends of the original fields in the batch's text.
    ends: Vec<u32>,
    fresh: Fresh,
    /// The rows that broke a rule, in order.
    pub rejects: Vec<Rejected>,
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
pub struct Origin {
    /// Its number, from 1.
    pub row: u64,
    /// Its line, from 1.
    pub line: u64,
    start: u32,
    ends: Range<u32>,
}

/// A row that broke a rule.
#[derive(Debug)]
pub struct Rejected {
    /// Its number, from 1.
    pub row: u64,
    /// The column at fault, or nothing for the whole row.
    column: String,
    code: &'static str,
    /// Its line in the error file.
    pub text: String,
}

impl Rejected {
    /// `column.code`, or `code`.
    pub fn kind(&self) -> String {
        if self.column.is_empty() { self.code.to_owned() } else { format!("{}.{}", self.column, self.code) }
    }
}

impl AsRef<Batch> for Chunk {
    fn as_ref(&self) -> &Batch {
        &self.batch
    }
}

impl Chunk {
    /// An empty chunk for rows of `width` columns.
    pub fn new(width: usize) -> Self {
        Self { batch: Batch::new(width), ..Self::default() }
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.good.clear();
        self.ends.clear();
        self.rejects.clear();
        self.rejected_bytes = 0;
        self.last = false;
    }

    /// Rows, good and bad.
    pub fn rows(&self) -> u64 {
        (self.good.len() + self.rejects.len()) as u64
    }

    /// Whether it is time to commit.
    pub fn is_full(&self, rows: u64) -> bool {
        self.rows() >= rows || self.batch.text.len() + self.rejected_bytes >= SIZE
    }

    /// The original fields of a good row.
    pub fn fields(&self, origin: &Origin) -> impl Iterator<Item = &[u8]> {
        let ends = &self.ends[origin.ends.start as usize..origin.ends.end as usize];
        let starts = std::iter::once(origin.start).chain(ends.iter().copied());
        starts.zip(ends).map(|(start, end)| &self.batch.text[start as usize..*end as usize])
    }

    /// Adds a row: among the good ones if it keeps all rules, else among the rejected.
    pub fn push(&mut self, record: &Record, row: u64, layout: &Layout, rules: &[Ruled], format: &RejectFormat) {
        let origin = self.keep(record, row, layout);
        let cells = self.batch.cells.len();
        let checked = sound(record, layout).and_then(|()| self.corrected(&origin, record, layout));
        let checked = checked.map_err(|fault| (String::new(), fault));
        let checked = checked.and_then(|()| self.cells(&origin, rules));
        let Err((column, fault)) = checked else {
            self.good.push(origin);
            return;
        };
        let place = Place { row, line: origin.line, column: &column, code: fault.code, message: &fault.message };
        let text = format.line(self.fields(&origin), &place);
        self.rejected_bytes += text.len();
        self.batch.cells.truncate(cells);
        self.batch.text.truncate(origin.start as usize);
        self.ends.truncate(origin.ends.start as usize);
        self.rejects.push(Rejected { row, column, code: fault.code, text });
    }

    /// Copies the original fields; of a corrected error file only the data, without the formula guard.
    fn keep(&mut self, record: &Record, row: u64, layout: &Layout) -> Origin {
        let (start, first) = (self.batch.text.len() as u32, self.ends.len() as u32);
        match &layout.data {
            None => {
                self.batch.text.extend_from_slice(&record.bytes);
                self.ends.extend(record.ends.iter().map(|end| start + end));
            }
            Some(data) => {
                let surplus = record.ends.len() > layout.width;
                for (index, field) in record.fields().enumerate() {
                    // Too many fields: ours are the last ones then, whatever the header says.
                    let is_data = match surplus {
                        true => index + (layout.width - data.len()) < record.ends.len(),
                        false => data.contains(&index),
                    };
                    if is_data {
                        self.batch.text.extend_from_slice(field.strip_prefix(b"'").unwrap_or(field));
                        self.ends.push(self.batch.text.len() as u32);
                    }
                }
            }
        }
        Origin { row, line: record.line, start, ends: first..self.ends.len() as u32 }
    }

    /// In a corrected error file: what could not be written as it was must have been changed since.
    fn corrected(&self, origin: &Origin, record: &Record, layout: &Layout) -> Result<(), Fault> {
        let Some((code, message)) = layout.notes else { return Ok(()) };
        if self.fields(origin).any(|field| memmem::find(field, "\u{fffd}".as_bytes()).is_some()) {
            let message = "a cell holds U+FFFD, which stands for what was not text; write what it should be";
            return Err(Fault { code: "csv_invalid_text", message: message.into() });
        }
        let note = |at: usize| record.fields().nth(at).unwrap_or_default();
        match RESHAPED.iter().find(|known| known.as_bytes() == note(code)) {
            Some(code) if note(message).ends_with(stamp(self.fields(origin)).as_bytes()) => {
                let message = "the row is as it was when it was rejected; correct it, or empty its `_error_code`";
                Err(Fault { code, message: message.into() })
            }
            _ => Ok(()),
        }
    }

    fn cells(&mut self, origin: &Origin, rules: &[Ruled]) -> Result<(), (String, Fault)> {
        let start = origin.start as usize;
        // The row is sound, so this is all of it.
        let row = std::str::from_utf8(&self.batch.text[start..]).unwrap_or_default();
        let ends = &self.ends[origin.ends.start as usize..origin.ends.end as usize];
        self.fresh.text.clear();
        self.fresh.at = self.batch.text.len();
        for Ruled { rule, field } in rules {
            let (from, to) = match *field {
                None => (0, 0),
                Some(0) => (0, ends[0] as usize - start),
                Some(field) => (ends[field - 1] as usize - start, ends[field] as usize - start),
            };
            match rule.cell(row.get(from..to).unwrap_or_default(), start + from, &mut self.fresh) {
                Ok(cell) => self.batch.cells.push(cell),
                Err(fault) => return Err((rule.name.clone(), fault)),
            }
        }
        self.batch.text.extend_from_slice(&self.fresh.text);
        Ok(())
    }
}

/// A rule, and the field of the file that it reads.
pub struct Ruled {
    /// The rule.
    pub rule: Rule,
    /// The field; `None` if the file has none and the default stands for it.
    pub field: Option<usize>,
}

/// What befalls a whole row.
fn sound(record: &Record, layout: &Layout) -> Result<(), Fault> {
    let fault = |code, message: String| Err(Fault { code, message });
    if record.ends.len() != layout.width {
        let message = format!("the row has {} fields, the header has {}", record.ends.len(), layout.width);
        return fault("csv_ragged", message);
    }
    if record.stray {
        return fault("csv_stray_quote", "text follows a closing quote".into());
    }
    if memchr(0, &record.bytes).is_some() {
        return fault("csv_nul", "the row holds a NUL character".into());
    }
    let cuts_well = |text: &str| record.ends.iter().all(|end| text.is_char_boundary(*end as usize));
    match record.bytes.is_ascii() || std::str::from_utf8(&record.bytes).is_ok_and(cuts_well) {
        true => Ok(()),
        false => {
            fault("csv_invalid_text", "the row is not valid UTF-8; name the file's `encoding` if it has another".into())
        }
    }
}
