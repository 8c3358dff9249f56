//! Gives grays to a GIF that has no colors, as other readers do.

use std::borrow::Cow;

/// The length of the signature and of the screen's properties. The colors of all frames follow.
const SCREEN_END: usize = 13;
/// Where the flags of the screen are.
const SCREEN_FLAGS_AT: usize = 10;
/// The flags for 256 colors of all frames.
const ALL_COLORS: u8 = 0x87;

/// Adds a table of 256 grays, if the first frame has no colors.
pub fn with_gray_palette(bytes: &[u8], lacks_palette: bool) -> Cow<'_, [u8]> {
    let Some((screen, frames)) = bytes.split_at_checked(SCREEN_END).filter(|_| lacks_palette) else {
        return bytes.into();
    };
    let mut colored = screen.to_vec();
    colored[SCREEN_FLAGS_AT] |= ALL_COLORS;
    colored.extend((0..=u8::MAX).flat_map(|gray| [gray; 3]));
    colored.extend_from_slice(frames);
    colored.into()
}

#[cfg(test)]
mod tests {
    use super::super::decode_image;
    use crate::ImageLimits;
    use crate::inspect::inspect_image;

    #[test]
    fn gif_without_colors_is_gray() {
        let pixel: u32 = 200;
        // Nine bits each: start, the pixel, end.
        let codes = (256 | pixel << 9 | 257 << 18).to_le_bytes();
        let frame = [&b",\0\0\0\0\x01\0\x01\0\0\x08\x04"[..], &codes, b"\0"].concat();
        let own_colors = b",\0\0\0\0\x01\0\x01\0\x80\xff\0\0\0\xff\0\x02\x02\x44\x01\0".to_vec();
        let screen = b"GIF87a\x01\0\x01\0\0\0\0";
        for (frames, expected) in [
            ([&frame[..], &own_colors].concat(), [200, 200, 200, 255]),
            ([&own_colors[..], &frame].concat(), [255, 0, 0, 255]),
        ] {
            let gif = [&screen[..], &frames, b";"].concat();
            let inspected = inspect_image(&gif, &ImageLimits::default()).unwrap();
            let pixels = decode_image(&inspected, &gif, 8, 1 << 20).unwrap();
            assert_eq!(pixels.data, expected);
        }
    }
}
