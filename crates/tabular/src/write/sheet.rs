//! Writes the cells of a worksheet as XML.

use super::ColumnDisplay;
use super::datetime::CellDateTime;
use super::format::CellFormat;
use afterload_target_db::CellType;

/// The maximum number of characters in a cell, in UTF-16 units.
pub const MAX_CELL_CHARS: usize = 32_767;
/// The digits that survive in the binary floating point numbers of spreadsheets.
const MAX_EXACT_DIGITS: usize = 15;

/// The styles of a workbook, by their index in `xl/styles.xml`.
const HEADER_STYLE: &str = " s=\"1\"";
const DATE_STYLE: &str = " s=\"2\"";
const DATETIME_STYLE: &str = " s=\"3\"";
/// The index of the first style with a custom format.
pub const FIRST_FORMAT_STYLE: usize = 4;

/// A column: its letters and its cell style.
pub struct SheetColumn {
    letters: String,
    /// The style attribute; empty if the column has no format.
    style: String,
    /// Whether text that is a date or time is written as one.
    date: bool,
    /// The display width in characters.
    width: usize,
}

impl SheetColumn {
    /// Creates the columns of a table.
    pub fn from_displays(shapes: &[ColumnDisplay]) -> Vec<Self> {
        let mut style = FIRST_FORMAT_STYLE;
        let columns = shapes.iter().enumerate().map(|(index, shape)| {
            let own = shape.format.as_ref().map(|_| format!(" s=\"{style}\"")).unwrap_or_default();
            style += usize::from(shape.format.is_some());
            let date = shape.format.as_ref().is_some_and(CellFormat::is_date);
            Self {
                letters: column_letters(index),
                style: own,
                date,
                width: shape.title.chars().count().clamp(10, 60) + 2,
            }
        });
        columns.collect()
    }

    /// The display width in characters.
    pub fn char_width(&self) -> usize {
        self.width
    }

    /// Writes a cell in row number `row`. Returns false if its text is too long for a spreadsheet.
    #[must_use]
    pub fn write_cell(&self, row: &str, sort: CellType, value: &[u8], out: &mut Vec<u8>) -> bool {
        match sort {
            CellType::Number if significant_digits(value) > MAX_EXACT_DIGITS => {
                return self.write_long_number(row, value, out);
            }
            CellType::Number | CellType::Float => return self.write_number(row, value, &self.style, out),
            CellType::Bool => {
                self.open_cell(row, &self.style, out);
                out.extend_from_slice(b" t=\"b\"><v>");
                out.push(if value == b"true" { b'1' } else { b'0' });
                out.extend_from_slice(b"</v></c>");
            }
            CellType::Date | CellType::Timestamp => return self.write_datetime(row, value, out),
            CellType::Text if self.date => return self.write_datetime(row, value, out),
            CellType::Text | CellType::Json => return self.write_text(row, value, &self.style, out),
        }
        true
    }

    /// Writes a cell of the header. Returns false if its text is too long for a spreadsheet.
    #[must_use]
    pub fn write_title(&self, title: &str, out: &mut Vec<u8>) -> bool {
        self.write_text("1", title.as_bytes(), HEADER_STYLE, out)
    }

    fn open_cell(&self, row: &str, style: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<c r=\"");
        out.extend_from_slice(self.letters.as_bytes());
        out.extend_from_slice(row.as_bytes());
        out.push(b'"');
        out.extend_from_slice(style.as_bytes());
    }

    fn write_number(&self, row: &str, value: &[u8], style: &str, out: &mut Vec<u8>) -> bool {
        self.open_cell(row, style, out);
        out.extend_from_slice(b"><v>");
        out.extend_from_slice(value);
        out.extend_from_slice(b"</v></c>");
        true
    }

    /// Writes a number with more digits than a cell holds. Fractions are rounded, and so are numbers with a format. Other
    /// whole numbers are text, because they may be IDs.
    fn write_long_number(&self, row: &str, value: &[u8], out: &mut Vec<u8>) -> bool {
        let text = std::str::from_utf8(value).unwrap_or_default();
        let rounds = text.contains('.') || !self.style.is_empty();
        match text.parse::<f64>().ok().filter(|number| rounds && number.is_finite()) {
            Some(number) => {
                // One digit stands before the point.
                let behind = MAX_EXACT_DIGITS - 1;
                let rounded = format!("{number:.behind$e}");
                let plain = rounded.parse::<f64>().unwrap_or(number);
                let is_short = (1e-5..1e15).contains(&plain.abs());
                let shown = if is_short { plain.to_string() } else { rounded };
                self.write_number(row, shown.as_bytes(), &self.style, out)
            }
            None => self.write_text(row, value, &self.style, out),
        }
    }

    /// Writes a number if spreadsheets can count the date or time, and text otherwise.
    fn write_datetime(&self, row: &str, value: &[u8], out: &mut Vec<u8>) -> bool {
        let Some((moment, serial)) =
            CellDateTime::parse(value).and_then(|moment| Some((moment, moment.spreadsheet_serial()?)))
        else {
            return self.write_text(row, value, &self.style, out);
        };
        let style = match self.style.as_str() {
            "" if moment.micros.is_some() => DATETIME_STYLE,
            "" => DATE_STYLE,
            own => own,
        };
        self.write_number(row, serial.to_string().as_bytes(), style, out)
    }

    fn write_text(&self, row: &str, value: &[u8], style: &str, out: &mut Vec<u8>) -> bool {
        self.open_cell(row, style, out);
        let blank = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
        let spaces: &[u8] = if blank(value.first()) || blank(value.last()) { b" xml:space=\"preserve\"" } else { b"" };
        out.extend_from_slice(b" t=\"inlineStr\"><is><t");
        out.extend_from_slice(spaces);
        out.push(b'>');
        escape_xml(value, out);
        out.extend_from_slice(b"</t></is></c>");
        value.len() <= MAX_CELL_CHARS || String::from_utf8_lossy(value).encode_utf16().count() <= MAX_CELL_CHARS
    }
}

/// Returns `A` to `Z`, then `AA` and so on.
fn column_letters(mut index: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.insert(0, b'A' + (index % 26) as u8);
        match index / 26 {
            0 => return String::from_utf8_lossy(&letters).into_owned(),
            rest => index = rest - 1,
        }
    }
}

/// Counts the digits from the first to the last one that is not zero.
fn significant_digits(value: &[u8]) -> usize {
    let nonzero = |byte: &u8| matches!(byte, b'1'..=b'9');
    let (Some(first), Some(last)) = (value.iter().position(nonzero), value.iter().rposition(nonzero)) else { return 0 };
    value[first..=last].iter().filter(|byte| byte.is_ascii_digit()).count()
}

/// The first bytes of sequences that need an escape in XML or in spreadsheets.
const XML_SPECIAL_BYTES: [bool; 256] = {
    let mut special = [false; 256];
    let mut control = 0;
    while control < 0x20 {
        special[control] = !matches!(control as u8, b'\t' | b'\n');
        control += 1;
    }
    special[b'&' as usize] = true;
    special[b'<' as usize] = true;
    special[b'>' as usize] = true;
    special[b'_' as usize] = true;
    special[0xef] = true;
    special
};

/// Escapes text for XML. XML has no control characters, so spreadsheets write them as `_x0001_`.
pub fn escape_xml(value: &[u8], out: &mut Vec<u8>) {
    let mut plain = 0;
    for (at, byte) in value.iter().enumerate().filter(|(_, byte)| XML_SPECIAL_BYTES[usize::from(**byte)]) {
        let rest = &value[at..];
        let (written, taken): (std::borrow::Cow<'_, [u8]>, _) = match byte {
            b'&' => (b"&amp;"[..].into(), 1),
            b'<' => (b"&lt;"[..].into(), 1),
            b'>' => (b"&gt;"[..].into(), 1),
            b'_' if is_escape_sequence(rest) => (b"_x005F_"[..].into(), 1),
            0xef if rest.starts_with(b"\xef\xbf\xbe") || rest.starts_with(b"\xef\xbf\xbf") => {
                ("\u{fffd}".as_bytes().into(), 3)
            }
            b'_' | 0xef => continue,
            control => (format!("_x{control:04X}_").into_bytes().into(), 1),
        };
        out.extend_from_slice(&value[plain..at]);
        out.extend_from_slice(&written);
        plain = at + taken;
    }
    out.extend_from_slice(&value[plain..]);
}

/// Whether the text begins like `_x0041_`, which spreadsheets would read as `A`.
fn is_escape_sequence(text: &[u8]) -> bool {
    text.len() >= 7 && text[1] == b'x' && text[6] == b'_' && text[2..6].iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_letters_match_spreadsheets() {
        let all: Vec<String> = [0, 25, 26, 51, 52, 701, 702, 16_383].map(column_letters).into();
        assert_eq!(all, ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA", "XFD"]);
    }

    #[test]
    fn xml_escapes_round_trip() {
        for (text, expected) in [
            ("a < b & c > \"d\"", "a &lt; b &amp; c &gt; \"d\""),
            ("\u{1}x\r\n\t", "_x0001_x_x000D_\n\t"),
            ("_x0041_ a_b _x12_", "_x005F_x0041_ a_b _x12_"),
            ("\u{ffff}é\u{feff}\u{fffd}", "\u{fffd}é\u{feff}\u{fffd}"),
        ] {
            let mut out = Vec::new();
            escape_xml(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn long_fractions_are_rounded_and_long_ids_stay_text() {
        let cell = |format: Option<&str>, value: &str| {
            let shape = ColumnDisplay { title: "a".into(), format: format.map(CellFormat::new) };
            let mut out = Vec::new();
            assert!(SheetColumn::from_displays(&[shape])[0].write_cell(
                "1",
                CellType::Number,
                value.as_bytes(),
                &mut out
            ));
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

    #[test]
    fn significant_digits_are_counted() {
        for (text, count) in
            [("0.00", 0), ("-12.50", 3), ("1000000000000000000", 1), ("123456789012345.6", 16), ("0.000123", 3)]
        {
            assert_eq!(significant_digits(text.as_bytes()), count, "{text}");
        }
    }
}
