//! Decodes bytes to pixels. Every decoder has limits, and a panic of a decoder counts as a damaged file.

mod gif;
mod jpeg;
mod jpeg_scans;
mod png;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::{gif::GifDecoder, webp::WebPDecoder};
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::errors;
use super::format::ImageFormat;
use super::inspect::InspectedImage;
use super::pixels::{PixelLayout, Pixels};
use afterload_core::error::{Error, Result};
use afterload_media_type::PixelSize;

/// Returns the smallest scale, in eighths, at which a JPEG is still at least as large as `needed`. Other formats are
/// always decoded at full size.
pub fn choose_dct_scale(inspected: &InspectedImage, needed: PixelSize) -> u32 {
    let PixelSize { width, height } = inspected.stored;
    // The decoder chooses its scale by one side only, and small sides round to the same value.
    if inspected.format != ImageFormat::Jpeg || width.min(height) < 16 {
        return 8;
    }
    let enough = |eighths: &u32| {
        let at = jpeg::scaled_size(inspected.stored, *eighths);
        at.width >= needed.width && at.height >= needed.height
    };
    [1, 2, 4].into_iter().find(enough).unwrap_or(8)
}

/// Decodes the first frame, a JPEG at `eighths`/8 of its size. It uses at most `limit` bytes.
///
/// # Errors
/// `image_invalid`, `image_truncated`, `image_unsupported`, `image_too_large`.
pub fn decode_image(inspected: &InspectedImage, bytes: &[u8], eighths: u32, limit: u64) -> Result<Pixels> {
    let cost = inspected.decoding_bytes(eighths);
    if cost > limit {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let message = format!("decoding it takes {} MiB; {} MiB are allowed", mib(cost), mib(limit));
        return Err(errors::image_too_large(message));
    }
    let name = inspected.format.name();
    let read = || match inspected.format {
        ImageFormat::Jpeg => jpeg::decode_jpeg(inspected, bytes, eighths, limit),
        ImageFormat::Png => png::decode_png(inspected, bytes),
        ImageFormat::Webp => {
            let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|error| decoder_error(name, error))?;
            decode_whole(inspected, decoder, limit)
        }
        ImageFormat::Gif => {
            let colored = gif::with_gray_palette(bytes, inspected.lacks_palette);
            let decoder = GifDecoder::new(Cursor::new(colored)).map_err(|error| decoder_error(name, error))?;
            decode_whole(inspected, decoder, limit)
        }
    };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(pixels) => pixels,
        Err(_) => {
            tracing::warn!("a decoder panicked on a {name}; the file is refused");
            Err(errors::image_invalid(name, "the decoder could not make sense of it"))
        }
    }
}

fn decode_whole(inspected: &InspectedImage, mut decoder: impl ImageDecoder, limit: u64) -> Result<Pixels> {
    let name = inspected.format.name();
    let mut limits = Limits::default();
    limits.max_alloc = Some(limit);
    decoder.set_limits(limits).map_err(|error| decoder_error(name, error))?;
    let (width, height) = decoder.dimensions();
    let size = PixelSize::new(width, height);
    if size != inspected.stored {
        return Err(errors::image_invalid(
            name,
            format!("its parts disagree whether it has {} or {size}", inspected.stored),
        ));
    }
    let layout = match decoder.color_type() {
        ColorType::Rgb8 => PixelLayout::Rgb,
        ColorType::Rgba8 => PixelLayout::Rgba,
        other => {
            return Err(errors::image_unsupported(format!("the file is a {name} with pixels of the kind {other:?}")));
        }
    };
    let mut data = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut data).map_err(|error| decoder_error(name, error))?;
    Ok(Pixels { size, layout, data })
}

fn decoder_error(name: &str, error: ImageError) -> Error {
    match error {
        ImageError::Limits(error) => errors::image_too_large(format!("the {name} is too large to decode: {error}")),
        ImageError::Unsupported(error) => {
            errors::image_unsupported(format!("the file is a {name} of a rare kind: {error}"))
        }
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            errors::image_truncated(name)
        }
        error => errors::image_invalid(name, error),
    }
}
