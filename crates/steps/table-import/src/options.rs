//! The choices that a step makes: where rows go, how files are read, and what becomes of bad rows.

use schemars::JsonSchema;
use serde::Deserialize;

/// What happens to the good rows of a file that has bad ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportMode {
    /// Good rows are imported, chunk by chunk, and bad rows are rejected.
    #[default]
    RowByRow,
    /// All rows are imported in one transaction, or none: one rejected row undoes all others, which then count as skipped.
    /// The error file lists the rejected rows. A crash starts the import over. Memory stays as low as row by row, but the
    /// transaction lasts as long as the import, and SQLite lets nobody else write meanwhile.
    AllOrNothing,
}

/// Where rows go.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportTarget {
    /// The table: `contacts`, or `crm.contacts` in another schema.
    pub table: String,
    /// What to do with rows whose key is already there; without it the database refuses them, and they are rejected.
    #[serde(default)]
    pub on_conflict: Option<KeyConflict>,
}

/// A key, and what to do when it is already there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyConflict {
    /// The columns of a primary key or unique constraint.
    pub keys: Vec<String>,
    /// What to do.
    pub action: KeyConflictAction,
    /// The columns that an update overwrites; default: those that the file has, and those with a `value`.
    #[serde(default)]
    pub update: Option<Vec<String>>,
}

/// What to do with a row whose key is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyConflictAction {
    /// Overwrite the columns that the file has.
    Update,
    /// Keep what is there and count the row as skipped.
    Skip,
    /// Keep what is there and reject the row.
    Reject,
}

/// How quotes inside quoted fields are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuoteMode {
    /// They must be doubled.
    #[default]
    Strict,
    /// They are text, unless the field ends behind them.
    Lenient,
}

/// What happens to rows of nothing but blanks and delimiters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlankRows {
    /// They are left out and counted.
    #[default]
    Skip,
    /// They are rows.
    Keep,
}

/// What happens to rows with fewer fields than the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShortRows {
    /// They are rejected.
    #[default]
    Reject,
    /// They are filled up with empty fields.
    Pad,
}

/// What happens to a `'` before a cell that a spreadsheet would run as a formula.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormulaGuards {
    /// It is taken off.
    #[default]
    Strip,
    /// It stays.
    Keep,
}

/// Whether the file names its columns.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum HeaderSpec {
    /// `true`: in its first row.
    Flag(bool),
    /// No: these are the names.
    Names(Vec<String>),
}

/// The file of rejected rows.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorFileOptions {
    /// Its name.
    pub file: String,
    /// The most rows that it holds; further ones are only counted, and its last row says so.
    pub max: u64,
}

impl Default for ErrorFileOptions {
    fn default() -> Self {
        Self { file: "rejected.csv".into(), max: 10_000 }
    }
}

impl Default for HeaderSpec {
    fn default() -> Self {
        Self::Flag(true)
    }
}
