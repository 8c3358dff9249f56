//! CSV in other styles than the default one, which has a faster writer of its own.

use super::ColumnDisplay;
use super::csv::write_value;
use super::local_times::LocalTimes;
use crate::formula::is_spreadsheet_formula;
use afterload_target_db::CellType;

/// The marks of a CSV file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvStyle {
    /// Whether the file begins with a byte order mark.
    pub bom: bool,
    /// Whether the first line names the columns.
    pub header: bool,
    /// The byte between fields.
    pub delimiter: u8,
    /// Whether numbers have a comma before their fraction, and points between thousands.
    pub decimal_comma: bool,
    /// The end of a line.
    pub line_ending: &'static str,
    /// The field of a null. A text like it is quoted.
    pub null: String,
    /// Whether cells that a spreadsheet would run as formulas begin with a `'`.
    pub guard_formulas: bool,
}

impl Default for CsvStyle {
    fn default() -> Self {
        Self {
            bom: false,
            header: true,
            delimiter: b',',
            decimal_comma: false,
            line_ending: "\n",
            null: String::new(),
            guard_formulas: true,
        }
    }
}

/// Writes CSV in a style.
pub struct StyledCsv {
    style: CsvStyle,
    /// Converts times to a time zone.
    times: Option<LocalTimes>,
    columns: Vec<ColumnDisplay>,
    /// The bytes that make quotes necessary.
    special: [bool; 256],
    scratch: Vec<u8>,
    line_start: usize,
}

impl StyledCsv {
    /// Creates a writer and writes the mark and the header of the file.
    pub fn new(style: CsvStyle, times: Option<LocalTimes>, columns: Vec<ColumnDisplay>, out: &mut Vec<u8>) -> Self {
        let mut special = [false; 256];
        for byte in [style.delimiter, b'"', b'\n', b'\r'] {
            special[usize::from(byte)] = true;
        }
        let mut table = Self { style, times, columns, special, scratch: Vec::new(), line_start: 0 };
        if table.style.bom {
            out.extend_from_slice(b"\xef\xbb\xbf");
        }
        if table.style.header {
            for (index, column) in table.columns.iter().enumerate() {
                table.write_delimiter(index, out);
                table.write_text(column.title.as_bytes(), out);
            }
            out.extend_from_slice(table.style.line_ending.as_bytes());
        }
        table.line_start = out.len();
        table
    }

    /// Writes the cell of a column.
    pub fn write_cell(&mut self, column: usize, cell: Option<(CellType, &[u8])>, out: &mut Vec<u8>) {
        self.write_delimiter(column, out);
        let Some((kind, value)) = cell else { return out.extend_from_slice(self.style.null.as_bytes()) };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let times = self.times.as_mut();
        let value = times.map_or(value, |times| times.convert_cell(&self.columns[column], kind, value, true));
        let shown = match (&self.columns[column].format, kind) {
            (Some(format), CellType::Number | CellType::Float) => format.write_number(value, &mut scratch),
            (Some(format), CellType::Text | CellType::Date | CellType::Timestamp) => {
                format.write_datetime(value, &mut scratch)
            }
            _ => false,
        };
        let is_number = matches!(kind, CellType::Number | CellType::Float);
        match kind {
            _ if shown && !is_number => write_quoted(&self.special, false, &scratch, out),
            CellType::Number | CellType::Float => {
                if !shown {
                    scratch.extend_from_slice(value);
                }
                if self.style.decimal_comma {
                    swap_marks(&mut scratch);
                }
                write_quoted(&self.special, false, &scratch, out);
            }
            CellType::Text | CellType::Json => {
                write_text_in(&self.style, &self.special, value, out);
            }
            CellType::Bool | CellType::Date | CellType::Timestamp => write_quoted(&self.special, false, value, out),
        }
        self.scratch = scratch;
    }

    /// Ends the line.
    pub fn end_row(&mut self, out: &mut Vec<u8>) {
        // A row with one empty field would give an empty line, which CSV readers skip.
        if out.len() == self.line_start {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(self.style.line_ending.as_bytes());
        self.line_start = out.len();
    }

    /// Tells that the buffer has been emptied.
    pub fn buffer_emptied(&mut self) {
        self.line_start = 0;
    }

    fn write_delimiter(&self, column: usize, out: &mut Vec<u8>) {
        if column > 0 {
            out.push(self.style.delimiter);
        }
    }

    fn write_text(&self, value: &[u8], out: &mut Vec<u8>) {
        write_text_in(&self.style, &self.special, value, out);
    }
}

fn write_text_in(style: &CsvStyle, special: &[bool; 256], value: &[u8], out: &mut Vec<u8>) {
    // An empty text is quoted too, so that it differs from a null that is an empty field.
    if value.is_empty() || value == style.null.as_bytes() {
        out.push(b'"');
        out.extend_from_slice(value);
        return out.push(b'"');
    }
    write_quoted(special, style.guard_formulas && is_spreadsheet_formula(value), value, out);
}

/// Writes a value, in quotes if it needs them.
fn write_quoted(special: &[bool; 256], guard: bool, value: &[u8], out: &mut Vec<u8>) {
    let quoted = value.iter().any(|byte| special[usize::from(*byte)]);
    write_value(value, quoted, guard, out);
}

/// Writes a point as a comma, and a comma as a point.
fn swap_marks(number: &mut [u8]) {
    for byte in number {
        *byte = match *byte {
            b'.' => b',',
            b',' => b'.',
            other => other,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::format::CellFormat;
    use super::*;

    type Cell<'a> = Option<(CellType, &'a str)>;

    fn write_table(
        style: CsvStyle,
        times: Option<LocalTimes>,
        columns: &[ColumnDisplay],
        rows: &[Vec<Cell<'_>>],
    ) -> String {
        let mut out = Vec::new();
        let mut table = StyledCsv::new(style, times, columns.to_vec(), &mut out);
        for row in rows {
            for (column, cell) in row.iter().enumerate() {
                table.write_cell(column, cell.map(|(kind, text)| (kind, text.as_bytes())), &mut out);
            }
            table.end_row(&mut out);
        }
        String::from_utf8(out).unwrap()
    }

    fn columns(titles: &[&str]) -> Vec<ColumnDisplay> {
        titles.iter().map(|title| ColumnDisplay { title: (*title).to_owned(), ..ColumnDisplay::default() }).collect()
    }

    #[test]
    fn style_of_spreadsheets_in_europe_is_written() {
        let style = CsvStyle {
            bom: true,
            delimiter: b';',
            decimal_comma: true,
            line_ending: "\r\n",
            null: "NULL".to_owned(),
            ..CsvStyle::default()
        };
        let mut columns = columns(&["name", "total", "at"]);
        columns[1].format = Some(CellFormat::new("#,##0.00"));
        let rows = [
            vec![Some((CellType::Text, "a;b,c")), Some((CellType::Number, "1234.5")), None],
            vec![Some((CellType::Text, "NULL")), None, Some((CellType::Timestamp, "2024-07-01 12:00:00+00"))],
            vec![Some((CellType::Text, "=1")), Some((CellType::Text, "NaN")), Some((CellType::Text, "1.5"))],
            vec![Some((CellType::Text, "")), Some((CellType::Float, "-1e+300")), Some((CellType::Float, "0.25"))],
        ];
        let written = write_table(style, LocalTimes::new("Europe/Paris"), &columns, &rows);
        let digits = format!("-1{}", ".000".repeat(100));
        let expected = format!(
            "\u{feff}name;total;at\r\n\"a;b,c\";1.234,50;NULL\r\n\"NULL\";NULL;2024-07-01 14:00:00+02:00\r\n\
             '=1;NaN;1.5\r\n\"\";{digits},00;0,25\r\n"
        );
        assert_eq!(written, expected);
    }

    #[test]
    fn decimal_comma_is_quoted_between_commas() {
        let style = CsvStyle { decimal_comma: true, header: false, ..CsvStyle::default() };
        let rows = [vec![Some((CellType::Number, "1.5")), Some((CellType::Number, "2"))], vec![None, None]];
        assert_eq!(write_table(style, None, &columns(&["a", "b"]), &rows), "\"1,5\",2\n,\n");
    }

    #[test]
    fn row_of_one_null_is_no_empty_line() {
        let style = CsvStyle { header: false, ..CsvStyle::default() };
        let rows = [vec![None], vec![Some((CellType::Text, "x"))], vec![None]];
        assert_eq!(write_table(style, None, &columns(&["a"]), &rows), "\"\"\nx\n\"\"\n");
    }

    #[test]
    fn formulas_are_guarded_unless_the_guard_is_off() {
        for (guard_formulas, expected) in [(true, "'=a\n'+49 30 123\n"), (false, "=a\n+49 30 123\n")] {
            let style = CsvStyle { guard_formulas, ..CsvStyle::default() };
            let rows = [vec![Some((CellType::Text, "+49 30 123"))]];
            assert_eq!(write_table(style, None, &columns(&["=a"]), &rows), expected);
        }
    }

    fn text() -> impl Strategy<Value = String> {
        let edge = prop::sample::select(vec![
            "=1+1", "'quoted", "+49 30", "-", "a;b", "a,b", "\"", "\r\n", "NULL", "\t", " x ",
        ]);
        prop_oneof![
            2 => edge.prop_map(str::to_owned),
            3 => prop::collection::vec(any::<char>(), 0..8).prop_map(|chars| chars.into_iter().collect::<String>()),
        ]
    }

    proptest! {
        /// What another program reads is what was written, once the guard is taken off.
        #[test]
        fn texts_survive_every_style(
            rows in prop::collection::vec((text(), text()), 1..8),
            delimiter in prop::sample::select(b",;\t|".to_vec()),
            crlf in any::<bool>(),
            bom in any::<bool>(),
            guard_formulas in any::<bool>(),
        ) {
            let line_ending = if crlf { "\r\n" } else { "\n" };
            let style = CsvStyle { bom, delimiter, line_ending, guard_formulas, null: "NULL".into(), ..CsvStyle::default() };
            let cells: Vec<Vec<Cell<'_>>> =
                rows.iter().map(|(a, b)| vec![Some((CellType::Text, a.as_str())), Some((CellType::Text, b.as_str()))]).collect();
            let written = write_table(style, None, &columns(&["a", "b"]), &cells);
            let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(written.as_bytes());
            let strip = |text: &str| match text.strip_prefix('\'') {
                Some(rest) if guard_formulas && is_spreadsheet_formula(rest.as_bytes()) => rest.to_owned(),
                _ => text.to_owned(),
            };
            let read: Vec<(String, String)> =
                reader.records().map(|record| record.map(|record| (strip(&record[0]), strip(&record[1])))).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(read, rows);
        }
    }
}
