//! Request bodies that fail if they arrive too slowly, and response bodies that end their request.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use crate::HttpTimeouts;
use crate::activity::BusyGuard;
use crate::guarded_io::DeadlineTimer;

type BoxError = Box<dyn Error + Send + Sync>;

/// The error of a body that arrives too slowly.
#[derive(Debug)]
pub struct SlowBodyError(());

impl fmt::Display for SlowBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body arrives too slowly")
    }
}

impl Error for SlowBodyError {}

impl SlowBodyError {
    /// True if `error` is or wraps this error.
    pub fn is_cause_of(error: &(dyn Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.is::<Self>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// The body of a request. It fails with [`SlowBodyError`] if it arrives too slowly. Only the time counts in which the
/// service waits for the client.
pub struct RequestBody {
    body: Incoming,
    rate: RateWindow,
    timer: DeadlineTimer,
    failed: bool,
}

/// How much has arrived, and how long the service has waited for it.
struct RateWindow {
    min_bytes: u64,
    length: Duration,
    bytes: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
}

impl RateWindow {
    fn new(timeouts: &HttpTimeouts) -> Self {
        let min_bytes = (timeouts.body_rate as f64 * timeouts.body_window.as_secs_f64()).ceil() as u64;
        Self { min_bytes, length: timeouts.body_window, bytes: 0, waited: Duration::ZERO, waiting_since: None }
    }

    /// The end of this window if nothing arrives; `None` without a minimum rate.
    fn begin_wait(&mut self, now: Instant) -> Option<Instant> {
        let since = *self.waiting_since.get_or_insert(now);
        (self.min_bytes > 0).then(|| since + self.length.saturating_sub(self.waited))
    }

    fn end_wait(&mut self, now: Instant) {
        self.waited += self.waiting_since.take().map_or(Duration::ZERO, |since| now.duration_since(since));
    }

    /// True if a window has ended with too few bytes. Begins the next one if there were enough.
    fn is_too_slow(&mut self) -> bool {
        if self.min_bytes == 0 || self.waited < self.length {
            return false;
        }
        let slow = self.bytes < self.min_bytes;
        (self.bytes, self.waited) = (0, Duration::ZERO);
        slow
    }
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, timeouts: &HttpTimeouts) -> Self {
        Self { body, rate: RateWindow::new(timeouts), timer: DeadlineTimer::default(), failed: false }
    }

    fn fail<T>(&mut self) -> Poll<Option<Result<T, BoxError>>> {
        self.failed = true;
        Poll::Ready(Some(Err(SlowBodyError(()).into())))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.failed {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                while let Some(deadline) = this.rate.begin_wait(Instant::now()) {
                    ready!(this.timer.poll_deadline(cx, deadline));
                    this.rate.end_wait(Instant::now());
                    if this.rate.is_too_slow() {
                        return this.fail();
                    }
                }
                return Poll::Pending;
            }
        };
        this.rate.end_wait(Instant::now());
        let size = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        this.rate.bytes += size as u64;
        if frame.is_some() && this.rate.is_too_slow() {
            return this.fail();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response. Its request ends with it.
pub(crate) struct ResponseBody<B> {
    body: Pin<Box<B>>,
    _busy: BusyGuard,
}

impl<B> ResponseBody<B> {
    pub(crate) fn new(body: B, busy: BusyGuard) -> Self {
        Self { body: Box::pin(body), _busy: busy }
    }
}

impl<B: Body> Body for ResponseBody<B>
where
    B::Data: Buf,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: HttpTimeouts = HttpTimeouts {
        header: Duration::ZERO,
        idle: Duration::ZERO,
        body_rate: 1024,
        body_window: Duration::from_secs(30),
        write: Duration::ZERO,
    };

    #[test]
    fn only_the_wait_for_the_client_counts() {
        let (mut window, start) = (RateWindow::new(&TIMEOUTS), Instant::now());
        let second = Duration::from_secs(1);
        // The service itself pauses for an hour between two reads.
        assert_eq!(window.begin_wait(start), Some(start + 30 * second));
        window.end_wait(start + 20 * second);
        let later = start + 3600 * second;
        assert_eq!(window.begin_wait(later), Some(later + 10 * second));
        window.bytes += 30 * 1024;
        window.end_wait(later + 10 * second);
        assert!(!window.is_too_slow(), "it had the minimum rate");
        window.begin_wait(later);
        window.bytes += 30 * 1024 - 1;
        window.end_wait(later + 29 * second);
        assert!(!window.is_too_slow(), "the window has not ended");
        window.begin_wait(later);
        window.end_wait(later + second);
        assert!(window.is_too_slow());
    }

    #[test]
    fn no_rate_sets_no_limit() {
        let mut window = RateWindow::new(&HttpTimeouts { body_rate: 0, ..TIMEOUTS });
        let start = Instant::now();
        assert_eq!(window.begin_wait(start), None);
        window.end_wait(start + Duration::from_secs(3600));
        assert!(!window.is_too_slow());
    }
}
