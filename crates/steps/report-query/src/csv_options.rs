//! The options of a CSV.

use super::ReportQuery;
use super::options::{DecimalMark, FormulaMode, LineEnding, ReportFormat};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_pipeline::{Templated, Validator};
use afterload_tabular::write::csv_style::CsvStyle;
use afterload_tabular::write::local_times::LocalTimes;

/// What to write instead of a time zone that does not exist.
pub const TIMEZONE_HINT: &str = "write a name such as `Europe/Paris` or `UTC`";
/// The fields that only a CSV has.
const CSV_FIELDS: [&str; 7] = ["bom", "decimal", "delimiter", "formulas", "header", "line_ending", "null"];
/// The maximum length of the text of a null, in bytes.
const MAX_NULL_BYTES: usize = 100;

impl ReportQuery {
    /// The style of a CSV; `None` for the default one, which has a faster writer. A time zone needs a style.
    pub(super) fn csv_style(&self, converts_times: bool) -> Result<Option<CsvStyle>> {
        let style = CsvStyle {
            bom: self.bom,
            header: self.header,
            delimiter: self.delimiter_byte()?,
            decimal_comma: self.decimal == DecimalMark::Comma,
            line_ending: match self.line_ending {
                LineEnding::Lf => "\n",
                LineEnding::Crlf => "\r\n",
            },
            null: self.null_text.clone(),
            guard_formulas: self.formulas == FormulaMode::Guard,
        };
        Ok(Some(style).filter(|style| converts_times || *style != CsvStyle::default()))
    }

    /// Reports the problems of the options of a CSV, and of the time zone.
    pub(super) fn check_csv_options(&self, check: &mut Validator<'_>) {
        if self.format != ReportFormat::Csv {
            for field in CSV_FIELDS {
                if check.is_present(&[field]) {
                    check.report_invalid(&[field], format!("`{field}` is an option of `csv`"), "leave it out");
                }
            }
        }
        match self.delimiter_byte() {
            Err(error) => {
                check.report_invalid(&["delimiter"], error.message(), error.hint_text().unwrap_or_default());
            }
            Ok(delimiter) => {
                let special = |c: char| c == char::from(delimiter) || c == '"' || c.is_control();
                if self.null_text.len() > MAX_NULL_BYTES || self.null_text.contains(special) {
                    let message = "`null` has a character that needs quotes, or more than 100 bytes";
                    check.report_invalid(&["null"], message, "write a short text such as `NULL` or `\\N`");
                }
            }
        }
        if let Some(name) = self.timezone.as_ref().and_then(Templated::as_literal)
            && LocalTimes::new(name).is_none()
        {
            check.report_invalid(&["timezone"], format!("there is no time zone `{name}`"), TIMEZONE_HINT);
        }
    }

    fn delimiter_byte(&self) -> Result<u8> {
        match self.delimiter.as_bytes() {
            b"tab" => Ok(b'\t'),
            // What a number is written with cannot stand between numbers.
            [byte @ (b'\t' | b' '..=b'~')] if !byte.is_ascii_alphanumeric() && !b"\"'.+-".contains(byte) => Ok(*byte),
            _ => {
                let message = format!("`{}` is not a delimiter", self.delimiter);
                Err(Error::new(codes::WITH_INVALID, message).with_hint("write `tab`, or one of `,` `;` `|`"))
            }
        }
    }
}
