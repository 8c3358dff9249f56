//! A stream that fails when its peer neither sends a request nor reads a response in time.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::HttpTimeouts;
use crate::activity::Activity;

/// A timer that is set again and again without a new allocation.
#[derive(Default)]
pub(crate) struct DeadlineTimer(Option<Pin<Box<Sleep>>>);

impl DeadlineTimer {
    /// Ready once the deadline has passed. Otherwise the task is woken then.
    pub(crate) fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}

pub(crate) struct GuardedIo {
    stream: TcpStream,
    activity: Activity,
    timeouts: HttpTimeouts,
    read_timer: DeadlineTimer,
    write_timer: DeadlineTimer,
    /// Since when a write has made no progress.
    stalled_since: Option<Instant>,
}

impl GuardedIo {
    pub(crate) fn new(stream: TcpStream, activity: Activity, timeouts: HttpTimeouts) -> Self {
        let (read_timer, write_timer) = Default::default();
        Self { stream, activity, timeouts, read_timer, write_timer, stalled_since: None }
    }

    fn guard_write(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.activity.record_write();
            if self.stalled_since.take().is_some() {
                self.activity.wake_reader();
            }
            return written;
        }
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        match self.write_timer.poll_deadline(cx, since + self.timeouts.write) {
            Poll::Ready(()) => Poll::Ready(Err(timed_out("the client does not read its response"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn timed_out(message: &str) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, message)
}

impl AsyncRead for GuardedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let filled = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_ready() {
            if buffer.filled().len() > filled {
                this.activity.record_read();
            }
            return read;
        }
        // While the end of a response waits for the client, the write timeout decides.
        let deadline = this.activity.read_deadline(&this.timeouts).filter(|_| this.stalled_since.is_none());
        let Some(deadline) = deadline else {
            this.activity.park_reader(cx.waker());
            return Poll::Pending;
        };
        match this.read_timer.poll_deadline(cx, deadline) {
            Poll::Ready(()) => Poll::Ready(Err(timed_out("the client sends no request"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for GuardedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.guard_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.guard_write(cx, written)
    }

    // Without it, hyper would copy the parts of a response together.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
