//! The bytes of a part, as they come.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::{mem, vec};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};

/// Smaller pieces are always copied together, so that a part is never made of many.
const APART: usize = 32 << 10;

/// Bytes that are gathered until they make a part.
pub(super) struct Gathered {
    /// Whether large pieces stay apart. Only a store within the process takes them so: any other one wants a checksum of them all
    /// before the first.
    apart: bool,
    pieces: Vec<Bytes>,
    tail: BytesMut,
    size: usize,
}

impl Gathered {
    pub(super) fn new(apart: bool) -> Self {
        Self { apart, pieces: Vec::new(), tail: BytesMut::new(), size: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.size
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.size += bytes.len();
        match self.apart && bytes.len() >= APART {
            true => {
                self.close();
                self.pieces.push(bytes);
            }
            false => self.tail.extend_from_slice(&bytes),
        }
    }

    /// Takes what there is, and makes room for as much as `next`.
    pub(super) fn take(&mut self, next: usize) -> Pieces {
        self.close();
        // A fresh buffer: the old one lives as long as its part is on the way.
        self.tail = BytesMut::with_capacity(if self.apart { 0 } else { next });
        Pieces { pieces: mem::take(&mut self.pieces), size: mem::take(&mut self.size) }
    }

    fn close(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
    }
}

/// Bytes that follow one another.
pub(super) struct Pieces {
    pieces: Vec<Bytes>,
    size: usize,
}

impl Pieces {
    pub(super) fn len(&self) -> usize {
        self.size
    }

    /// In one piece.
    pub(super) fn whole(mut self) -> Bytes {
        match self.pieces.len() {
            0 | 1 => self.pieces.pop().unwrap_or_default(),
            _ => self.pieces.concat().into(),
        }
    }

    /// As the body of a request, which may be sent again.
    pub(super) fn body(mut self) -> ByteStream {
        if self.pieces.len() < 2 {
            return ByteStream::from(self.pieces.pop().unwrap_or_default());
        }
        let again =
            move || SdkBody::from_body_1_x(Sending { left: self.size as u64, pieces: self.pieces.clone().into_iter() });
        ByteStream::new(SdkBody::retryable(again))
    }
}

struct Sending {
    pieces: vec::IntoIter<Bytes>,
    left: u64,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.next();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(apart: bool) -> Pieces {
        let mut gathered = Gathered::new(apart);
        for (byte, length) in [(1, 10), (2, APART), (3, 5), (4, 6), (5, APART - 1), (6, 2 * APART)] {
            gathered.push(vec![byte; length].into());
        }
        let pieces = gathered.take(1);
        assert_eq!((gathered.len(), pieces.len()), (0, 4 * APART + 20));
        pieces
    }

    #[tokio::test]
    async fn only_large_pieces_stay_apart() {
        let one = pieces(false);
        assert_eq!(one.pieces.len(), 1);
        let several = pieces(true);
        let lengths: Vec<_> = several.pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [10, APART, APART + 10, 2 * APART]);
        let whole = one.whole();
        assert_eq!(several.body().collect().await.unwrap().into_bytes(), whole);
        assert_eq!(pieces(true).whole(), whole);
        assert_eq!(Gathered::new(true).take(1).whole(), Bytes::new());
    }

    #[tokio::test]
    async fn a_body_in_pieces_says_its_length_and_is_sent_again() {
        let body = pieces(true).body().into_inner();
        assert_eq!(body.content_length(), Some(4 * APART as u64 + 20));
        let again = body.try_clone().unwrap();
        assert_eq!(again.content_length(), body.content_length());
        let first = ByteStream::new(body).collect().await.unwrap().into_bytes();
        assert_eq!(first, pieces(false).whole());
        let sent = again.try_clone().unwrap();
        assert_eq!(ByteStream::new(again).collect().await.unwrap().into_bytes(), first);
        assert_eq!(ByteStream::new(sent).collect().await.unwrap().into_bytes(), first);
    }
}
