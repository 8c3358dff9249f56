//! Receives the rows of the database and writes the report.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::columns::ReportColumns;
use super::file_name::ReportName;
use super::table_file::{FileLayout, TableFile};
use super::upload::NewFile;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_step_api::{ProgressCounts, ProgressReporter, ProgressUpdate};
use afterload_tabular::write::ColumnDisplay;
use afterload_tabular::write::byte_pipe::{BytePipe, ReceiverClosed};
use afterload_tabular::write::xlsx::SheetLayout;
use afterload_target_db::{CellType, RowVisitor};

/// Rows between two checks whether progress is due.
const PROGRESS_CHECK_ROWS: u64 = 2_000;
/// The minimum time between two progress reports. To wake the listeners takes longer than to write some rows.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Receives the rows of a report, and ends it after the last one.
pub trait ReportVisitor: RowVisitor {
    /// Completes the report. A dropped writer does not send its last piece.
    ///
    /// # Errors
    /// `report_failed` if the output exceeds a limit of the format.
    fn finish(self) -> Result<ReportCounts>;
}

/// What a report holds.
#[derive(Clone, Copy, Debug)]
pub struct ReportCounts {
    /// The rows, without headers.
    pub rows: u64,
    /// The texts that were cut because no cell can hold them.
    pub cut_cells: u64,
}

/// The options of a report.
pub struct ReportSpec {
    /// The form of its files.
    pub layout: FileLayout,
    /// Its name.
    pub name: ReportName,
    /// How the rows of each query are shown, in their order. Only a workbook has more than one.
    pub sheets: Vec<SheetSpec>,
    /// The maximum number of rows.
    pub max_rows: u64,
    /// Whether a report without rows creates no file.
    pub skip_if_empty: bool,
    /// Reports progress.
    pub progress: ProgressReporter,
}

/// How the rows of a query are shown.
pub struct SheetSpec {
    /// The look of its sheet in a workbook.
    pub layout: SheetLayout,
    /// The options of its columns.
    pub columns: ReportColumns,
}

/// Writes a report, one file at a time.
pub struct ReportWriter {
    spec: ReportSpec,
    files: mpsc::Sender<NewFile>,
    /// The queries that have begun.
    queries: usize,
    /// The names of the columns in the current query.
    names: Vec<String>,
    columns: Vec<ColumnDisplay>,
    open: Option<OpenFile>,
    expected: Option<u64>,
    rows: u64,
    cut_cells: u64,
    /// Counts for the progress, beside the rows.
    counts: ProgressCounts,
    last_progress_at: Instant,
    /// The index of the next cell.
    column: usize,
}

/// The file that is being written.
struct OpenFile {
    table: TableFile,
    receiver_closed: ReceiverClosed,
    whole: oneshot::Sender<u64>,
    /// The rows before it.
    rows_before: u64,
}

impl ReportWriter {
    /// Creates a writer. The report starts with the columns of the query.
    pub fn new(spec: ReportSpec, files: mpsc::Sender<NewFile>) -> Self {
        Self {
            spec,
            files,
            queries: 0,
            names: Vec::new(),
            columns: Vec::new(),
            open: None,
            expected: None,
            rows: 0,
            cut_cells: 0,
            counts: ProgressCounts::new(),
            last_progress_at: Instant::now(),
            column: 0,
        }
    }

    /// The name of the report.
    pub fn name(&self) -> &ReportName {
        &self.spec.name
    }

    /// Counts something beside the rows.
    pub fn set_count(&mut self, name: &str, count: u64) {
        self.counts.insert(name.to_owned(), count);
    }

    /// Takes the columns of the query.
    ///
    /// # Errors
    /// `report_columns_missing`, `report_column_unknown`.
    pub fn set_columns(&mut self, names: &[String], expected: Option<u64>) -> Result<()> {
        let Some(sheet) = self.spec.sheets.get(self.queries) else {
            return Err(Error::new(codes::INTERNAL_ERROR, "a query came without its sheet"));
        };
        self.columns = sheet.columns.resolve_columns(names)?;
        self.names = names.to_vec();
        self.queries += 1;
        // How many rows the later queries give is not known yet.
        self.expected = expected.filter(|_| self.spec.sheets.len() == 1);
        self.report_progress(self.expected);
        Ok(())
    }

    /// Starts a file. `key` is the value of its group.
    ///
    /// # Errors
    /// Those of the format, and `step_stopped` if nobody takes the file.
    pub fn start_file(&mut self, name: &ReportName, key: Option<String>) -> Result<()> {
        let (pipe, pieces) = BytePipe::new();
        let (whole, rows) = oneshot::channel();
        let receiver_closed = pipe.receiver_closed();
        let sheet = self.current_layout();
        let table = TableFile::start(&self.spec.layout, sheet, &self.names, &self.columns, name, pipe)?;
        let file = NewFile { name: name.file_name(), key, pieces, rows };
        self.files.blocking_send(file).map_err(|_| receiver_gone_error())?;
        self.open = Some(OpenFile { table, receiver_closed, whole, rows_before: self.rows });
        Ok(())
    }

    fn current_layout(&self) -> SheetLayout {
        let sheet = self.queries.checked_sub(1).and_then(|at| self.spec.sheets.get(at));
        sheet.map(|sheet| sheet.layout.clone()).unwrap_or_default()
    }

    /// Completes the current file, if there is one.
    ///
    /// # Errors
    /// `report_failed` if the output exceeds a limit of the format.
    pub fn finish_file(&mut self) -> Result<()> {
        let Some(OpenFile { table, whole, rows_before, .. }) = self.open.take() else { return Ok(()) };
        let rows = self.rows - rows_before;
        if rows == 0 && self.spec.skip_if_empty {
            return Ok(());
        }
        self.cut_cells += table.cut_cells();
        table.finish()?;
        // An upload that has failed reports its own error.
        whole.send(rows).map_err(|_| receiver_gone_error())
    }

    fn report_progress(&self, total: Option<u64>) {
        let (unit, counts) = ("rows".into(), self.counts.clone());
        let report = ProgressUpdate { done: self.rows, total, unit, counts, ..ProgressUpdate::default() };
        self.spec.progress.report_committed(report);
    }
}

impl ReportVisitor for ReportWriter {
    fn finish(mut self) -> Result<ReportCounts> {
        if self.names.is_empty() {
            return Err(Error::new(codes::INTERNAL_ERROR, "the report was never begun"));
        }
        self.report_progress(Some(self.rows));
        self.finish_file()?;
        Ok(ReportCounts { rows: self.rows, cut_cells: self.cut_cells })
    }
}

impl RowVisitor for ReportWriter {
    fn visit_columns(&mut self, columns: &[String], expected: Option<u64>) -> Result<()> {
        self.set_columns(columns, expected)?;
        let layout = self.current_layout();
        if let Some(file) = &mut self.open {
            return file.table.start_sheet(layout, &self.columns);
        }
        let name = self.spec.name.clone();
        self.start_file(&name, None)
    }

    fn visit_cell(&mut self, cell: Option<(CellType, &[u8])>) {
        if let Some(file) = &mut self.open {
            file.table.write_cell(self.column, cell);
        }
        self.column += 1;
    }

    fn end_row(&mut self) -> Result<()> {
        self.column = 0;
        self.rows += 1;
        if self.rows > self.spec.max_rows {
            let most = self.spec.max_rows;
            return Err(Error::new(codes::REPORT_TOO_MANY_ROWS, format!("the query gives more than {most} rows")));
        }
        let Some(file) = &mut self.open else {
            return Err(Error::new(codes::INTERNAL_ERROR, "a row came before its file"));
        };
        file.table.end_row()?;
        if self.rows.is_multiple_of(PROGRESS_CHECK_ROWS) {
            if file.receiver_closed.is_closed() {
                return Err(receiver_gone_error());
            }
            if self.last_progress_at.elapsed() < MIN_PROGRESS_INTERVAL {
                return Ok(());
            }
            self.last_progress_at = Instant::now();
            let left = self.expected.map(|expected| expected.min(self.spec.max_rows));
            self.report_progress(left.filter(|expected| *expected > self.rows));
        }
        Ok(())
    }
}

fn receiver_gone_error() -> Error {
    Error::new(codes::STEP_STOPPED, "nobody takes the report any more")
}
