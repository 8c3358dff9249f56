//! Limits the chunks of an `aws-chunked` body. s3s holds each chunk in memory until its end, and the sender chooses its
//! size: a whole object may come as one chunk.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body as HttpBody, Frame};
use s3s::{Body, StdError};

use super::body_fault::{BodyFault, BodyFaultCell};

/// The maximum size of a signed chunk. Its signature covers the whole chunk, so it cannot be split. Clients send 64 KiB
/// to 1 MiB.
const MAX_SIGNED_CHUNK_BYTES: u64 = 2 << 20;
/// The maximum size of the line before a chunk.
const MAX_CHUNK_LINE_BYTES: usize = 1024;

/// Wraps the body if it is `aws-chunked`. Chunks without a signature are split into what has arrived.
pub(super) fn limit_chunks(headers: &HeaderMap, body: Body, fault: &BodyFaultCell) -> Body {
    let payload = headers.get("x-amz-content-sha256").map(hyper::header::HeaderValue::as_bytes).unwrap_or_default();
    match payload.starts_with(b"STREAMING-") {
        true => {
            let unsigned = payload.starts_with(b"STREAMING-UNSIGNED-");
            Body::http_body_unsync(ChunkLimiter::new(body, unsigned, fault.clone()))
        }
        false => body,
    }
}

/// Reads the frame of each chunk while its bytes pass.
struct ChunkLimiter<B> {
    body: B,
    /// Whether chunks may be split.
    unsigned: bool,
    position: ChunkPosition,
    ready: VecDeque<Bytes>,
    fault: BodyFaultCell,
}

enum ChunkPosition {
    /// In the line with the size.
    Line(Vec<u8>),
    /// In the bytes, of which so many are left.
    Data(u64),
    /// In the end of line after the bytes, of which so much is left.
    LineEnd(&'static [u8]),
    /// After the last chunk.
    Trailers,
}

#[derive(Debug, thiserror::Error)]
enum ChunkError {
    #[error("a signed chunk of the body is too large")]
    TooLarge,
    #[error("the chunks of the body are malformed")]
    Malformed,
}

impl<B> ChunkLimiter<B> {
    fn new(body: B, unsigned: bool, fault: BodyFaultCell) -> Self {
        Self { body, unsigned, position: ChunkPosition::Line(Vec::new()), ready: VecDeque::new(), fault }
    }

    fn push_bytes(&mut self, mut bytes: Bytes) -> Result<(), ChunkError> {
        while !bytes.is_empty() {
            match &mut self.position {
                ChunkPosition::Line(line) => {
                    let end = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
                    line.extend_from_slice(&bytes.split_to(end.unwrap_or(bytes.len())));
                    if line.len() > MAX_CHUNK_LINE_BYTES {
                        return Err(ChunkError::Malformed);
                    }
                    if end.is_some() {
                        let line = std::mem::take(line);
                        self.begin_chunk(line)?;
                    }
                }
                ChunkPosition::Data(left) => {
                    let data = bytes.split_to(usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len()));
                    *left -= data.len() as u64;
                    if *left == 0 {
                        self.position = ChunkPosition::LineEnd(b"\r\n");
                    }
                    match self.unsigned {
                        true => {
                            let line = Bytes::from(format!("{:x}\r\n", data.len()));
                            self.ready.extend([line, data, Bytes::from_static(b"\r\n")]);
                        }
                        false => self.ready.push_back(data),
                    }
                }
                ChunkPosition::LineEnd(left) => {
                    let end = bytes.split_to(left.len().min(bytes.len()));
                    *left = left.strip_prefix(&end[..]).ok_or(ChunkError::Malformed)?;
                    if left.is_empty() {
                        self.position = ChunkPosition::Line(Vec::new());
                    }
                    if !self.unsigned {
                        self.ready.push_back(end);
                    }
                }
                ChunkPosition::Trailers => self.ready.push_back(std::mem::take(&mut bytes)),
            }
        }
        Ok(())
    }

    fn begin_chunk(&mut self, line: Vec<u8>) -> Result<(), ChunkError> {
        let size = line.split(|byte| matches!(byte, b';' | b'\r')).next().unwrap_or_default();
        // s3s ignores what follows the eighth digit.
        let max_digits = if self.unsigned { 16 } else { 8 };
        if size.is_empty() || size.len() > max_digits || !size.iter().all(u8::is_ascii_hexdigit) {
            return Err(ChunkError::Malformed);
        }
        let size = std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
        let size = size.ok_or(ChunkError::Malformed)?;
        if self.unsigned && line.contains(&b';') {
            return Err(ChunkError::Malformed);
        }
        if !self.unsigned && size > MAX_SIGNED_CHUNK_BYTES {
            return Err(ChunkError::TooLarge);
        }
        self.position = if size == 0 { ChunkPosition::Trailers } else { ChunkPosition::Data(size) };
        if size == 0 || !self.unsigned {
            self.ready.push_back(line.into());
        }
        Ok(())
    }
}

impl<B: HttpBody<Data = Bytes, Error = StdError> + Unpin> HttpBody for ChunkLimiter<B> {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data()
                        && let Err(error) = self.push_bytes(bytes)
                    {
                        if matches!(error, ChunkError::TooLarge) {
                            self.fault.set(BodyFault::ChunkTooLarge);
                        }
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
                ended => return Poll::Ready(ended),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the text in pieces of this size.
    fn pass(text: &[u8], unsigned: bool, piece: usize) -> Result<Vec<u8>, ChunkError> {
        let mut limiter = ChunkLimiter::new((), unsigned, BodyFaultCell::default());
        text.chunks(piece).try_for_each(|piece| limiter.push_bytes(Bytes::copy_from_slice(piece)))?;
        Ok(limiter.ready.iter().flatten().copied().collect())
    }

    #[test]
    fn signed_chunks_pass_unchanged_up_to_the_limit() {
        let text = b"3;chunk-signature=a\r\nabc\r\n0;chunk-signature=b\r\n\r\nx-amz-checksum-crc32:AA\r\n";
        for piece in 1..text.len() {
            assert_eq!(pass(text, false, piece).unwrap(), text, "{piece}");
        }
        let line = |size: u64| format!("{size:x};chunk-signature=a\r\n");
        assert!(pass(line(MAX_SIGNED_CHUNK_BYTES).as_bytes(), false, 9).is_ok());
        let refused = pass(line(MAX_SIGNED_CHUNK_BYTES + 1).as_bytes(), false, 9);
        assert!(matches!(refused, Err(ChunkError::TooLarge)));
    }

    #[test]
    fn unsigned_chunks_are_split_into_what_has_arrived() {
        let text = b"6\r\nabcdef\r\n0\r\nx-amz-checksum-crc32:AA\r\n\r\n";
        let split = pass(text, true, 6).unwrap();
        assert_eq!(split, b"3\r\nabc\r\n3\r\ndef\r\n0\r\nx-amz-checksum-crc32:AA\r\n\r\n");
        assert_eq!(pass(text, true, text.len()).unwrap(), text);
    }

    #[test]
    fn malformed_chunks_are_rejected() {
        let cases: [(&[u8], bool); 7] = [
            (b"\r\n", false),
            (b"g;chunk-signature=a\r\n", false),
            (b"+1;chunk-signature=a\r\n", false),
            (b"000000001;chunk-signature=a\r\n", false),
            (b"1;chunk-signature=a\r\n", true),
            (b"1\r\naXX", true),
            (&[b'1'; 2000], true),
        ];
        for (text, unsigned) in cases {
            let passed = pass(text, unsigned, 5);
            assert!(matches!(passed, Err(ChunkError::Malformed)), "{}", String::from_utf8_lossy(text));
        }
    }
}
