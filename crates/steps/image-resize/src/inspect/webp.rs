//! Reads the chunks of a WebP.

use super::{ByteCursor, MAX_PROFILE_BYTES, ParsedHeader};
use crate::errors;
use afterload_core::error::Result;
use afterload_media_type::{PixelSize, read_image_size};

const WEBP_NAME: &str = "WebP";

pub fn inspect_webp(bytes: &[u8]) -> Result<ParsedHeader> {
    let mut cursor = ByteCursor::new(bytes, 4);
    let end = cursor.read_u32_le().map_or(0, |length| length as usize + 8);
    let Some(size) = read_image_size(bytes) else {
        return Err(match bytes.len() < 32 {
            true => errors::image_truncated(WEBP_NAME),
            false => errors::image_invalid(WEBP_NAME, "it does not begin with a picture"),
        });
    };
    let mut found = ParsedHeader::new(PixelSize::new(size.width, size.height), 4);
    found.complete = end <= bytes.len() && walk_chunks(&bytes[..end.min(bytes.len())], &mut found).is_some();
    Ok(found)
}

/// Returns `None` if a chunk extends beyond the end of the file.
fn walk_chunks(bytes: &[u8], found: &mut ParsedHeader) -> Option<()> {
    let mut cursor = ByteCursor::new(bytes, 12);
    while cursor.at < bytes.len() {
        let kind = cursor.take_bytes(4)?;
        let length = cursor.read_u32_le()? as usize;
        let data = cursor.take_bytes(length)?;
        // The last chunk of some files lacks its padding byte.
        cursor.at += length % 2;
        match kind {
            b"ICCP" if data.len() > MAX_PROFILE_BYTES => found.broken_profile = true,
            b"ICCP" => found.profile = Some(data.to_vec()),
            b"EXIF" => found.exif = Some(data.to_vec()),
            b"ANMF" => found.animated = true,
            _ => {}
        }
    }
    Some(())
}
