//! PNG: palettes and small depths are spread to eight bits, sixteen bits are cut to eight, keyed colours become alpha.

use std::io::{Cursor, ErrorKind};

use png::{ColorType, Decoder, DecodingError, Limits, Transformations};

use crate::fault;
use crate::inspect::Inspected;
use crate::pixels::{Layout, Pixels};
use afterload_core::error::{Error, Result};
use afterload_media_type::Size;

const NAME: &str = "PNG";
/// For rows and tables; the pixels lie in a buffer of ours.
const WORKING: usize = 16 << 20;

pub fn decode(inspected: &Inspected, bytes: &[u8]) -> Result<Pixels> {
    // Chunks are held while they are read, so the file itself bounds them.
    let limits = Limits { bytes: WORKING + bytes.len() };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(of_decoder)?;
    let (width, height) = reader.info().size();
    let size = Size::new(width, height);
    let layout = match reader.output_color_type().0 {
        ColorType::Grayscale => Layout::Grey,
        ColorType::GrayscaleAlpha => Layout::GreyAlpha,
        ColorType::Rgb => Layout::Rgb,
        ColorType::Rgba => Layout::Rgba,
        ColorType::Indexed => return Err(fault::invalid(NAME, "it has no palette")),
    };
    let bytes = size.pixels() * layout.channels() as u64;
    if size != inspected.stored || bytes > inspected.decoding(8) || reader.output_buffer_size() != Some(bytes as usize)
    {
        return Err(fault::invalid(NAME, "its parts disagree about its size"));
    }
    let mut data = vec![0; bytes as usize];
    reader.next_frame(&mut data).map_err(of_decoder)?;
    Ok(Pixels { size, layout, data })
}

fn of_decoder(error: DecodingError) -> Error {
    match error {
        DecodingError::LimitsExceeded => fault::too_large(format!("the {NAME} takes too much memory to read")),
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => fault::truncated(NAME),
        error => fault::invalid(NAME, error),
    }
}
