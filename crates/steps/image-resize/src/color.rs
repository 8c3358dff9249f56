//! Color conversion: applies color profiles to get sRGB, converts CMYK to RGB, and fills transparency with a background
//! where the output format has none.

use moxcms::{CmsError, ColorProfile, DataColorSpace, Layout as Channels, TransformOptions};
use schemars::JsonSchema;
use serde::Serialize;

use super::inspect::InspectedImage;
use super::pixels::{PixelLayout, Pixels};
use afterload_media_type::PixelSize;

/// A profile that changes no channel by more than this is sRGB: profiles round.
const SRGB_TOLERANCE: u8 = 2;

/// What became of a source's colour profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProfileState {
    /// It has none: it is sRGB.
    None,
    /// It describes sRGB.
    Srgb,
    /// The results were converted to sRGB.
    Converted,
    /// The results carry it (`keep_metadata`).
    Kept,
    /// It cannot be used, so that the source was taken for sRGB.
    Unusable,
}

/// Converts the colors of a source to those of its results.
pub struct ColorConverter {
    pub state: ProfileState,
    profile: Option<Box<ColorProfile>>,
}

impl ColorConverter {
    /// Reads the profile of a source with this pixel layout. With `keep`, the results carry the profile.
    pub fn for_source(inspected: &InspectedImage, layout: PixelLayout, keep: bool) -> Self {
        let state = |state| Self { state, profile: None };
        let Some(bytes) = &inspected.profile else {
            return state(if inspected.broken_profile { ProfileState::Unusable } else { ProfileState::None });
        };
        // The profile parser may panic on a hostile profile.
        let read = std::panic::catch_unwind(|| ColorProfile::new_from_slice(bytes));
        let profile = match read {
            Ok(Ok(profile)) if profile_fits(&profile, layout) => profile,
            _ => return state(ProfileState::Unusable),
        };
        // Not every format can carry a gray or CMYK profile, so only RGB profiles are kept.
        if keep && matches!(layout, PixelLayout::Rgb | PixelLayout::Rgba) {
            return state(ProfileState::Kept);
        }
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| is_srgb(&profile, layout))) {
            Ok(Ok(true)) => return state(ProfileState::Srgb),
            Ok(Ok(false)) => {}
            _ => return state(ProfileState::Unusable),
        }
        Self { state: ProfileState::Converted, profile: Some(Box::new(profile)) }
    }

    /// Converts a result to sRGB, or leaves it in the profile that it carries.
    pub fn convert_pixels(&mut self, pixels: Pixels) -> Pixels {
        if let Some(profile) = &self.profile {
            let convert = || convert_to_srgb(&pixels, profile);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(convert)) {
                Ok(Ok(converted)) => return converted,
                _ => {
                    self.profile = None;
                    self.state = ProfileState::Unusable;
                }
            }
        }
        match pixels.layout {
            PixelLayout::Cmyk => pixels.map_pixels(PixelLayout::Rgb, cmyk_to_rgb),
            _ => pixels,
        }
    }
}

/// The simplest conversion; it is used if there is no profile.
fn cmyk_to_rgb([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let through = |ink: u8| multiply_channels(255 - ink, 255 - black);
    [through(cyan), through(magenta), through(yellow)]
}

/// `a * b / 255`, rounded.
fn multiply_channels(a: u8, b: u8) -> u8 {
    ((u32::from(a) * u32::from(b) + 127) / 255) as u8
}

fn profile_fits(profile: &ColorProfile, layout: PixelLayout) -> bool {
    match layout {
        PixelLayout::Gray | PixelLayout::GrayAlpha => profile.color_space == DataColorSpace::Gray,
        PixelLayout::Rgb | PixelLayout::Rgba => profile.color_space == DataColorSpace::Rgb,
        PixelLayout::Cmyk => profile.color_space == DataColorSpace::Cmyk,
    }
}

/// Detects sRGB by converting some colors, because the names of profiles are not reliable: a linear variant of sRGB is
/// named after it too.
fn is_srgb(profile: &ColorProfile, layout: PixelLayout) -> Result<bool, CmsError> {
    let levels = [0u8, 10, 30, 70, 120, 190, 255];
    let (layout, data): (_, Vec<u8>) = match layout {
        PixelLayout::Gray | PixelLayout::GrayAlpha => (PixelLayout::Gray, levels.to_vec()),
        PixelLayout::Rgb | PixelLayout::Rgba => {
            let pairs = levels.iter().flat_map(|red| levels.map(|green| (*red, green)));
            let colors = pairs.flat_map(|(red, green)| levels.map(|blue| [red, green, blue]));
            (PixelLayout::Rgb, colors.flatten().collect())
        }
        PixelLayout::Cmyk => return Ok(false),
    };
    let size = PixelSize::new((data.len() / layout.channel_count()) as u32, 1);
    let colors = Pixels { size, layout, data };
    let converted = convert_to_srgb(&colors, profile)?;
    Ok(colors.data.iter().zip(&converted.data).all(|(from, to)| from.abs_diff(*to) <= SRGB_TOLERANCE))
}

fn convert_to_srgb(pixels: &Pixels, profile: &ColorProfile) -> Result<Pixels, CmsError> {
    let (from, to, layout) = match pixels.layout {
        PixelLayout::Gray => (Channels::Gray, Channels::Rgb, PixelLayout::Rgb),
        PixelLayout::GrayAlpha => (Channels::GrayAlpha, Channels::Rgba, PixelLayout::Rgba),
        PixelLayout::Rgb => (Channels::Rgb, Channels::Rgb, PixelLayout::Rgb),
        PixelLayout::Rgba => (Channels::Rgba, Channels::Rgba, PixelLayout::Rgba),
        PixelLayout::Cmyk => (Channels::Rgba, Channels::Rgb, PixelLayout::Rgb),
    };
    let srgb = ColorProfile::new_srgb();
    let transform = profile.create_transform_8bit(from, &srgb, to, TransformOptions::default())?;
    let mut data = vec![0; pixels.size.pixel_count() as usize * layout.channel_count()];
    transform.transform(&pixels.data, &mut data)?;
    let coloured = Pixels { size: pixels.size, layout, data };
    Ok(match pixels.layout {
        PixelLayout::Gray => coloured.map_pixels(PixelLayout::Gray, |[_, green, _]: [u8; 3]| [green]),
        PixelLayout::GrayAlpha => {
            coloured.map_pixels(PixelLayout::GrayAlpha, |[_, green, _, alpha]: [u8; 4]| [green, alpha])
        }
        _ => coloured,
    })
}

/// Blends a picture over a background of one color.
pub fn flatten_alpha(pixels: Pixels, [red, green, blue]: [u8; 3]) -> Pixels {
    let over = |top: u8, bottom: u8, alpha: u8| {
        let (top, bottom, alpha) = (u32::from(top), u32::from(bottom), u32::from(alpha));
        ((top * alpha + bottom * (255 - alpha) + 127) / 255) as u8
    };
    match pixels.layout {
        PixelLayout::Rgba => pixels.map_pixels(PixelLayout::Rgb, |[r, g, b, alpha]: [u8; 4]| {
            [over(r, red, alpha), over(g, green, alpha), over(b, blue, alpha)]
        }),
        PixelLayout::GrayAlpha if red == green && green == blue => {
            pixels.map_pixels(PixelLayout::Gray, |[grey, alpha]: [u8; 2]| [over(grey, red, alpha)])
        }
        PixelLayout::GrayAlpha => pixels.map_pixels(PixelLayout::Rgb, |[grey, alpha]: [u8; 2]| {
            [over(grey, red, alpha), over(grey, green, alpha), over(grey, blue, alpha)]
        }),
        PixelLayout::Gray | PixelLayout::Rgb | PixelLayout::Cmyk => pixels,
    }
}
