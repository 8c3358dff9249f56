//! Colour: profiles are converted to sRGB, which is what a picture without one means; inks become light; transparency
//! is laid on a background where a format has none.

use moxcms::{CmsError, ColorProfile, DataColorSpace, Layout as Channels, ProfileText, TransformOptions};
use schemars::JsonSchema;
use serde::Serialize;

use super::inspect::InspectedImage;
use super::pixels::{PixelLayout, Pixels};

/// What became of a source's colour profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProfileState {
    /// It has none: it is sRGB.
    None,
    /// It says sRGB.
    Srgb,
    /// The results were converted to sRGB.
    Converted,
    /// The results carry it (`keep_metadata`).
    Kept,
    /// It cannot be used, so that the source was taken for sRGB.
    Unusable,
}

/// How the colours of a source become those of its results.
pub struct ColorConverter {
    /// What became of the profile.
    pub state: ProfileState,
    profile: Option<Box<ColorProfile>>,
}

impl ColorConverter {
    /// Reads the profile of a source with such pixels; `keep`: the results carry it.
    pub fn for_source(inspected: &InspectedImage, layout: PixelLayout, keep: bool) -> Self {
        let state = |state| Self { state, profile: None };
        let Some(bytes) = &inspected.profile else {
            return state(if inspected.broken_profile { ProfileState::Unusable } else { ProfileState::None });
        };
        // Profiles come from strangers too.
        let read = std::panic::catch_unwind(|| ColorProfile::new_from_slice(bytes));
        let profile = match read {
            Ok(Ok(profile)) if profile_fits(&profile, layout) => profile,
            _ => return state(ProfileState::Unusable),
        };
        match layout {
            // Not every format carries a profile of grey or of inks.
            PixelLayout::Rgb | PixelLayout::Rgba if keep => return state(ProfileState::Kept),
            _ if is_srgb(&profile) => return state(ProfileState::Srgb),
            _ => {}
        }
        Self { state: ProfileState::Converted, profile: Some(Box::new(profile)) }
    }

    /// Brings a result to sRGB, or to the profile that it carries.
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

/// Ink to light as simply as it can be.
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

/// By its name: all who make such a profile call it so, and converting one that lies harms nobody but its owner.
fn is_srgb(profile: &ColorProfile) -> bool {
    let named = |text: &str| text.to_ascii_lowercase().contains("srgb");
    match &profile.description {
        Some(ProfileText::PlainString(text)) => named(text),
        Some(ProfileText::Localizable(texts)) => texts.iter().any(|text| named(&text.value)),
        Some(ProfileText::Description(text)) => named(&text.ascii_string) || named(&text.unicode_string),
        None => false,
    }
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

/// Lays a picture on a background of one colour.
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
