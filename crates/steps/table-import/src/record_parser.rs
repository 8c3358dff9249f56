//! The parser of the records of a text: CSV or JSON Lines.

use std::sync::Arc;

use super::csv_format::{CsvFormat, FileFormat};
use afterload_tabular::read::csv_parser::{CsvParser, CsvRecord};
use afterload_tabular::read::json_lines::JsonLinesParser;

/// A parser that accepts bytes in any pieces.
pub enum RecordParser {
    /// CSV.
    Csv(CsvParser),
    /// JSON Lines.
    JsonLines(JsonLinesParser),
}

impl RecordParser {
    /// A parser whose first byte has this offset and line. `marks` are those before the fraction of numbers, by column.
    pub fn new(layout: &CsvFormat, marks: Vec<char>, offset: u64, line: u64) -> Self {
        match &layout.format {
            FileFormat::JsonLines(columns) => {
                Self::JsonLines(JsonLinesParser::new(Arc::clone(columns), marks, layout.limits, offset, line))
            }
            FileFormat::Csv | FileFormat::Xlsx => {
                Self::Csv(CsvParser::new(layout.dialect, offset, line).with_limits(layout.limits))
            }
        }
    }

    /// The line of the next byte.
    pub fn current_line(&self) -> u64 {
        match self {
            Self::Csv(parser) => parser.current_line(),
            Self::JsonLines(parser) => parser.current_line(),
        }
    }

    /// The number of empty lines since the last call.
    pub fn take_blank_lines(&mut self) -> u64 {
        match self {
            Self::Csv(parser) => parser.take_blank_lines(),
            Self::JsonLines(parser) => parser.take_blank_lines(),
        }
    }

    /// Parses bytes and removes them from `input`. Returns true when `record` is complete.
    pub fn read_record(&mut self, input: &mut &[u8], record: &mut CsvRecord) -> bool {
        match self {
            Self::Csv(parser) => parser.read_record(input, record),
            Self::JsonLines(parser) => parser.read_record(input, record),
        }
    }

    /// Ends the input. Returns true if `record` is complete; then call it again.
    pub fn finish(&mut self, record: &mut CsvRecord) -> bool {
        match self {
            Self::Csv(parser) => parser.finish(record),
            Self::JsonLines(parser) => parser.finish(record),
        }
    }
}
