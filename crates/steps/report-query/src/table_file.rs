//! Writes one file of a report, in its format.

use super::file_name::ReportName;
use super::options::{ReportCompression, ReportFormat};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_tabular::write::byte_pipe::BytePipe;
use afterload_tabular::write::compression::CompressedOutput;
use afterload_tabular::write::csv_style::{CsvStyle, StyledCsv};
use afterload_tabular::write::local_times::LocalTimes;
use afterload_tabular::write::xlsx::{SheetLayout, XlsxWriter};
use afterload_tabular::write::{ColumnDisplay, csv, jsonl};
use afterload_target_db::CellType;

/// Bytes that are collected before compression. The boundaries of the pieces depend on the rows only, so compression
/// gives the same bytes each time.
const COMPRESS_BUFFER_SIZE: usize = 512 << 10;

/// The form of the files of a report.
#[derive(Clone)]
pub struct FileLayout {
    /// The format.
    pub format: ReportFormat,
    /// The compression.
    pub compress: ReportCompression,
    /// The style of a CSV; `None` for the default one.
    pub csv: Option<CsvStyle>,
    /// Converts times to a time zone.
    pub times: Option<LocalTimes>,
}

/// A file that is being written.
pub enum TableFile {
    /// CSV in the default style.
    Csv { pack: CompressedOutput, columns: Vec<ColumnDisplay>, line: usize, scratch: Vec<u8>, buffer: Vec<u8> },
    /// CSV in another style.
    StyledCsv { pack: CompressedOutput, table: Box<StyledCsv>, buffer: Vec<u8> },
    /// JSON Lines, or a list of JSON.
    Json { pack: CompressedOutput, keys: Vec<Vec<u8>>, times: Option<ColumnTimes>, list: JsonList, buffer: Vec<u8> },
    /// A workbook.
    Xlsx { book: Box<XlsxWriter>, times: Option<ColumnTimes> },
}

/// Converts the times of columns.
pub struct ColumnTimes {
    columns: Vec<ColumnDisplay>,
    times: LocalTimes,
}

/// Whether the objects stand in a list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum JsonList {
    /// No: JSON Lines.
    None,
    /// Yes, and it has no object yet.
    Empty,
    /// Yes, and the buffer ends with the separator behind an object.
    Open,
}

impl TableFile {
    /// Starts a file with these columns. `names` are their names in the query.
    ///
    /// # Errors
    /// `report_columns_repeated`, `report_cell_too_large` for a title, `report_failed`.
    pub fn start(
        layout: &FileLayout,
        sheet: SheetLayout,
        names: &[String],
        columns: &[ColumnDisplay],
        name: &ReportName,
        pipe: BytePipe,
    ) -> Result<Self> {
        let pack = |pipe| match layout.compress {
            ReportCompression::None => Ok(CompressedOutput::Plain(pipe)),
            ReportCompression::Gzip => Ok(CompressedOutput::new_gzip(pipe)),
            ReportCompression::Zip => CompressedOutput::new_zip(pipe, &name.entry_name()),
        };
        let times = layout.times.clone().map(|times| ColumnTimes { columns: columns.to_vec(), times });
        let mut buffer = Vec::with_capacity(COMPRESS_BUFFER_SIZE + (COMPRESS_BUFFER_SIZE >> 2));
        Ok(match (layout.format, &layout.csv) {
            (ReportFormat::Csv, None) => {
                csv::write_header(columns, &mut buffer);
                let line = buffer.len();
                Self::Csv { pack: pack(pipe)?, columns: columns.to_vec(), line, scratch: Vec::new(), buffer }
            }
            (ReportFormat::Csv, Some(style)) => {
                let table = StyledCsv::new(style.clone(), layout.times.clone(), columns.to_vec(), &mut buffer);
                Self::StyledCsv { pack: pack(pipe)?, table: Box::new(table), buffer }
            }
            (ReportFormat::Jsonl, _) => {
                let keys = jsonl::encode_keys(names)?;
                Self::Json { keys, pack: pack(pipe)?, times, list: JsonList::None, buffer }
            }
            (ReportFormat::Json, _) => {
                let keys = jsonl::encode_keys(names)?;
                buffer.extend_from_slice(b"[\n");
                Self::Json { keys, pack: pack(pipe)?, times, list: JsonList::Empty, buffer }
            }
            (ReportFormat::Xlsx, _) => {
                let mut book = XlsxWriter::new(pipe)?;
                book.start_table(sheet, columns)?;
                Self::Xlsx { book: Box::new(book), times }
            }
        })
    }

    /// Starts the next sheet of a workbook.
    ///
    /// # Errors
    /// `report_cell_too_large` for a title, `report_failed`.
    pub fn start_sheet(&mut self, sheet: SheetLayout, columns: &[ColumnDisplay]) -> Result<()> {
        let Self::Xlsx { book, times } = self else {
            return Err(Error::new(codes::INTERNAL_ERROR, "only a workbook has several sheets"));
        };
        if let Some(times) = times {
            times.columns = columns.to_vec();
        }
        book.start_table(sheet, columns)
    }

    /// Writes the cell of a column.
    #[inline]
    pub fn write_cell(&mut self, column: usize, cell: Option<(CellType, &[u8])>) {
        match self {
            Self::Csv { columns, scratch, buffer, .. } => {
                if column > 0 {
                    buffer.push(b',');
                }
                csv::write_cell(&columns[column], cell, scratch, buffer);
            }
            Self::StyledCsv { table, buffer, .. } => table.write_cell(column, cell, buffer),
            Self::Json { keys, times, buffer, .. } => {
                buffer.extend_from_slice(&keys[column]);
                jsonl::write_value(convert_times(times, column, cell, true), buffer);
            }
            Self::Xlsx { book, times } => book.write_cell(convert_times(times, column, cell, false)),
        }
    }

    /// Ends the row.
    ///
    /// # Errors
    /// `report_cell_too_large`, or `report_failed` if the output exceeds a limit of the format.
    #[inline]
    pub fn end_row(&mut self) -> Result<()> {
        match self {
            Self::Csv { pack, line, buffer, .. } => {
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
            Self::StyledCsv { pack, table, buffer } => {
                table.end_row(buffer);
                if buffer.len() >= COMPRESS_BUFFER_SIZE {
                    pack.write_buffer(buffer)?;
                    table.buffer_emptied();
                }
            }
            Self::Json { pack, list: JsonList::None, buffer, .. } => {
                buffer.extend_from_slice(b"}\n");
                if buffer.len() >= COMPRESS_BUFFER_SIZE {
                    pack.write_buffer(buffer)?;
                }
            }
            Self::Json { pack, list, buffer, .. } => {
                buffer.push(b'}');
                if buffer.len() >= COMPRESS_BUFFER_SIZE {
                    pack.write_buffer(buffer)?;
                }
                // It stays in the buffer, so that the end of the list can take it back.
                buffer.extend_from_slice(b",\n");
                *list = JsonList::Open;
            }
            Self::Xlsx { book, .. } => book.end_row()?,
        }
        Ok(())
    }

    /// How many texts were cut because no cell can hold them.
    pub fn cut_cells(&self) -> u64 {
        match self {
            Self::Xlsx { book, .. } => book.cut_cells(),
            Self::Csv { .. } | Self::StyledCsv { .. } | Self::Json { .. } => 0,
        }
    }

    /// Completes the file.
    ///
    /// # Errors
    /// `report_failed` if the output exceeds a limit of the format.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Csv { mut pack, mut buffer, .. } | Self::StyledCsv { mut pack, mut buffer, .. } => {
                pack.write_buffer(&mut buffer)?;
                pack.finish()
            }
            Self::Json { mut pack, list, mut buffer, .. } => {
                match list {
                    JsonList::None => {}
                    JsonList::Empty => buffer.extend_from_slice(b"]\n"),
                    JsonList::Open => {
                        buffer.truncate(buffer.len() - b",\n".len());
                        buffer.extend_from_slice(b"\n]\n");
                    }
                }
                pack.write_buffer(&mut buffer)?;
                pack.finish()
            }
            Self::Xlsx { book, .. } => book.finish(),
        }
    }
}

fn convert_times<'a>(
    times: &'a mut Option<ColumnTimes>,
    column: usize,
    cell: Option<(CellType, &'a [u8])>,
    with_offset: bool,
) -> Option<(CellType, &'a [u8])> {
    match (times, cell) {
        (Some(ColumnTimes { columns, times }), Some((kind, value))) => {
            Some((kind, times.convert_cell(&columns[column], kind, value, with_offset)))
        }
        (_, cell) => cell,
    }
}
