//! The errors of unusable pictures. All are permanent, because a retry reads the same bytes.

use afterload_core::error::Error;

const READABLE_FORMATS: &str = "JPEG, PNG, WebP and GIF are read";

/// The picture exceeds a limit of the configuration.
pub fn image_too_large(what: impl Into<String>) -> Error {
    Error::permanent("image_too_large", what).with_hint("`limits.image` in the configuration sets the limits")
}

/// The file ends too early.
pub fn image_truncated(format: &str) -> Error {
    Error::permanent("image_truncated", format!("the {format} ends before its end"))
        .with_hint("it was cut off, most likely while it was uploaded or copied; send it again")
}

/// The file violates its format.
pub fn image_invalid(format: &str, why: impl std::fmt::Display) -> Error {
    Error::permanent("image_invalid", format!("the {format} is damaged: {why}"))
        .with_hint("open it in an image editor and save it again")
}

/// The file is not a picture, or is of a kind that is not supported.
pub fn image_unsupported(what: impl std::fmt::Display) -> Error {
    Error::permanent("image_unsupported", format!("{what}; {READABLE_FORMATS}"))
        .with_hint("convert it to one of these first")
}
