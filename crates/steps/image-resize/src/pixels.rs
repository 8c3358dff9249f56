//! Decoded pictures: eight bits per channel, rows without gaps.

use afterload_media_type::PixelSize;

/// A decoded picture.
#[derive(Clone, Debug)]
pub struct Pixels {
    /// The size.
    pub size: PixelSize,
    /// The channels of a pixel.
    pub layout: PixelLayout,
    /// The rows from top to bottom.
    pub data: Vec<u8>,
}

/// The channels of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelLayout {
    /// Gray.
    Gray,
    /// Gray and alpha.
    GrayAlpha,
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue, alpha.
    Rgba,
    /// Cyan, magenta, yellow, black; 255 is full ink.
    Cmyk,
}

impl PixelLayout {
    /// Returns the bytes per pixel.
    pub fn channel_count(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::GrayAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }

    /// True if there is an alpha channel.
    pub fn has_alpha(self) -> bool {
        matches!(self, Self::GrayAlpha | Self::Rgba)
    }
}

impl Pixels {
    /// Converts pixel by pixel to another layout.
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
