//! The way from the thread that writes a report to the task that sends it to the store.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

/// How many bytes go on at once.
const PIPE_CHUNK_SIZE: usize = 256 << 10;
/// How many such pieces may wait.
const PIPE_CAPACITY: usize = 4;

/// Takes bytes and waits while the store is slower. What is left in it when it is dropped is lost: only
/// [`BytePipe::finish`] sends the last piece.
pub struct BytePipe {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
    closed: ReceiverClosed,
}

/// Whether nobody takes the bytes any more.
#[derive(Clone, Default)]
pub struct ReceiverClosed(Arc<AtomicBool>);

impl ReceiverClosed {
    /// Whether it is so.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl BytePipe {
    /// A pipe and its other end.
    pub fn new() -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(PIPE_CAPACITY);
        (Self { sender, buffer: Vec::new(), closed: ReceiverClosed::default() }, receiver)
    }

    /// Tells whether somebody still takes the bytes.
    pub fn receiver_closed(&self) -> ReceiverClosed {
        self.closed.clone()
    }

    /// Takes a whole piece without copying it.
    pub fn send_chunk(&mut self, piece: Vec<u8>) {
        self.flush_buffer();
        self.send_bytes(piece);
    }

    /// Sends what is left.
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

/// Never fails: archives that are dropped would complain about it. Writers look at [`ReceiverClosed`] instead.
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
