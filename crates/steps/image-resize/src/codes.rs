//! The error codes of this crate.

#![expect(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{INTERNAL_ERROR, STEP_STOPPED};
use afterload_core::error::ErrorCode;
pub(crate) use afterload_pipeline::codes::WITH_INVALID;
pub(crate) use afterload_step_api::codes::STEP_PANICKED;

pub const IMAGE_INVALID: ErrorCode = ErrorCode::permanent("image_invalid", "The image is damaged");
pub const IMAGE_TOO_LARGE: ErrorCode = ErrorCode::permanent("image_too_large", "The image is too large");
pub const IMAGE_TRUNCATED: ErrorCode = ErrorCode::permanent("image_truncated", "The image file is cut off");
pub const IMAGE_UNSUPPORTED: ErrorCode =
    ErrorCode::permanent("image_unsupported", "The image has a format that is not supported");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[IMAGE_INVALID, IMAGE_TOO_LARGE, IMAGE_TRUNCATED, IMAGE_UNSUPPORTED];
