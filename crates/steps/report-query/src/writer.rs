//! Takes the rows of the database and writes the report.

use std::time::{Duration, Instant};

use super::columns::{Columns, Shape};
use super::pack::Pack;
use super::pipe::{Broken, Pipe};
use super::xlsx::Xlsx;
use super::{Compress, FileFormat, csv, jsonl};
use afterload_core::error::{Error, Result};
use afterload_step_api::{Progress, Report};
use afterload_target_db::{Receiver, Sort};

/// How many bytes are gathered before they are packed. The pieces follow from the rows alone, so that packing them gives
/// the same bytes each time.
const PIECE: usize = 512 << 10;
/// After how many rows it is looked whether to tell how far the report is.
const LOOK: u64 = 2_000;
/// How long nothing is told after something was: to wake whoever listens takes longer than to write some rows.
const QUIET: Duration = Duration::from_millis(100);

/// What a report is to be.
pub struct Order {
    /// The format.
    pub format: FileFormat,
    /// How the file is packed.
    pub compress: Compress,
    /// Its name inside of an archive.
    pub name: String,
    /// How columns are shown.
    pub columns: Columns,
    /// The most rows.
    pub max_rows: u64,
    /// Whether there is no file if there are no rows.
    pub skip_if_empty: bool,
    /// Where it is told how far the report is.
    pub progress: Progress,
}

/// A report that is being written.
pub struct Writer {
    order: Order,
    /// Until the columns are known.
    pipe: Option<Pipe>,
    broken: Broken,
    book: Book,
    expected: Option<u64>,
    rows: u64,
    told: Instant,
    /// The column of the next cell.
    column: usize,
}

enum Book {
    Unbegun,
    Csv { pack: Pack, shapes: Vec<Shape>, line: usize, scratch: Vec<u8>, buffer: Vec<u8> },
    Jsonl { pack: Pack, keys: Vec<Vec<u8>>, buffer: Vec<u8> },
    Xlsx(Box<Xlsx>),
}

impl Writer {
    /// A report of which nothing is known but what it is to be.
    pub fn new(order: Order, pipe: Pipe) -> Self {
        let broken = pipe.broken();
        Self {
            order,
            pipe: Some(pipe),
            broken,
            book: Book::Unbegun,
            expected: None,
            rows: 0,
            told: Instant::now(),
            column: 0,
        }
    }

    /// Ends the report and gives the number of rows. Without it, no part of the last piece goes on.
    ///
    /// # Errors
    /// `report_failed` for what the format cannot hold.
    pub fn finish(self) -> Result<u64> {
        let rows = self.rows;
        self.tell(Some(rows));
        if rows == 0 && self.order.skip_if_empty {
            return Ok(0);
        }
        match self.book {
            Book::Unbegun => return Err(Error::permanent("internal_error", "the report was never begun")),
            Book::Csv { mut pack, mut buffer, .. } | Book::Jsonl { mut pack, mut buffer, .. } => {
                pack.take(&mut buffer)?;
                pack.finish()?;
            }
            Book::Xlsx(book) => book.finish()?,
        }
        Ok(rows)
    }

    fn tell(&self, total: Option<u64>) {
        let report = Report { done: self.rows, total, unit: "rows".into(), ..Report::default() };
        self.order.progress.committed(report);
    }
}

impl Receiver for Writer {
    fn begin(&mut self, columns: &[String], expected: Option<u64>) -> Result<()> {
        self.expected = expected;
        let shapes = self.order.columns.shapes(columns)?;
        let Some(pipe) = self.pipe.take() else {
            return Err(Error::permanent("internal_error", "the report was begun twice"));
        };
        let pack = |pipe| match self.order.compress {
            Compress::None => Ok(Pack::Plain(pipe)),
            Compress::Gzip => Ok(Pack::gzip(pipe)),
            Compress::Zip => Pack::zip(pipe, &self.order.name),
        };
        let mut buffer = Vec::with_capacity(PIECE + (PIECE >> 2));
        self.book = match self.order.format {
            FileFormat::Csv => {
                csv::header(&shapes, &mut buffer);
                let line = buffer.len();
                Book::Csv { pack: pack(pipe)?, shapes, line, scratch: Vec::new(), buffer }
            }
            FileFormat::Jsonl => Book::Jsonl { keys: jsonl::keys(columns)?, pack: pack(pipe)?, buffer },
            FileFormat::Xlsx => Book::Xlsx(Box::new(Xlsx::new(pipe, &shapes)?)),
        };
        self.tell(expected);
        Ok(())
    }

    fn cell(&mut self, cell: Option<(Sort, &[u8])>) {
        match &mut self.book {
            Book::Csv { shapes, scratch, buffer, .. } => {
                if self.column > 0 {
                    buffer.push(b',');
                }
                csv::cell(&shapes[self.column], cell, scratch, buffer);
            }
            Book::Jsonl { keys, buffer, .. } => {
                buffer.extend_from_slice(&keys[self.column]);
                jsonl::value(cell, buffer);
            }
            Book::Xlsx(book) => book.cell(cell),
            Book::Unbegun => {}
        }
        self.column += 1;
    }

    fn end_row(&mut self) -> Result<()> {
        self.column = 0;
        self.rows += 1;
        if self.rows > self.order.max_rows {
            let most = self.order.max_rows;
            return Err(Error::permanent("report_too_many_rows", format!("the query gives more than {most} rows"))
                .hint("raise `max_rows`, or let the query give less"));
        }
        match &mut self.book {
            Book::Csv { pack, line, buffer, .. } => {
                // An empty line would be no row.
                if buffer.len() == *line {
                    buffer.extend_from_slice(b"\"\"");
                }
                buffer.push(b'\n');
                if buffer.len() >= PIECE {
                    pack.take(buffer)?;
                }
                *line = buffer.len();
            }
            Book::Jsonl { pack, buffer, .. } => {
                buffer.extend_from_slice(b"}\n");
                if buffer.len() >= PIECE {
                    pack.take(buffer)?;
                }
            }
            Book::Xlsx(book) => book.end_row()?,
            Book::Unbegun => {}
        }
        if self.rows.is_multiple_of(LOOK) {
            if self.broken.is() {
                return Err(Error::stopped("step_stopped", "nobody takes the report any more"));
            }
            if self.told.elapsed() < QUIET {
                return Ok(());
            }
            self.told = Instant::now();
            let left = self.expected.map(|expected| expected.min(self.order.max_rows));
            self.tell(left.filter(|expected| *expected > self.rows));
        }
        Ok(())
    }
}
