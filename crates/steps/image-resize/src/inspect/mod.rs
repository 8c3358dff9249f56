//! Inspects a file without decoding it: its format, its size, whether it is complete, and the cost of decoding.

mod gif;
mod jpeg;
mod jpeg_colors;
mod jpeg_coverage;
mod png;
mod png_colors;
mod webp;

use image::metadata::Orientation as Exif;

use super::errors;
use super::format::ImageFormat;
use super::orientation::Orientation;
use crate::ImageLimits;
use afterload_core::error::Result;
use afterload_media_type::{self as media, PixelSize};

pub use jpeg::JpegFrame;
pub use jpeg_colors::JpegColors;

/// Limits the color profile. Profiles of printing presses have about 2 MB.
pub const MAX_PROFILE_BYTES: usize = 8 << 20;

/// The properties of a picture file.
#[derive(Clone, Debug)]
pub struct InspectedImage {
    /// The format.
    pub format: ImageFormat,
    /// The size of the stored pixels.
    pub stored: PixelSize,
    /// The EXIF orientation.
    pub orientation: Orientation,
    /// The color profile.
    pub profile: Option<Vec<u8>>,
    /// True if there is an unreadable color profile.
    pub broken_profile: bool,
    /// The EXIF block, starting at the TIFF header.
    pub exif: Option<Vec<u8>>,
    /// True if there is more than one frame.
    pub animated: bool,
    /// The maximum bytes per decoded pixel.
    channels: u64,
    /// True if the first frame of a GIF has no colors.
    pub lacks_palette: bool,
    /// The components of a JPEG.
    pub frame: Option<JpegFrame>,
}

/// The result of the parser of one format.
struct ParsedHeader {
    stored: PixelSize,
    /// True if the end of the file is there.
    complete: bool,
    profile: Option<Vec<u8>>,
    broken_profile: bool,
    exif: Option<Vec<u8>>,
    animated: bool,
    channels: u64,
    lacks_palette: bool,
    frame: Option<JpegFrame>,
}

impl ParsedHeader {
    fn new(stored: PixelSize, channels: u64) -> Self {
        Self {
            stored,
            complete: false,
            profile: None,
            broken_profile: false,
            exif: None,
            animated: false,
            channels,
            lacks_palette: false,
            frame: None,
        }
    }
}

/// Inspects a file. It rejects files that are not pictures, not complete, or too large.
///
/// # Errors
/// `image_unsupported`, `image_too_large`, `image_truncated`, `image_invalid`.
pub fn inspect_image(bytes: &[u8], limits: &ImageLimits) -> Result<InspectedImage> {
    let format = match media::detect_media_type(bytes) {
        "image/jpeg" => ImageFormat::Jpeg,
        "image/png" => ImageFormat::Png,
        "image/webp" => ImageFormat::Webp,
        "image/gif" => ImageFormat::Gif,
        media::MEDIA_TYPE_BINARY => {
            return Err(errors::image_unsupported("the file is in no format that is known here"));
        }
        other => return Err(errors::image_unsupported(format!("the file looks like `{other}`"))),
    };
    if bytes.len() as u64 > limits.file.0 {
        return Err(file_too_large(bytes.len() as u64, limits));
    }
    let found = match format {
        ImageFormat::Jpeg => jpeg::inspect_jpeg(bytes),
        ImageFormat::Png => png::inspect_png(bytes),
        ImageFormat::Webp => webp::inspect_webp(bytes),
        ImageFormat::Gif => gif::inspect_gif(bytes, limits),
    }?;
    let PixelSize { width, height } = found.stored;
    if width == 0 || height == 0 {
        return Err(errors::image_invalid(format.name(), format!("it has {} pixels", found.stored)));
    }
    check_dimensions(found.stored, limits)?;
    if !found.complete {
        return Err(errors::image_truncated(format.name()));
    }
    let exif = found.exif.map(|exif| exif.strip_prefix(b"Exif\0\0").map_or(exif.clone(), <[u8]>::to_vec));
    let turned = exif.as_deref().and_then(Exif::from_exif_chunk).map_or(1, Exif::to_exif);
    Ok(InspectedImage {
        format,
        stored: found.stored,
        orientation: Orientation::from_exif(turned),
        profile: found.profile,
        broken_profile: found.broken_profile,
        exif,
        animated: found.animated,
        channels: found.channels,
        lacks_palette: found.lacks_palette,
        frame: found.frame,
    })
}

/// Returns the error for a file of this size.
pub fn file_too_large(size: u64, limits: &ImageLimits) -> afterload_core::error::Error {
    errors::image_too_large(format!("the file has {size} bytes; images may have {}", limits.file))
}

/// Checks the number of pixels and the sides.
///
/// # Errors
/// `image_too_large`.
pub fn check_dimensions(size: PixelSize, limits: &ImageLimits) -> Result<()> {
    let side = size.width.max(size.height);
    if side > limits.side {
        return Err(errors::image_too_large(format!("{size} pixels: a side may have {}", limits.side)));
    }
    if size.pixel_count() > limits.pixels {
        let message = format!("{size} are {} pixels; {} are allowed", size.pixel_count(), limits.pixels);
        return Err(errors::image_too_large(message));
    }
    Ok(())
}

impl InspectedImage {
    /// Returns the size after the orientation is applied.
    pub fn upright_size(&self) -> PixelSize {
        self.orientation.upright_size(self.stored)
    }

    /// Returns the bytes that decoding takes, for a JPEG at a scale of `eighths`/8.
    pub fn decoding_bytes(&self, eighths: u32) -> u64 {
        match &self.frame {
            Some(frame) => frame.decoding_bytes(self.stored, eighths),
            None => self.stored.pixel_count() * self.channels,
        }
    }
}

/// Reads numbers and slices of a file that may end anywhere.
struct ByteCursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> ByteCursor<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    fn take_bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let piece = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(piece)
    }

    fn read_u8(&mut self) -> Option<u8> {
        self.take_bytes(1).map(|piece| piece[0])
    }

    fn read_u16_be(&mut self) -> Option<u16> {
        self.take_bytes(2).map(|piece| u16::from_be_bytes([piece[0], piece[1]]))
    }

    fn read_u32_be(&mut self) -> Option<u32> {
        self.take_bytes(4).map(|piece| u32::from_be_bytes([piece[0], piece[1], piece[2], piece[3]]))
    }

    fn read_u16_le(&mut self) -> Option<u16> {
        self.take_bytes(2).map(|piece| u16::from_le_bytes([piece[0], piece[1]]))
    }

    fn read_u32_le(&mut self) -> Option<u32> {
        self.take_bytes(4).map(|piece| u32::from_le_bytes([piece[0], piece[1], piece[2], piece[3]]))
    }
}
