//! Looks at a file without decoding it: what it is, how large, whether all of it is there, and what decoding would cost.

mod gif;
mod jpeg;
mod png;
mod webp;

use image::metadata::Orientation as Exif;

use super::fault;
use super::format::Format;
use super::orient::Orientation;
use crate::ImageLimits;
use afterload_core::error::Result;
use afterload_media_type::{self as media, Size};

pub use jpeg::Frame;

/// The longest colour profile that is read; those of printing presses have about 2 MB.
pub const MAX_PROFILE: usize = 8 << 20;

/// What a file is.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Its format.
    pub format: Format,
    /// Its size as it is stored.
    pub stored: Size,
    /// How it wants to be seen.
    pub orientation: Orientation,
    /// Its colour profile.
    pub profile: Option<Vec<u8>>,
    /// Whether it has a colour profile that cannot be read.
    pub broken_profile: bool,
    /// Its EXIF block, from the TIFF header on.
    pub exif: Option<Vec<u8>>,
    /// Whether it has more than one frame.
    pub animated: bool,
    /// The most bytes per pixel once it is decoded.
    channels: u64,
    /// The parts of a JPEG.
    pub frame: Option<Frame>,
}

/// What the reader of one format has found.
struct Found {
    stored: Size,
    /// The bytes of its end are there.
    whole: bool,
    profile: Option<Vec<u8>>,
    broken_profile: bool,
    exif: Option<Vec<u8>>,
    animated: bool,
    channels: u64,
    frame: Option<Frame>,
}

impl Found {
    fn new(stored: Size, channels: u64) -> Self {
        Self {
            stored,
            whole: false,
            profile: None,
            broken_profile: false,
            exif: None,
            animated: false,
            channels,
            frame: None,
        }
    }
}

/// Looks at a file and refuses what is no picture, is not all there, or is too large.
///
/// # Errors
/// `image_unsupported`, `image_too_large`, `image_truncated`, `image_invalid`.
pub fn inspect(bytes: &[u8], limits: &ImageLimits) -> Result<Inspected> {
    let format = match media::sniff(bytes) {
        "image/jpeg" => Format::Jpeg,
        "image/png" => Format::Png,
        "image/webp" => Format::Webp,
        "image/gif" => Format::Gif,
        media::BINARY => return Err(fault::unsupported("the file is in no format that is known here")),
        other => return Err(fault::unsupported(format!("the file looks like `{other}`"))),
    };
    if bytes.len() as u64 > limits.file.0 {
        return Err(file_too_large(bytes.len() as u64, limits));
    }
    let found = match format {
        Format::Jpeg => jpeg::read(bytes),
        Format::Png => png::read(bytes),
        Format::Webp => webp::read(bytes),
        Format::Gif => gif::read(bytes, limits),
    }?;
    let Size { width, height } = found.stored;
    if width == 0 || height == 0 {
        return Err(fault::invalid(format.name(), format!("it has {} pixels", found.stored)));
    }
    check_size(found.stored, limits)?;
    if !found.whole {
        return Err(fault::truncated(format.name()));
    }
    let exif = found.exif.map(|exif| exif.strip_prefix(b"Exif\0\0").map_or(exif.clone(), <[u8]>::to_vec));
    let turned = exif.as_deref().and_then(Exif::from_exif_chunk).map_or(1, Exif::to_exif);
    Ok(Inspected {
        format,
        stored: found.stored,
        orientation: Orientation::from_exif(turned),
        profile: found.profile,
        broken_profile: found.broken_profile,
        exif,
        animated: found.animated,
        channels: found.channels,
        frame: found.frame,
    })
}

/// What a file with so many bytes is answered.
pub fn file_too_large(size: u64, limits: &ImageLimits) -> afterload_core::error::Error {
    fault::too_large(format!("the file has {size} bytes; images may have {}", limits.file))
}

/// Refuses pictures that have too many pixels.
///
/// # Errors
/// `image_too_large`.
pub fn check_size(size: Size, limits: &ImageLimits) -> Result<()> {
    let side = size.width.max(size.height);
    if side > limits.side {
        return Err(fault::too_large(format!("{size} pixels: a side may have {}", limits.side)));
    }
    if size.pixels() > limits.pixels {
        let message = format!("{size} are {} pixels; {} are allowed", size.pixels(), limits.pixels);
        return Err(fault::too_large(message));
    }
    Ok(())
}

impl Inspected {
    /// Its size as it is seen.
    pub fn seen(&self) -> Size {
        self.orientation.seen(self.stored)
    }

    /// The bytes that decoding takes, with a JPEG at so many eighths of its size.
    pub fn decoding(&self, eighths: u32) -> u64 {
        match &self.frame {
            Some(frame) => frame.decoding(self.stored, eighths),
            None => self.stored.pixels() * self.channels,
        }
    }
}

/// Reads numbers and pieces of a file that may end anywhere.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let piece = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(piece)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|piece| piece[0])
    }

    fn be16(&mut self) -> Option<u16> {
        self.take(2).map(|piece| u16::from_be_bytes([piece[0], piece[1]]))
    }

    fn be32(&mut self) -> Option<u32> {
        self.take(4).map(|piece| u32::from_be_bytes([piece[0], piece[1], piece[2], piece[3]]))
    }

    fn le16(&mut self) -> Option<u16> {
        self.take(2).map(|piece| u16::from_le_bytes([piece[0], piece[1]]))
    }

    fn le32(&mut self) -> Option<u32> {
        self.take(4).map(|piece| u32::from_le_bytes([piece[0], piece[1], piece[2], piece[3]]))
    }
}
