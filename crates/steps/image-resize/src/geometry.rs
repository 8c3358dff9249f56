//! ImageMagick's geometry language with Paperclip's `#`. The arithmetic equals ImageMagick's to the pixel.

use afterload_media_type::PixelSize;

/// The size of a result, relative to its source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    numbers: GeometryNumbers,
    mode: GeometryMode,
    condition: Option<ResizeCondition>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum GeometryNumbers {
    /// `WxH`, `W`, `xH`.
    Pixels(Option<u32>, Option<u32>),
    /// `N%`, `NxM%`, `xM%`.
    Percent(Option<f64>, Option<f64>),
    /// `N@`.
    Area(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum GeometryMode {
    /// The whole picture fits into the box.
    Fit,
    /// `^`: the picture covers the box.
    Fill,
    /// `!`: the exact size, without keeping the proportions.
    Exact,
    /// `#`: the picture covers the box, and the overlap is cut off.
    Crop,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ResizeCondition {
    /// `>`: only shrinks.
    Shrink,
    /// `<`: only enlarges.
    Enlarge,
}

/// A geometry applied to one picture: scale it to `scaled`, then crop `size` at `left`, `top`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleCrop {
    /// The size of the whole scaled picture.
    pub scaled: PixelSize,
    /// The offset of the crop from the left.
    pub left: u32,
    /// The offset of the crop from the top.
    pub top: u32,
    /// The size of the result.
    pub size: PixelSize,
}

/// The reason why a text is not a geometry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeometryError {
    /// The message.
    pub message: String,
    /// The hint.
    pub hint: &'static str,
}

const GEOMETRY_HINT: &str = "such as `800x600`, `800`, `x600`, `800x600>`, `100x100#` or `50%`";
/// The longest side that any of the formats supports.
const MAX_GEOMETRY_SIDE: u32 = 65_535;

impl std::str::FromStr for Geometry {
    type Err = GeometryError;

    fn from_str(text: &str) -> Result<Self, GeometryError> {
        let fault = |why: &str, hint| GeometryError {
            message: format!("`{}` is not a geometry: {why}", shorten_text(text)),
            hint,
        };
        let (first, rest) = split_number(text.trim());
        let (early, rest) = rest.strip_prefix('%').map_or((false, rest), |rest| (true, rest));
        let (second, flags) = match rest.strip_prefix(['x', 'X']) {
            Some(rest) => split_number(rest),
            None => ("", rest),
        };
        if first.is_empty() && second.is_empty() {
            return Err(fault("it names neither a width nor a height", GEOMETRY_HINT));
        }
        let mut seen = [false; 7];
        for flag in flags.chars() {
            let Some(known) = "%@!^#><".find(flag) else {
                return Err(fault(&format!("`{flag}` has no meaning there"), GEOMETRY_HINT));
            };
            if std::mem::replace(&mut seen[known], true) {
                return Err(fault(&format!("`{flag}` stands there twice"), GEOMETRY_HINT));
            }
        }
        let [percent, area, exact, fill, crop, shrink, enlarge] = seen;
        let numbers = match (percent || early, area) {
            (true, true) => return Err(fault("`%` and `@` exclude each other", GEOMETRY_HINT)),
            (true, false) => GeometryNumbers::Percent(parse_percentage(first), parse_percentage(second)),
            (false, true) if second.is_empty() => GeometryNumbers::Area(first.parse().unwrap_or(f64::NAN)),
            (false, true) => {
                return Err(fault("`@` takes one number", "write `10000@` for at most 10,000 pixels in all"));
            }
            (false, false) => GeometryNumbers::Pixels(parse_pixels(first), parse_pixels(second)),
        };
        if !numbers.are_valid(first, second) {
            let hint = "pixels are whole numbers from 1 to 65535, percentages go up to 10000";
            return Err(fault("its numbers cannot be used", hint));
        }
        let shape = match (exact, fill, crop) {
            (false, false, false) => GeometryMode::Fit,
            (true, false, false) => GeometryMode::Exact,
            (false, true, false) => GeometryMode::Fill,
            (false, false, true) => GeometryMode::Crop,
            _ => return Err(fault("`!`, `^` and `#` exclude each other", GEOMETRY_HINT)),
        };
        if shape != GeometryMode::Fit && area {
            return Err(fault("`@` keeps the proportions and goes with `>` and `<` only", GEOMETRY_HINT));
        }
        let only = match (shrink, enlarge) {
            (false, false) => None,
            (true, false) => Some(ResizeCondition::Shrink),
            (false, true) => Some(ResizeCondition::Enlarge),
            (true, true) => return Err(fault("`>` and `<` exclude each other", GEOMETRY_HINT)),
        };
        if shape == GeometryMode::Crop
            && (only.is_some() || !matches!(numbers, GeometryNumbers::Pixels(Some(_), Some(_))))
        {
            return Err(fault("`#` needs a width and a height and nothing else", "write `100x100#`"));
        }
        Ok(Self { numbers, mode: shape, condition: only })
    }
}

impl GeometryNumbers {
    fn are_valid(self, first: &str, second: &str) -> bool {
        match self {
            Self::Pixels(width, height) => width.is_some() != first.is_empty() && height.is_some() != second.is_empty(),
            Self::Percent(x, y) => x.is_some() != first.is_empty() && y.is_some() != second.is_empty(),
            Self::Area(area) => (1.0..=f64::from(MAX_GEOMETRY_SIDE) * f64::from(MAX_GEOMETRY_SIDE)).contains(&area),
        }
    }
}

/// Shortens to 40 characters, for messages.
fn shorten_text(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Splits leading digits and dots from the rest.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len()))
}

fn parse_pixels(digits: &str) -> Option<u32> {
    digits.parse().ok().filter(|pixels| (1..=MAX_GEOMETRY_SIDE).contains(pixels))
}

fn parse_percentage(digits: &str) -> Option<f64> {
    digits.parse().ok().filter(|percent| *percent > 0.0 && *percent <= 10_000.0)
}

impl Geometry {
    /// Applies the geometry to a picture of this size. All rounding follows ImageMagick, even where it is surprising.
    pub fn scale_crop_for(&self, of: PixelSize) -> ScaleCrop {
        let (width, height) = self.scaled_size(f64::from(of.width), f64::from(of.height));
        let scaled = PixelSize::new(width.max(1.0) as u32, height.max(1.0) as u32);
        match (self.mode, self.numbers) {
            (GeometryMode::Crop, GeometryNumbers::Pixels(Some(width), Some(height))) => {
                let scaled = PixelSize::new(scaled.width.max(width), scaled.height.max(height));
                let (left, top) = ((scaled.width - width) / 2, (scaled.height - height) / 2);
                ScaleCrop { scaled, left, top, size: PixelSize::new(width, height) }
            }
            _ => ScaleCrop { scaled, left: 0, top: 0, size: scaled },
        }
    }

    fn scaled_size(&self, width: f64, height: f64) -> (f64, f64) {
        let (mut before, mut named) = ((width, height), (true, true));
        let wanted = match self.numbers {
            GeometryNumbers::Pixels(w, h) => {
                named = (w.is_some(), h.is_some());
                (w.map_or(width, f64::from), h.map_or(height, f64::from))
            }
            GeometryNumbers::Percent(x, y) => {
                let x_share = x.unwrap_or(100.0);
                let y_share = y.unwrap_or(x_share);
                before =
                    (round_half_up(x_share * width / 100.0).max(1.0), round_half_up(y_share * height / 100.0).max(1.0));
                before
            }
            GeometryNumbers::Area(area) => {
                named = (true, false);
                (round_half_up(area), height)
            }
        };
        let mut to = match self.mode {
            GeometryMode::Exact => wanted,
            _ if wanted == before => wanted,
            shape => {
                let factor =
                    scale_factor(wanted, before, named, matches!(shape, GeometryMode::Fill | GeometryMode::Crop));
                (round_half_up(factor * before.0).max(1.0), round_half_up(factor * before.1).max(1.0))
            }
        };
        match self.condition {
            Some(ResizeCondition::Shrink) => to = (to.0.min(before.0), to.1.min(before.1)),
            Some(ResizeCondition::Enlarge) => to = (to.0.max(before.0), to.1.max(before.1)),
            None => {}
        }
        if let GeometryNumbers::Area(area) = self.numbers {
            // ImageMagick adds the square root of its epsilon, so that exact results do not round down.
            let root = (area + 1e-12_f64.sqrt()).sqrt();
            let distance = (width * height).sqrt();
            let scale = (width / (distance / root), height / (distance / root));
            if scale.0 < to.0 || scale.1 < to.1 {
                to = (scale.0.floor(), scale.1.floor());
            }
        }
        to
    }
}

/// Returns the scale factor that keeps the proportions.
fn scale_factor(wanted: (f64, f64), of: (f64, f64), named: (bool, bool), fill: bool) -> f64 {
    let (x, y) = (wanted.0 / of.0, wanted.1 / of.1);
    match named {
        (true, true) if fill => x.max(y),
        (true, true) => x.min(y),
        (true, false) if fill => x.max(wanted.0 / of.1),
        (true, false) => x,
        (false, _) if fill => y.max(wanted.1 / of.0),
        (false, _) => y,
    }
}

fn round_half_up(value: f64) -> f64 {
    (value + 0.5).floor()
}
