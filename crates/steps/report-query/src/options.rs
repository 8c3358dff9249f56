//! The choices that the fields of a report offer.

use schemars::JsonSchema;
use serde::Deserialize;

/// The format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportFormat {
    /// Comma-separated values in UTF-8, with a header.
    Csv,
    /// A workbook; past 1,048,576 rows it has further sheets. Numbers have 15 digits: fractions are rounded, longer whole numbers
    /// are texts unless their column has a `format`.
    Xlsx,
    /// One JSON object per line.
    Jsonl,
    /// One JSON list with an object for each row.
    Json,
}

/// What a CSV does with texts that a spreadsheet would run as formulas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormulaMode {
    /// Puts a `'` in front.
    #[default]
    Guard,
    /// Leaves them as they are.
    Keep,
}

/// The mark before the fraction of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum DecimalMark {
    /// `1234.5`
    #[default]
    #[serde(rename = ".")]
    Point,
    /// `1234,5`; a `format` with thousands shows `1.234,5`.
    #[serde(rename = ",")]
    Comma,
}

/// The end of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineEnding {
    /// A line feed.
    #[default]
    Lf,
    /// A carriage return and a line feed.
    Crlf,
}

/// What a workbook does with texts of more than 32,767 characters, which no cell can hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LongTexts {
    /// The step fails, and names the row and the column.
    #[default]
    Refuse,
    /// Their beginning is kept, with a `…` at its end; `cut_cells` counts them.
    Cut,
}

/// How a report is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportCompression {
    /// Not at all.
    #[default]
    None,
    /// As gzip; `.gz` is added to the name.
    Gzip,
    /// As the only file of a zip archive; `.zip` is added to the name.
    Zip,
}
