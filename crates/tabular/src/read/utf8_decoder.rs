//! Converts the bytes of an object to UTF-8, in small pieces.
//!
//! Bytes that cannot be decoded stay in the text as a marker that is not UTF-8. The row that holds it is rejected then,
//! and its error shows the bytes.

use std::borrow::Cow;
use std::fmt::Write;

use encoding_rs::{Decoder, DecoderResult};

use super::code_pages::CodePage;
use super::detect::DetectedEncoding;
use super::text_encoding::TextEncoding;

/// Converts bytes to UTF-8, and skips the text that earlier attempts have processed.
#[derive(Default)]
pub struct Utf8Decoder {
    source: SourceText,
    /// Bytes of UTF-8 that are still to be skipped.
    skip: u64,
    buffer: Vec<u8>,
}

#[derive(Default)]
enum SourceText {
    /// The object store skips the bytes of earlier attempts.
    #[default]
    Utf8,
    Standard {
        decoder: Decoder,
        /// The last bytes of the earlier pieces, because an invalid sequence may begin there.
        tail: Vec<u8>,
    },
    CodePage(&'static CodePage),
}

const DECODE_BUFFER_SIZE: usize = 64 << 10;
/// The longest invalid sequence, and the bytes that a decoder reads behind it.
const MAX_TAIL_BYTES: usize = 8;
/// The first byte of a marker. Two bytes with the halves of the invalid byte follow.
const INVALID_BYTE_MARKER: u8 = 0xff;

impl Utf8Decoder {
    /// Creates a decoder that starts at `offset` of the decoded text. Also returns the byte of the object from which it
    /// must read. Offsets in UTF-8 files include the byte order mark, so they equal the offsets in the object.
    pub fn new(found: DetectedEncoding, offset: u64) -> (Self, u64) {
        if found.encoding.is_utf8() {
            return (Self::default(), offset);
        }
        let (source, buffer) = match found.encoding {
            TextEncoding::Standard(encoding) => {
                let decoder = encoding.new_decoder_with_bom_removal();
                (SourceText::Standard { decoder, tail: Vec::new() }, vec![0; DECODE_BUFFER_SIZE])
            }
            TextEncoding::CodePage(page) => (SourceText::CodePage(page), Vec::with_capacity(DECODE_BUFFER_SIZE)),
        };
        (Self { source, skip: offset, buffer }, 0)
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
        let Self { source, skip, buffer } = self;
        let mut pass = |text: &[u8]| {
            let skipped = (*skip).min(text.len() as u64);
            *skip -= skipped;
            then(&text[skipped as usize..])
        };
        match source {
            SourceText::Utf8 => pass(bytes),
            SourceText::CodePage(page) => {
                // A byte becomes at most three bytes of UTF-8.
                for piece in bytes.chunks(DECODE_BUFFER_SIZE / 4) {
                    buffer.clear();
                    for &byte in piece {
                        let mut space = [0; 4];
                        buffer.extend_from_slice(page.decode_byte(byte).encode_utf8(&mut space).as_bytes());
                    }
                    pass(buffer.as_slice())?;
                }
                Ok(())
            }
            SourceText::Standard { decoder, tail } => {
                let mut done = 0;
                loop {
                    let (result, read, written) =
                        decoder.decode_to_utf8_without_replacement(&bytes[done..], &mut buffer[..], last);
                    done += read;
                    pass(&buffer[..written])?;
                    match result {
                        DecoderResult::OutputFull => {}
                        DecoderResult::InputEmpty => break,
                        DecoderResult::Malformed(length, behind) => {
                            let end = (tail.len() + done).saturating_sub(usize::from(behind));
                            let invalid = end.saturating_sub(usize::from(length))..end;
                            let known = tail.iter().chain(bytes).skip(invalid.start).take(invalid.len());
                            pass(&known.flat_map(|byte| mark_invalid_byte(*byte)).collect::<Vec<_>>())?;
                        }
                    }
                }
                tail.extend_from_slice(&bytes[bytes.len().saturating_sub(MAX_TAIL_BYTES)..]);
                tail.drain(..tail.len().saturating_sub(MAX_TAIL_BYTES));
                Ok(())
            }
        }
    }
}

fn mark_invalid_byte(byte: u8) -> [u8; 3] {
    [INVALID_BYTE_MARKER, 0x80 | byte >> 4, 0x80 | byte & 0x0f]
}

/// Shows bytes that are not UTF-8 as `\xFC`. `marked` says that the text comes from a decoder of another encoding, which
/// has marked the bytes.
pub fn show_invalid_bytes(bytes: &[u8], marked: bool) -> Cow<'_, str> {
    let mut rest = bytes;
    let mut shown = String::new();
    loop {
        let error = match std::str::from_utf8(rest) {
            Ok(text) if shown.is_empty() => return Cow::Borrowed(text),
            Ok(text) => {
                shown.push_str(text);
                return Cow::Owned(shown);
            }
            Err(error) => error,
        };
        let (valid, invalid) = rest.split_at(error.valid_up_to());
        shown.push_str(std::str::from_utf8(valid).unwrap_or_default());
        let (byte, length) = match invalid {
            [INVALID_BYTE_MARKER, high @ 0x80..=0x8f, low @ 0x80..=0x8f, ..] if marked => (high << 4 | low & 0x0f, 3),
            _ => (invalid[0], 1),
        };
        // Writing to a `String` cannot fail.
        let _ = write!(shown, "\\x{byte:02X}");
        rest = &invalid[length..];
    }
}

#[cfg(test)]
mod tests {
    use encoding_rs::{SHIFT_JIS, UTF_16LE};

    use super::super::detect::Confidence;
    use super::*;

    fn found(encoding: TextEncoding, bom_len: usize) -> DetectedEncoding {
        DetectedEncoding { encoding, bom_len, confidence: Confidence::High }
    }

    /// Decodes the bytes in pieces of this size.
    fn decoded(encoding: TextEncoding, bytes: &[u8], piece: usize, offset: u64) -> Vec<u8> {
        let (mut decode, from) = Utf8Decoder::new(found(encoding, 0), offset);
        let mut out = Vec::new();
        let mut keep = |piece: &[u8]| {
            out.extend_from_slice(piece);
            Ok::<(), ()>(())
        };
        bytes[from as usize..].chunks(piece).for_each(|piece| decode.decode_chunk(piece, false, &mut keep).unwrap());
        decode.decode_chunk(&[], true, &mut keep).unwrap();
        out
    }

    #[test]
    fn utf16_decodes_with_any_chunks_and_from_any_offset() {
        let text = "näme;📦\r\n".repeat(20_000);
        let bytes = [vec![0xff, 0xfe], text.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat();
        for (cut, offset) in [(1, 0), (7, 6), (100_000, 70_002)] {
            let out = decoded(TextEncoding::Standard(UTF_16LE), &bytes, cut, offset);
            assert!(out == text.as_bytes()[offset as usize..]);
        }
    }

    #[test]
    fn invalid_bytes_are_kept() {
        // A lone surrogate, and a single byte at the end.
        let utf16 = b"a\0,\0\x3d\xd8b\0\n\0x";
        // A lead byte without its second byte.
        let shift_jis = b"a,\x82\nb";
        for piece in [1, 2, 3, 100] {
            let text = decoded(TextEncoding::Standard(UTF_16LE), utf16, piece, 0);
            assert_eq!(show_invalid_bytes(&text, true), "a,\\x3D\\xD8b\n\\x78");
            let text = decoded(TextEncoding::Standard(SHIFT_JIS), shift_jis, piece, 0);
            assert_eq!(show_invalid_bytes(&text, true), "a,\\x82\nb");
        }
        assert_eq!(show_invalid_bytes(b"J\xfcrgen \xff\x80\x80 \xc3\xbc", false), "J\\xFCrgen \\xFF\\x80\\x80 ü");
        assert!(matches!(show_invalid_bytes("ü".as_bytes(), false), Cow::Borrowed("ü")));
    }

    #[test]
    fn code_pages_decode_from_any_offset() {
        let page = TextEncoding::for_label("cp437").unwrap();
        let bytes = b"Z\x81rich;\x9c\n".repeat(10_000);
        let text = "Zürich;£\n".repeat(10_000);
        for (piece, offset) in [(1, 0), (100_000, 11)] {
            assert!(decoded(page, &bytes, piece, offset) == text.as_bytes()[offset as usize..]);
        }
    }
}
