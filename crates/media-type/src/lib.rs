//! Detects what a file is by its bytes: media types, image sizes, and lists of accepted types.

mod accept;
mod image_size;
mod sniff;
mod text;
mod zip;

pub use accept::{accepts_media_type, refine_media_type};
pub use image_size::{PixelSize, read_image_size, read_jpeg_frame_size};
pub use sniff::{MEDIA_TYPE_BINARY, MEDIA_TYPE_OLE, detect_media_type};
pub use text::MEDIA_TYPE_TEXT;
