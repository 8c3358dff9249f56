//! From the bytes of a source to the bytes of its results, in one thread and without waiting for anything.

use image::metadata::Orientation as Exif;

use super::colour::{Colours, ProfileState, flattened};
use super::decode::{decode, eighths};
use super::encode::{Metadata, encode};
use super::fault;
use super::format::Format;
use super::geometry::Fit;
use super::inspect::{Inspected, check_size};
use super::resize::Ladder;
use super::style::Wanted;
use crate::ImageLimits;
use afterload_core::error::Result;
use afterload_media_type::Size;

/// One result.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The name of its style.
    pub name: String,
    /// Its format.
    pub format: Format,
    /// Its size.
    pub size: Size,
    /// The file.
    pub bytes: Vec<u8>,
}

/// What is to be done with a source, and what it costs.
pub struct Plan {
    /// Results, large ones first, each with its fit in the picture as it is stored.
    results: Vec<(Wanted, Fit)>,
    eighths: u32,
    keep_metadata: bool,
    /// About how many bytes the work takes at its height.
    pub memory: u64,
}

impl Plan {
    /// Plans the results of one source.
    ///
    /// # Errors
    /// `image_too_large` if a result would be.
    pub fn new(inspected: &Inspected, wanted: Vec<Wanted>, keep_metadata: bool, limits: &ImageLimits) -> Result<Self> {
        let mut results = Vec::with_capacity(wanted.len());
        for style in wanted {
            let fit = style.geometry.fit(inspected.seen());
            check_size(fit.size, limits).map_err(|error| error.context(format!("style `{}`", style.name)))?;
            results.push((style, inspected.orientation.stored(fit)));
        }
        results.sort_by_key(|(_, fit)| std::cmp::Reverse(fit.scaled.pixels()));
        let most = |side: fn(Size) -> u32| results.iter().map(|(_, fit)| side(fit.scaled)).max().unwrap_or(1);
        let needed = Size::new(most(|size| size.width), most(|size| size.height));
        let eighths = eighths(inspected, needed);
        // Scaling takes copies of the source (for alpha, and half-way through), and each result a few of its own.
        let pixels: u64 = results.iter().map(|(_, fit)| fit.size.pixels()).sum();
        let memory = inspected.decoding(eighths) * 2 + pixels * 12;
        Ok(Self { results, eighths, keep_metadata, memory })
    }
}

/// Makes the results of a plan and hands each out as it is made. `stopped` is asked between the stages. Tells what
/// became of the source's colour profile.
///
/// # Errors
/// `image_invalid`, `image_truncated`, `image_unsupported`, `image_too_large`, and those of the callbacks.
pub fn render(
    inspected: &Inspected,
    bytes: &[u8],
    plan: Plan,
    limits: &ImageLimits,
    stopped: &dyn Fn() -> Result<()>,
    mut each: impl FnMut(Picture) -> Result<()>,
) -> Result<ProfileState> {
    let decoded = decode(inspected, bytes, plan.eighths, limits.decode.0)?;
    stopped()?;
    let mut colours = Colours::of(inspected, decoded.layout, plan.keep_metadata);
    let metadata = match plan.keep_metadata {
        true => kept(inspected, colours.state),
        false => Metadata::default(),
    };
    let mut ladder = Ladder::new(decoded, inspected.stored, plan.eighths);
    for (style, fit) in plan.results {
        let small = ladder.make(fit)?;
        let mut pixels = inspected.orientation.apply(colours.apply(small));
        let format = style.format.of(inspected.format);
        if let Some(background) = style.background.or((format == Format::Jpeg).then_some([255; 3])) {
            pixels = flattened(pixels, background);
        }
        let size = pixels.size;
        let bytes = encode(pixels, format, style.quality, &metadata)
            .map_err(|error| error.context(format!("style `{}`", style.name)))?;
        stopped()?;
        each(Picture { name: style.name, format, size, bytes })?;
    }
    Ok(colours.state)
}

/// What results carry of their source: upright, because they are.
fn kept(inspected: &Inspected, state: ProfileState) -> Metadata {
    let profile = (state == ProfileState::Kept).then(|| inspected.profile.clone()).flatten();
    let mut exif = inspected.exif.clone();
    if let Some(exif) = &mut exif {
        let _before = Exif::remove_from_exif_chunk(exif);
    }
    Metadata { profile, exif }
}

/// Refuses a file by its size alone.
///
/// # Errors
/// `image_too_large`.
pub fn check_file(size: u64, limits: &ImageLimits) -> Result<()> {
    match size > limits.file.0 {
        true => Err(fault::too_large(format!("the file has {size} bytes; images may have {}", limits.file))),
        false => Ok(()),
    }
}
