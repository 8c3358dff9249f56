//! The blocks of a GIF, up to its trailer.

use super::{Cursor, Found, check_size};
use crate::ImageLimits;
use crate::fault;
use afterload_core::error::Result;
use afterload_media_type::Size;

const NAME: &str = "GIF";

pub fn read(bytes: &[u8], limits: &ImageLimits) -> Result<Found> {
    let mut cursor = Cursor::new(bytes, 6);
    let Some(mut found) = header(&mut cursor) else { return Err(fault::truncated(NAME)) };
    let mut frames = Vec::new();
    let walked = walk(&mut cursor, &mut frames);
    if let Some(Err(error)) = walked {
        return Err(error);
    }
    // A frame may be larger than the screen that it is shown on.
    for frame in &frames {
        check_size(*frame, limits)?;
    }
    if frames.is_empty() && walked.is_some() {
        return Err(fault::invalid(NAME, "it holds no picture"));
    }
    found.whole = walked.is_some();
    found.animated = frames.len() > 1;
    Ok(found)
}

fn header(cursor: &mut Cursor<'_>) -> Option<Found> {
    let (width, height) = (cursor.le16()?, cursor.le16()?);
    let flags = cursor.take(3)?[0];
    skip_colours(cursor, flags)?;
    Some(Found::new(Size::new(width.into(), height.into()), 4))
}

fn skip_colours(cursor: &mut Cursor<'_>, flags: u8) -> Option<()> {
    if flags & 0x80 != 0 {
        cursor.take(3 << ((flags & 7) + 1))?;
    }
    Some(())
}

/// `None`: the file ends before its trailer. Only the first two frames are noted.
fn walk(cursor: &mut Cursor<'_>, frames: &mut Vec<Size>) -> Option<Result<()>> {
    loop {
        match cursor.byte()? {
            0x3b => return Some(Ok(())),
            0x21 => {
                cursor.byte()?;
                skip_blocks(cursor)?;
            }
            0x2c => {
                cursor.take(4)?;
                let size = Size::new(cursor.le16()?.into(), cursor.le16()?.into());
                let flags = cursor.byte()?;
                skip_colours(cursor, flags)?;
                cursor.byte()?;
                skip_blocks(cursor)?;
                if frames.len() < 2 {
                    frames.push(size);
                }
            }
            // Some writers leave a byte or two of nothing between blocks.
            0 => {}
            other => return Some(Err(fault::invalid(NAME, format!("a block begins with {other:#04x}")))),
        }
    }
}

fn skip_blocks(cursor: &mut Cursor<'_>) -> Option<()> {
    loop {
        match cursor.byte()? {
            0 => return Some(()),
            length => cursor.take(length.into())?,
        };
    }
}
