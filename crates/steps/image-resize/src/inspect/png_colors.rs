//! Makes a color profile of the chunks of a PNG that describe its colors: cICP, gAMA and cHRM.

use std::panic::{AssertUnwindSafe, catch_unwind};

use moxcms::{
    Chromaticity, CicpProfile, ColorPrimaries, ColorProfile, LocalizableString, MatrixCoefficients, ProfileText, XyY,
    curve_from_gamma,
};

/// gAMA and cHRM count in these parts of one.
const PARTS_OF_ONE: u32 = 100_000;
/// Files in sRGB give this gAMA, because it cannot describe the curve exactly.
const SRGB_GAMMA: std::ops::RangeInclusive<u32> = 45_000..=46_000;
/// The gAMA values that make sense.
const USABLE_GAMMA: std::ops::RangeInclusive<u32> = 10_000..=1_000_000;

/// The chunks of a PNG that describe its colors, besides a color profile.
#[derive(Clone, Copy, Default)]
pub struct PngColorChunks {
    cicp: Option<[u8; 4]>,
    gamma: Option<u32>,
    /// White, red, green and blue, each as x and y.
    chromaticities: Option<[u32; 8]>,
    srgb: bool,
}

impl PngColorChunks {
    /// Reads a chunk. Other kinds, and chunks of a wrong length, are ignored.
    pub fn read_chunk(&mut self, kind: &[u8], data: &[u8]) {
        match kind {
            b"cICP" => self.cicp = data.try_into().ok(),
            b"sRGB" => self.srgb = true,
            b"gAMA" => self.gamma = data.try_into().map(u32::from_be_bytes).ok(),
            b"cHRM" => {
                let (numbers, _) = data.as_chunks::<4>();
                let numbers: Vec<_> = numbers.iter().map(|number| u32::from_be_bytes(*number)).collect();
                self.chromaticities = numbers.try_into().ok();
            }
            _ => {}
        }
    }

    /// True if there is a cICP chunk, whatever it says.
    pub fn has_cicp(&self) -> bool {
        self.cicp.is_some()
    }

    /// Returns the profile that cICP describes. cICP comes before a color profile.
    pub fn cicp_profile(&self, is_gray: bool) -> Option<Vec<u8>> {
        let [primaries, transfer, matrix, full_range] = self.cicp?;
        // A PNG holds RGB of the full range, so other values contradict the file.
        if matrix != 0 || full_range != 1 {
            return None;
        }
        let cicp = CicpProfile {
            color_primaries: primaries.try_into().ok()?,
            transfer_characteristics: transfer.try_into().ok()?,
            matrix_coefficients: MatrixCoefficients::Identity,
            full_range: true,
        };
        encode_profile(ColorProfile::new_from_cicp(cicp), is_gray)
    }

    /// Returns the profile that gAMA and cHRM describe. They come behind a color profile and the sRGB chunk.
    pub fn gamma_profile(&self, is_gray: bool) -> Option<Vec<u8>> {
        if self.srgb || (self.gamma.is_none() && self.chromaticities.is_none()) {
            return None;
        }
        let mut profile = ColorProfile::new_srgb();
        if let Some(gamma) = self.gamma.filter(|gamma| !SRGB_GAMMA.contains(gamma) && USABLE_GAMMA.contains(gamma)) {
            let curve = curve_from_gamma(PARTS_OF_ONE as f32 / gamma as f32);
            profile.red_trc = Some(curve.clone());
            profile.green_trc = Some(curve.clone());
            profile.blue_trc = Some(curve);
        }
        if let Some(numbers) = self.chromaticities {
            let (white, primaries) = read_primaries(numbers)?;
            profile.update_rgb_colorimetry(white, primaries);
        }
        encode_profile(profile, is_gray)
    }
}

/// Returns the white point and the primaries, or `None` if they span no colors.
fn read_primaries(numbers: [u32; 8]) -> Option<(XyY, ColorPrimaries)> {
    let [white_x, white_y, red_x, red_y, green_x, green_y, blue_x, blue_y] =
        numbers.map(|number| f64::from(number) / f64::from(PARTS_OF_ONE));
    let area = (green_x - red_x) * (blue_y - red_y) - (blue_x - red_x) * (green_y - red_y);
    if [white_y, red_y, green_y, blue_y].iter().any(|y| *y < 0.001) || area.abs() < 0.001 {
        return None;
    }
    let point = |x: f64, y: f64| Chromaticity::new(x as f32, y as f32);
    let (red, green, blue) = (point(red_x, red_y), point(green_x, green_y), point(blue_x, blue_y));
    Some((XyY { x: white_x, y: white_y, yb: 1.0 }, ColorPrimaries { red, green, blue }))
}

/// Returns the bytes of an RGB profile, or those of a gray profile with the same curve. Curves alone are encoded,
/// because not all readers know cICP.
fn encode_profile(mut profile: ColorProfile, is_gray: bool) -> Option<Vec<u8>> {
    let curve = profile.red_trc.clone()?;
    let colorants = [profile.red_colorant, profile.green_colorant, profile.blue_colorant];
    if is_gray {
        profile = ColorProfile::new_gray_with_gamma(1.0);
        profile.gray_trc = Some(curve);
    } else if !colorants.iter().all(|color| color.x.is_finite() && color.y.is_finite() && color.z.is_finite()) {
        return None;
    }
    profile.cicp = None;
    let name = LocalizableString::new("en".to_owned(), "US".to_owned(), "PNG".to_owned());
    profile.description = Some(ProfileText::Localizable(vec![name]));
    // The encoder may panic on extreme numbers.
    catch_unwind(AssertUnwindSafe(|| profile.encode().ok())).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_chunks(chunks: &[(&[u8], &[u8])]) -> PngColorChunks {
        let mut colors = PngColorChunks::default();
        for (kind, data) in chunks {
            colors.read_chunk(kind, data);
        }
        colors
    }

    #[test]
    fn chunks_describe_profiles() {
        let p3 = read_chunks(&[(b"cICP", &[12, 13, 0, 1])]);
        let profile = ColorProfile::new_from_slice(&p3.cicp_profile(false).unwrap()).unwrap();
        let expected = ColorProfile::new_display_p3();
        assert!((profile.red_colorant.x - expected.red_colorant.x).abs() < 0.001, "{:?}", profile.red_colorant);
        assert!(p3.gamma_profile(false).is_none());
        // Unspecified primaries, a video's matrix, and a narrow range.
        for cicp in [[2, 13, 0, 1], [12, 13, 1, 1], [12, 13, 0, 0]] {
            assert!(read_chunks(&[(b"cICP", &cicp)]).cicp_profile(false).is_none(), "{cicp:?}");
        }
        let linear = 100_000_u32.to_be_bytes();
        for is_gray in [false, true] {
            let profile = read_chunks(&[(b"gAMA", &linear)]).gamma_profile(is_gray).unwrap();
            let profile = ColorProfile::new_from_slice(&profile).unwrap();
            assert_eq!(profile.gray_trc.is_some(), is_gray);
        }
        assert!(read_chunks(&[(b"gAMA", &linear), (b"sRGB", &[0])]).gamma_profile(false).is_none());
        // Primaries that span no colors, and a chunk of a wrong length.
        assert!(read_chunks(&[(b"cHRM", &[0; 32])]).gamma_profile(false).is_none());
        assert!(read_chunks(&[(b"cHRM", &[1; 31]), (b"gAMA", &[1])]).gamma_profile(false).is_none());
    }
}
