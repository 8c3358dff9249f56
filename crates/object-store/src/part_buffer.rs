//! Buffers the bytes of a part.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::{mem, vec};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};

use super::upload_memory::{HeldMemory, UploadMemory};

/// Smaller chunks are always copied together, so that a part never has very many chunks.
const MIN_ZERO_COPY_BYTES: usize = 32 << 10;

/// Collects bytes until they fill a part.
pub(super) struct PartBuffer {
    /// Whether large chunks stay separate, without a copy. Only a store within the process takes them so: any other
    /// one needs a checksum of the whole part before the first byte.
    zero_copy: bool,
    chunks: Vec<Bytes>,
    tail: BytesMut,
    size: usize,
    held: HeldMemory,
}

impl PartBuffer {
    pub(super) fn new(apart: bool, memory: &UploadMemory) -> Self {
        Self { zero_copy: apart, chunks: Vec::new(), tail: BytesMut::new(), size: 0, held: memory.hold() }
    }

    pub(super) fn len(&self) -> usize {
        self.size
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.size += bytes.len();
        self.held.add(bytes.len());
        match self.zero_copy && bytes.len() >= MIN_ZERO_COPY_BYTES {
            true => {
                self.freeze_tail();
                self.chunks.push(bytes);
            }
            false => self.tail.extend_from_slice(&bytes),
        }
    }

    /// Takes the buffered bytes, with what counts them until they are sent, and reserves room for `next` bytes.
    pub(super) fn take_part(&mut self, next: usize) -> (PartBody, HeldMemory) {
        self.freeze_tail();
        // Use a new buffer, because the old one lives until its part is sent.
        self.tail = BytesMut::with_capacity(if self.zero_copy { 0 } else { next });
        let part = PartBody { chunks: mem::take(&mut self.chunks), size: mem::take(&mut self.size) };
        (part, self.held.take())
    }

    fn freeze_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push(self.tail.split().freeze());
        }
    }
}

/// The bytes of a part, as a list of chunks.
pub(super) struct PartBody {
    chunks: Vec<Bytes>,
    size: usize,
}

impl PartBody {
    pub(super) fn len(&self) -> usize {
        self.size
    }

    /// Converts to the body of a request. The SDK may send it again after an error.
    pub(super) fn into_byte_stream(mut self) -> ByteStream {
        if self.chunks.len() < 2 {
            return ByteStream::from(self.chunks.pop().unwrap_or_default());
        }
        let again = move || {
            SdkBody::from_body_1_x(PartFrames {
                remaining_bytes: self.size as u64,
                chunks: self.chunks.clone().into_iter(),
            })
        };
        ByteStream::new(SdkBody::retryable(again))
    }
}

struct PartFrames {
    chunks: vec::IntoIter<Bytes>,
    remaining_bytes: u64,
}

impl Body for PartFrames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.chunks.next();
        self.remaining_bytes -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(apart: bool) -> PartBody {
        let mut gathered = PartBuffer::new(apart, &UploadMemory::default());
        for (byte, length) in [
            (1, 10),
            (2, MIN_ZERO_COPY_BYTES),
            (3, 5),
            (4, 6),
            (5, MIN_ZERO_COPY_BYTES - 1),
            (6, 2 * MIN_ZERO_COPY_BYTES),
        ] {
            gathered.push(vec![byte; length].into());
        }
        let (pieces, _) = gathered.take_part(1);
        assert_eq!((gathered.len(), pieces.len()), (0, 4 * MIN_ZERO_COPY_BYTES + 20));
        pieces
    }

    async fn collect(part: PartBody) -> Bytes {
        part.into_byte_stream().collect().await.unwrap().into_bytes()
    }

    #[tokio::test]
    async fn only_large_chunks_stay_separate() {
        let one = pieces(false);
        assert_eq!(one.chunks.len(), 1);
        let several = pieces(true);
        let lengths: Vec<_> = several.chunks.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [10, MIN_ZERO_COPY_BYTES, MIN_ZERO_COPY_BYTES + 10, 2 * MIN_ZERO_COPY_BYTES]);
        let whole = collect(one).await;
        assert_eq!(collect(several).await, whole);
        let (empty, _) = PartBuffer::new(true, &UploadMemory::default()).take_part(1);
        assert_eq!(collect(empty).await, Bytes::new());
    }

    #[tokio::test]
    async fn a_chunked_body_has_a_length_and_can_be_sent_again() {
        let body = pieces(true).into_byte_stream().into_inner();
        assert_eq!(body.content_length(), Some(4 * MIN_ZERO_COPY_BYTES as u64 + 20));
        let again = body.try_clone().unwrap();
        assert_eq!(again.content_length(), body.content_length());
        let first = ByteStream::new(body).collect().await.unwrap().into_bytes();
        assert_eq!(first, collect(pieces(false)).await);
        let sent = again.try_clone().unwrap();
        assert_eq!(ByteStream::new(again).collect().await.unwrap().into_bytes(), first);
        assert_eq!(ByteStream::new(sent).collect().await.unwrap().into_bytes(), first);
    }
}
