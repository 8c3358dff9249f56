//! The way from the thread that writes a report to the task that sends it to the store.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

/// How many bytes go on at once.
const PIECE: usize = 256 << 10;
/// How many such pieces may wait.
const WAITING: usize = 4;

/// Takes bytes and waits while the store is slower. What is left in it when it is dropped is lost: only
/// [`Pipe::finish`] sends the last piece.
pub struct Pipe {
    sender: mpsc::Sender<Bytes>,
    gathered: Vec<u8>,
    broken: Broken,
}

/// Whether nobody takes the bytes any more.
#[derive(Clone, Default)]
pub struct Broken(Arc<AtomicBool>);

impl Broken {
    /// Whether it is so.
    pub fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Pipe {
    /// A pipe and its other end.
    pub fn new() -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender, gathered: Vec::new(), broken: Broken::default() }, receiver)
    }

    /// Tells whether somebody still takes the bytes.
    pub fn broken(&self) -> Broken {
        self.broken.clone()
    }

    /// Takes a whole piece without copying it.
    pub fn send(&mut self, piece: Vec<u8>) {
        self.flush_gathered();
        self.pass(piece);
    }

    /// Sends what is left.
    pub fn finish(mut self) {
        self.flush_gathered();
    }

    fn flush_gathered(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        self.pass(gathered);
    }

    fn pass(&mut self, piece: Vec<u8>) {
        if !piece.is_empty() && !self.broken.is() && self.sender.blocking_send(Bytes::from(piece)).is_err() {
            self.broken.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Never fails: archives that are dropped would complain about it. Writers look at [`Pipe::broken`] instead.
impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE {
            let full = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE + (PIECE >> 2)));
            self.pass(full);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
