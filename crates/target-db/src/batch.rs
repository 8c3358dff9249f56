//! Many typed rows in little memory. Cells are small and copyable, and one buffer holds all text.

use std::ops::Range;

use chrono::{DateTime, Datelike, NaiveDate, Timelike};

/// One typed value. Text, decimals, UUIDs and JSON are ranges of the batch's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchCell {
    /// SQL null.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01T00:00:00Z.
    DateTime(i64),
    /// A range of the batch's text: valid UTF-8 without NUL.
    Text {
        /// The offset of the first byte.
        start: u32,
        /// The length in bytes.
        len: u32,
    },
}

/// The type of all cells of a column that are not null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchColumnType {
    /// Any text.
    Text,
    /// [`BatchCell::Int`].
    Integer,
    /// Text that holds a decimal number: an optional `-`, digits, an optional point and more digits.
    Decimal,
    /// [`BatchCell::Bool`].
    Boolean,
    /// [`BatchCell::Date`].
    Date,
    /// [`BatchCell::DateTime`].
    DateTime,
    /// Text that holds a UUID, in lower case with hyphens.
    Uuid,
    /// Text that holds JSON.
    Json,
}

/// Rows that all have the same number of cells.
#[derive(Debug, Default)]
pub struct RowBatch {
    /// The text that cells point into. It may hold bytes that no cell uses.
    pub text_buffer: Vec<u8>,
    /// The cells, row after row.
    pub cells: Vec<BatchCell>,
    /// The number of cells per row, at least one.
    pub width: usize,
}

impl RowBatch {
    /// Creates an empty batch of `width` columns.
    pub fn new(width: usize) -> Self {
        Self { text_buffer: Vec::new(), cells: Vec::new(), width: width.max(1) }
    }

    /// Removes all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.text_buffer.clear();
        self.cells.clear();
    }

    /// The number of rows.
    pub fn row_count(&self) -> usize {
        self.cells.len() / self.width
    }

    /// The cells of a row.
    pub fn row_cells(&self, index: usize) -> &[BatchCell] {
        &self.cells[index * self.width..(index + 1) * self.width]
    }

    /// Makes a cell from a range of the text.
    pub fn text_cell(range: Range<usize>) -> BatchCell {
        // The importer ends a batch after a few megabytes, so offsets fit into 32 bits.
        BatchCell::Text { start: range.start as u32, len: range.len() as u32 }
    }

    /// The text of a range. Nothing is lost, because cells hold valid UTF-8.
    pub fn text_at(&self, start: u32, len: u32) -> &str {
        std::str::from_utf8(&self.text_buffer[start as usize..(start + len) as usize]).unwrap_or_default()
    }

    /// Appends a cell as text that both databases can read. A null appends nothing.
    pub fn render_cell(&self, cell: BatchCell, out: &mut String) {
        use std::fmt::Write;
        // Writing to a `String` cannot fail.
        let _ = match cell {
            BatchCell::Null => Ok(()),
            BatchCell::Bool(value) => write!(out, "{value}"),
            BatchCell::Int(value) => write!(out, "{value}"),
            BatchCell::Text { start, len } => out.write_str(self.text_at(start, len)),
            BatchCell::Date(days) => {
                push_iso_date(NaiveDate::from_num_days_from_ce_opt(days + DAYS_TO_1970).unwrap_or_default(), out);
                Ok(())
            }
            BatchCell::DateTime(micros) => {
                let time = DateTime::from_timestamp_micros(micros).unwrap_or_default();
                push_iso_date(time.date_naive(), out);
                for (mark, part) in [(' ', time.hour()), (':', time.minute()), (':', time.second())] {
                    out.push(mark);
                    push_digits(part, 10, out);
                }
                match time.nanosecond() / 1000 {
                    0 => Ok(()),
                    micros if micros % 1000 == 0 => write!(out, ".{:03}", micros / 1000),
                    micros => write!(out, ".{micros:06}"),
                }
            }
        };
    }
}

/// Appends a date such as `2024-02-29`. chrono's formatter takes many times as long.
///
/// The column rules accept only years of four digits.
fn push_iso_date(date: NaiveDate, out: &mut String) {
    push_digits(date.year().unsigned_abs(), 1000, out);
    for part in [date.month(), date.day()] {
        out.push('-');
        push_digits(part, 10, out);
    }
}

/// Appends as many digits as `scale` has. `scale` is a power of ten.
fn push_digits(number: u32, mut scale: u32, out: &mut String) {
    while scale > 0 {
        out.push((b'0' + (number / scale % 10) as u8) as char);
        scale /= 10;
    }
}

impl AsRef<RowBatch> for RowBatch {
    fn as_ref(&self) -> &RowBatch {
        self
    }
}

/// The days from 0000-12-31 to 1970-01-01, as chrono counts them.
pub const DAYS_TO_1970: i32 = 719_163;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_take_16_bytes_and_render_as_iso_text() {
        assert_eq!(std::mem::size_of::<BatchCell>(), 16);
        let mut batch = RowBatch::new(1);
        batch.text_buffer.extend_from_slice("naïve".as_bytes());
        let times =
            [BatchCell::DateTime(1_500_000), BatchCell::DateTime(-1), BatchCell::DateTime(-62_135_596_800_000_000)];
        let cells = [
            BatchCell::Date(-1),
            times[0],
            times[1],
            times[2],
            BatchCell::Bool(true),
            RowBatch::text_cell(0..6),
            BatchCell::Null,
        ];
        let mut out = String::new();
        for cell in cells {
            batch.render_cell(cell, &mut out);
            out.push('|');
        }
        assert_eq!(
            out,
            "1969-12-31|1970-01-01 00:00:01.500|1969-12-31 23:59:59.999999|0001-01-01 00:00:00|true|naïve||"
        );
    }
}
