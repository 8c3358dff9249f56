//! The chunks of a WebP.

use super::{Cursor, Found, MAX_PROFILE};
use crate::fault;
use afterload_core::error::Result;
use afterload_media_type::{Size, dimensions};

const NAME: &str = "WebP";

pub fn read(bytes: &[u8]) -> Result<Found> {
    let mut cursor = Cursor::new(bytes, 4);
    let end = cursor.le32().map_or(0, |length| length as usize + 8);
    let Some(size) = dimensions(bytes) else {
        return Err(match bytes.len() < 32 {
            true => fault::truncated(NAME),
            false => fault::invalid(NAME, "it does not begin with a picture"),
        });
    };
    let mut found = Found::new(Size::new(size.width, size.height), 4);
    found.whole = end <= bytes.len() && walk(&bytes[..end.min(bytes.len())], &mut found).is_some();
    Ok(found)
}

/// `None`: a chunk goes on behind the end.
fn walk(bytes: &[u8], found: &mut Found) -> Option<()> {
    let mut cursor = Cursor::new(bytes, 12);
    while cursor.at < bytes.len() {
        let kind = cursor.take(4)?;
        let length = cursor.le32()? as usize;
        let data = cursor.take(length)?;
        // The last chunk of some files lacks its filling.
        cursor.at += length % 2;
        match kind {
            b"ICCP" if data.len() > MAX_PROFILE => found.broken_profile = true,
            b"ICCP" => found.profile = Some(data.to_vec()),
            b"EXIF" => found.exif = Some(data.to_vec()),
            b"ANMF" => found.animated = true,
            _ => {}
        }
    }
    Some(())
}
