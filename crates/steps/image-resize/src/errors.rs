//! Why a picture is refused. Each is for good: the same bytes are refused again.

use crate::codes;
use afterload_core::error::Error;

/// What can be read, for messages.
const READABLE_FORMATS: &str = "JPEG, PNG, WebP and GIF are read";

/// It would cost more than the configuration allows.
pub fn image_too_large(what: impl Into<String>) -> Error {
    Error::new(codes::IMAGE_TOO_LARGE, what).with_hint("`limits.image` in the configuration sets the limits")
}

/// Its end is missing.
pub fn image_truncated(format: &str) -> Error {
    Error::new(codes::IMAGE_TRUNCATED, format!("the {format} ends before its end"))
        .with_hint("it was cut off, most likely while it was uploaded or copied; send it again")
}

/// It breaks the rules of its format.
pub fn image_invalid(format: &str, why: impl std::fmt::Display) -> Error {
    Error::new(codes::IMAGE_INVALID, format!("the {format} is damaged: {why}"))
        .with_hint("open it in an image editor and save it again")
}

/// It is something else, or a rare kind that is not read.
pub fn image_unsupported(what: impl std::fmt::Display) -> Error {
    Error::new(codes::IMAGE_UNSUPPORTED, format!("{what}; {READABLE_FORMATS}"))
        .with_hint("convert it to one of these first")
}
