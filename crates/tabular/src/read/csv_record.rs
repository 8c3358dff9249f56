//! One record of a CSV file, and what can be wrong with it.

use crate::codes;
use crate::column_letters::column_letters;
use afterload_core::error::ErrorCode;

/// The reason why a record as a whole cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// Text follows a closing quote.
    StrayQuote,
    /// A quote opens on this line and never closes. The record ends with this line.
    UnclosedQuote {
        /// The line of the quote.
        line: u64,
    },
    /// A field is larger than this many bytes. The record holds its first bytes only.
    FieldTooLarge {
        /// The line on which the field begins.
        line: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// The record is larger than this many bytes. It holds its first bytes only.
    RecordTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The record has more fields than this. It holds the first ones only.
    TooManyColumns {
        /// The limit.
        limit: usize,
    },
    /// A cell of a workbook holds an error.
    CellError {
        /// The column, from 0.
        column: usize,
    },
    /// A line of JSON Lines is no object.
    InvalidJson,
}

impl RecordFault {
    /// The error code.
    pub fn code(self) -> &'static ErrorCode {
        match self {
            Self::StrayQuote => &codes::CSV_STRAY_QUOTE,
            Self::UnclosedQuote { .. } => &codes::CSV_UNCLOSED_QUOTE,
            Self::FieldTooLarge { .. } => &codes::CSV_FIELD_TOO_LARGE,
            Self::RecordTooLarge { .. } => &codes::CSV_RECORD_TOO_LARGE,
            Self::TooManyColumns { .. } => &codes::CSV_TOO_MANY_COLUMNS,
            Self::CellError { .. } => &codes::CELL_ERROR,
            Self::InvalidJson => &codes::JSON_LINE_INVALID,
        }
    }

    /// The message for people.
    pub fn message(self) -> String {
        match self {
            Self::StrayQuote => {
                "text follows a closing quote; double quotes that are part of the text, or set `quotes: lenient`".into()
            }
            Self::UnclosedQuote { line } => format!(
                "the quote that opens on line {line} is never closed; close it, double it if it is part of the text, or \
                 set `quote: none` if the file has no quoting"
            ),
            Self::FieldTooLarge { line, limit } => {
                format!("a field on line {line} is larger than {limit} bytes (`max_field_size`)")
            }
            Self::RecordTooLarge { limit } => format!("the record is larger than {limit} bytes"),
            Self::TooManyColumns { limit } => format!("the record has more than {limit} fields (`max_columns`)"),
            Self::CellError { column } => format!(
                "the cell in column {} of the sheet holds an error such as `#N/A`; write a value, or leave it empty",
                column_letters(column)
            ),
            Self::InvalidJson => "the line is not a JSON object".into(),
        }
    }
}

/// One record, with its fields in one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsvRecord {
    /// The text of all fields, without quotes.
    pub bytes: Vec<u8>,
    /// The end offset of each field in `bytes`.
    pub ends: Vec<u32>,
    /// The line on which the record begins, from 1.
    pub line: u64,
    /// The offset after the record and its line end.
    pub end: u64,
    /// What is wrong with the record as a whole.
    pub fault: Option<RecordFault>,
}

impl CsvRecord {
    /// Iterates over the fields.
    pub fn iter_fields(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start as usize..*end as usize])
    }

    /// Removes the fields after the first `width` if all of them are empty. Some exports end their rows with
    /// delimiters.
    pub fn drop_trailing_empty(&mut self, width: usize) {
        let filled = |end: &u32| (*end as usize) < self.bytes.len();
        if self.ends.len() > width && !width.checked_sub(1).and_then(|last| self.ends.get(last)).is_none_or(filled) {
            self.ends.truncate(width);
        }
    }

    /// Adds empty fields up to `width`.
    pub fn pad_fields(&mut self, width: usize) {
        if self.ends.len() < width {
            self.ends.resize(width, self.bytes.len() as u32);
        }
    }

    /// Whether all fields are empty or blank.
    pub fn is_blank(&self) -> bool {
        self.fault.is_none() && self.bytes.iter().all(u8::is_ascii_whitespace)
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.fault = None;
    }

    /// The offset at which the current field begins.
    pub(super) fn field_start(&self) -> usize {
        self.ends.last().map_or(0, |end| *end as usize)
    }
}
