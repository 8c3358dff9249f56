//! Writes the cells of a worksheet as XML.

use super::datetime::CellDateTime;
use super::format::CellFormat;
use super::sheet_names::cut_chars;
use super::styles::{CellStyle, StyleTable};
use super::totals::TotalState;
use super::xml_text::escape_xml;
use super::{ColumnDisplay, ColumnTotal};
use crate::column_letters::column_letters;
use afterload_target_db::CellType;

/// The maximum number of characters in a cell, in UTF-16 units.
pub const MAX_CELL_CHARS: usize = 32_767;
/// The digits that survive in the binary floating point numbers of spreadsheets.
const MAX_EXACT_DIGITS: usize = 15;

/// A column: its letters and its cell style.
pub struct SheetColumn {
    letters: String,
    /// The style attribute; empty if the column has no format.
    style: String,
    /// Whether text that is a date or time is written as one.
    date: bool,
    /// The display width in characters.
    width: usize,
    /// Whether texts that are too long are cut.
    cut_texts: bool,
    total: Option<TotalState>,
}

/// What a cell has become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CellOutcome {
    /// A number with the digits of the value.
    Number,
    /// A date or time, as its number.
    DateTime(f64),
    /// A text or a truth value.
    Other,
    /// The beginning of a text that no cell can hold.
    CutText,
    /// Nothing: no cell can hold the text.
    TooLong,
}

impl SheetColumn {
    /// Creates the columns of a table.
    pub fn from_displays(shapes: &[ColumnDisplay], cut_texts: bool, styles: &mut StyleTable) -> Vec<Self> {
        let columns = shapes.iter().enumerate().map(|(index, shape)| {
            let own = |format: &CellFormat| CellStyle { format: Some(format.code.clone()), bold: false };
            let title_width = shape.title.chars().count().clamp(10, 60) + 2;
            Self {
                letters: column_letters(index),
                style: shape.format.as_ref().map(|format| styles.attribute(own(format))).unwrap_or_default(),
                date: shape.format.as_ref().is_some_and(CellFormat::is_date),
                width: shape.width.map_or(title_width, usize::from),
                cut_texts,
                total: shape.total.map(TotalState::new),
            }
        });
        columns.collect()
    }

    /// The display width in characters.
    pub fn char_width(&self) -> usize {
        self.width
    }

    /// The letters of the column.
    pub fn letters(&self) -> &str {
        &self.letters
    }

    /// What the column adds up to; `None` if it has no total.
    pub fn total(&self) -> Option<&TotalState> {
        self.total.as_ref()
    }

    /// Writes a cell in row number `row`.
    #[must_use]
    pub fn write_cell(&mut self, row: &str, sort: CellType, value: &[u8], out: &mut Vec<u8>) -> CellOutcome {
        let outcome = self.write_value(row, sort, value, out);
        if let Some(total) = &mut self.total {
            match outcome {
                CellOutcome::Number => total.add(std::str::from_utf8(value).ok().and_then(|text| text.parse().ok())),
                CellOutcome::DateTime(serial) => total.add_date(serial),
                CellOutcome::Other | CellOutcome::CutText | CellOutcome::TooLong => total.add(None),
            }
        }
        outcome
    }

    fn write_value(&self, row: &str, sort: CellType, value: &[u8], out: &mut Vec<u8>) -> CellOutcome {
        match sort {
            CellType::Number if significant_digits(value) > MAX_EXACT_DIGITS => self.write_long_number(row, value, out),
            CellType::Number | CellType::Float => {
                self.write_number(row, value, &self.style, out);
                CellOutcome::Number
            }
            CellType::Bool => {
                self.open_cell(row, &self.style, out);
                out.extend_from_slice(b" t=\"b\"><v>");
                out.push(if value == b"true" { b'1' } else { b'0' });
                out.extend_from_slice(b"</v></c>");
                CellOutcome::Other
            }
            CellType::Date | CellType::Timestamp => self.write_datetime(row, value, out),
            CellType::Text if self.date => self.write_datetime(row, value, out),
            CellType::Text | CellType::Json => self.write_text(row, value, &self.style, out),
        }
    }

    /// Writes a cell of the header. Returns false if its text is too long for a spreadsheet.
    #[must_use]
    pub fn write_title(&self, title: &str, out: &mut Vec<u8>) -> bool {
        self.write_text("1", title.as_bytes(), StyleTable::HEADER, out) != CellOutcome::TooLong
    }

    /// Writes the label of a row of totals.
    pub fn write_label(&self, row: &str, label: &str, out: &mut Vec<u8>) {
        self.write_text(row, label.as_bytes(), StyleTable::HEADER, out);
    }

    /// Writes the total below the rows from 2 to `last`. With `formula` a spreadsheet calculates it again, for the rows that a
    /// filter shows.
    pub fn write_total(&self, row: &str, last: u64, formula: bool, styles: &mut StyleTable, out: &mut Vec<u8>) {
        let Some((total, value)) = self.total.as_ref().and_then(|total| Some((total, total.value()?))) else { return };
        let own = match self.style.as_str() {
            "" if total.has_dates() && value.fract() > 0.0 => StyleTable::DATETIME,
            "" if total.has_dates() => StyleTable::DATE,
            own => own,
        };
        let format = match total.function() {
            ColumnTotal::Count => None,
            _ => styles.format_of(own).map(str::to_owned),
        };
        self.open_cell(row, &styles.attribute(CellStyle { format, bold: true }), out);
        out.push(b'>');
        if formula {
            let (number, letters) = (total.function().subtotal_number(), &self.letters);
            out.extend_from_slice(format!("<f>SUBTOTAL({number},{letters}2:{letters}{last})</f>").as_bytes());
        }
        out.extend_from_slice(format!("<v>{}</v></c>", round_to_cell(value)).as_bytes());
    }

    fn open_cell(&self, row: &str, style: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<c r=\"");
        out.extend_from_slice(self.letters.as_bytes());
        out.extend_from_slice(row.as_bytes());
        out.push(b'"');
        out.extend_from_slice(style.as_bytes());
    }

    fn write_number(&self, row: &str, value: &[u8], style: &str, out: &mut Vec<u8>) {
        self.open_cell(row, style, out);
        out.extend_from_slice(b"><v>");
        out.extend_from_slice(value);
        out.extend_from_slice(b"</v></c>");
    }

    /// Writes a number with more digits than a cell holds. Fractions are rounded, and so are numbers with a format or a total.
    /// Other whole numbers are text, because they may be IDs.
    fn write_long_number(&self, row: &str, value: &[u8], out: &mut Vec<u8>) -> CellOutcome {
        let text = std::str::from_utf8(value).unwrap_or_default();
        let rounds = text.contains('.') || !self.style.is_empty() || self.total.is_some();
        match text.parse::<f64>().ok().filter(|number| rounds && number.is_finite()) {
            Some(number) => {
                self.write_number(row, round_to_cell(number).as_bytes(), &self.style, out);
                CellOutcome::Number
            }
            None => self.write_text(row, value, &self.style, out),
        }
    }

    /// Writes a number if spreadsheets can count the date or time, and text otherwise.
    fn write_datetime(&self, row: &str, value: &[u8], out: &mut Vec<u8>) -> CellOutcome {
        let Some((moment, serial)) =
            CellDateTime::parse(value).and_then(|moment| Some((moment, moment.spreadsheet_serial()?)))
        else {
            return self.write_text(row, value, &self.style, out);
        };
        let style = match self.style.as_str() {
            "" if moment.micros.is_some() => StyleTable::DATETIME,
            "" => StyleTable::DATE,
            own => own,
        };
        self.write_number(row, serial.to_string().as_bytes(), style, out);
        CellOutcome::DateTime(serial)
    }

    fn write_text(&self, row: &str, value: &[u8], style: &str, out: &mut Vec<u8>) -> CellOutcome {
        if value.len() > MAX_CELL_CHARS {
            let text = String::from_utf8_lossy(value);
            if text.encode_utf16().count() > MAX_CELL_CHARS {
                if !self.cut_texts {
                    return CellOutcome::TooLong;
                }
                let kept = format!("{}…", cut_chars(&text, MAX_CELL_CHARS - 1));
                self.write_short_text(row, kept.as_bytes(), style, out);
                return CellOutcome::CutText;
            }
        }
        self.write_short_text(row, value, style, out);
        CellOutcome::Other
    }

    fn write_short_text(&self, row: &str, value: &[u8], style: &str, out: &mut Vec<u8>) {
        self.open_cell(row, style, out);
        let blank = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
        let spaces: &[u8] = if blank(value.first()) || blank(value.last()) { b" xml:space=\"preserve\"" } else { b"" };
        out.extend_from_slice(b" t=\"inlineStr\"><is><t");
        out.extend_from_slice(spaces);
        out.push(b'>');
        escape_xml(value, out);
        out.extend_from_slice(b"</t></is></c>");
    }
}

/// Rounds a number to the digits that a cell holds.
fn round_to_cell(number: f64) -> String {
    // One digit stands before the point.
    let behind = MAX_EXACT_DIGITS - 1;
    let rounded = format!("{number:.behind$e}");
    // Zero has no sign.
    let plain = rounded.parse::<f64>().unwrap_or(number) + 0.0;
    let is_short = plain == 0.0 || (1e-5..1e15).contains(&plain.abs());
    if is_short { plain.to_string() } else { rounded }
}

/// Counts the digits from the first to the last one that is not zero.
fn significant_digits(value: &[u8]) -> usize {
    let nonzero = |byte: &u8| matches!(byte, b'1'..=b'9');
    let (Some(first), Some(last)) = (value.iter().position(nonzero), value.iter().rposition(nonzero)) else { return 0 };
    value[first..=last].iter().filter(|byte| byte.is_ascii_digit()).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_fractions_are_rounded_and_long_ids_stay_text() {
        let cell = |format: Option<&str>, value: &str| {
            let shape =
                ColumnDisplay { title: "a".into(), format: format.map(CellFormat::new), ..ColumnDisplay::default() };
            let mut out = Vec::new();
            let mut columns = SheetColumn::from_displays(&[shape], false, &mut StyleTable::new());
            let outcome = columns[0].write_cell("1", CellType::Number, value.as_bytes(), &mut out);
            assert_ne!(outcome, CellOutcome::TooLong);
            String::from_utf8(out).unwrap()
        };
        for (format, value, expected) in [
            (None, "20.1166666666666667", "<c r=\"A1\"><v>20.1166666666667</v></c>"),
            (Some("0.00"), "862.1428571428571429", "<c r=\"A1\" s=\"4\"><v>862.142857142857</v></c>"),
            (None, "-0.3333333333333333333", "<c r=\"A1\"><v>-0.333333333333333</v></c>"),
            (None, "0.00000123456789012345678", "<c r=\"A1\"><v>1.23456789012346e-6</v></c>"),
            (None, "12345678901234567.5", "<c r=\"A1\"><v>1.23456789012346e16</v></c>"),
            (None, "9007199254740993", "<c r=\"A1\" t=\"inlineStr\"><is><t>9007199254740993</t></is></c>"),
            (Some("0"), "9007199254740993", "<c r=\"A1\" s=\"4\"><v>9.00719925474099e15</v></c>"),
        ] {
            assert_eq!(cell(format, value), expected, "{value}");
        }
    }

    proptest! {
        /// A number is the same when it is read again, to the digits that a cell holds. A long whole number is a text.
        #[test]
        fn numbers_survive_the_workbook(whole in any::<u64>(), shift in 0_u32..64, fraction in "[0-9]{0,20}") {
            let whole = whole >> shift;
            let point = if fraction.is_empty() { "" } else { "." };
            let text = format!("-{whole}{point}{fraction}");
            let mut out = Vec::new();
            let mut columns = SheetColumn::from_displays(&[ColumnDisplay::default()], false, &mut StyleTable::new());
            let outcome = columns[0].write_cell("1", CellType::Number, text.as_bytes(), &mut out);
            let cell = String::from_utf8(out).unwrap();
            if outcome == CellOutcome::Number {
                let held = cell.split("<v>").nth(1).and_then(|rest| rest.split('<').next()).unwrap();
                let (held, exact) = (held.parse::<f64>().unwrap(), text.parse::<f64>().unwrap());
                let most = if significant_digits(text.as_bytes()) > MAX_EXACT_DIGITS { 5.1e-15 * exact.abs() } else { 0.0 };
                prop_assert!((held - exact).abs() <= most, "{text}: {cell}");
            } else {
                prop_assert!(fraction.is_empty() && cell.contains(&format!("<t>{text}</t>")), "{text}: {cell}");
            }
        }
    }

    #[test]
    fn significant_digits_are_counted() {
        for (text, count) in
            [("0.00", 0), ("-12.50", 3), ("1000000000000000000", 1), ("123456789012345.6", 16), ("0.000123", 3)]
        {
            assert_eq!(significant_digits(text.as_bytes()), count, "{text}");
        }
    }
}
