//! The blocking half of an import: bytes in, checked chunks out. It waits while the other side is busy.

use std::sync::mpsc as std_mpsc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::chunk::{Chunk, Ruled};
use super::decode::Decode;
use super::layout::Layout;
use super::parser::{Parser, Record};
use super::rejects::RejectFormat;
use afterload_core::error::{Error, Result};

/// What the store hands over: bytes, or `None` at the very end.
pub type Fed = Result<Option<Vec<Bytes>>>;

/// Everything that the reader needs.
pub struct Reader {
    /// What the file looks like.
    pub layout: Layout,
    /// The columns, in the order of the batch.
    pub rules: Vec<Ruled>,
    /// How rejected rows are written.
    pub format: RejectFormat,
    /// Rows per chunk.
    pub chunk: u64,
    /// The number of the last row that may be read.
    pub max_rows: u64,
    /// Rows that were read before.
    pub row: u64,
    /// The decoder, ready for the first bytes.
    pub decode: Decode,
    /// The parser, ready for the first decoded bytes.
    pub parser: Parser,
    /// The offset and line where the parser begins.
    pub from: (u64, u64),
    /// Bytes of the file that come before the first that is fed.
    pub read: u64,
    /// Bytes of the file in all.
    pub size: u64,
}

/// Why the reader stops before the end.
enum Stop {
    /// What is wrong with the file or its source.
    Fault(Error),
    /// The rows that were wanted have been read.
    Enough,
    /// Nobody listens any more.
    Deaf,
}

struct State<'a> {
    reader: &'a mut Reader,
    current: Chunk,
    record: Record,
    chunks: &'a mpsc::Sender<Result<Chunk>>,
    spare: &'a std_mpsc::Receiver<Chunk>,
}

impl Reader {
    /// Reads until the end, a fault, or until nobody listens. A fault of the file comes after the rows before it.
    pub fn run(
        mut self,
        mut fed: mpsc::Receiver<Fed>,
        chunks: &mpsc::Sender<Result<Chunk>>,
        spare: &std_mpsc::Receiver<Chunk>,
    ) {
        let current = Chunk::new(self.rules.len());
        let (from, read) = (self.from, self.read);
        let mut state = State { reader: &mut self, current, record: Record::default(), chunks, spare };
        state.mark(from, read);
        let stop = state.all(&mut fed);
        let sent = match stop {
            Stop::Deaf => Ok(()),
            Stop::Enough => state.send(true),
            // What the store failed to deliver is tried again from the last commit; the file's own faults stay.
            Stop::Fault(error) if error.is_transient() => chunks.blocking_send(Err(error)).map_err(|_| Stop::Deaf),
            Stop::Fault(error) => {
                state.send(false).and_then(|()| chunks.blocking_send(Err(error)).map_err(|_| Stop::Deaf))
            }
        };
        drop(sent);
    }
}

impl State<'_> {
    fn all(&mut self, fed: &mut mpsc::Receiver<Fed>) -> Stop {
        if self.reader.row >= self.reader.max_rows {
            return Stop::Enough;
        }
        loop {
            let done = match fed.blocking_recv() {
                None => Err(Stop::Deaf),
                Some(Err(error)) => Err(Stop::Fault(error)),
                Some(Ok(Some(pieces))) => pieces.iter().try_for_each(|bytes| {
                    self.reader.read += bytes.len() as u64;
                    self.bytes(bytes, false)
                }),
                Some(Ok(None)) => self.end(),
            };
            if let Err(stop) = done {
                return stop;
            }
        }
    }

    fn end(&mut self) -> Result<(), Stop> {
        let Reader { read, size, .. } = *self.reader;
        if read < size {
            let message = format!("the source ended after {read} of {size} bytes");
            return Err(Stop::Fault(Error::transient("source_truncated", message)));
        }
        self.bytes(&[], true)?;
        if self.reader.parser.finish(&mut self.record).map_err(Stop::Fault)? {
            self.row()?;
        }
        Err(Stop::Enough)
    }

    fn bytes(&mut self, bytes: &[u8], last: bool) -> Result<(), Stop> {
        // The decoder is lent out, so that the closure may use the rest.
        let idle = Decode::new(super::detect::Found { encoding: encoding_rs::UTF_8, mark: 0 }, 0).0;
        let mut decode = std::mem::replace(&mut self.reader.decode, idle);
        let done = decode.feed(bytes, last, |mut piece| {
            while self.reader.parser.read(&mut piece, &mut self.record).map_err(Stop::Fault)? {
                self.row()?;
            }
            Ok(())
        });
        self.reader.decode = decode;
        done
    }

    fn row(&mut self) -> Result<(), Stop> {
        let Reader { layout, rules, format, row, .. } = &mut *self.reader;
        *row += 1;
        self.record.drop_empty(layout.width);
        self.current.push(&self.record, *row, layout, rules, format);
        // For UTF-8 the offsets are those of the file; otherwise what has been fed is the best that is known.
        let utf8 = layout.found.encoding == encoding_rs::UTF_8;
        let read = if utf8 { self.record.end } else { self.reader.read };
        self.mark((self.record.end, self.reader.parser.line()), read);
        if self.reader.row >= self.reader.max_rows {
            return Err(Stop::Enough);
        }
        if self.current.is_full(self.reader.chunk) {
            self.send(false)?;
        }
        Ok(())
    }

    fn mark(&mut self, (offset, line): (u64, u64), read: u64) {
        (self.current.offset, self.current.line, self.current.read) = (offset, line, read);
    }

    fn send(&mut self, last: bool) -> Result<(), Stop> {
        let mut full = std::mem::take(&mut self.current);
        let (offset, line, read) = (full.offset, full.line, full.read);
        full.last = last;
        self.chunks.blocking_send(Ok(full)).map_err(|_| Stop::Deaf)?;
        // Only now: while it waited, a chunk may have come back.
        self.current = self.spare.try_recv().unwrap_or_else(|_| Chunk::new(self.reader.rules.len()));
        self.current.clear();
        self.mark((offset, line), read);
        Ok(())
    }
}
