//! Applies the EXIF orientation to the results, because they are smaller than the source.

use super::geometry::ScaleCrop;
use super::pixels::Pixels;
use afterload_media_type::PixelSize;

/// One of the eight EXIF orientations: swap the axes, then mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orientation {
    exif: u8,
    swap: bool,
    flip_x: bool,
    flip_y: bool,
}

impl Default for Orientation {
    fn default() -> Self {
        Self { exif: 1, swap: false, flip_x: false, flip_y: false }
    }
}

impl Orientation {
    /// Returns the orientation of an EXIF value; upright for unknown values.
    pub fn from_exif(exif: u8) -> Self {
        let (swap, flip_x, flip_y) = match exif {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, false, true),
            7 => (true, true, true),
            8 => (true, true, false),
            _ => return Self::default(),
        };
        Self { exif, swap, flip_x, flip_y }
    }

    /// Returns the EXIF value.
    pub fn exif_value(self) -> u8 {
        self.exif
    }

    /// Converts a stored size to the upright size, and back.
    pub fn upright_size(self, stored: PixelSize) -> PixelSize {
        if self.swap { stored.with_axes_swapped() } else { stored }
    }

    /// Converts a crop of the upright picture to a crop of the stored picture.
    pub fn to_stored(self, fit: ScaleCrop) -> ScaleCrop {
        let (scaled, size) = (self.upright_size(fit.scaled), self.upright_size(fit.size));
        let (left, top) = if self.swap { (fit.top, fit.left) } else { (fit.left, fit.top) };
        let mirrored = |flip, at, part, whole: u32| if flip { whole - at - part } else { at };
        ScaleCrop {
            scaled,
            size,
            left: mirrored(self.flip_x, left, size.width, scaled.width),
            top: mirrored(self.flip_y, top, size.height, scaled.height),
        }
    }

    /// Turns a stored picture upright.
    pub fn orient_pixels(self, stored: Pixels) -> Pixels {
        if self.exif == 1 {
            return stored;
        }
        let channels = stored.layout.channel_count();
        let (from, to) = (stored.size, self.upright_size(stored.size));
        let mut data = Vec::with_capacity(stored.data.len());
        for y in 0..to.height {
            for x in 0..to.width {
                let (mut column, mut row) = if self.swap { (y, x) } else { (x, y) };
                if self.flip_x {
                    column = from.width - 1 - column;
                }
                if self.flip_y {
                    row = from.height - 1 - row;
                }
                let at = (row as usize * from.width as usize + column as usize) * channels;
                data.extend_from_slice(&stored.data[at..at + channels]);
            }
        }
        Pixels { size: to, layout: stored.layout, data }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pixels::PixelLayout;
    use super::*;

    /// Three columns and two rows, so that all eight orientations give different results.
    fn turned(exif: u8) -> String {
        let stored = Pixels { size: PixelSize::new(3, 2), layout: PixelLayout::Gray, data: b"abcdef".to_vec() };
        let seen = Orientation::from_exif(exif).orient_pixels(stored);
        let rows = seen.data.chunks(seen.size.width as usize).map(String::from_utf8_lossy);
        rows.collect::<Vec<_>>().join("/")
    }

    #[test]
    fn all_exif_orientations_are_applied() {
        let turned: Vec<_> = (1..=8).map(turned).collect();
        assert_eq!(
            turned,
            ["abc/def", "cba/fed", "fed/cba", "def/abc", "ad/be/cf", "da/eb/fc", "fc/eb/da", "cf/be/ad"]
        );
    }

    #[test]
    fn crop_of_upright_picture_maps_to_stored_picture() {
        let data: Vec<u8> = (0..5 * 7).collect();
        for exif in 1..=8 {
            let orientation = Orientation::from_exif(exif);
            let stored = Pixels { size: PixelSize::new(5, 7), layout: PixelLayout::Gray, data: data.clone() };
            let seen = orientation.orient_pixels(stored.clone());
            let fit = ScaleCrop { scaled: seen.size, left: 1, top: 2, size: PixelSize::new(3, 2) };
            let cut = |from: &Pixels, fit: ScaleCrop| {
                let rows = fit.top..fit.top + fit.size.height;
                let row = |y: u32| {
                    let start = (y * from.size.width + fit.left) as usize;
                    from.data[start..start + fit.size.width as usize].to_vec()
                };
                Pixels { size: fit.size, layout: PixelLayout::Gray, data: rows.flat_map(row).collect() }
            };
            let expected = cut(&seen, fit);
            let found = orientation.orient_pixels(cut(&stored, orientation.to_stored(fit)));
            assert_eq!((found.size, found.data), (expected.size, expected.data), "orientation {exif}");
        }
    }
}
