//! `table.import` and `csv.import`: import the rows of a file into a table, and write rejected rows to an error file.
//!
//! ```text
//! store -> unpack -> decode -> parse -> check -> one transaction per chunk: cursor, rows, rejects -> error file
//! ```
//! An attempt continues after the last committed chunk. A fence in the target database stops older attempts.

mod check;
mod chunk;
mod chunk_commit;
mod chunk_reader;
pub mod codes;
mod column_codec;
mod columns;
mod csv_format;
mod cursor;
mod file_input;
mod header_search;
mod import;
mod options;
mod reader_input;
mod record_parser;
mod rejects;
mod table_format;
mod table_import;
mod unpack_options;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::stream::BoxStream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use columns::{BlankAction, ImportColumn, ImportColumnType, NegativeStyle, NumberMarks, NumberSpec, TextCase};
pub use file_input::CsvSource;
pub use import::{ImportContext, run_import};
pub use options::{
    BlankRows, ErrorFileOptions, FormulaGuards, HeaderSpec, ImportMode, ImportTarget, KeyConflict, KeyConflictAction,
    QuoteMode, ShortRows,
};
pub use rejects::{FileStore, RejectSink};
pub use table_import::TableImport;
pub use unpack_options::{SheetSpec, UnpackOptions};

use afterload_core::error::Result;
use afterload_core::file::File;
use afterload_core::units::{ByteSize, Percentage};
use afterload_pipeline::{Templated, Validator};
use afterload_step_api::{FileSink, Step, StepContext, StepFiles, VerifiedFile};
use afterload_tabular::read::csv_parser::CsvLimits;
use afterload_target_db::{self as connections, Connections, default_connection};

/// Imports a file into a table: detects what it is, checks every row by the rules of its columns, and writes what was
/// rejected to a file that can be corrected and imported again as it is. `csv.import` reads CSV, also packed with gzip.
/// `table.import` reads workbooks (XLSX), JSON Lines and zip archives, too.
///
/// Progress counts bytes, and rows by name. Promise: every row takes effect once, also through crashes, because rows and
/// cursor are committed together in the target database (with `checkpoints: none` on the connection: at least once).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvImport {
    /// The file.
    pub source: Templated<File>,
    /// The connection that holds the table.
    #[serde(default = "default_connection")]
    pub connection: String,
    /// The table, and what to do with rows that are already there.
    pub into: ImportTarget,
    /// The table's columns to fill, each with its rules.
    pub columns: BTreeMap<String, ImportColumn>,
    /// The sheet of a workbook: its name, or its place from 1; default: the first one that is not hidden. Only `table.import`
    /// reads workbooks.
    #[serde(default)]
    pub sheet: Option<SheetSpec>,
    /// The file in a zip archive that holds several. Only `table.import` reads zip archives.
    #[serde(default)]
    pub entry: Option<String>,
    /// How far archives and workbooks may unpack.
    #[serde(default)]
    pub unpack: UnpackOptions,
    /// Whether other files than CSV are read, as in `table.import`.
    #[serde(skip)]
    pub any_format: bool,
    /// The encoding: `auto`, or a name such as `utf-8`, `utf-16le`, `windows-1252`, `cp850`, `mac_roman`. A byte order mark wins
    /// over it. A row that cannot be decoded is rejected, and the error file shows its bytes.
    #[serde(default = "default_auto")]
    pub encoding: String,
    /// The delimiter: `auto` (one of `,` `;` tab `|`, or what a first line `sep=;` says), `tab`, or one character.
    #[serde(default = "default_auto")]
    pub delimiter: String,
    /// The quote around fields, or `none`.
    #[serde(default = "default_quote")]
    pub quote: String,
    /// Whether quotes inside a quoted field must be doubled (`strict`), or may stand alone (`lenient`).
    #[serde(default)]
    pub quotes: QuoteMode,
    /// A character that makes a quote part of the text, such as `\`, beside a doubled quote; or `none`.
    #[serde(default = "default_escape")]
    pub escape: String,
    /// `true`: the first row names the columns. If it has none of the wanted names, a later row that has all of them does. A list
    /// of names: the file has no such row.
    #[serde(default)]
    pub header: HeaderSpec,
    /// Lines above the table to leave out.
    #[serde(default)]
    pub skip_rows: u64,
    /// Rows below the table to leave out, such as totals. Blank rows do not count.
    #[serde(default)]
    #[schemars(range(max = 1000))]
    pub skip_footer: u64,
    /// Whether rows of nothing but blanks and delimiters are left out. Empty lines always are.
    #[serde(default)]
    pub blank_rows: BlankRows,
    /// Whether rows with fewer fields than the header are rejected, or filled up with empty fields.
    #[serde(default)]
    pub short_rows: ShortRows,
    /// Whether the `'` is taken off that reports and error files put before cells like formulas.
    #[serde(default)]
    pub formula_guards: FormulaGuards,
    /// How the file writes numbers; a column's own `number` wins.
    #[serde(default)]
    pub number: Option<NumberSpec>,
    /// The largest field. A row with a larger one is rejected.
    #[serde(default = "default_max_field_size")]
    pub max_field_size: ByteSize,
    /// The most fields of a row.
    #[serde(default = "default_max_columns")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_columns: u64,
    /// The most rows to read.
    #[serde(default)]
    pub max_rows: Option<u64>,
    /// What happens to the good rows of a file that has bad ones.
    #[serde(default)]
    pub mode: ImportMode,
    /// Rows per transaction. A row may refer to another row of the same chunk, wherever it stands.
    #[serde(default = "default_chunk_rows")]
    #[schemars(range(min = 1, max = 100_000))]
    pub chunk: u64,
    /// Tries everything, also in the database, and undoes it: nothing is written but the error file, and good rows count as
    /// skipped. On a read-only connection only the rules of the columns are checked. SQLite lets nobody else write meanwhile.
    #[serde(default)]
    pub dry_run: bool,
    /// The share of rows that may be rejected, looked at from the thousandth row on. Past it the step fails; rows that were
    /// committed stay.
    #[serde(default = "default_tolerate")]
    pub tolerate: Percentage,
    /// One row per import in a table of the user's database. Not supported yet.
    #[serde(default)]
    #[schemars(extend("deprecated" = true))]
    pub report: Option<Value>,
    /// The file of rejected rows.
    #[serde(default)]
    pub errors: ErrorFileOptions,
}

/// What later steps may use.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CsvImportOutputs {
    /// Rows of the file: inserted, updated, skipped and rejected ones.
    pub rows: u64,
    /// New rows.
    pub inserted: u64,
    /// Rows that overwrote others.
    pub updated: u64,
    /// Rows that were left out because their key was there.
    pub skipped: u64,
    /// Rows that were rejected.
    pub rejected: u64,
    /// Blank rows and empty lines, which are no rows.
    pub blank: u64,
    /// Whether `max_rows` ended the import before the end of the file.
    pub cut: bool,
    /// Rejected rows that the error file lacks because of `errors.max`.
    pub errors_omitted: u64,
    /// The file of rejected rows, if there are any.
    pub errors_file: Option<File>,
    /// What the file looks like.
    pub detected: DetectedFormat,
    /// What was wrong with the file.
    pub report: ImportSummary,
}

/// What a file looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DetectedFormat {
    /// What the table is: `csv`, `json_lines` or `xlsx`.
    pub format: String,
    /// The archive around it: `gzip` or `zip`.
    pub archive: Option<String>,
    /// The name of the sheet.
    pub sheet: Option<String>,
    /// The encoding.
    pub encoding: String,
    /// The delimiter.
    pub delimiter: String,
    /// How sure the detection is.
    pub confidence: Confidence,
    /// The line of the header, or its row in a sheet, if the file has one.
    pub header_line: Option<u64>,
}

/// How sure a detection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// A guess.
    Low,
    /// Likely.
    Medium,
    /// Declared by the pipeline or the file, or without a sensible alternative.
    High,
}

/// What was wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ImportSummary {
    /// Faults by `column.code`, or by `code` where the whole row is at fault. A row may have several.
    pub faults: BTreeMap<String, u64>,
}

impl Step for CsvImport {
    const KIND: &'static str = "csv.import";
    const EXAMPLE: &'static str = r#"source: "${{ params.file }}"
connection: app
into:
  table: contacts
  on_conflict: { keys: [email], action: update }
columns:
  email: { match: [Email, E-mail], type: email, required: true, case: lower }
  name: { max_length: 200 }
  joined: { type: date, formats: ["%Y-%m-%d", "%d.%m.%Y"] }
  country: { type: enum, values: [DE, FR, IT], case: upper }
  amount: { type: decimal, min: 0, default: 0 }
tolerate: 20%
errors: { file: rejected.csv, max: 10000 }
"#;
    const MAKES_FILES: bool = true;
    type Outputs = CsvImportOutputs;
    type Deps = Connections;

    fn check(&self, check: &mut Validator<'_>) {
        self.check_options(check);
        for (field, is_set) in [("sheet", self.sheet.is_some()), ("entry", self.entry.is_some())] {
            if is_set {
                let message = format!("`{field}` is for `table.import`");
                check.report_invalid(&[field], message, "write `uses: table.import`");
            }
        }
    }

    async fn run(self, ctx: StepContext, connections: Connections) -> Result<CsvImportOutputs> {
        let file = ctx.files.verifier().verify_file(&self.source.clone().into_value()?)?;
        let source = StoredSource { files: ctx.files.clone(), file };
        let target = connections.get(&self.connection).await?;
        run_import(&self, &ImportContext::from_step(&ctx), &source, &ctx.files, &target).await
    }
}

/// A file in the object store.
struct StoredSource {
    files: StepFiles,
    file: VerifiedFile,
}

impl CsvSource for StoredSource {
    async fn open(&self, from: u64) -> Result<(u64, BoxStream<'static, Result<Bytes>>)> {
        let body = self.files.open(&self.file, from).await?;
        Ok((body.meta.size, body.stream))
    }
}

impl FileStore for StepFiles {
    type Sink = FileSink;

    async fn create(&self, name: &str, content_type: &str) -> Result<FileSink> {
        StepFiles::create(self, name, content_type).await
    }
}

impl RejectSink for FileSink {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        FileSink::write(self, bytes).await
    }

    async fn finish(self) -> Result<File> {
        FileSink::finish(self).await
    }
}

impl From<KeyConflictAction> for connections::KeyConflictAction {
    fn from(action: KeyConflictAction) -> Self {
        match action {
            KeyConflictAction::Update => Self::Update,
            KeyConflictAction::Skip => Self::Skip,
            KeyConflictAction::Reject => Self::Reject,
        }
    }
}

fn default_auto() -> String {
    "auto".into()
}

fn default_quote() -> String {
    "\"".into()
}

fn default_escape() -> String {
    "none".into()
}

fn default_max_field_size() -> ByteSize {
    ByteSize(CsvLimits::DEFAULT_FIELD_BYTES as u64)
}

fn default_max_columns() -> u64 {
    CsvLimits::DEFAULT_COLUMNS as u64
}

fn default_chunk_rows() -> u64 {
    10_000
}

fn default_tolerate() -> Percentage {
    Percentage(1.0)
}
