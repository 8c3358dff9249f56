//! What files are, by their bytes: media types, the size of pictures, and what a list of accepted types lets in.

mod accept;
mod image_size;
mod sniff;

pub use accept::accepts_media_type;
pub use image_size::{PixelSize, read_image_size, read_jpeg_frame_size};
pub use sniff::{MEDIA_TYPE_BINARY, MEDIA_TYPE_TEXT, detect_media_type};
