//! The formats that can be read and written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The format of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// WebP.
    Webp,
    /// GIF; it is read only.
    Gif,
}

/// The format of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// JPEG, without transparency.
    Jpeg,
    /// PNG, without loss.
    Png,
    /// WebP, with loss.
    Webp,
    /// The format of the source; PNG for a GIF.
    #[default]
    Keep,
}

impl OutputFormat {
    /// Returns the format to write for a source.
    pub fn for_source(self, source: ImageFormat) -> ImageFormat {
        match (self, source) {
            (Self::Jpeg, _) | (Self::Keep, ImageFormat::Jpeg) => ImageFormat::Jpeg,
            (Self::Webp, _) | (Self::Keep, ImageFormat::Webp) => ImageFormat::Webp,
            (Self::Png, _) | (Self::Keep, ImageFormat::Png | ImageFormat::Gif) => ImageFormat::Png,
        }
    }
}

impl ImageFormat {
    /// Returns the display name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Webp => "WebP",
            Self::Gif => "GIF",
        }
    }

    /// Returns the file extension.
    pub fn file_extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Gif => "gif",
        }
    }

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
        }
    }

    /// Returns the maximum width and height that the format supports.
    pub fn max_side(self) -> u32 {
        match self {
            Self::Jpeg | Self::Gif => 65_535,
            Self::Webp => 16_383,
            Self::Png => i32::MAX as u32,
        }
    }
}
