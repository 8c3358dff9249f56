//! The errors of unusable pictures. All are permanent, because a retry reads the same bytes.

use crate::codes;
use afterload_core::error::Error;

const READABLE_FORMATS: &str = "JPEG, PNG, WebP and GIF are read";

/// The picture exceeds a limit of the configuration.
pub fn image_too_large(what: impl Into<String>) -> Error {
    Error::new(codes::IMAGE_TOO_LARGE, what)
}

/// The file ends too early.
pub fn image_truncated(format: &str) -> Error {
    Error::new(codes::IMAGE_TRUNCATED, format!("the {format} ends before its end"))
}

/// The file violates its format.
pub fn image_invalid(format: &str, why: impl std::fmt::Display) -> Error {
    Error::new(codes::IMAGE_INVALID, format!("the {format} is damaged: {why}"))
}

/// The file is not a picture, or is of a kind that is not supported.
pub fn image_unsupported(what: impl std::fmt::Display) -> Error {
    Error::new(codes::IMAGE_UNSUPPORTED, format!("{what}; {READABLE_FORMATS}"))
}
