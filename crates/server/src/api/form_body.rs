//! The body of a form on its way to the parser, in limited amounts.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};

use super::extract::body_error;
use crate::codes;
use afterload_core::error::{Error, Result};

/// Smaller chunks are joined. The parser searches all that it holds again after each chunk, so that a head that arrives
/// byte by byte would take work in the square of its size.
const MIN_CHUNK_BYTES: usize = 8 << 10;
/// How much of a rejected form is still read, and for how long, so that the client receives the response.
const MAX_DRAIN_BYTES: usize = 16 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// The body of a form, which the parser reads and of which the rest is thrown away after an error.
pub(super) struct FormBody {
    stream: Mutex<BodyDataStream>,
    /// How many bytes the parser may still get until [`Self::allow`] is called again.
    allowance: AtomicU64,
}

impl FormBody {
    pub(super) fn new(body: Body, allowance: u64) -> Arc<Self> {
        Arc::new(Self { stream: Mutex::new(body.into_data_stream()), allowance: AtomicU64::new(allowance) })
    }

    /// Sets how many bytes the parser gets from now on.
    pub(super) fn allow(&self, bytes: u64) {
        self.allowance.store(bytes, Ordering::Relaxed);
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, axum::Error>>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
    }

    /// Reads on for a while after an error: a client that is still sending would see a broken connection instead of the
    /// response.
    pub(super) async fn drain(&self) {
        let reading = async {
            let mut left = MAX_DRAIN_BYTES;
            while let Some(Ok(chunk)) = std::future::poll_fn(|context| self.poll_next(context)).await {
                match left.checked_sub(chunk.len()) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
    }
}

/// The body as the parser reads it: one chunk at a time, at most `allowance` bytes until it is refilled, and at most
/// `total_left` bytes in all, also where the request does not announce its length. The parser itself reads ahead without
/// a limit and buffers headers until their end, however long they are.
pub(super) struct LimitedBody {
    body: Arc<FormBody>,
    total_left: u64,
    /// The error for a body beyond `total_left`.
    too_large: Error,
    joined: BytesMut,
    failure: Option<Error>,
    ended: bool,
    yielded: bool,
}

impl LimitedBody {
    pub(super) fn new(body: Arc<FormBody>, total: u64, too_large: Error) -> Self {
        let joined = BytesMut::new();
        Self { body, total_left: total, too_large, joined, failure: None, ended: false, yielded: true }
    }

    /// The next chunk, joined from small ones as far as they have arrived.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        while self.joined.len() < MIN_CHUNK_BYTES && !self.ended && self.failure.is_none() {
            match self.body.poll_next(context) {
                Poll::Ready(Some(Ok(chunk))) if self.joined.is_empty() && chunk.len() >= MIN_CHUNK_BYTES => {
                    return Poll::Ready(Some(Ok(chunk)));
                }
                Poll::Ready(Some(Ok(chunk))) => self.joined.extend_from_slice(&chunk),
                Poll::Ready(Some(Err(error))) => self.failure = Some(body_error("the form", &error)),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending if self.joined.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        match self.joined.is_empty() {
            true => Poll::Ready(self.failure.take().map(Err)),
            false => Poll::Ready(Some(Ok(self.joined.split().freeze()))),
        }
    }
}

impl Stream for LimitedBody {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.yielded {
            self.yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let chunk = ready!(self.poll_chunk(context));
        self.yielded = false;
        let Some(chunk) = chunk.transpose()? else { return Poll::Ready(None) };
        let taken = chunk.len() as u64;
        let Some(left) = self.total_left.checked_sub(taken) else {
            return Poll::Ready(Some(Err(self.too_large.clone())));
        };
        self.total_left = left;
        let allowed = self.body.allowance.load(Ordering::Relaxed);
        self.body.allow(allowed.saturating_sub(taken));
        match allowed {
            0 => Poll::Ready(Some(Err(Error::new(codes::MULTIPART_INVALID, "the head of a part does not end")))),
            _ => Poll::Ready(Some(Ok(chunk))),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn limited_body(chunks: Vec<&'static [u8]>, total: u64) -> LimitedBody {
        let chunks = chunks.into_iter().map(|chunk| Ok::<_, std::io::Error>(Bytes::from_static(chunk)));
        let body = FormBody::new(Body::from_stream(stream::iter(chunks)), u64::MAX);
        LimitedBody::new(body, total, Error::new(codes::UPLOAD_TOO_LARGE, "too large"))
    }

    #[tokio::test]
    async fn small_chunks_are_joined() {
        let sizes: Vec<usize> =
            limited_body(vec![b"x"; 100_000], u64::MAX).map(|chunk| chunk.unwrap().len()).collect().await;
        assert_eq!(sizes.iter().sum::<usize>(), 100_000);
        assert!(sizes.len() <= 100_000 / MIN_CHUNK_BYTES + 1, "{sizes:?}");
        let large: &[u8] = &[b'x'; 2 * MIN_CHUNK_BYTES];
        let sizes: Vec<usize> =
            limited_body(vec![large, large], u64::MAX).map(|chunk| chunk.unwrap().len()).collect().await;
        assert_eq!(sizes, [large.len(), large.len()]);
    }

    #[tokio::test]
    async fn body_is_limited_in_all() {
        let large: &[u8] = &[b'x'; 2 * MIN_CHUNK_BYTES];
        let mut body = limited_body(vec![large; 3], 2 * large.len() as u64);
        assert!(body.next().await.unwrap().is_ok() && body.next().await.unwrap().is_ok());
        assert_eq!(body.next().await.unwrap().unwrap_err().code(), codes::UPLOAD_TOO_LARGE);
    }
}
