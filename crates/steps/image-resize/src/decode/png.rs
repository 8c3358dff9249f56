//! Decodes a PNG: palettes and low depths become eight bits, sixteen bits become eight, and color keys become alpha.

use std::io::{Cursor, ErrorKind};

use png::{ColorType, Decoder, DecodingError, Limits, Transformations};

use crate::errors;
use crate::inspect::InspectedImage;
use crate::pixels::{PixelLayout, Pixels};
use afterload_core::error::{Error, Result};
use afterload_media_type::PixelSize;

const PNG_NAME: &str = "PNG";
/// The decoder's budget for rows and tables. The pixels go to a buffer outside of this limit.
const PNG_WORKING_BYTES: usize = 16 << 20;

pub fn decode_png(inspected: &InspectedImage, bytes: &[u8]) -> Result<Pixels> {
    // The decoder holds whole chunks, and a chunk is at most as large as the file.
    let limits = Limits { bytes: PNG_WORKING_BYTES + bytes.len() };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(decoder_error)?;
    let (width, height) = reader.info().size();
    let size = PixelSize::new(width, height);
    let layout = match reader.output_color_type().0 {
        ColorType::Grayscale => PixelLayout::Gray,
        ColorType::GrayscaleAlpha => PixelLayout::GrayAlpha,
        ColorType::Rgb => PixelLayout::Rgb,
        ColorType::Rgba => PixelLayout::Rgba,
        ColorType::Indexed => return Err(errors::image_invalid(PNG_NAME, "it has no palette")),
    };
    let bytes = size.pixel_count() * layout.channel_count() as u64;
    if size != inspected.stored
        || bytes > inspected.decoding_bytes(8)
        || reader.output_buffer_size() != Some(bytes as usize)
    {
        return Err(errors::image_invalid(PNG_NAME, "its parts disagree about its size"));
    }
    let mut data = vec![0; bytes as usize];
    reader.next_frame(&mut data).map_err(decoder_error)?;
    Ok(Pixels { size, layout, data })
}

fn decoder_error(error: DecodingError) -> Error {
    match error {
        DecodingError::LimitsExceeded => {
            errors::image_too_large(format!("the {PNG_NAME} takes too much memory to read"))
        }
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => errors::image_truncated(PNG_NAME),
        error => errors::image_invalid(PNG_NAME, error),
    }
}
