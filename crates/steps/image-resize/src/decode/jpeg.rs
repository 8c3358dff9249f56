//! Decodes a JPEG at an eighth, a quarter, half or all of its size.

use std::io::ErrorKind;

use jpeg_decoder::{Decoder, Error as Fault, PixelFormat};

use crate::errors;
use crate::inspect::InspectedImage;
use crate::pixels::{PixelLayout, Pixels};
use afterload_core::error::{Error, Result};
use afterload_media_type::PixelSize;

const JPEG_NAME: &str = "JPEG";

/// Returns the size at a scale of `eighths`/8.
pub fn scaled_size(size: PixelSize, eighths: u32) -> PixelSize {
    PixelSize::new((size.width * eighths).div_ceil(8), (size.height * eighths).div_ceil(8))
}

pub fn decode_jpeg(inspected: &InspectedImage, bytes: &[u8], eighths: u32, limit: u64) -> Result<Pixels> {
    let mut decoder = Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(usize::try_from(limit).unwrap_or(usize::MAX));
    decoder.read_info().map_err(decoder_error)?;
    if eighths < 8 {
        let wanted = scaled_size(inspected.stored, eighths);
        let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
        decoder.scale(side(wanted.width), side(wanted.height)).map_err(decoder_error)?;
    }
    let data = decoder.decode().map_err(decoder_error)?;
    let info = decoder.info().ok_or_else(|| errors::image_invalid(JPEG_NAME, "it has no header"))?;
    let layout = match info.pixel_format {
        PixelFormat::L8 => PixelLayout::Gray,
        PixelFormat::RGB24 => PixelLayout::Rgb,
        PixelFormat::CMYK32 => PixelLayout::Cmyk,
        PixelFormat::L16 => {
            return Err(errors::image_unsupported(format!("the file is a {JPEG_NAME} with 16 bits a channel")));
        }
    };
    let size = PixelSize::new(info.width.into(), info.height.into());
    if data.len() as u64 != size.pixel_count() * layout.channel_count() as u64 {
        return Err(errors::image_invalid(JPEG_NAME, "its pixels are not all there"));
    }
    Ok(Pixels { size, layout, data })
}

fn decoder_error(error: Fault) -> Error {
    match error {
        Fault::Unsupported(what) => {
            errors::image_unsupported(format!("the file is a {JPEG_NAME} of a rare kind ({what:?})"))
        }
        Fault::Io(error) if error.kind() == ErrorKind::UnexpectedEof => errors::image_truncated(JPEG_NAME),
        error => errors::image_invalid(JPEG_NAME, error),
    }
}
