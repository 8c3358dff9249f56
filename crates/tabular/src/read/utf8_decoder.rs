//! Converts the bytes of an object to UTF-8, in small pieces.

use encoding_rs::{CoderResult, Decoder, UTF_8};

use super::detect::DetectedEncoding;

/// Converts bytes to UTF-8, and skips the text that earlier attempts have processed.
pub struct Utf8Decoder {
    /// `None` if the bytes are UTF-8. The object store then skips the earlier bytes.
    decoder: Option<Decoder>,
    /// Bytes of UTF-8 that are still to be skipped.
    skip: u64,
    buffer: Vec<u8>,
}

const DECODE_BUFFER_SIZE: usize = 64 << 10;

impl Utf8Decoder {
    /// Creates a decoder that starts at `offset` of the decoded text. Also returns the byte of the object from which it
    /// must read. Offsets in UTF-8 files include the byte order mark, so they equal the offsets in the object.
    pub fn new(found: DetectedEncoding, offset: u64) -> (Self, u64) {
        if found.encoding == UTF_8 {
            return (Self { decoder: None, skip: 0, buffer: Vec::new() }, offset);
        }
        let decoder = found.encoding.new_decoder_with_bom_removal();
        (Self { decoder: Some(decoder), skip: offset, buffer: vec![0; DECODE_BUFFER_SIZE] }, 0)
    }

    /// Decodes `bytes` and passes the text to `then`, piece by piece.
    ///
    /// # Errors
    /// The errors of `then`.
    pub fn decode_chunk<E>(
        &mut self,
        bytes: &[u8],
        last: bool,
        mut then: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(decoder) = &mut self.decoder else { return then(bytes) };
        let mut rest = bytes;
        loop {
            let (result, read, written, _) = decoder.decode_to_utf8(rest, &mut self.buffer, last);
            rest = &rest[read..];
            let skipped = self.skip.min(written as u64);
            self.skip -= skipped;
            then(&self.buffer[skipped as usize..written])?;
            if result == CoderResult::InputEmpty {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use encoding_rs::UTF_16LE;

    use super::*;

    #[test]
    fn utf16_decodes_with_any_chunks_and_from_any_offset() {
        let text = "näme;📦\r\n".repeat(20_000);
        let bytes = [vec![0xff, 0xfe], text.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat();
        for (cut, offset) in [(1, 0), (7, 6), (100_000, 70_002)] {
            let (mut decode, from) = Utf8Decoder::new(DetectedEncoding { encoding: UTF_16LE, bom_len: 2 }, offset);
            assert_eq!(from, 0);
            let mut out = Vec::new();
            let mut keep = |piece: &[u8]| {
                out.extend_from_slice(piece);
                Ok::<(), ()>(())
            };
            bytes.chunks(cut).for_each(|piece| decode.decode_chunk(piece, false, &mut keep).unwrap());
            decode.decode_chunk(&[], true, &mut keep).unwrap();
            assert!(out == text.as_bytes()[offset as usize..]);
        }
    }
}
