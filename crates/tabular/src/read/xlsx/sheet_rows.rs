//! The rows of a sheet as records, one at a time. Rows without cells are left out.

use std::io::Read;

use quick_xml::events::{BytesStart, Event};

use super::cell_number::{DateSystem, append_number};
use super::cell_style::CellStyle;
use super::shared_texts::SharedTexts;
use super::xml::{PartReader, append_text, decode_control_characters, find_attribute, invalid_workbook};
use crate::read::csv_dialect::CsvLimits;
use crate::read::csv_record::{CsvRecord, RecordFault};
use afterload_core::error::Result;

/// The rows and columns that a sheet may have.
const MAX_ROWS: u64 = 1_048_576;
const MAX_COLUMNS: usize = 16_384;

/// What the rows of a sheet need to know of their workbook.
#[derive(Debug)]
pub struct SheetContext {
    /// The texts that cells share.
    pub texts: SharedTexts,
    /// The styles of cells.
    pub styles: Vec<CellStyle>,
    /// The day 0 of dates.
    pub dates: DateSystem,
}

/// How rows are read for an import.
#[derive(Clone, Debug, Default)]
pub struct RowShape {
    /// Rows with fewer cells are filled up.
    pub width: usize,
    /// The mark before the fraction of numbers, by column.
    pub marks: Vec<char>,
    /// The columns in which an error counts; `None` for all.
    pub used: Option<Vec<usize>>,
    /// The limits of records.
    pub limits: CsvLimits,
}

/// The rows of a sheet.
pub struct SheetRows<'a, R: Read> {
    part: PartReader<R>,
    context: &'a SheetContext,
    shape: RowShape,
    row: u64,
    text: String,
}

/// A cell that is being read.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    column: usize,
    kind: CellKind,
    style: CellStyle,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum CellKind {
    #[default]
    Number,
    Shared,
    Text,
    Boolean,
    Error,
    /// A date in ISO 8601, which few programs write.
    Date,
}

impl<'a, R: Read> SheetRows<'a, R> {
    /// Reads the rows of a part.
    pub fn new(part: PartReader<R>, context: &'a SheetContext, shape: RowShape) -> Self {
        Self { part, context, shape, row: 0, text: String::new() }
    }

    /// The number of unpacked bytes that have been read.
    pub fn unpacked(&mut self) -> u64 {
        self.part.unpacked()
    }

    /// Reads the next row that has cells. Its line and its end are its number in the sheet.
    ///
    /// # Errors
    /// `workbook_invalid`, or the error of the archive.
    pub fn read_row(&mut self, record: &mut CsvRecord) -> Result<bool> {
        let (mut in_row, mut in_value, mut phonetic) = (false, false, false);
        let (mut cell, mut next) = (Cell::default(), 0);
        loop {
            let event = self.part.next_event()?;
            match &event {
                Event::Eof => return Ok(false),
                Event::Start(element) => match element.local_name().as_ref() {
                    b"row" => {
                        self.row = read_row_number(element, self.row)?;
                        record.clear();
                        (record.line, record.end, in_row, next) = (self.row, self.row, true, 0);
                    }
                    b"c" if in_row => {
                        cell = read_cell(element, next, &self.context.styles)?;
                        next = cell.column + 1;
                        self.text.clear();
                    }
                    b"v" | b"t" => in_value = in_row && !phonetic,
                    b"rPh" => phonetic = true,
                    _ => {}
                },
                Event::Empty(element) => match element.local_name().as_ref() {
                    b"row" => self.row = read_row_number(element, self.row)?,
                    b"c" if in_row => next = read_cell(element, next, &self.context.styles)?.column + 1,
                    _ => {}
                },
                Event::End(element) => match element.local_name().as_ref() {
                    b"v" | b"t" => in_value = false,
                    b"rPh" => phonetic = false,
                    b"c" if in_row => add_cell(cell, &mut self.text, self.context, &self.shape, record)?,
                    b"row" if in_row && !record.ends.is_empty() => {
                        record.pad_fields(self.shape.width);
                        return Ok(true);
                    }
                    b"row" => in_row = false,
                    b"sheetData" => return Ok(false),
                    _ => {}
                },
                // A cell may hold any number of texts. What is beyond the limit would only fill memory.
                event if in_value && self.text.len() <= self.shape.limits.field_bytes => {
                    append_text(event, &mut self.text)?;
                }
                _ => {}
            }
        }
    }
}

fn read_row_number(element: &BytesStart<'_>, before: u64) -> Result<u64> {
    let number = match find_attribute(element, b"r")? {
        Some(number) => number.parse::<u64>().map_err(invalid_workbook)?,
        None => before + 1,
    };
    if number <= before || number > MAX_ROWS {
        return Err(invalid_workbook(format!("row {number} stands behind row {before}")));
    }
    Ok(number)
}

/// Reads what a cell is. `next` is its column if it does not name one.
fn read_cell(element: &BytesStart<'_>, next: usize, styles: &[CellStyle]) -> Result<Cell> {
    let mut cell = Cell { column: next, ..Cell::default() };
    for attribute in element.attributes().with_checks(false) {
        let attribute = attribute.map_err(invalid_workbook)?;
        let value = &attribute.value[..];
        match attribute.key.as_ref() {
            b"r" => {
                let place = || invalid_workbook(format!("`{}` is no cell", String::from_utf8_lossy(value)));
                cell.column = parse_column(value).ok_or_else(place)?;
            }
            b"t" => cell.kind = read_kind(value)?,
            b"s" => {
                let index = std::str::from_utf8(value).ok().and_then(|index| index.parse::<usize>().ok());
                cell.style = index.and_then(|index| styles.get(index)).copied().unwrap_or_default();
            }
            _ => {}
        }
    }
    if cell.column < next || cell.column >= MAX_COLUMNS {
        return Err(invalid_workbook(format!("its cells do not stand in order, at column {}", cell.column + 1)));
    }
    Ok(cell)
}

fn read_kind(name: &[u8]) -> Result<CellKind> {
    Ok(match name {
        b"n" => CellKind::Number,
        b"s" => CellKind::Shared,
        b"str" | b"inlineStr" => CellKind::Text,
        b"b" => CellKind::Boolean,
        b"e" => CellKind::Error,
        b"d" => CellKind::Date,
        other => {
            let message = format!("a cell has the unknown type `{}`", String::from_utf8_lossy(other));
            return Err(invalid_workbook(message));
        }
    })
}

/// The column of a place such as `AB12`, from 0.
fn parse_column(place: &[u8]) -> Option<usize> {
    let letters = place.iter().take_while(|letter| letter.is_ascii_alphabetic()).take(4);
    let number = letters.fold(0_usize, |sum, letter| sum * 26 + usize::from(letter.to_ascii_uppercase() - b'A') + 1);
    number.checked_sub(1)
}

/// Adds the cell to the record, behind empty ones for those that the sheet leaves out.
fn add_cell(
    cell: Cell,
    text: &mut String,
    context: &SheetContext,
    shape: &RowShape,
    record: &mut CsvRecord,
) -> Result<()> {
    let Cell { column, kind, style } = cell;
    if column >= shape.limits.columns {
        record.fault.get_or_insert(RecordFault::TooManyColumns { limit: shape.limits.columns });
        return Ok(());
    }
    record.pad_fields(column);
    let number = std::mem::take(text);
    match kind {
        CellKind::Shared => {
            let index = number.trim().parse::<usize>().ok();
            let shared = index.and_then(|index| context.texts.get(index));
            text.push_str(shared.ok_or_else(|| invalid_workbook("a cell shares a text that is not there"))?);
        }
        CellKind::Number if number.trim().is_empty() => {}
        CellKind::Number => {
            let mark = shape.marks.get(column).copied().unwrap_or('.');
            if !append_number(&number, style, context.dates, mark, text) {
                return Err(invalid_workbook("a cell holds no number where one is declared"));
            }
        }
        CellKind::Boolean => text.push_str(if number.trim() == "1" { "true" } else { "false" }),
        CellKind::Text => {
            text.push_str(&number);
            decode_control_characters(text, 0);
        }
        CellKind::Error => {
            if shape.used.as_ref().is_none_or(|used| used.contains(&column)) {
                record.fault.get_or_insert(RecordFault::CellError { column });
            }
            text.push_str(&number);
        }
        CellKind::Date => text.push_str(&number),
    }
    // Decoding makes a text shorter, also one that was cut.
    if number.len().max(text.len()) > shape.limits.field_bytes {
        let fault = RecordFault::FieldTooLarge { line: record.line, limit: shape.limits.field_bytes };
        record.fault.get_or_insert(fault);
    } else if record.bytes.len() + text.len() > shape.limits.record_bytes {
        record.fault.get_or_insert(RecordFault::RecordTooLarge { limit: shape.limits.record_bytes });
    } else {
        record.bytes.extend_from_slice(text.as_bytes());
    }
    record.ends.push(record.bytes.len() as u32);
    Ok(())
}
