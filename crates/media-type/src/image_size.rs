//! Reads the size of images in pixels from their headers.
//!
//! Not crate `imagesize`: it fails on JPEGs with fill bytes between their segments, and takes the scaling bits of a WebP
//! for a part of its size.

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelSize {
    /// Pixels per row.
    pub width: u32,
    /// Pixels per column.
    pub height: u32,
}

impl PixelSize {
    /// Creates a size.
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// Width times height.
    pub fn pixel_count(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The size with width and height swapped.
    #[must_use]
    pub fn with_axes_swapped(self) -> Self {
        Self { width: self.height, height: self.width }
    }
}

impl std::fmt::Display for PixelSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The size in the header of a JPEG, PNG, GIF or WebP, as stored; `None` if `head` ends before it.
pub fn read_image_size(head: &[u8]) -> Option<PixelSize> {
    match super::detect_media_type(head) {
        "image/jpeg" => read_jpeg_size(head),
        "image/png" => Some(PixelSize::new(read_u32_be(head, 16)?, read_u32_be(head, 20)?)),
        "image/gif" => Some(PixelSize::new(read_uint_le(head, 6, 2)?, read_uint_le(head, 8, 2)?)),
        "image/webp" => read_webp_size(head),
        _ => None,
    }
}

fn read_jpeg_size(head: &[u8]) -> Option<PixelSize> {
    let mut at = 2;
    loop {
        while *head.get(at)? != 0xff {
            at += 1;
        }
        while *head.get(at)? == 0xff {
            at += 1;
        }
        let marker = head[at];
        at += 1;
        if matches!(marker, 0x00 | 0x01 | 0xd0..=0xd8) {
            continue;
        }
        if matches!(marker, 0xd9 | 0xda) {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([*head.get(at)?, *head.get(at + 1)?]));
        if is_frame_marker(marker) {
            return read_jpeg_frame_size(head.get(at + 2..)?);
        }
        at += length.max(2);
    }
}

fn is_frame_marker(marker: u8) -> bool {
    matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc)
}

/// The size in the frame header of a JPEG. `frame` starts after the length field.
pub fn read_jpeg_frame_size(frame: &[u8]) -> Option<PixelSize> {
    let half = |at: usize| Some(u32::from(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?])));
    Some(PixelSize::new(half(3)?, half(1)?))
}

fn read_webp_size(head: &[u8]) -> Option<PixelSize> {
    match head.get(12..16)? {
        b"VP8X" => Some(PixelSize::new(read_uint_le(head, 24, 3)? + 1, read_uint_le(head, 27, 3)? + 1)),
        b"VP8 " => Some(PixelSize::new(read_uint_le(head, 26, 2)? & 0x3fff, read_uint_le(head, 28, 2)? & 0x3fff)),
        b"VP8L" => {
            let bits = read_uint_le(head, 21, 4)?;
            Some(PixelSize::new((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        _ => None,
    }
}

fn read_u32_be(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn read_uint_le(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    Some(bytes.get(at..at + length)?.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
}
