//! Decodes a JPEG at an eighth, a quarter, half or all of its size.

use std::io::ErrorKind;

use jpeg_decoder::{ColorTransform, Decoder, Error as Fault, ImageInfo, PixelFormat};

use super::jpeg_scans::JpegScanReader;
use crate::errors;
use crate::inspect::{InspectedImage, JpegColors};
use crate::pixels::{PixelLayout, Pixels};
use afterload_core::error::{Error, Result};
use afterload_media_type::PixelSize;

const JPEG_NAME: &str = "JPEG";

/// Returns the size at a scale of `eighths`/8.
pub fn scaled_size(size: PixelSize, eighths: u32) -> PixelSize {
    PixelSize::new((size.width * eighths).div_ceil(8), (size.height * eighths).div_ceil(8))
}

pub fn decode_jpeg(inspected: &InspectedImage, bytes: &[u8], eighths: u32, limit: u64) -> Result<Pixels> {
    let frame = inspected.frame.as_ref().ok_or_else(|| errors::image_invalid(JPEG_NAME, "it has no header"))?;
    let mut reader = JpegScanReader::new(bytes, frame.progressive);
    let scaled = (eighths < 8).then(|| scaled_size(inspected.stored, eighths));
    let decoded = run_decoder(&mut reader, frame.colors, scaled, limit);
    let (mut data, info) = decoded.map_err(|fault| match fault {
        Fault::Format(_) if reader.is_at_guard() => errors::image_truncated(JPEG_NAME),
        fault => decoder_error(fault),
    })?;
    let layout = match info.pixel_format {
        PixelFormat::L8 => PixelLayout::Gray,
        PixelFormat::RGB24 => PixelLayout::Rgb,
        PixelFormat::CMYK32 => PixelLayout::Cmyk,
        PixelFormat::L16 => {
            return Err(errors::image_unsupported(format!("the file is a {JPEG_NAME} with 16 bits a channel")));
        }
    };
    if frame.colors == JpegColors::PlainCmyk {
        // The decoder inverts all inks, as only files of Adobe's programs need it.
        for ink in &mut data {
            *ink = 255 - *ink;
        }
    }
    let size = PixelSize::new(info.width.into(), info.height.into());
    if data.len() as u64 != size.pixel_count() * layout.channel_count() as u64 {
        return Err(errors::image_invalid(JPEG_NAME, "its pixels are not all there"));
    }
    Ok(Pixels { size, layout, data })
}

fn run_decoder(
    reader: &mut JpegScanReader<'_>,
    colors: JpegColors,
    scaled: Option<PixelSize>,
    limit: u64,
) -> Result<(Vec<u8>, ImageInfo), Fault> {
    let mut decoder = Decoder::new(reader);
    decoder.set_max_decoding_buffer_size(usize::try_from(limit).unwrap_or(usize::MAX));
    decoder.set_color_transform(match colors {
        JpegColors::Gray => ColorTransform::Grayscale,
        JpegColors::Rgb => ColorTransform::RGB,
        JpegColors::YCbCr => ColorTransform::YCbCr,
        JpegColors::PlainCmyk | JpegColors::AdobeCmyk => ColorTransform::CMYK,
        JpegColors::AdobeYcck => ColorTransform::YCCK,
    });
    decoder.read_info()?;
    if let Some(wanted) = scaled {
        let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
        decoder.scale(side(wanted.width), side(wanted.height))?;
    }
    let data = decoder.decode()?;
    let info = decoder.info().ok_or_else(|| Fault::Format("it has no header".to_owned()))?;
    Ok((data, info))
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
