//! `report.query`: writes the rows of a `SELECT` to a file.
//!
//! ```text
//! database -> rows -> writer -> packing -> pieces -> multipart upload
//! ```
//! Each stage waits for the next one, so memory holds only a few pieces. The upload of a file completes after its last row.
//! What a failed attempt has uploaded is deleted with it, so a failed report leaves no file.

mod check;
pub mod codes;
mod columns;
mod csv_options;
mod file_name;
mod grouped;
mod options;
mod sheets;
mod table_file;
mod upload;
mod workbook_options;
mod writer;

use std::time;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use columns::{ColumnTotal, ReportColumn, ReportColumns};
pub use options::{DecimalMark, FormulaMode, LineEnding, LongTexts, ReportCompression, ReportFormat};

pub use sheets::ReportSheet;

use self::file_name::ReportName;
use self::grouped::{GroupSpec, GroupedWriter};
use self::table_file::FileLayout;
use self::upload::{UploadedFile, upload_files};
use self::writer::{ReportCounts, ReportSpec, ReportVisitor, ReportWriter};
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_core::units::HumanDuration;
use afterload_pipeline::{Templated, Validator};
use afterload_step_api::{ProgressReporter, Step, StepContext};
use afterload_tabular::write::local_times::LocalTimes;
use afterload_target_db::{BindValues, Connection, Connections, QueryLimits, SelectRequest, default_connection};

/// Writes the rows of a `SELECT` to a file, as they were at one moment, in constant memory.
///
/// With `group_by` it writes one file for each value of a column, all from the same moment.
///
/// Progress counts rows; on PostgreSQL the total is the planner's estimate until the last row. Promise: the query may be
/// repeated, and its files are published once, each of them whole; the same rows in the same order give the same bytes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportQuery {
    /// The connection of the database; one that is `read_only` will do.
    #[serde(default = "default_connection")]
    pub connection: String,
    /// One `SELECT`. Parameters are written `:name`; it cannot hold an expression. Without `ORDER BY` the order of the rows
    /// is the database's to choose.
    #[serde(default)]
    pub sql: Option<String>,
    /// A file with the `SELECT` instead: `NAME.sql` beside the pipeline, or `FOLDER/NAME.sql` in a folder there. It is part of
    /// the definition: a change makes a new version of the pipeline.
    #[serde(default)]
    pub sql_file: Option<String>,
    /// The values of the parameters. The database brings them to the types it wants; lists and maps go as JSON.
    /// A list alone in `IN (:name)` stands for its items; an empty one matches nothing.
    #[serde(default)]
    pub bind: BindValues,
    /// Workbook: several queries instead of `sql`, each on a sheet of its own, all from the same moment.
    #[serde(default)]
    pub sheets: Vec<ReportSheet>,
    /// The format of the file.
    pub format: ReportFormat,
    /// How columns are shown, by their names in the query; all others are shown as they are.
    #[serde(default)]
    pub columns: ReportColumns,
    /// CSV: whether the file begins with a byte order mark, by which Excel knows that it is UTF-8.
    #[serde(default)]
    pub bom: bool,
    /// CSV: the delimiter: `tab`, or one character that is no letter and no digit.
    #[serde(default = "default_delimiter")]
    pub delimiter: String,
    /// CSV: the mark before the fraction of a number.
    #[serde(default)]
    pub decimal: DecimalMark,
    /// CSV: the end of a line.
    #[serde(default)]
    pub line_ending: LineEnding,
    /// CSV: whether the first line names the columns.
    #[serde(default = "default_true")]
    pub header: bool,
    /// CSV: how a null is written. A text like it is quoted, and so is an empty text.
    #[serde(default, rename = "null")]
    pub null_text: String,
    /// CSV: whether texts that a spreadsheet would run as formulas get a `'` in front (`guard`), or stay as they are (`keep`).
    /// `csv.import` takes the `'` off again.
    #[serde(default)]
    pub formulas: FormulaMode,
    /// Workbook: the name of its sheet; what spreadsheets forbid in a name is replaced. Without it `Sheet1`.
    #[serde(default)]
    pub sheet: Option<Templated<String>>,
    /// Workbook: whether the header stays in view.
    #[serde(default = "default_true")]
    pub frozen_header: bool,
    /// Workbook: whether the header has filters.
    #[serde(default)]
    pub autofilter: bool,
    /// Workbook: what becomes of texts of more than 32,767 characters.
    #[serde(default)]
    pub long_texts: LongTexts,
    /// The time zone of times that have one, such as `Europe/Paris`; without it they are in UTC. SQLite keeps times as texts:
    /// there it applies to columns with a `format` of dates, and to times that end with `Z` or `+00:00`.
    #[serde(default)]
    pub timezone: Option<Templated<String>>,
    /// The name of the file; the ending of its format is added if it has another one.
    #[serde(default)]
    pub name: Option<Templated<String>>,
    /// How the file is packed.
    #[serde(default)]
    pub compress: ReportCompression,
    /// The most rows; one more fails the step.
    #[serde(default = "default_max_rows")]
    #[schemars(range(min = 1))]
    pub max_rows: u64,
    /// How long the query may take, to its last row.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
    /// No file if there are no rows; `file` is none then.
    #[serde(default)]
    pub skip_if_empty: bool,
    /// One file for each value of this column of the query, instead of one for all rows. The rows of a file stay in the order of
    /// the query, and the value stands in its name. `groups` lists the files, for a `for_each` of `email.send`.
    #[serde(default)]
    pub group_by: Option<String>,
    /// The most groups; one more fails the step.
    #[serde(default = "default_max_groups")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_groups: usize,
}

/// What later steps may use.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReportQueryOutputs {
    /// The report; none with `group_by`, and if there are no rows and `skip_if_empty` is set.
    pub file: Option<File>,
    /// How many rows it has, without the header; with `group_by` those of all files.
    pub rows: u64,
    /// How many bytes it has; with `group_by` those of all files.
    pub size: u64,
    /// How many texts were cut because no cell of a workbook can hold them.
    pub cut_cells: u64,
    /// The files of a report with `group_by`, in the order of their values as texts; null comes first. A value without rows
    /// has none.
    pub groups: Vec<ReportGroup>,
}

/// The file of a group.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReportGroup {
    /// The value of the group, as text; none for null.
    pub key: Option<String>,
    /// The file with its rows.
    pub file: File,
    /// How many rows it has, without the header.
    pub rows: u64,
}

impl Step for ReportQuery {
    const KIND: &'static str = "report.query";
    const EXAMPLE: &'static str = r#"connection: app
sql: SELECT day, product, amount AS total FROM sales WHERE day >= :since ORDER BY day, id
bind: { since: "${{ params.since }}" }
format: xlsx
columns: { day: { title: Day }, total: { title: Total, format: '#,##0.00', total: sum } }
name: "sales-${{ params.since }}.xlsx"
max_rows: 1000000
timeout: 10m
"#;
    const MORE_EXAMPLES: &'static [&'static str] = &[
        r#"connection: app
sql: SELECT product, day, amount FROM sales WHERE day >= :since ORDER BY day, id
bind: { since: "${{ params.since }}" }
format: csv
delimiter: ;
decimal: ","
bom: true
line_ending: crlf
timezone: Europe/Paris
group_by: product
max_groups: 100
name: sales.csv
"#,
        r#"connection: app
format: xlsx
sheets:
  - name: Days
    sql: SELECT day, SUM(amount) AS total FROM sales WHERE day >= :since GROUP BY day ORDER BY day
    bind: { since: "${{ params.since }}" }
    columns: { total: { format: '0.00', total: sum } }
  - name: Products
    sql: SELECT product, COUNT(*) AS sales FROM sales GROUP BY product ORDER BY product
name: sales.xlsx
"#,
    ];
    const MAKES_FILES: bool = true;
    type Outputs = ReportQueryOutputs;
    type Deps = Connections;

    fn check(&self, check: &mut Validator<'_>) {
        self.check_options(check);
    }

    fn always_makes_files(&self) -> bool {
        !self.skip_if_empty && self.group_by.is_none()
    }

    async fn run(self, ctx: StepContext, connections: Connections) -> Result<ReportQueryOutputs> {
        let connection = connections.get(&self.connection).await?;
        let queries = self.select_requests(connection.dialect())?;
        let groups = self.group_by.clone().map(|column| GroupSpec { column, max_groups: self.max_groups });
        let is_grouped = groups.is_some();
        let stop = ctx.stop.child_token();
        let limits = QueryLimits { timeout: self.timeout.0, stop: stop.clone() };
        let spec = self.into_spec(ctx.progress.clone())?;
        let (files, begun) = mpsc::channel(1);
        let written = async {
            match groups {
                None => write_rows(&connection, queries, limits, ReportWriter::new(spec, files)).await,
                Some(by) => write_rows(&connection, queries, limits, GroupedWriter::new(spec, by, files)).await,
            }
        };
        let sent = async {
            let sent = upload_files(ctx.files.clone(), begun).await;
            if sent.is_err() {
                stop.cancel();
            }
            sent
        };
        let (counts, sent) = tokio::join!(written, sent);
        // An upload error also cancels the query, so the upload error is the cause and comes first.
        let (sent, counts) = (sent?, counts?);
        Ok(ReportQueryOutputs::new(counts, sent, is_grouped))
    }
}

impl ReportQuery {
    fn into_spec(self, progress: ProgressReporter) -> Result<ReportSpec> {
        let zone = self.timezone.clone().map(Templated::into_value).transpose()?;
        let times = match &zone {
            Some(name) => Some(LocalTimes::new(name).ok_or_else(|| {
                let message = format!("`timezone`: there is no time zone `{name}`");
                Error::new(codes::WITH_INVALID, message).with_hint(csv_options::TIMEZONE_HINT)
            })?),
            None => None,
        };
        let csv = self.csv_style(times.is_some())?;
        let sheets = self.sheet_specs()?;
        let given = self.name.map(Templated::into_value).transpose()?;
        Ok(ReportSpec {
            name: ReportName::new(given.as_deref(), self.format, self.compress),
            layout: FileLayout { format: self.format, compress: self.compress, csv, times },
            sheets,
            max_rows: self.max_rows,
            skip_if_empty: self.skip_if_empty,
            progress,
        })
    }
}

impl ReportQueryOutputs {
    fn new(counts: ReportCounts, files: Vec<UploadedFile>, grouped: bool) -> Self {
        let ReportCounts { rows, cut_cells } = counts;
        let size: u64 = files.iter().map(|uploaded| uploaded.file.size).sum();
        let group = |UploadedFile { key, file, rows }| ReportGroup { key, file, rows };
        match grouped {
            true => Self { file: None, rows, size, cut_cells, groups: files.into_iter().map(group).collect() },
            false => {
                let file = files.into_iter().next().map(|uploaded| uploaded.file);
                Self { file, rows, size, cut_cells, groups: Vec::new() }
            }
        }
    }
}

/// Passes the rows of the queries to a writer, and completes the report.
async fn write_rows(
    connection: &Connection,
    queries: Vec<SelectRequest>,
    limits: QueryLimits,
    writer: impl ReportVisitor,
) -> Result<ReportCounts> {
    let writer = connection.select_snapshot(queries, limits, writer).await?;
    let finished = tokio::task::spawn_blocking(move || writer.finish()).await;
    finished.map_err(|error| Error::new(codes::INTERNAL_ERROR, format!("writing a report panicked: {error}")))?
}

fn default_max_rows() -> u64 {
    10_000_000
}

fn default_timeout() -> HumanDuration {
    HumanDuration(time::Duration::from_secs(30 * 60))
}

fn default_max_groups() -> usize {
    1000
}

fn default_delimiter() -> String {
    ",".to_owned()
}

fn default_true() -> bool {
    true
}
