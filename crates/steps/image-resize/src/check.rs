//! Checks the `with:` block of `image.resize`, and resolves it to output specs.

use super::ImageResize;
use super::geometry::Geometry;
use super::style::{OutputSpec, is_expression, parse_color, unusable_setting};
use afterload_core::error::Result;
use afterload_pipeline::Validator;

/// One source gives at most this many results.
const MAX_STYLES: usize = 32;

impl ImageResize {
    pub(super) fn check_options(&self, check: &mut Validator<'_>) {
        if self.animated.is_some() {
            check.report_unsupported(&["animated"], "`animated`");
        }
        if self.styles.is_empty() && check.is_readable(&["styles"]) {
            check.report_invalid(&["styles"], "`styles` names no style", "such as `styles: { small: \"100x100#\" }`");
        }
        if self.styles.len() > MAX_STYLES {
            let message = format!("{} styles; at most {MAX_STYLES} are made by one step", self.styles.len());
            check.report_invalid(&["styles"], message, "use a second step");
        }
        check_quality(check, &["quality"], Some(self.quality));
        check_background(check, &["background"], self.background.as_deref());
        for (name, style) in &self.styles {
            let at = |field| ["styles", name.as_str(), field];
            if !is_style_name(name) {
                let hint = "start with a small letter, go on with small letters, digits and `_`, at most 63 characters";
                check.report_invalid(&["styles", name], format!("`{name}` is not a name for a style"), hint);
            }
            if !is_expression(&style.0.geometry)
                && let Err(fault) = style.0.geometry.parse::<Geometry>()
            {
                check.report_invalid(&at("geometry"), fault.message, fault.hint);
            }
            check_quality(check, &at("quality"), style.0.quality);
            check_background(check, &at("background"), style.0.background.as_deref());
        }
    }

    /// Returns the specs of all results, with every default resolved.
    pub(super) fn output_specs(&self) -> Result<Vec<OutputSpec>> {
        let settle = |(name, style): (&String, &super::ImageStyle)| {
            let settings = &style.0;
            let geometry: Geometry = settings
                .geometry
                .parse()
                .map_err(|fault: super::GeometryError| unusable_setting(fault.message, fault.hint))?;
            let background = settings.background.as_ref().or(self.background.as_ref());
            let background = background.map(|text| parse_color(text)).transpose();
            Ok(OutputSpec {
                name: name.clone(),
                geometry,
                format: settings.format.unwrap_or(self.format),
                quality: settings.quality.unwrap_or(self.quality).clamp(1, 100) as u8,
                background: background.map_err(|(message, hint)| unusable_setting(message, hint))?,
            })
        };
        self.styles.iter().map(settle).collect()
    }
}

fn check_quality(check: &mut Validator<'_>, path: &[&str], quality: Option<u64>) {
    if quality.is_some_and(|quality| !(1..=100).contains(&quality)) {
        check.report_invalid(path, "`quality` must be from 1 to 100", "80 is a good choice");
    }
}

fn check_background(check: &mut Validator<'_>, path: &[&str], background: Option<&str>) {
    if let Some(Err((message, hint))) = background.filter(|text| !is_expression(text)).map(parse_color) {
        check.report_invalid(path, message, hint);
    }
}

/// A style name must be usable in expressions.
fn is_style_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}
