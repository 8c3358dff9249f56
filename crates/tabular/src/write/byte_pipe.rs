//! Sends bytes from the thread that writes a report to the task that uploads it.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Bytes per piece.
const PIPE_CHUNK_SIZE: usize = 256 << 10;
/// The maximum number of queued pieces.
const PIPE_CAPACITY: usize = 4;

/// Accepts bytes, and blocks while the upload is slower. Dropping it discards its buffer: only [`BytePipe::finish`]
/// sends the last piece.
pub struct BytePipe {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
    closed: ReceiverClosed,
}

/// Tells the writer whether the receiver is gone.
#[derive(Clone, Default)]
pub struct ReceiverClosed(Arc<AtomicBool>);

impl ReceiverClosed {
    /// True after the receiver has been dropped.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl BytePipe {
    /// Creates a pipe and its receiver.
    pub fn new() -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(PIPE_CAPACITY);
        (Self { sender, buffer: Vec::new(), closed: ReceiverClosed::default() }, receiver)
    }

    /// A flag that tells whether the receiver is gone.
    pub fn receiver_closed(&self) -> ReceiverClosed {
        self.closed.clone()
    }

    /// Sends a whole piece without a copy.
    pub fn send_chunk(&mut self, piece: Vec<u8>) {
        self.flush_buffer();
        self.send_bytes(piece);
    }

    /// Sends the rest of the buffer.
    pub fn finish(mut self) {
        self.flush_buffer();
    }

    fn flush_buffer(&mut self) {
        let gathered = std::mem::take(&mut self.buffer);
        self.send_bytes(gathered);
    }

    fn send_bytes(&mut self, piece: Vec<u8>) {
        if !piece.is_empty() && !self.closed.is_closed() && self.sender.blocking_send(Bytes::from(piece)).is_err() {
            self.closed.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Never fails, because a dropped archive would report the error. Writers check [`ReceiverClosed`] instead.
impl Write for BytePipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIPE_CHUNK_SIZE {
            let full =
                std::mem::replace(&mut self.buffer, Vec::with_capacity(PIPE_CHUNK_SIZE + (PIPE_CHUNK_SIZE >> 2)));
            self.send_bytes(full);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
