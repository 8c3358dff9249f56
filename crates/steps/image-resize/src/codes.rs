//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{INTERNAL_ERROR, STEP_STOPPED};
use afterload_core::error::ErrorCode;
pub(crate) use afterload_pipeline::codes::WITH_INVALID;
pub(crate) use afterload_step_api::codes::STEP_PANICKED;

pub const IMAGE_INVALID: ErrorCode = ErrorCode::permanent("image_invalid", "The image is damaged")
    .with_hint("open it in an image editor and save it again");
pub const IMAGE_TOO_LARGE: ErrorCode = ErrorCode::permanent("image_too_large", "The image is too large")
    .with_hint("`limits.image` in the configuration sets the limits");
pub const IMAGE_TRUNCATED: ErrorCode = ErrorCode::permanent("image_truncated", "The image file is cut off")
    .with_hint("it was cut off, most likely while it was uploaded or copied; send it again");
pub const IMAGE_UNSUPPORTED: ErrorCode =
    ErrorCode::permanent("image_unsupported", "The image has a format that is not supported")
        .with_hint("convert it to one of these first");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[IMAGE_INVALID, IMAGE_TOO_LARGE, IMAGE_TRUNCATED, IMAGE_UNSUPPORTED];
