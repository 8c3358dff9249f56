//! Reads the chunks of a PNG up to its end. The decoder verifies their checksums.

use super::png_colors::PngColorChunks;
use super::{ByteCursor, MAX_PROFILE_BYTES, ParsedHeader};
use crate::errors;
use afterload_core::error::Result;
use afterload_media_type::PixelSize;

const PNG_NAME: &str = "PNG";

pub fn inspect_png(bytes: &[u8]) -> Result<ParsedHeader> {
    let mut cursor = ByteCursor::new(bytes, 8);
    let Some(mut found) = read_header(&mut cursor)? else { return Err(errors::image_truncated(PNG_NAME)) };
    let mut colors = PngColorChunks::default();
    found.complete = walk_chunks(&mut cursor, &mut found, &mut colors)?.is_some();
    choose_profile(bytes, &mut found, &colors);
    Ok(found)
}

/// Chooses the description of the colors: cICP, then the color profile, then sRGB, then gAMA and cHRM.
fn choose_profile(bytes: &[u8], found: &mut ParsedHeader, colors: &PngColorChunks) {
    let is_gray = found.channels <= 2;
    let has_profile = std::mem::take(&mut found.broken_profile);
    found.profile = colors.cicp_profile(is_gray);
    if found.profile.is_none() && has_profile {
        (found.profile, found.broken_profile) = read_profile(bytes);
    } else if found.profile.is_none() {
        found.profile = colors.gamma_profile(is_gray);
    }
    found.broken_profile |= found.profile.is_none() && colors.has_cicp();
}

fn read_header(cursor: &mut ByteCursor<'_>) -> Result<Option<ParsedHeader>> {
    match cursor.take_bytes(8) {
        None => Ok(None),
        Some(b"\0\0\0\rIHDR") => Ok(read_ihdr(cursor)),
        Some(_) => Err(errors::image_invalid(PNG_NAME, "it does not begin with its header")),
    }
}

fn read_ihdr(cursor: &mut ByteCursor<'_>) -> Option<ParsedHeader> {
    let size = PixelSize::new(cursor.read_u32_be()?, cursor.read_u32_be()?);
    let channels = match cursor.take_bytes(9)?[1] {
        0 => 1,
        2 => 3,
        4 => 2,
        _ => 4,
    };
    Some(ParsedHeader::new(size, channels))
}

/// Returns `None` if the file ends before its last chunk. A profile is marked as broken until it is read.
fn walk_chunks(
    cursor: &mut ByteCursor<'_>,
    found: &mut ParsedHeader,
    colors: &mut PngColorChunks,
) -> Result<Option<()>> {
    let mut pixels = false;
    loop {
        let (Some(length), Some(kind)) = (cursor.read_u32_be(), cursor.take_bytes(4)) else { return Ok(None) };
        let Ok(length) = i32::try_from(length) else {
            return Err(errors::image_invalid(PNG_NAME, "a chunk is longer than chunks can be"));
        };
        let Some(data) = cursor.take_bytes(length as usize) else { return Ok(None) };
        if cursor.take_bytes(4).is_none() {
            return Ok(None);
        }
        match kind {
            b"IDAT" => pixels = true,
            b"tRNS" if matches!(found.channels, 1 | 3) => found.channels += 1,
            b"eXIf" => found.exif = Some(data.to_vec()),
            b"iCCP" if !pixels => found.broken_profile = true,
            b"acTL" => found.animated = true,
            b"IEND" if !pixels => return Err(errors::image_invalid(PNG_NAME, "it holds no picture")),
            b"IEND" => return Ok(Some(())),
            _ if !pixels => colors.read_chunk(kind, data),
            _ => {}
        }
    }
}

/// Inflates the profile up to a limit. Also returns whether it is unreadable.
fn read_profile(bytes: &[u8]) -> (Option<Vec<u8>>, bool) {
    let limits = png::Limits { bytes: MAX_PROFILE_BYTES };
    let mut decoder = png::Decoder::new_with_limits(std::io::Cursor::new(bytes), limits);
    decoder.set_ignore_text_chunk(true);
    let profile = decoder.read_info().ok().and_then(|reader| reader.info().icc_profile.clone());
    let broken = profile.is_none();
    (profile.map(std::borrow::Cow::into_owned), broken)
}
