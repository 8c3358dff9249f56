//! Feeds a JPEG to the decoder so that the decoder fails at scans whose data ends early.
//!
//! The decoder takes zeros for the data that is missing before a marker. So guard bytes stand before each marker that
//! ends a scan or a restart interval: a complete scan uses none of them, and an incomplete one fails at them.

use std::io::{self, Read};

/// Ones are never a Huffman code. The decoder reads eight bytes ahead; behind them stands a sequence that only the
/// search for the next segment skips, for scans that end in bits without codes.
const SCAN_GUARD: &[u8] = &[255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 255, 0];
/// Shorter, because the decoder must see the restart marker among the bytes that it reads ahead.
const INTERVAL_GUARD: &[u8] = &[255, 0, 255, 0, 255, 0, 255, 0];
/// The spectral selection and approximation of a sequential scan. Some cameras write other values, which all readers
/// ignore.
const SEQUENTIAL_SCAN: &[u8] = &[0, 63, 0];

/// Reads a JPEG with guards in its scans.
pub struct JpegScanReader<'a> {
    bytes: &'a [u8],
    at: usize,
    chunk: &'a [u8],
    next: NextChunk,
    /// True while the guard, or the restart marker behind it, is read.
    at_guard: bool,
    progressive: bool,
    has_restarts: bool,
}

/// What follows the current chunk.
#[derive(Clone, Copy)]
enum NextChunk {
    Segments,
    SequentialScan,
    ScanData,
    IntervalGuard { marker_end: usize },
    RestartMarker { marker_end: usize },
    ScanGuard(u8),
    End,
}

impl<'a> JpegScanReader<'a> {
    pub fn new(bytes: &'a [u8], progressive: bool) -> Self {
        let next = NextChunk::Segments;
        Self { bytes, at: 0, chunk: &[], next, at_guard: false, progressive, has_restarts: false }
    }

    /// True if the decoder stopped where the data of a scan or of a restart interval ends.
    pub fn is_at_guard(&self) -> bool {
        self.at_guard
    }

    fn take_chunk(&mut self) -> &'a [u8] {
        self.at_guard = false;
        match self.next {
            NextChunk::Segments => self.take_segments(),
            NextChunk::SequentialScan => {
                self.next = NextChunk::ScanData;
                SEQUENTIAL_SCAN
            }
            NextChunk::ScanData => self.take_scan_data(),
            NextChunk::IntervalGuard { marker_end } => {
                self.at_guard = true;
                self.next = NextChunk::RestartMarker { marker_end };
                INTERVAL_GUARD
            }
            NextChunk::RestartMarker { marker_end } => {
                self.at_guard = true;
                self.next = NextChunk::ScanData;
                self.take_until(marker_end)
            }
            NextChunk::ScanGuard(marker) => {
                self.at_guard = true;
                self.next = match marker {
                    // A restart marker where none belongs; behind a complete scan it is left out.
                    0xd0..=0xd7 => {
                        self.at += 2;
                        NextChunk::ScanData
                    }
                    _ => NextChunk::Segments,
                };
                SCAN_GUARD
            }
            NextChunk::End => &[],
        }
    }

    fn take_until(&mut self, end: usize) -> &'a [u8] {
        let chunk = &self.bytes[self.at..end];
        self.at = end;
        chunk
    }

    /// Returns the segments up to the data of the next scan.
    fn take_segments(&mut self) -> &'a [u8] {
        let Some((start, header)) = self.find_scan() else {
            self.next = NextChunk::End;
            return self.take_until(self.bytes.len());
        };
        if self.progressive || header < SEQUENTIAL_SCAN.len() {
            self.next = NextChunk::ScanData;
            return self.take_until(start);
        }
        self.next = NextChunk::SequentialScan;
        let segments = self.take_until(start - SEQUENTIAL_SCAN.len());
        self.at = start;
        segments
    }

    /// Returns where the data of the next scan begins, and the length of its header.
    fn find_scan(&mut self) -> Option<(usize, usize)> {
        let mut at = self.at;
        loop {
            at += memchr::memchr(0xff, self.bytes.get(at..)?)? + 1;
            let marker = *self.bytes.get(at)?;
            match marker {
                0xff => continue,
                0 | 0x01 | 0xd0..=0xd8 => {
                    at += 1;
                    continue;
                }
                0xd9 => return None,
                _ => {}
            }
            let length = u16::from_be_bytes([*self.bytes.get(at + 1)?, *self.bytes.get(at + 2)?]);
            let end = at + 1 + usize::from(length);
            let segment = self.bytes.get(at + 3..end)?;
            match marker {
                0xdd => self.has_restarts = segment.iter().any(|byte| *byte != 0),
                0xda => return Some((end, segment.len())),
                _ => {}
            }
            at = end;
        }
    }

    /// Returns the data up to the next marker, without the fill bytes before the marker.
    fn take_scan_data(&mut self) -> &'a [u8] {
        let mut from = self.at;
        while let Some(found) = memchr::memchr(0xff, &self.bytes[from..]) {
            let start = from + found;
            let fill = self.bytes[start..].iter().take_while(|byte| **byte == 0xff).count();
            let Some(marker) = self.bytes.get(start + fill) else { break };
            let marker_end = start + fill + 1;
            if *marker == 0 {
                from = marker_end;
                continue;
            }
            let data = self.take_until(start);
            self.at = marker_end - 2;
            self.next = match marker {
                0xd0..=0xd7 if self.has_restarts => NextChunk::IntervalGuard { marker_end },
                _ => NextChunk::ScanGuard(*marker),
            };
            return data;
        }
        self.next = NextChunk::End;
        self.take_until(self.bytes.len())
    }
}

impl Read for JpegScanReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !matches!(self.next, NextChunk::End) {
            self.chunk = self.take_chunk();
        }
        self.chunk.read(buffer)
    }

    /// The decoder reads byte by byte, so the common case must be fast.
    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        if let Some((bytes, rest)) = self.chunk.split_at_checked(buffer.len()) {
            buffer.copy_from_slice(bytes);
            self.chunk = rest;
            return Ok(());
        }
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOI: &[u8] = b"\xff\xd8";
    /// A scan header of one component, with parameters that a sequential scan does not have.
    const SOS: &[u8] = b"\xff\xda\0\x08\x01\x01\0\x00\x3f\x01";

    fn read_all(bytes: &[u8], progressive: bool) -> Vec<u8> {
        let mut read = Vec::new();
        JpegScanReader::new(bytes, progressive).read_to_end(&mut read).unwrap();
        read
    }

    #[test]
    fn guards_stand_before_markers_of_scans() {
        let restarts = b"\xff\xdd\0\x04\0\x05";
        let scan = |parts: &[&[u8]]| [SOI, SOS].into_iter().chain(parts.iter().copied()).collect::<Vec<_>>().concat();
        let header = &[SOI, &SOS[..SOS.len() - 1], b"\0"].concat()[..];
        // A stuffed byte is data, and fill bytes belong to their marker.
        let read = read_all(&scan(&[b"ab\xff\0c\xff\xff\xff\xd9"]), false);
        assert_eq!(read, [header, b"ab\xff\0c", SCAN_GUARD, b"\xff\xd9"].concat());
        // Without restart intervals, a restart marker is left out.
        let read = read_all(&scan(&[b"ab\xff\xd0c\xff\xd9"]), false);
        assert_eq!(read, [header, b"ab", SCAN_GUARD, b"c", SCAN_GUARD, b"\xff\xd9"].concat());
        let read = read_all(&[SOI, restarts, SOS, b"ab\xff\xd0c\xff\xd9"].concat(), true);
        let expected = [SOI, restarts, SOS, b"ab", INTERVAL_GUARD, b"\xff\xd0c", SCAN_GUARD, b"\xff\xd9"];
        assert_eq!(read, expected.concat());
        let two = [SOI, SOS, b"a", SOS, b"b\xff\xd9tail"].concat();
        let expected = [SOI, SOS, b"a", SCAN_GUARD, SOS, b"b", SCAN_GUARD, b"\xff\xd9tail"];
        assert_eq!(read_all(&two, true), expected.concat());
    }

    #[test]
    fn files_that_end_anywhere_are_read() {
        let whole = [SOI, SOS, b"ab\xff\0c\xff\xd0d\xff\xff\xd9"].concat();
        for length in 0..whole.len() {
            let read = read_all(&whole[..length], false);
            assert!(read.starts_with(&whole[..length.min(11)]), "{length}: {read:?}");
        }
    }
}
