//! The blocking half of an import: reads bytes and sends checked chunks. It waits while the writer is busy.

use std::collections::VecDeque;
use std::sync::mpsc as std_mpsc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::chunk::{BoundColumn, ImportChunk};
use super::csv_format::CsvFormat;
use super::rejects::{NOTE_CODES, RejectFormat};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_tabular::read::csv_parser::{CsvParser, CsvRecord};
use afterload_tabular::read::utf8_decoder::Utf8Decoder;

/// Bytes from the object store, or `None` at the end of the file.
pub type ByteChunk = Result<Option<Vec<Bytes>>>;

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
    pub parser: CsvParser,
    /// The offset and line at which the parser starts.
    pub from: (u64, u64),
    /// Bytes of the file before the first byte that is fed.
    pub read: u64,
    /// The size of the file in bytes.
    pub size: u64,
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
        mut fed: mpsc::Receiver<ByteChunk>,
        chunks: &mpsc::Sender<Result<ImportChunk>>,
        spare: &std_mpsc::Receiver<ImportChunk>,
    ) {
        let current = ImportChunk::new(self.rules.len());
        let (from, read) = (self.from, self.read);
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
        let stop = state.read_all(&mut fed);
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

    fn finish_input(&mut self) -> Result<(), StopReason> {
        let ChunkReader { read, size, .. } = *self.reader;
        if read < size {
            let message = format!("the source ended after {read} of {size} bytes");
            return Err(StopReason::Error(Error::new(codes::SOURCE_TRUNCATED, message)));
        }
        self.read_bytes(&[], true)?;
        while self.reader.parser.finish(&mut self.record) {
            self.add_record()?;
        }
        let held = self.held.iter().map(|held| held.blank).sum::<u64>();
        self.current.blank += held + self.blank + self.reader.parser.take_blank_lines();
        Err(StopReason::Done)
    }

    fn read_bytes(&mut self, bytes: &[u8], last: bool) -> Result<(), StopReason> {
        // The closure below borrows the other fields, so the decoder is moved out and put back.
        let mut decode = std::mem::take(&mut self.reader.decode);
        let done = decode.decode_chunk(bytes, last, |mut piece| {
            while self.reader.parser.read_record(&mut piece, &mut self.record) {
                self.add_record()?;
            }
            Ok(())
        });
        self.reader.decode = decode;
        done
    }

    /// Adds the record that was just read, or holds it back because it may belong to the footer.
    fn add_record(&mut self) -> Result<(), StopReason> {
        let ChunkReader { layout, parser, read, skip_footer, .. } = &mut *self.reader;
        self.blank += parser.take_blank_lines();
        if is_no_row(&self.record, layout) {
            self.blank += 1;
            return Ok(());
        }
        let (next_line, read, blank) = (parser.current_line(), *read, std::mem::take(&mut self.blank));
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
        let ChunkReader { layout, rules, format, row, max_rows, .. } = &mut *self.reader;
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
        let read = if layout.encoding.encoding.is_utf8() { self.record.end } else { read };
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
