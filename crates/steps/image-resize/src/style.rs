//! The `styles:` field and its resolved form.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::format::OutputFormat;
use super::geometry::Geometry;
use crate::codes;
use afterload_core::error::{Error, Result};

/// One result: a geometry alone, or with settings of its own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StyleSettings {
    /// How large: `WxH` fits in, `W` and `xH` name one side, `N%` scales, `N@` limits the pixels in all. Behind it `>` only
    /// shrinks, `<` only enlarges, `!` ignores the proportions, `^` fills and juts out, `#` fills and cuts off what juts out.
    pub geometry: String,
    /// The format; default: the step's.
    #[serde(default)]
    pub format: Option<OutputFormat>,
    /// The quality of JPEG and WebP, from 1 to 100; default: the step's.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub quality: Option<u64>,
    /// The colour behind transparent pixels; default: the step's.
    #[serde(default)]
    pub background: Option<String>,
}

/// A style as written.
#[derive(Clone, Debug)]
pub struct ImageStyle(pub StyleSettings);

struct ImageStyleVisitor;

impl<'de> Visitor<'de> for ImageStyleVisitor {
    type Value = ImageStyle;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a geometry such as `800x600>`, or a map with `geometry`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ImageStyle, E> {
        Ok(ImageStyle(StyleSettings { geometry: text.to_owned(), format: None, quality: None, background: None }))
    }

    fn visit_u64<E: serde::de::Error>(self, width: u64) -> Result<ImageStyle, E> {
        self.visit_str(&width.to_string())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ImageStyle, A::Error> {
        StyleSettings::deserialize(MapAccessDeserializer::new(map)).map(ImageStyle)
    }
}

impl<'de> Deserialize<'de> for ImageStyle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ImageStyleVisitor)
    }
}

impl JsonSchema for ImageStyle {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Style".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let settings = generator.subschema_for::<StyleSettings>();
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "integer", "minimum": 1 }, settings] })
    }
}

/// A result with all defaults resolved.
#[derive(Clone, Debug)]
pub struct OutputSpec {
    /// The name of the style.
    pub name: String,
    /// The size.
    pub geometry: Geometry,
    /// The format.
    pub format: OutputFormat,
    /// The quality, from 1 to 100.
    pub quality: u8,
    /// The color behind transparent pixels.
    pub background: Option<[u8; 3]>,
}

/// Parses a color.
///
/// # Errors
/// The message and the hint.
pub fn parse_color(text: &str) -> Result<[u8; 3], (String, &'static str)> {
    let digits = text.strip_prefix('#').filter(|digits| digits.is_ascii());
    let byte = |part: &str| u8::from_str_radix(part, 16).ok();
    let read = match (text, digits) {
        ("white", _) => Some([255; 3]),
        ("black", _) => Some([0; 3]),
        (_, Some(hex)) if hex.len() == 6 => byte(&hex[..2]).zip(byte(&hex[2..4])).zip(byte(&hex[4..])).map(to_rgb),
        (_, Some(hex)) if hex.len() == 3 => {
            let twice = |at: usize| byte(&hex[at..=at]).map(|digit| digit * 17);
            twice(0).zip(twice(1)).zip(twice(2)).map(to_rgb)
        }
        _ => None,
    };
    read.ok_or_else(|| {
        (format!("`{text}` is not a colour"), "write it as `\"#ffffff\"`, in quotes, or `white` or `black`")
    })
}

fn to_rgb(((red, green), blue): ((u8, u8), u8)) -> [u8; 3] {
    [red, green, blue]
}

/// True if the text contains an expression, so that its value is not known yet.
pub fn is_expression(text: &str) -> bool {
    text.contains("${{")
}

/// Returns the error for an invalid setting at run time.
pub fn unusable_setting(message: String, hint: &str) -> Error {
    Error::new(codes::WITH_INVALID, message).with_hint(hint)
}
