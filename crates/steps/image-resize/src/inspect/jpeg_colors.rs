//! Finds out what the components of a JPEG mean, as libjpeg and all browsers do.

/// The meaning of the components of a JPEG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JpegColors {
    /// Gray.
    Gray,
    /// Red, green, blue.
    Rgb,
    /// Brightness apart from color.
    YCbCr,
    /// 255 is full ink.
    PlainCmyk,
    /// 0 is full ink, as Adobe's programs write it.
    AdobeCmyk,
    /// Like `AdobeCmyk`, with brightness apart from color.
    AdobeYcck,
}

/// The application segments that tell the meaning of the components.
#[derive(Default)]
pub struct ColorMarkers {
    jfif: bool,
    adobe_transform: Option<u8>,
}

impl ColorMarkers {
    /// Reads an APP0 or APP14 segment.
    pub fn read_segment(&mut self, marker: u8, segment: &[u8]) {
        match marker {
            0xe0 if segment.len() >= 14 && segment.starts_with(b"JFIF\0") => self.jfif = true,
            0xee if segment.starts_with(b"Adobe") => {
                self.adobe_transform = segment.get(11).copied().or(self.adobe_transform);
            }
            _ => {}
        }
    }

    /// JFIF comes before Adobe's segment, and that before the identifiers of the components.
    pub fn choose_colors(&self, identifiers: &[u8]) -> JpegColors {
        match (identifiers, self.adobe_transform) {
            ([_], _) => JpegColors::Gray,
            ([_, _, _, _], None) => JpegColors::PlainCmyk,
            ([_, _, _, _], Some(0)) => JpegColors::AdobeCmyk,
            ([_, _, _, _], Some(_)) => JpegColors::AdobeYcck,
            _ if self.jfif => JpegColors::YCbCr,
            (_, Some(0)) | (b"RGB", None) => JpegColors::Rgb,
            _ => JpegColors::YCbCr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_come_before_identifiers() {
        let jfif = (0xe0, &b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"[..]);
        let adobe = |transform: &'static [u8; 12]| (0xee, &transform[..]);
        let (plain, ycc, ycck) =
            (adobe(b"Adobe\0d\0\0\0\0\0"), adobe(b"Adobe\0d\0\0\0\0\x01"), adobe(b"Adobe\0d\0\0\0\0\x02"));
        for (segments, identifiers, colors) in [
            (&[][..], &[1, 2, 3][..], JpegColors::YCbCr),
            (&[], b"RGB", JpegColors::Rgb),
            (&[], b"rgb", JpegColors::YCbCr),
            (&[], &[1, 34, 35], JpegColors::YCbCr),
            (&[jfif], b"RGB", JpegColors::YCbCr),
            (&[plain], &[1, 2, 3], JpegColors::Rgb),
            (&[jfif, plain], &[1, 2, 3], JpegColors::YCbCr),
            (&[ycc], b"RGB", JpegColors::YCbCr),
            (&[plain], b"CMYK", JpegColors::AdobeCmyk),
            (&[ycck], &[1, 2, 3, 4], JpegColors::AdobeYcck),
            (&[jfif], &[1, 2, 3, 4], JpegColors::PlainCmyk),
            (&[plain], &[1], JpegColors::Gray),
            (&[(0xee, &b"Adobe\0d"[..]), (0xe0, &b"JFXX\0"[..])], b"RGB", JpegColors::Rgb),
        ] {
            let mut markers = ColorMarkers::default();
            for (marker, segment) in segments {
                markers.read_segment(*marker, segment);
            }
            assert_eq!(markers.choose_colors(identifiers), colors, "{segments:?} {identifiers:?}");
        }
    }
}
