//! Reads the blocks of a GIF up to its trailer. Behind a whole frame, the trailer may lack, and other bytes may follow,
//! as for all readers.

use super::{ByteCursor, ParsedHeader, check_dimensions};
use crate::ImageLimits;
use crate::errors;
use afterload_core::error::Result;
use afterload_media_type::PixelSize;

const GIF_NAME: &str = "GIF";

struct GifFrame {
    size: PixelSize,
    /// True if it has a color table of its own.
    has_colors: bool,
}

pub fn inspect_gif(bytes: &[u8], limits: &ImageLimits) -> Result<ParsedHeader> {
    let mut cursor = ByteCursor::new(bytes, 6);
    let Some(mut found) = read_header(&mut cursor) else { return Err(errors::image_truncated(GIF_NAME)) };
    let mut frames = Vec::new();
    let walked = walk_blocks(&mut cursor, &mut frames);
    if let Some(Err(error)) = walked {
        return Err(error);
    }
    // A frame may be larger than the screen of the GIF.
    for frame in &frames {
        check_dimensions(frame.size, limits)?;
    }
    found.lacks_palette &= frames.first().is_some_and(|frame| !frame.has_colors);
    if frames.is_empty() && walked.is_some() {
        return Err(errors::image_invalid(GIF_NAME, "it holds no picture"));
    }
    found.complete = walked.is_some();
    found.animated = frames.len() > 1;
    Ok(found)
}

fn read_header(cursor: &mut ByteCursor<'_>) -> Option<ParsedHeader> {
    let (width, height) = (cursor.read_u16_le()?, cursor.read_u16_le()?);
    let flags = cursor.take_bytes(3)?[0];
    let has_colors = skip_color_table(cursor, flags)?;
    let size = PixelSize::new(width.into(), height.into());
    Some(ParsedHeader { lacks_palette: !has_colors, ..ParsedHeader::new(size, 4) })
}

/// Returns whether there is a color table.
fn skip_color_table(cursor: &mut ByteCursor<'_>, flags: u8) -> Option<bool> {
    let has_colors = flags & 0x80 != 0;
    if has_colors {
        cursor.take_bytes(3 << ((flags & 7) + 1))?;
    }
    Some(has_colors)
}

/// Returns `None` if the file ends in a block, or before the first frame. Only the first two frames are recorded.
fn walk_blocks(cursor: &mut ByteCursor<'_>, frames: &mut Vec<GifFrame>) -> Option<Result<()>> {
    loop {
        if cursor.at == cursor.bytes.len() && !frames.is_empty() {
            return Some(Ok(()));
        }
        match cursor.read_u8()? {
            0x3b => return Some(Ok(())),
            0x21 => {
                cursor.read_u8()?;
                skip_blocks(cursor)?;
            }
            0x2c => {
                cursor.take_bytes(4)?;
                let size = PixelSize::new(cursor.read_u16_le()?.into(), cursor.read_u16_le()?.into());
                let flags = cursor.read_u8()?;
                let has_colors = skip_color_table(cursor, flags)?;
                cursor.read_u8()?;
                skip_blocks(cursor)?;
                if frames.len() < 2 {
                    frames.push(GifFrame { size, has_colors });
                }
            }
            // Some writers put one or two zero bytes between blocks.
            0 => {}
            _ if !frames.is_empty() => return Some(Ok(())),
            other => return Some(Err(errors::image_invalid(GIF_NAME, format!("a block begins with {other:#04x}")))),
        }
    }
}

fn skip_blocks(cursor: &mut ByteCursor<'_>) -> Option<()> {
    loop {
        match cursor.read_u8()? {
            0 => return Some(()),
            length => cursor.take_bytes(length.into())?,
        };
    }
}
