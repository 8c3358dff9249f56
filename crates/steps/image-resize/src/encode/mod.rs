//! Encodes pixels to bytes. Equal pixels always give equal bytes.

mod libwebp;
mod webp_container;

use std::borrow::Cow;

use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};

use super::errors;
use super::format::ImageFormat;
use super::pixels::{PixelLayout, Pixels};
use crate::codes;
use afterload_core::error::{Error, Result};

/// The metadata that a result carries.
#[derive(Clone, Debug, Default)]
pub struct ImageMetadata {
    /// A color profile.
    pub profile: Option<Vec<u8>>,
    /// An EXIF block, starting at the TIFF header.
    pub exif: Option<Vec<u8>>,
}

/// Encodes a picture. A picture with transparency must be flattened before it becomes a JPEG.
///
/// # Errors
/// `image_too_large` if the format does not support the size.
pub fn encode_image(pixels: Pixels, format: ImageFormat, quality: u8, metadata: &ImageMetadata) -> Result<Vec<u8>> {
    let (size, most) = (pixels.size, format.max_side());
    if size.width.max(size.height) > most {
        let message = format!("a side of a {} may have {most} pixels; the result has {size}", format.name());
        return Err(errors::image_too_large(message));
    }
    match format {
        ImageFormat::Jpeg => encode_jpeg(&pixels, quality, metadata),
        ImageFormat::Webp => encode_webp(&pixels, quality, metadata),
        ImageFormat::Png | ImageFormat::Gif => encode_png(&pixels, metadata),
    }
}

fn encoding_error(format: ImageFormat, error: &dyn std::fmt::Display) -> Error {
    Error::new(codes::INTERNAL_ERROR, format!("encoding a {} failed: {error}", format.name()))
}

fn encode_jpeg(pixels: &Pixels, quality: u8, metadata: &ImageMetadata) -> Result<Vec<u8>> {
    let failed = |error: jpeg_encoder::EncodingError| encoding_error(ImageFormat::Jpeg, &error);
    let colour = match pixels.layout {
        PixelLayout::Gray => ColorType::Luma,
        PixelLayout::Rgb => ColorType::Rgb,
        other => return Err(encoding_error(ImageFormat::Jpeg, &format!("it holds no {other:?}"))),
    };
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, quality);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.set_optimized_huffman_tables(true);
    if let Some(profile) = &metadata.profile {
        encoder.add_icc_profile(profile).map_err(failed)?;
    }
    // A JPEG segment holds at most this many bytes, but EXIF blocks of other formats may be longer.
    if let Some(exif) = metadata.exif.as_ref().filter(|exif| exif.len() <= 65_527) {
        encoder.add_exif_metadata(exif).map_err(failed)?;
    }
    let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
    encoder.encode(&pixels.data, side(pixels.size.width), side(pixels.size.height), colour).map_err(failed)?;
    Ok(bytes)
}

fn encode_png(pixels: &Pixels, metadata: &ImageMetadata) -> Result<Vec<u8>> {
    let failed = |error: png::EncodingError| encoding_error(ImageFormat::Png, &error);
    let mut info = png::Info::with_size(pixels.size.width, pixels.size.height);
    info.bit_depth = png::BitDepth::Eight;
    info.color_type = match pixels.layout {
        PixelLayout::Gray => png::ColorType::Grayscale,
        PixelLayout::GrayAlpha => png::ColorType::GrayscaleAlpha,
        PixelLayout::Rgb => png::ColorType::Rgb,
        PixelLayout::Rgba => png::ColorType::Rgba,
        PixelLayout::Cmyk => return Err(encoding_error(ImageFormat::Png, &"it holds no inks")),
    };
    info.icc_profile = metadata.profile.as_deref().map(Cow::Borrowed);
    info.exif_metadata = metadata.exif.as_deref().map(Cow::Borrowed);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::with_info(&mut bytes, info).map_err(failed)?;
    encoder.set_compression(png::Compression::Balanced);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&pixels.data).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

fn encode_webp(pixels: &Pixels, quality: u8, metadata: &ImageMetadata) -> Result<Vec<u8>> {
    let spread;
    let (data, alpha) = match pixels.layout {
        PixelLayout::Rgb => (&pixels.data, false),
        PixelLayout::Rgba => (&pixels.data, true),
        PixelLayout::Gray => {
            spread = pixels.map_pixels(PixelLayout::Rgb, |[grey]: [u8; 1]| [grey; 3]);
            (&spread.data, false)
        }
        PixelLayout::GrayAlpha => {
            spread = pixels.map_pixels(PixelLayout::Rgba, |[grey, alpha]: [u8; 2]| [grey, grey, grey, alpha]);
            (&spread.data, true)
        }
        PixelLayout::Cmyk => return Err(encoding_error(ImageFormat::Webp, &"it holds no inks")),
    };
    let bytes = libwebp::encode_rows(data, pixels.size, alpha, quality)
        .ok_or_else(|| encoding_error(ImageFormat::Webp, &"libwebp took it for invalid or ran out of memory"))?;
    webp_container::add_metadata(bytes, pixels.size, metadata)
        .ok_or_else(|| encoding_error(ImageFormat::Webp, &"its container is odd"))
}
