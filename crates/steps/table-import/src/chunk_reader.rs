//! The blocking half of an import: reads bytes and sends checked chunks. It waits while the writer is busy.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::mpsc as std_mpsc;

use flate2::read::MultiGzDecoder;
use tokio::sync::mpsc;

use super::chunk::{BoundColumn, ImportChunk};
use super::csv_format::CsvFormat;
use super::reader_input::{ByteChunk, FedBytes, ReaderInput};
use super::record_parser::RecordParser;
use super::rejects::{NOTE_CODES, RejectFormat};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_tabular::read::csv_parser::CsvRecord;
use afterload_tabular::read::unpack::{PackedCount, UnpackedReader, open_entry, unpack_error};
use afterload_tabular::read::utf8_decoder::Utf8Decoder;
use afterload_tabular::read::xlsx::{RowShape, Workbook};

/// Unpacked bytes that are parsed at once.
const UNPACK_BUFFER_SIZE: usize = 64 << 10;

/// The settings and start position of the reader.
pub struct ChunkReader {
    /// The format of the file.
    pub layout: CsvFormat,
    /// The columns, in the order of the batch.
    pub rules: Vec<BoundColumn>,
    /// The format of rejected rows.
    pub format: RejectFormat,
    /// Rows per chunk.
    pub chunk: u64,
    /// The number of the last row to read.
    pub max_rows: u64,
    /// The number of records at the end of the file that are no rows.
    pub skip_footer: usize,
    /// Rows that earlier attempts have read.
    pub row: u64,
    /// The decoder, ready for the first bytes.
    pub decode: Utf8Decoder,
    /// The parser, ready for the first decoded bytes.
    pub parser: RecordParser,
    /// The offset and line at which the parser starts.
    pub from: (u64, u64),
    /// Bytes of the file, or of the text in an archive, before the first byte that is read.
    pub read: u64,
    /// The size of the file in bytes.
    pub size: u64,
    /// Whether positions in the text are none in the file, because it is an archive.
    pub packed: bool,
}

/// The reason why the reader stops early.
enum StopReason {
    /// The source has an error.
    Error(Error),
    /// The file has ended, or the requested number of rows has been read.
    Done,
    /// The receiver of the chunks is gone.
    Disconnected,
}

struct ReaderState<'a> {
    reader: &'a mut ChunkReader,
    current: ImportChunk,
    record: CsvRecord,
    /// The last records, which may belong to the footer.
    held: VecDeque<HeldRecord>,
    /// Records whose memory can be used again.
    unused: Vec<CsvRecord>,
    /// Blank rows before the next record.
    blank: u64,
    chunks: &'a mpsc::Sender<Result<ImportChunk>>,
    spare: &'a std_mpsc::Receiver<ImportChunk>,
}

/// A record, and the position after it.
struct HeldRecord {
    record: CsvRecord,
    next_line: u64,
    read: u64,
    blank: u64,
}

impl ChunkReader {
    /// Reads until the end, an error, or a closed receiver. An error in the file is sent after the rows before it.
    pub fn run(
        mut self,
        input: ReaderInput,
        chunks: &mpsc::Sender<Result<ImportChunk>>,
        spare: &std_mpsc::Receiver<ImportChunk>,
    ) {
        let current = ImportChunk::new(self.rules.len());
        let (from, read) = (self.from, if self.packed { 0 } else { self.read });
        let mut state = ReaderState {
            reader: &mut self,
            current,
            record: CsvRecord::default(),
            held: VecDeque::new(),
            unused: Vec::new(),
            blank: 0,
            chunks,
            spare,
        };
        state.set_position(from.0, from.1, read);
        let stop = match input {
            ReaderInput::Plain(mut fed) => state.read_all(&mut fed),
            ReaderInput::Gzip(fed, limits) => {
                let (count, size) = (PackedCount::default(), state.reader.size);
                let packed = FedBytes::new(fed, count.clone(), size);
                let unpacked = UnpackedReader::new(MultiGzDecoder::new(packed), limits, count.clone());
                state.read_unpacked(unpacked, |_| count.get())
            }
            ReaderInput::ZipEntry(mut archive, index, limits) => {
                let total = archive.by_index(index).map_or(0, |entry| entry.size());
                let size = state.reader.size;
                match open_entry(&mut archive, index, limits) {
                    Ok(entry) => state.read_unpacked(entry, |unpacked| scale_position(unpacked, total, size)),
                    Err(error) => StopReason::Error(error),
                }
            }
            ReaderInput::Sheet(mut book, shape) => state.read_sheet(&mut book, shape),
        };
        let sent = match stop {
            StopReason::Disconnected => Ok(()),
            StopReason::Done => state.send_chunk(true),
            // A retry starts at the last commit, so the rows before a transient error are not sent.
            StopReason::Error(error) if error.is_transient() => {
                chunks.blocking_send(Err(error)).map_err(|_| StopReason::Disconnected)
            }
            StopReason::Error(error) => state
                .send_chunk(false)
                .and_then(|()| chunks.blocking_send(Err(error)).map_err(|_| StopReason::Disconnected)),
        };
        drop(sent);
    }
}

impl ReaderState<'_> {
    fn read_all(&mut self, fed: &mut mpsc::Receiver<ByteChunk>) -> StopReason {
        loop {
            let done = match fed.blocking_recv() {
                None => Err(StopReason::Disconnected),
                Some(Err(error)) => Err(StopReason::Error(error)),
                Some(Ok(Some(pieces))) => pieces.iter().try_for_each(|bytes| {
                    self.reader.read += bytes.len() as u64;
                    self.read_bytes(bytes, false)
                }),
                Some(Ok(None)) => self.finish_input(),
            };
            if let Err(stop) = done {
                return stop;
            }
        }
    }

    /// Reads the text in an archive. It is unpacked from its start, and what earlier attempts have read is skipped.
    /// `position` converts a number of unpacked bytes to one of the file.
    fn read_unpacked<R: Read>(&mut self, mut unpacked: UnpackedReader<R>, position: impl Fn(u64) -> u64) -> StopReason {
        let mut skip = self.reader.read;
        let mut buffer = vec![0; UNPACK_BUFFER_SIZE];
        loop {
            let done = match unpacked.read(&mut buffer) {
                // Skipping may take long, and nobody may wait for the rows any more.
                _ if self.chunks.is_closed() => Err(StopReason::Disconnected),
                Ok(0) => self.finish_text(),
                Ok(count) => {
                    let skipped = skip.min(count as u64);
                    skip -= skipped;
                    self.reader.read = position(unpacked.unpacked());
                    self.read_bytes(&buffer[skipped as usize..count], false)
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
                Err(error) => Err(StopReason::Error(unpack_error(&error))),
            };
            if let Err(stop) = done {
                return stop;
            }
        }
    }

    /// Reads the rows of a sheet behind those that earlier attempts have read.
    fn read_sheet(&mut self, book: &mut Workbook, shape: RowShape) -> StopReason {
        let (before, size, total) = (self.reader.from.0, self.reader.size, book.sheet_size);
        let mut rows = match book.open_rows(shape) {
            Ok(rows) => rows,
            Err(error) => return StopReason::Error(error),
        };
        loop {
            match rows.read_row(&mut self.record) {
                Ok(true) if self.record.line <= before => {
                    if self.chunks.is_closed() {
                        return StopReason::Disconnected;
                    }
                }
                Ok(true) => {
                    self.reader.read = scale_position(rows.unpacked(), total, size);
                    if let Err(stop) = self.add_record(self.record.line + 1) {
                        return stop;
                    }
                }
                Ok(false) => {
                    self.count_blanks();
                    return StopReason::Done;
                }
                Err(error) => return StopReason::Error(error),
            }
        }
    }

    fn finish_input(&mut self) -> Result<(), StopReason> {
        let ChunkReader { read, size, .. } = *self.reader;
        if read < size {
            let message = format!("the source ended after {read} of {size} bytes");
            return Err(StopReason::Error(Error::new(codes::SOURCE_TRUNCATED, message)));
        }
        self.finish_text()
    }

    fn finish_text(&mut self) -> Result<(), StopReason> {
        self.read_bytes(&[], true)?;
        while self.reader.parser.finish(&mut self.record) {
            self.add_parsed_record()?;
        }
        self.count_blanks();
        Err(StopReason::Done)
    }

    /// Counts the blank rows behind the last row.
    fn count_blanks(&mut self) {
        let held = self.held.iter().map(|held| held.blank).sum::<u64>();
        self.current.blank += held + self.blank + self.reader.parser.take_blank_lines();
    }

    fn read_bytes(&mut self, bytes: &[u8], last: bool) -> Result<(), StopReason> {
        // The closure below borrows the other fields, so the decoder is moved out and put back.
        let mut decode = std::mem::take(&mut self.reader.decode);
        let done = decode.decode_chunk(bytes, last, |mut piece| {
            while self.reader.parser.read_record(&mut piece, &mut self.record) {
                self.add_parsed_record()?;
            }
            Ok(())
        });
        self.reader.decode = decode;
        done
    }

    /// Adds the record that the parser has just read.
    fn add_parsed_record(&mut self) -> Result<(), StopReason> {
        let parser = &mut self.reader.parser;
        self.blank += parser.take_blank_lines();
        let next_line = parser.current_line();
        self.add_record(next_line)
    }

    /// Adds the record that was just read, or holds it back because it may belong to the footer.
    fn add_record(&mut self, next_line: u64) -> Result<(), StopReason> {
        let ChunkReader { layout, read, skip_footer, .. } = &mut *self.reader;
        if is_no_row(&self.record, layout) {
            self.blank += 1;
            return Ok(());
        }
        let (read, blank) = (*read, std::mem::take(&mut self.blank));
        if *skip_footer == 0 {
            return self.add_row(next_line, read, blank);
        }
        let record = std::mem::replace(&mut self.record, self.unused.pop().unwrap_or_default());
        self.held.push_back(HeldRecord { record, next_line, read, blank });
        if self.held.len() <= *skip_footer {
            return Ok(());
        }
        let Some(HeldRecord { record, next_line, read, blank }) = self.held.pop_front() else { return Ok(()) };
        self.unused.push(std::mem::replace(&mut self.record, record));
        self.add_row(next_line, read, blank)
    }

    /// Adds `self.record` as a row.
    fn add_row(&mut self, next_line: u64, read: u64, blank: u64) -> Result<(), StopReason> {
        let ChunkReader { layout, rules, format, row, max_rows, packed, .. } = &mut *self.reader;
        // Only the next row shows that the file has more of them.
        if *row >= *max_rows {
            self.current.cut = true;
            return Err(StopReason::Done);
        }
        *row += 1;
        self.record.drop_trailing_empty(layout.width);
        if layout.pad_short && layout.data_fields.is_none() && self.record.fault.is_none() {
            self.record.pad_fields(layout.width);
        }
        self.current.blank += blank;
        self.current.push_record(&self.record, *row, layout, rules, format);
        // UTF-8 offsets equal file offsets. For other encodings, the bytes fed so far are the best estimate.
        let read = if layout.encoding.encoding.is_utf8() && !*packed { self.record.end } else { read };
        self.set_position(self.record.end, next_line, read);
        if self.current.is_full(self.reader.chunk) {
            self.send_chunk(false)?;
        }
        Ok(())
    }

    fn set_position(&mut self, offset: u64, line: u64, read: u64) {
        (self.current.offset, self.current.line, self.current.read) = (offset, line, read);
    }

    fn send_chunk(&mut self, last: bool) -> Result<(), StopReason> {
        let mut full = std::mem::take(&mut self.current);
        let (offset, line, read) = (full.offset, full.line, full.read);
        full.last = last;
        self.chunks.blocking_send(Ok(full)).map_err(|_| StopReason::Disconnected)?;
        // Look for a spare chunk only now: one may have come back while the send blocked.
        self.current = self.spare.try_recv().unwrap_or_else(|_| ImportChunk::new(self.reader.rules.len()));
        self.current.clear();
        self.set_position(offset, line, read);
        Ok(())
    }
}

/// The position in a file that is this far unpacked.
fn scale_position(unpacked: u64, total: u64, size: u64) -> u64 {
    match total {
        0 => 0,
        _ => (u128::from(unpacked.min(total)) * u128::from(size) / u128::from(total)) as u64,
    }
}

/// Whether a record is blank, or a note that one of our error files ends with.
fn is_no_row(record: &CsvRecord, layout: &CsvFormat) -> bool {
    let (Some(data), Some((code, _))) = (&layout.data_fields, layout.error_fields) else {
        return layout.skip_blank && record.is_blank();
    };
    let field = |at: usize| record.iter_fields().nth(at).unwrap_or_default();
    if record.ends.len() != layout.width || data.iter().any(|at| !field(*at).trim_ascii().is_empty()) {
        return false;
    }
    layout.skip_blank && field(code).is_empty() || NOTE_CODES.iter().any(|known| known.name().as_bytes() == field(code))
}

#[cfg(test)]
mod tests;
