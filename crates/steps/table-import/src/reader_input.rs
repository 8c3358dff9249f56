//! Where the reader gets its bytes or rows: from the object store as they are, or through an archive.

use std::collections::VecDeque;
use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_tabular::read::unpack::{PackedCount, UnpackLimits, ZipFileArchive};
use afterload_tabular::read::xlsx::{RowShape, Workbook};

/// Bytes from the object store, or `None` at the end of the file.
pub type ByteChunk = Result<Option<Vec<Bytes>>>;

/// The input of the reader.
pub enum ReaderInput {
    /// The bytes of the file, from the place where the reader starts.
    Plain(mpsc::Receiver<ByteChunk>),
    /// The bytes of a gzip archive, from its start.
    Gzip(mpsc::Receiver<ByteChunk>, UnpackLimits),
    /// An entry of a zip archive.
    ZipEntry(Box<ZipFileArchive>, usize, UnpackLimits),
    /// The rows of a sheet.
    Sheet(Box<Workbook>, RowShape),
}

/// The bytes of the object store for a reader that waits for them.
pub struct FedBytes {
    fed: mpsc::Receiver<ByteChunk>,
    pieces: VecDeque<Bytes>,
    count: PackedCount,
    size: u64,
    ended: bool,
}

impl FedBytes {
    /// Reads what is fed, and counts it. `size` is the size of the file.
    pub fn new(fed: mpsc::Receiver<ByteChunk>, count: PackedCount, size: u64) -> Self {
        Self { fed, pieces: VecDeque::new(), count, size, ended: false }
    }
}

impl Read for FedBytes {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(piece) = self.pieces.front_mut() {
                let taken = piece.split_to(piece.len().min(into.len()));
                if piece.is_empty() {
                    self.pieces.pop_front();
                }
                if taken.is_empty() && !into.is_empty() {
                    continue;
                }
                into[..taken.len()].copy_from_slice(&taken);
                self.count.add(taken.len() as u64);
                return Ok(taken.len());
            }
            if self.ended {
                return Ok(0);
            }
            match self.fed.blocking_recv() {
                Some(Ok(Some(pieces))) => self.pieces.extend(pieces),
                Some(Ok(None)) => {
                    self.ended = true;
                    let read = self.count.get();
                    if read < self.size {
                        let message = format!("the source ended after {read} of {} bytes", self.size);
                        return Err(io::Error::other(Error::new(codes::SOURCE_TRUNCATED, message)));
                    }
                }
                Some(Err(error)) => return Err(io::Error::other(error)),
                // The import has ended, and nobody reads this.
                None => return Err(io::Error::other(Error::new(codes::STEP_STOPPED, "the step was asked to stop"))),
            }
        }
    }
}
