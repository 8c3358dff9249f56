//! Receives the rows of the database and writes the report.

use std::time::{Duration, Instant};

use super::columns::ReportColumns;
use super::{ReportCompression, ReportFormat};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_step_api::{ProgressReporter, ProgressUpdate};
use afterload_tabular::write::byte_pipe::{BytePipe, ReceiverClosed};
use afterload_tabular::write::compression::CompressedOutput;
use afterload_tabular::write::xlsx::XlsxWriter;
use afterload_tabular::write::{ColumnDisplay, csv, jsonl};
use afterload_target_db::{CellType, RowVisitor};

/// Bytes that are collected before compression. The boundaries of the pieces depend on the rows only, so compression
/// gives the same bytes each time.
const COMPRESS_BUFFER_SIZE: usize = 512 << 10;
/// Rows between two checks whether progress is due.
const PROGRESS_CHECK_ROWS: u64 = 2_000;
/// The minimum time between two progress reports. To wake the listeners takes longer than to write some rows.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The options of a report.
pub struct ReportSpec {
    /// The format of the report.
    pub format: ReportFormat,
    /// The compression of the file.
    pub compress: ReportCompression,
    /// The name of the report inside an archive.
    pub name: String,
    /// The options of the columns.
    pub columns: ReportColumns,
    /// The maximum number of rows.
    pub max_rows: u64,
    /// Whether cells that a spreadsheet would run as formulas are guarded.
    pub guard_formulas: bool,
    /// Whether a report without rows creates no file.
    pub skip_if_empty: bool,
    /// Reports progress.
    pub progress: ProgressReporter,
}

/// Writes a report.
pub struct ReportWriter {
    spec: ReportSpec,
    /// `None` after the columns are known.
    pipe: Option<BytePipe>,
    receiver_closed: ReceiverClosed,
    output: FormatWriter,
    expected: Option<u64>,
    rows: u64,
    last_progress_at: Instant,
    /// The index of the next cell.
    column: usize,
}

enum FormatWriter {
    NotStarted,
    Csv { pack: CompressedOutput, shapes: Vec<ColumnDisplay>, line: usize, scratch: Vec<u8>, buffer: Vec<u8> },
    Jsonl { pack: CompressedOutput, keys: Vec<Vec<u8>>, buffer: Vec<u8> },
    Xlsx(Box<XlsxWriter>),
}

impl ReportWriter {
    /// Creates a writer. The report starts with the columns of the query.
    pub fn new(order: ReportSpec, pipe: BytePipe) -> Self {
        let broken = pipe.receiver_closed();
        Self {
            spec: order,
            pipe: Some(pipe),
            receiver_closed: broken,
            output: FormatWriter::NotStarted,
            expected: None,
            rows: 0,
            last_progress_at: Instant::now(),
            column: 0,
        }
    }

    /// Completes the report and returns the number of rows. A dropped writer does not send its last piece.
    ///
    /// # Errors
    /// `report_failed` if the output exceeds a limit of the format.
    pub fn finish(self) -> Result<u64> {
        let rows = self.rows;
        self.report_progress(Some(rows));
        if rows == 0 && self.spec.skip_if_empty {
            return Ok(0);
        }
        match self.output {
            FormatWriter::NotStarted => return Err(Error::new(codes::INTERNAL_ERROR, "the report was never begun")),
            FormatWriter::Csv { mut pack, mut buffer, .. } | FormatWriter::Jsonl { mut pack, mut buffer, .. } => {
                pack.write_buffer(&mut buffer)?;
                pack.finish()?;
            }
            FormatWriter::Xlsx(book) => book.finish()?,
        }
        Ok(rows)
    }

    fn report_progress(&self, total: Option<u64>) {
        let report = ProgressUpdate { done: self.rows, total, unit: "rows".into(), ..ProgressUpdate::default() };
        self.spec.progress.report_committed(report);
    }
}

impl RowVisitor for ReportWriter {
    fn visit_columns(&mut self, columns: &[String], expected: Option<u64>) -> Result<()> {
        self.expected = expected;
        let shapes = self.spec.columns.resolve_columns(columns)?;
        let Some(pipe) = self.pipe.take() else {
            return Err(Error::new(codes::INTERNAL_ERROR, "the report was begun twice"));
        };
        let pack = |pipe| match self.spec.compress {
            ReportCompression::None => Ok(CompressedOutput::Plain(pipe)),
            ReportCompression::Gzip => Ok(CompressedOutput::new_gzip(pipe)),
            ReportCompression::Zip => CompressedOutput::new_zip(pipe, &self.spec.name),
        };
        let mut buffer = Vec::with_capacity(COMPRESS_BUFFER_SIZE + (COMPRESS_BUFFER_SIZE >> 2));
        self.output = match self.spec.format {
            ReportFormat::Csv => {
                csv::write_header(&shapes, self.spec.guard_formulas, &mut buffer);
                let line = buffer.len();
                FormatWriter::Csv { pack: pack(pipe)?, shapes, line, scratch: Vec::new(), buffer }
            }
            ReportFormat::Jsonl => {
                FormatWriter::Jsonl { keys: jsonl::encode_keys(columns)?, pack: pack(pipe)?, buffer }
            }
            ReportFormat::Xlsx => FormatWriter::Xlsx(Box::new(XlsxWriter::new(pipe, &shapes)?)),
        };
        self.report_progress(expected);
        Ok(())
    }

    fn visit_cell(&mut self, cell: Option<(CellType, &[u8])>) {
        match &mut self.output {
            FormatWriter::Csv { shapes, scratch, buffer, .. } => {
                if self.column > 0 {
                    buffer.push(b',');
                }
                csv::write_cell(&shapes[self.column], self.spec.guard_formulas, cell, scratch, buffer);
            }
            FormatWriter::Jsonl { keys, buffer, .. } => {
                buffer.extend_from_slice(&keys[self.column]);
                jsonl::write_value(cell, buffer);
            }
            FormatWriter::Xlsx(book) => book.write_cell(cell),
            FormatWriter::NotStarted => {}
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
        match &mut self.output {
            FormatWriter::Csv { pack, line, buffer, .. } => {
                // A row with one empty field would give an empty line, which CSV readers skip.
                if buffer.len() == *line {
                    buffer.extend_from_slice(b"\"\"");
                }
                buffer.push(b'\n');
                if buffer.len() >= COMPRESS_BUFFER_SIZE {
                    pack.write_buffer(buffer)?;
                }
                *line = buffer.len();
            }
            FormatWriter::Jsonl { pack, buffer, .. } => {
                buffer.extend_from_slice(b"}\n");
                if buffer.len() >= COMPRESS_BUFFER_SIZE {
                    pack.write_buffer(buffer)?;
                }
            }
            FormatWriter::Xlsx(book) => book.end_row()?,
            FormatWriter::NotStarted => {}
        }
        if self.rows.is_multiple_of(PROGRESS_CHECK_ROWS) {
            if self.receiver_closed.is_closed() {
                return Err(Error::new(codes::STEP_STOPPED, "nobody takes the report any more"));
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
