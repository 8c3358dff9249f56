//! Adds a color profile and EXIF to a WebP.

use super::ImageMetadata;
use afterload_media_type::PixelSize;

const VP8X_ICC_FLAG: u8 = 0x20;
const VP8X_ALPHA_FLAG: u8 = 0x10;
const VP8X_EXIF_FLAG: u8 = 0x08;

/// Returns the picture with the metadata in its container; `None` if `bytes` is not a WebP.
pub fn add_metadata(bytes: Vec<u8>, size: PixelSize, metadata: &ImageMetadata) -> Option<Vec<u8>> {
    if metadata.profile.is_none() && metadata.exif.is_none() {
        return Some(bytes);
    }
    let mut flags = 0;
    let mut pictures = Vec::new();
    let mut rest = bytes.get(12..)?;
    while let Some((head, after)) = rest.split_at_checked(8) {
        let length = u32::from_le_bytes(head[4..].try_into().ok()?) as usize;
        let (data, after) = after.split_at_checked(length)?;
        rest = after.get(length % 2..).unwrap_or_default();
        match &head[..4] {
            b"VP8X" => flags |= data.first()? & VP8X_ALPHA_FLAG,
            kind => write_riff_chunk(&mut pictures, kind, data),
        }
    }
    let mut body = b"WEBP".to_vec();
    flags |= if metadata.profile.is_some() { VP8X_ICC_FLAG } else { 0 };
    flags |= if metadata.exif.is_some() { VP8X_EXIF_FLAG } else { 0 };
    let mut header = vec![flags, 0, 0, 0];
    header.extend_from_slice(&(size.width - 1).to_le_bytes()[..3]);
    header.extend_from_slice(&(size.height - 1).to_le_bytes()[..3]);
    write_riff_chunk(&mut body, b"VP8X", &header);
    if let Some(profile) = &metadata.profile {
        write_riff_chunk(&mut body, b"ICCP", profile);
    }
    body.extend_from_slice(&pictures);
    if let Some(exif) = &metadata.exif {
        write_riff_chunk(&mut body, b"EXIF", exif);
    }
    let mut whole = b"RIFF".to_vec();
    whole.extend_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
    whole.extend_from_slice(&body);
    Some(whole)
}

fn write_riff_chunk(into: &mut Vec<u8>, kind: &[u8], data: &[u8]) {
    into.extend_from_slice(kind);
    into.extend_from_slice(&(data.len() as u32).to_le_bytes());
    into.extend_from_slice(data);
    if data.len() % 2 == 1 {
        into.push(0);
    }
}
