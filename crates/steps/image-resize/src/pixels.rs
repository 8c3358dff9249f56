//! Decoded pictures: eight bits a channel, rows without gaps.

use afterload_media_type::PixelSize;

/// A decoded picture.
#[derive(Clone, Debug)]
pub struct Pixels {
    /// Its size.
    pub size: PixelSize,
    /// What its bytes are.
    pub layout: PixelLayout,
    /// Row by row.
    pub data: Vec<u8>,
}

/// What the bytes of a picture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelLayout {
    /// Grey.
    Gray,
    /// Grey and opacity.
    GrayAlpha,
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue, opacity.
    Rgba,
    /// Cyan, magenta, yellow, black; 255 is the most ink.
    Cmyk,
}

impl PixelLayout {
    /// Bytes per pixel.
    pub fn channel_count(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::GrayAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }

    /// Whether pixels can be transparent.
    pub fn has_alpha(self) -> bool {
        matches!(self, Self::GrayAlpha | Self::Rgba)
    }
}

impl Pixels {
    /// Makes another layout, pixel by pixel.
    pub(super) fn map_pixels<const FROM: usize, const TO: usize>(
        &self,
        layout: PixelLayout,
        pixel: impl Fn([u8; FROM]) -> [u8; TO],
    ) -> Self {
        debug_assert_eq!((FROM, TO), (self.layout.channel_count(), layout.channel_count()));
        let (from, _) = self.data.as_chunks::<FROM>();
        let mut data = Vec::with_capacity(from.len() * TO);
        for bytes in from {
            data.extend_from_slice(&pixel(*bytes));
        }
        Self { size: self.size, layout, data }
    }
}
