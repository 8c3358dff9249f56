//! Decoded pictures: eight bits a channel, rows without gaps.

use afterload_media_type::Size;

/// A decoded picture.
#[derive(Clone, Debug)]
pub struct Pixels {
    /// Its size.
    pub size: Size,
    /// What its bytes are.
    pub layout: Layout,
    /// Row by row.
    pub data: Vec<u8>,
}

/// What the bytes of a picture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Grey.
    Grey,
    /// Grey and opacity.
    GreyAlpha,
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue, opacity.
    Rgba,
    /// Cyan, magenta, yellow, black; 255 is the most ink.
    Cmyk,
}

impl Layout {
    /// Bytes per pixel.
    pub fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }

    /// Whether pixels can be transparent.
    pub fn has_alpha(self) -> bool {
        matches!(self, Self::GreyAlpha | Self::Rgba)
    }
}

impl Pixels {
    /// Makes another layout, pixel by pixel.
    pub(super) fn map<const FROM: usize, const TO: usize>(
        &self,
        layout: Layout,
        pixel: impl Fn([u8; FROM]) -> [u8; TO],
    ) -> Self {
        debug_assert_eq!((FROM, TO), (self.layout.channels(), layout.channels()));
        let (from, _) = self.data.as_chunks::<FROM>();
        let mut data = Vec::with_capacity(from.len() * TO);
        for bytes in from {
            data.extend_from_slice(&pixel(*bytes));
        }
        Self { size: self.size, layout, data }
    }
}
