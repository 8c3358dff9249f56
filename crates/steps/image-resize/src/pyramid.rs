//! Scales with a Lanczos filter. Each result comes from the smallest picture that is still at least twice as large.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{PixelType, ResizeOptions, Resizer};

use super::geometry::ScaleCrop;
use super::pixels::{PixelLayout, Pixels};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_media_type::PixelSize;

/// A result is scaled from a picture that is at least this many times larger, or else from the source.
const PYRAMID_MARGIN: u32 = 2;

/// The pictures from which results can be scaled.
pub struct Pyramid {
    resizer: Resizer,
    /// The decoded source; a JPEG may be decoded at a smaller scale.
    base: Pixels,
    /// The exact size of `base`. It is fractional if the decoder rounded up.
    extent: (f64, f64),
    /// Whole pictures that were results, from large to small.
    levels: Vec<Pixels>,
}

impl Pyramid {
    /// Starts with a picture that was decoded at `eighths`/8 of the source size.
    pub fn new(base: Pixels, source: PixelSize, eighths: u32) -> Self {
        let part = |side: u32| f64::from(side) * f64::from(eighths) / 8.0;
        let extent = (part(source.width), part(source.height));
        Self { resizer: Resizer::new(), base, extent, levels: Vec::new() }
    }

    /// Scales one result. Call it for large results first, so that small ones can be made from them.
    ///
    /// # Errors
    /// `internal_error`. No file content can cause it.
    pub fn scale_to(&mut self, fit: ScaleCrop) -> Result<Pixels> {
        let large_enough = |step: &&Pixels| {
            step.size.width >= fit.scaled.width.saturating_mul(PYRAMID_MARGIN)
                && step.size.height >= fit.scaled.height.saturating_mul(PYRAMID_MARGIN)
        };
        let (from, extent) = match self.levels.iter().rev().find(large_enough) {
            Some(step) => (step, (f64::from(step.size.width), f64::from(step.size.height))),
            None => (&self.base, self.extent),
        };
        let whole = fit.size == fit.scaled;
        let made =
            if whole && fit.size == from.size && extent == (f64::from(fit.size.width), f64::from(fit.size.height)) {
                from.clone()
            } else {
                let per = (extent.0 / f64::from(fit.scaled.width), extent.1 / f64::from(fit.scaled.height));
                let corner = (f64::from(fit.left) * per.0, f64::from(fit.top) * per.1);
                let part = (f64::from(fit.size.width) * per.0, f64::from(fit.size.height) * per.1);
                scale_pixels(&mut self.resizer, from, corner, part, fit.size)?
            };
        if whole && self.levels.last().is_none_or(|last| fit.size.pixel_count() < last.size.pixel_count()) {
            self.levels.push(made.clone());
        }
        Ok(made)
    }
}

fn scale_pixels(
    resizer: &mut Resizer,
    from: &Pixels,
    corner: (f64, f64),
    part: (f64, f64),
    to: PixelSize,
) -> Result<Pixels> {
    let kind = match from.layout {
        PixelLayout::Gray => PixelType::U8,
        PixelLayout::GrayAlpha => PixelType::U8x2,
        PixelLayout::Rgb => PixelType::U8x3,
        PixelLayout::Rgba | PixelLayout::Cmyk => PixelType::U8x4,
    };
    let internal =
        |error: &dyn std::fmt::Display| Error::new(codes::INTERNAL_ERROR, format!("scaling failed: {error}"));
    let view = ImageRef::new(from.size.width, from.size.height, &from.data, kind).map_err(|error| internal(&error))?;
    let mut made = Image::new(to.width, to.height, kind);
    // Rounding must not move the crop beyond the edge.
    let left = corner.0.min(f64::from(from.size.width) - part.0).max(0.0);
    let top = corner.1.min(f64::from(from.size.height) - part.1).max(0.0);
    let options = ResizeOptions::new().use_alpha(from.layout.has_alpha()).crop(
        left,
        top,
        part.0.min(f64::from(from.size.width)),
        part.1.min(f64::from(from.size.height)),
    );
    resizer.resize(&view, &mut made, &options).map_err(|error| internal(&error))?;
    Ok(Pixels { size: to, layout: from.layout, data: made.into_vec() })
}
