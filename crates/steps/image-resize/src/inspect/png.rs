//! The chunks of a PNG, up to its end. The decoder checks their checksums.

use super::{Cursor, Found, MAX_PROFILE};
use crate::fault;
use afterload_core::error::Result;
use afterload_media_type::Size;

const NAME: &str = "PNG";

pub fn read(bytes: &[u8]) -> Result<Found> {
    let mut cursor = Cursor::new(bytes, 8);
    let Some(mut found) = header(&mut cursor)? else { return Err(fault::truncated(NAME)) };
    found.whole = walk(&mut cursor, &mut found)?.is_some();
    if std::mem::take(&mut found.broken_profile) {
        (found.profile, found.broken_profile) = profile(bytes);
    }
    Ok(found)
}

fn header(cursor: &mut Cursor<'_>) -> Result<Option<Found>> {
    match cursor.take(8) {
        None => Ok(None),
        Some(b"\0\0\0\rIHDR") => Ok(fields(cursor)),
        Some(_) => Err(fault::invalid(NAME, "it does not begin with its header")),
    }
}

fn fields(cursor: &mut Cursor<'_>) -> Option<Found> {
    let size = Size::new(cursor.be32()?, cursor.be32()?);
    let channels = match cursor.take(9)?[1] {
        0 => 1,
        2 => 3,
        4 => 2,
        _ => 4,
    };
    Some(Found::new(size, channels))
}

/// `None`: the file ends before its last chunk. A profile that was seen is marked as broken until it has been read.
fn walk(cursor: &mut Cursor<'_>, found: &mut Found) -> Result<Option<()>> {
    let mut pixels = false;
    loop {
        let (Some(length), Some(kind)) = (cursor.be32(), cursor.take(4)) else { return Ok(None) };
        let Ok(length) = i32::try_from(length) else {
            return Err(fault::invalid(NAME, "a chunk is longer than chunks can be"));
        };
        let Some(data) = cursor.take(length as usize) else { return Ok(None) };
        if cursor.take(4).is_none() {
            return Ok(None);
        }
        match kind {
            b"IDAT" => pixels = true,
            b"tRNS" if matches!(found.channels, 1 | 3) => found.channels += 1,
            b"eXIf" => found.exif = Some(data.to_vec()),
            b"iCCP" if !pixels => found.broken_profile = true,
            b"acTL" => found.animated = true,
            b"IEND" if !pixels => return Err(fault::invalid(NAME, "it holds no picture")),
            b"IEND" => return Ok(Some(())),
            _ => {}
        }
    }
}

/// The profile, inflated up to a limit, and whether it cannot be read.
fn profile(bytes: &[u8]) -> (Option<Vec<u8>>, bool) {
    let limits = png::Limits { bytes: MAX_PROFILE };
    let mut decoder = png::Decoder::new_with_limits(std::io::Cursor::new(bytes), limits);
    decoder.set_ignore_text_chunk(true);
    let profile = decoder.read_info().ok().and_then(|reader| reader.info().icc_profile.clone());
    let broken = profile.is_none();
    (profile.map(std::borrow::Cow::into_owned), broken)
}
