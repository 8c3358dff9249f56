//! What files are, by their bytes: media types, the size of pictures, and what a list of accepted types lets in.

mod accept;
mod dimensions;
mod sniff;

pub use accept::accepts;
pub use dimensions::{Size, dimensions, jpeg_frame_size};
pub use sniff::{BINARY, TEXT, sniff};
