//! Renders the results of one source. It is synchronous and runs on one thread.

use image::metadata::Orientation as Exif;

use super::color::{ColorConverter, ProfileState, flatten_alpha};
use super::decode::{choose_dct_scale, decode_image};
use super::encode::{ImageMetadata, encode_image};
use super::errors;
use super::format::ImageFormat;
use super::geometry::ScaleCrop;
use super::inspect::{InspectedImage, check_dimensions};
use super::pyramid::Pyramid;
use super::style::OutputSpec;
use crate::ImageLimits;
use afterload_core::error::Result;
use afterload_media_type::PixelSize;

/// A result.
#[derive(Clone, Debug)]
pub struct RenderedImage {
    /// The name of the style.
    pub name: String,
    /// The format.
    pub format: ImageFormat,
    /// The size.
    pub size: PixelSize,
    /// The encoded file.
    pub bytes: Vec<u8>,
}

/// The results to render from one source, and their cost.
pub struct RenderPlan {
    /// The results, largest first, each with its crop of the stored picture.
    results: Vec<(OutputSpec, ScaleCrop)>,
    dct_scale: u32,
    keep_metadata: bool,
    /// The approximate peak memory in bytes.
    pub memory: u64,
}

impl RenderPlan {
    /// Plans the results of one source.
    ///
    /// # Errors
    /// `image_too_large` if a result exceeds the limits.
    pub fn new(
        inspected: &InspectedImage,
        wanted: Vec<OutputSpec>,
        keep_metadata: bool,
        limits: &ImageLimits,
    ) -> Result<Self> {
        let mut results = Vec::with_capacity(wanted.len());
        for style in wanted {
            let fit = style.geometry.scale_crop_for(inspected.upright_size());
            check_dimensions(fit.size, limits).map_err(|error| error.context(format!("style `{}`", style.name)))?;
            results.push((style, inspected.orientation.to_stored(fit)));
        }
        results.sort_by_key(|(_, fit)| std::cmp::Reverse(fit.scaled.pixel_count()));
        let most = |side: fn(PixelSize) -> u32| results.iter().map(|(_, fit)| side(fit.scaled)).max().unwrap_or(1);
        let needed = PixelSize::new(most(|size| size.width), most(|size| size.height));
        let eighths = choose_dct_scale(inspected, needed);
        // Scaling copies the source (for alpha, and for the intermediate pass), and each result takes a few copies too.
        let pixels: u64 = results.iter().map(|(_, fit)| fit.size.pixel_count()).sum();
        let memory = inspected.decoding_bytes(eighths) * 2 + pixels * 12;
        Ok(Self { results, dct_scale: eighths, keep_metadata, memory })
    }
}

/// Renders the results of a plan and passes each to `each`. `stopped` is called between the stages. Returns the state
/// of the color profile.
///
/// # Errors
/// `image_invalid`, `image_truncated`, `image_unsupported`, `image_too_large`, and the errors of the callbacks.
pub fn render_images(
    inspected: &InspectedImage,
    bytes: &[u8],
    plan: RenderPlan,
    limits: &ImageLimits,
    stopped: &dyn Fn() -> Result<()>,
    mut each: impl FnMut(RenderedImage) -> Result<()>,
) -> Result<ProfileState> {
    let decoded = decode_image(inspected, bytes, plan.dct_scale, limits.decode.0)?;
    stopped()?;
    let mut colours = ColorConverter::for_source(inspected, decoded.layout, plan.keep_metadata);
    let metadata = match plan.keep_metadata {
        true => source_metadata(inspected, colours.state),
        false => ImageMetadata::default(),
    };
    let mut pyramid = Pyramid::new(decoded, inspected.stored, plan.dct_scale);
    for (style, fit) in plan.results {
        let small = pyramid.scale_to(fit)?;
        let mut pixels = inspected.orientation.orient_pixels(colours.convert_pixels(small));
        let format = style.format.for_source(inspected.format);
        if let Some(background) = style.background.or((format == ImageFormat::Jpeg).then_some([255; 3])) {
            pixels = flatten_alpha(pixels, background);
        }
        let size = pixels.size;
        let bytes = encode_image(pixels, format, style.quality, &metadata)
            .map_err(|error| error.context(format!("style `{}`", style.name)))?;
        stopped()?;
        each(RenderedImage { name: style.name, format, size, bytes })?;
    }
    Ok(colours.state)
}

/// Returns the metadata for the results. The orientation is removed, because the results are upright.
fn source_metadata(inspected: &InspectedImage, state: ProfileState) -> ImageMetadata {
    let profile = (state == ProfileState::Kept).then(|| inspected.profile.clone()).flatten();
    let mut exif = inspected.exif.clone();
    if let Some(exif) = &mut exif {
        let _before = Exif::remove_from_exif_chunk(exif);
    }
    ImageMetadata { profile, exif }
}

/// Checks the size of the file.
///
/// # Errors
/// `image_too_large`.
pub fn check_file_size(size: u64, limits: &ImageLimits) -> Result<()> {
    match size > limits.file.0 {
        true => Err(errors::image_too_large(format!("the file has {size} bytes; images may have {}", limits.file))),
        false => Ok(()),
    }
}
