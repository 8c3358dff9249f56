//! Calls libwebp's encoder. It is the only C code, because no Rust encoder writes lossy WebP.
#![expect(unsafe_code, reason = "libwebp is written in C")]

use std::mem::MaybeUninit;

use libwebp_sys::{
    WebPConfig, WebPEncode, WebPInitConfig, WebPMemoryWrite, WebPMemoryWriter, WebPMemoryWriterClear,
    WebPMemoryWriterInit, WebPPicture, WebPPictureFree, WebPPictureImportRGB, WebPPictureImportRGBA, WebPPictureInit,
};

use afterload_media_type::PixelSize;

/// The compression effort from 0 (fast) to 6 (small). libwebp's default is 4; 2 takes half the time, for files that are
/// a few percent larger.
const WEBP_METHOD: i32 = 2;

/// A picture and its writer, freed together.
struct WebpEncoder {
    picture: WebPPicture,
    writer: WebPMemoryWriter,
}

impl Drop for WebpEncoder {
    fn drop(&mut self) {
        // SAFETY: both were initialized before `WebpEncoder` was created. They may be freed once at any time after
        // that.
        unsafe {
            WebPPictureFree(&mut self.picture);
            WebPMemoryWriterClear(&mut self.writer);
        }
    }
}

/// Encodes RGB or RGBA rows without gaps. `None`: libwebp refused, or memory ran out.
pub fn encode_rows(data: &[u8], size: PixelSize, alpha: bool, quality: u8) -> Option<Vec<u8>> {
    let channels = if alpha { 4 } else { 3 };
    let (width, height) = (i32::try_from(size.width).ok()?, i32::try_from(size.height).ok()?);
    let stride = width.checked_mul(channels)?;
    if data.len() as u64 != size.pixel_count() * channels as u64 {
        return None;
    }
    let config = encoder_config(quality)?;
    let mut work = new_encoder()?;
    work.picture.width = width;
    work.picture.height = height;
    work.picture.writer = Some(WebPMemoryWrite);
    work.picture.custom_ptr = (&raw mut work.writer).cast();
    // SAFETY: `data` holds `height` rows of `stride` bytes, as checked above, and is only read. libwebp initialized the
    // picture. Its writer is in the same `WebpEncoder`, which does not move before the encoding ends.
    let encoded = unsafe {
        let import = if alpha { WebPPictureImportRGBA } else { WebPPictureImportRGB };
        import(&mut work.picture, data.as_ptr(), stride) != 0 && WebPEncode(&config, &mut work.picture) != 0
    };
    if !encoded || work.writer.mem.is_null() {
        return None;
    }
    // SAFETY: the writer owns `size` bytes at `mem` until it is cleared, when the encoder is dropped.
    Some(unsafe { std::slice::from_raw_parts(work.writer.mem, work.writer.size) }.to_vec())
}

fn encoder_config(quality: u8) -> Option<WebPConfig> {
    let mut config = MaybeUninit::<WebPConfig>::uninit();
    // SAFETY: libwebp fills the whole structure and returns whether it did.
    let mut config = unsafe {
        if !WebPInitConfig(config.as_mut_ptr()) {
            return None;
        }
        config.assume_init()
    };
    config.quality = f32::from(quality);
    config.method = WEBP_METHOD;
    Some(config)
}

fn new_encoder() -> Option<WebpEncoder> {
    let mut picture = MaybeUninit::<WebPPicture>::uninit();
    let mut writer = MaybeUninit::<WebPMemoryWriter>::uninit();
    // SAFETY: libwebp fills both structures; for the picture it returns whether it did.
    unsafe {
        if !WebPPictureInit(picture.as_mut_ptr()) {
            return None;
        }
        WebPMemoryWriterInit(writer.as_mut_ptr());
        Some(WebpEncoder { picture: picture.assume_init(), writer: writer.assume_init() })
    }
}
