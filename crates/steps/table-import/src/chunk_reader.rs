//! The blocking half of an import: bytes in, checked chunks out. It waits while the other side is busy.

use std::sync::mpsc as std_mpsc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::chunk::{BoundColumn, ImportChunk};
use super::csv_format::CsvFormat;
use super::rejects::RejectFormat;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_tabular::read::csv_parser::{CsvParser, CsvRecord};
use afterload_tabular::read::detect::DetectedEncoding;
use afterload_tabular::read::utf8_decoder::Utf8Decoder;

/// What the store hands over: bytes, or `None` at the very end.
pub type ByteChunk = Result<Option<Vec<Bytes>>>;

/// Everything that the reader needs.
pub struct ChunkReader {
    /// What the file looks like.
    pub layout: CsvFormat,
    /// The columns, in the order of the batch.
    pub rules: Vec<BoundColumn>,
    /// How rejected rows are written.
    pub format: RejectFormat,
    /// Rows per chunk.
    pub chunk: u64,
    /// The number of the last row that may be read.
    pub max_rows: u64,
    /// Rows that were read before.
    pub row: u64,
    /// The decoder, ready for the first bytes.
    pub decode: Utf8Decoder,
    /// The parser, ready for the first decoded bytes.
    pub parser: CsvParser,
    /// The offset and line where the parser begins.
    pub from: (u64, u64),
    /// Bytes of the file that come before the first that is fed.
    pub read: u64,
    /// Bytes of the file in all.
    pub size: u64,
}

/// Why the reader stops before the end.
enum StopReason {
    /// What is wrong with the file or its source.
    Error(Error),
    /// The rows that were wanted have been read.
    Done,
    /// Nobody listens any more.
    Disconnected,
}

struct ReaderState<'a> {
    reader: &'a mut ChunkReader,
    current: ImportChunk,
    record: CsvRecord,
    chunks: &'a mpsc::Sender<Result<ImportChunk>>,
    spare: &'a std_mpsc::Receiver<ImportChunk>,
}

impl ChunkReader {
    /// Reads until the end, a fault, or until nobody listens. A fault of the file comes after the rows before it.
    pub fn run(
        mut self,
        mut fed: mpsc::Receiver<ByteChunk>,
        chunks: &mpsc::Sender<Result<ImportChunk>>,
        spare: &std_mpsc::Receiver<ImportChunk>,
    ) {
        let current = ImportChunk::new(self.rules.len());
        let (from, read) = (self.from, self.read);
        let mut state = ReaderState { reader: &mut self, current, record: CsvRecord::default(), chunks, spare };
        state.set_position(from.0, from.1, read);
        let stop = state.read_all(&mut fed);
        let sent = match stop {
            StopReason::Disconnected => Ok(()),
            StopReason::Done => state.send_chunk(true),
            // What the store failed to deliver is tried again from the last commit; the file's own faults stay.
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
        if self.reader.row >= self.reader.max_rows {
            return StopReason::Done;
        }
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
        if self.reader.parser.finish(&mut self.record).map_err(StopReason::Error)? {
            self.add_row()?;
        }
        Err(StopReason::Done)
    }

    fn read_bytes(&mut self, bytes: &[u8], last: bool) -> Result<(), StopReason> {
        // The decoder is lent out, so that the closure may use the rest.
        let idle = Utf8Decoder::new(DetectedEncoding { encoding: encoding_rs::UTF_8, bom_len: 0 }, 0).0;
        let mut decode = std::mem::replace(&mut self.reader.decode, idle);
        let done = decode.decode_chunk(bytes, last, |mut piece| {
            while self.reader.parser.read_record(&mut piece, &mut self.record).map_err(StopReason::Error)? {
                self.add_row()?;
            }
            Ok(())
        });
        self.reader.decode = decode;
        done
    }

    fn add_row(&mut self) -> Result<(), StopReason> {
        let ChunkReader { layout, rules, format, row, .. } = &mut *self.reader;
        *row += 1;
        self.record.drop_trailing_empty(layout.width);
        self.current.push_record(&self.record, *row, layout, rules, format);
        // For UTF-8 the offsets are those of the file; otherwise what has been fed is the best that is known.
        let utf8 = layout.encoding.encoding == encoding_rs::UTF_8;
        let read = if utf8 { self.record.end } else { self.reader.read };
        self.set_position(self.record.end, self.reader.parser.current_line(), read);
        if self.reader.row >= self.reader.max_rows {
            return Err(StopReason::Done);
        }
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
        // Only now: while it waited, a chunk may have come back.
        self.current = self.spare.try_recv().unwrap_or_else(|_| ImportChunk::new(self.reader.rules.len()));
        self.current.clear();
        self.set_position(offset, line, read);
        Ok(())
    }
}
