//! The size limits of pictures.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_core::units::ByteSize;

/// Limits on pictures, because a few kilobytes can decode to gigabytes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImageLimits {
    /// The largest file.
    pub file: ByteSize,
    /// The most pixels, width times height.
    pub pixels: u64,
    /// The longest side in pixels.
    pub side: u32,
    /// The most memory that decoding one picture may take.
    pub decode: ByteSize,
    /// The most memory that all pictures together may take while one process works on them. Files that wait to be decoded
    /// come on top, at most the same again.
    pub memory: ByteSize,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            file: ByteSize(64 << 20),
            pixels: 100_000_000,
            side: 16_384,
            decode: ByteSize(512 << 20),
            memory: ByteSize(1 << 30),
        }
    }
}
