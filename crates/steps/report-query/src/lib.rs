//! `report.query`: writes the rows of a `SELECT` to a file.
//!
//! ```text
//! database -> rows -> writer -> packing -> pieces -> multipart upload
//! ```
//! Each stage waits for the next one, so memory holds only a few pieces. The upload completes after the last row, so a
//! failed report leaves no file.

mod check;
pub mod codes;
mod columns;
mod writer;

use std::time;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use columns::{ReportColumn, ReportColumns};

use self::writer::{ReportSpec, ReportWriter};
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_core::object_names::{resolve_content_type, sanitize_file_name};
use afterload_core::units::HumanDuration;
use afterload_pipeline::{Templated, Validator};
use afterload_step_api::{FileSink, Step, StepContext, StepFiles};
use afterload_tabular::write::byte_pipe::BytePipe;
use afterload_target_db::{BindValues, Connections, QueryOptions, SelectQuery, default_connection};

/// Writes the rows of a `SELECT` to a file, as they were at one moment, in constant memory.
///
/// Progress counts rows; on PostgreSQL the total is the planner's estimate until the last row. Promise: the query may be
/// repeated, and one file is published, which is whole; the same rows in the same order give the same bytes.
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
    /// The format of the file.
    pub format: ReportFormat,
    /// How columns are shown, by their names in the query; all others are shown as they are.
    #[serde(default)]
    pub columns: ReportColumns,
    /// Whether a CSV puts a `'` before texts that a spreadsheet would run as formulas (`guard`), or leaves them as they are
    /// (`keep`). `csv.import` takes the `'` off again.
    #[serde(default)]
    pub formulas: FormulaMode,
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
}

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

/// What later steps may use.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReportQueryOutputs {
    /// The report; none if there are no rows and `skip_if_empty` is set.
    pub file: Option<File>,
    /// How many rows it has, without the header.
    pub rows: u64,
    /// How many bytes it has.
    pub size: u64,
}

impl Step for ReportQuery {
    const KIND: &'static str = "report.query";
    const EXAMPLE: &'static str = r#"connection: app
sql: SELECT day, product, amount AS total FROM sales WHERE day >= :since ORDER BY day, id
bind: { since: "${{ params.since }}" }
format: xlsx
columns: { day: { title: Day }, total: { title: Total, format: '#,##0.00' } }
name: "sales-${{ params.since }}.xlsx"
max_rows: 1000000
timeout: 10m
"#;
    const MAKES_FILES: bool = true;
    type Outputs = ReportQueryOutputs;
    type Deps = Connections;

    fn check(&self, check: &mut Validator<'_>) {
        self.check_options(check);
    }

    fn always_makes_files(&self) -> bool {
        !self.skip_if_empty
    }

    async fn run(self, ctx: StepContext, connections: Connections) -> Result<ReportQueryOutputs> {
        let connection = connections.get(&self.connection).await?;
        let Some(text) = &self.sql else {
            return Err(Error::new(codes::REPORT_SQL_MISSING, "the definition holds no SQL"));
        };
        let select = SelectQuery::parse(text, connection.dialect())?;
        let given = self.name.map(Templated::into_value).transpose()?;
        let (inner, name) = report_names(given.as_deref(), self.format, self.compress);
        let (pipe, pieces) = BytePipe::new();
        let order = ReportSpec {
            format: self.format,
            compress: self.compress,
            name: inner,
            columns: self.columns,
            guard_formulas: self.formulas == FormulaMode::Guard,
            max_rows: self.max_rows,
            skip_if_empty: self.skip_if_empty,
            progress: ctx.progress.clone(),
        };
        let stop = ctx.stop.child_token();
        let reading = QueryOptions { values: self.bind, timeout: self.timeout.0, stop: stop.clone() };
        let written = async {
            let writer = connection.select_rows(&select, reading, ReportWriter::new(order, pipe)).await?;
            let finished = tokio::task::spawn_blocking(move || writer.finish()).await;
            finished
                .map_err(|error| Error::new(codes::INTERNAL_ERROR, format!("writing a report panicked: {error}")))?
        };
        let sent = async {
            let sent = upload_chunks(&ctx.files, &name, pieces).await;
            if sent.is_err() {
                stop.cancel();
            }
            sent
        };
        let (rows, sent) = tokio::join!(written, sent);
        // An upload error also cancels the query, so the upload error is the cause and comes first.
        let (sink, rows) = (sent?, rows?);
        let file = match sink {
            Some(sink) => Some(sink.finish().await?),
            None => None,
        };
        Ok(ReportQueryOutputs { rows, size: file.as_ref().map_or(0, |file| file.size), file })
    }
}

/// Uploads the pieces. Returns `None` if there are none.
async fn upload_chunks(files: &StepFiles, name: &str, mut pieces: mpsc::Receiver<Bytes>) -> Result<Option<FileSink>> {
    let mut sink: Option<FileSink> = None;
    while let Some(piece) = pieces.recv().await {
        let sink = match &mut sink {
            Some(sink) => sink,
            none => none.insert(files.create(name, &resolve_content_type(None, name)).await?),
        };
        sink.write(piece).await?;
    }
    Ok(sink)
}

/// Returns the name of the report inside an archive, and the name of the file.
fn report_names(given: Option<&str>, format: ReportFormat, compress: ReportCompression) -> (String, String) {
    let ending = match format {
        ReportFormat::Csv => ".csv",
        ReportFormat::Xlsx => ".xlsx",
        ReportFormat::Jsonl => ".jsonl",
    };
    let packed = match compress {
        ReportCompression::None => "",
        ReportCompression::Gzip => ".gz",
        ReportCompression::Zip => ".zip",
    };
    let given = sanitize_file_name(given.unwrap_or("report"), "report");
    let bare = given.strip_suffix(packed).unwrap_or(&given);
    let inner = if bare.ends_with(ending) { bare.to_owned() } else { format!("{bare}{ending}") };
    let outer = format!("{inner}{packed}");
    (inner, outer)
}

fn default_max_rows() -> u64 {
    10_000_000
}

fn default_timeout() -> HumanDuration {
    HumanDuration(time::Duration::from_secs(30 * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_get_extensions_of_format_and_compression() {
        for (given, format, compress, inner, outer) in [
            (None, ReportFormat::Csv, ReportCompression::None, "report.csv", "report.csv"),
            (Some("sales"), ReportFormat::Xlsx, ReportCompression::None, "sales.xlsx", "sales.xlsx"),
            (Some("a.csv"), ReportFormat::Csv, ReportCompression::Gzip, "a.csv", "a.csv.gz"),
            (Some("a.csv.zip"), ReportFormat::Csv, ReportCompression::Zip, "a.csv", "a.csv.zip"),
            (Some("../../x\r\n.csv"), ReportFormat::Jsonl, ReportCompression::None, "x.csv.jsonl", "x.csv.jsonl"),
        ] {
            assert_eq!(report_names(given, format, compress), (inner.to_owned(), outer.to_owned()), "{given:?}");
        }
    }
}
