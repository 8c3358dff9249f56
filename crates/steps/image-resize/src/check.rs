//! What can be said of a `with:` block of `image.resize` before it runs, and what it comes to when it runs.

use super::ImageResize;
use super::geometry::Geometry;
use super::style::{Wanted, colour, is_expression, unusable};
use afterload_core::error::Result;
use afterload_pipeline::Check;

/// One picture is not made into more than this.
const MAX_STYLES: usize = 32;

impl ImageResize {
    pub(super) fn problems(&self, check: &mut Check<'_>) {
        if self.animated.is_some() {
            check.not_yet(&["animated"], "`animated`");
        }
        if self.styles.is_empty() && check.readable(&["styles"]) {
            check.problem(&["styles"], "`styles` names no style", "such as `styles: { small: \"100x100#\" }`");
        }
        if self.styles.len() > MAX_STYLES {
            let message = format!("{} styles; at most {MAX_STYLES} are made by one step", self.styles.len());
            check.problem(&["styles"], message, "use a second step");
        }
        quality(check, &["quality"], Some(self.quality));
        background(check, &["background"], self.background.as_deref());
        for (name, style) in &self.styles {
            let at = |field| ["styles", name.as_str(), field];
            if !is_name(name) {
                let hint = "start with a small letter, go on with small letters, digits and `_`, at most 63 characters";
                check.problem(&["styles", name], format!("`{name}` is not a name for a style"), hint);
            }
            if !is_expression(&style.0.geometry)
                && let Err(fault) = style.0.geometry.parse::<Geometry>()
            {
                check.problem(&at("geometry"), fault.message, fault.hint);
            }
            quality(check, &at("quality"), style.0.quality);
            background(check, &at("background"), style.0.background.as_deref());
        }
    }

    /// All results with everything settled.
    pub(super) fn wanted(&self) -> Result<Vec<Wanted>> {
        let settle = |(name, style): (&String, &super::Style)| {
            let settings = &style.0;
            let geometry: Geometry =
                settings.geometry.parse().map_err(|fault: super::GeometryFault| unusable(fault.message, fault.hint))?;
            let background = settings.background.as_ref().or(self.background.as_ref());
            let background = background.map(|text| colour(text)).transpose();
            Ok(Wanted {
                name: name.clone(),
                geometry,
                format: settings.format.unwrap_or(self.format),
                quality: settings.quality.unwrap_or(self.quality).clamp(1, 100) as u8,
                background: background.map_err(|(message, hint)| unusable(message, hint))?,
            })
        };
        self.styles.iter().map(settle).collect()
    }
}

fn quality(check: &mut Check<'_>, path: &[&str], quality: Option<u64>) {
    if quality.is_some_and(|quality| !(1..=100).contains(&quality)) {
        check.problem(path, "`quality` must be from 1 to 100", "80 is a good choice");
    }
}

fn background(check: &mut Check<'_>, path: &[&str], background: Option<&str>) {
    if let Some(Err((message, hint))) = background.filter(|text| !is_expression(text)).map(colour) {
        check.problem(path, message, hint);
    }
}

/// So that expressions can name it.
fn is_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}
