//! JPEG, at an eighth, a quarter, half or all of its size.

use std::io::ErrorKind;

use jpeg_decoder::{Decoder, Error as Fault, PixelFormat};

use crate::fault;
use crate::inspect::Inspected;
use crate::pixels::{Layout, Pixels};
use afterload_core::error::{Error, Result};
use afterload_media_type::Size;

const NAME: &str = "JPEG";

/// The size at so many eighths.
pub fn scaled(size: Size, eighths: u32) -> Size {
    Size::new((size.width * eighths).div_ceil(8), (size.height * eighths).div_ceil(8))
}

pub fn decode(inspected: &Inspected, bytes: &[u8], eighths: u32, limit: u64) -> Result<Pixels> {
    let mut decoder = Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(usize::try_from(limit).unwrap_or(usize::MAX));
    decoder.read_info().map_err(of_decoder)?;
    if eighths < 8 {
        let wanted = scaled(inspected.stored, eighths);
        let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
        decoder.scale(side(wanted.width), side(wanted.height)).map_err(of_decoder)?;
    }
    let data = decoder.decode().map_err(of_decoder)?;
    let info = decoder.info().ok_or_else(|| fault::invalid(NAME, "it has no header"))?;
    let layout = match info.pixel_format {
        PixelFormat::L8 => Layout::Grey,
        PixelFormat::RGB24 => Layout::Rgb,
        PixelFormat::CMYK32 => Layout::Cmyk,
        PixelFormat::L16 => return Err(fault::unsupported(format!("the file is a {NAME} with 16 bits a channel"))),
    };
    let size = Size::new(info.width.into(), info.height.into());
    if data.len() as u64 != size.pixels() * layout.channels() as u64 {
        return Err(fault::invalid(NAME, "its pixels are not all there"));
    }
    Ok(Pixels { size, layout, data })
}

fn of_decoder(error: Fault) -> Error {
    match error {
        Fault::Unsupported(what) => fault::unsupported(format!("the file is a {NAME} of a rare kind ({what:?})")),
        Fault::Io(error) if error.kind() == ErrorKind::UnexpectedEof => fault::truncated(NAME),
        error => fault::invalid(NAME, error),
    }
}
