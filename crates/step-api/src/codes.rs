//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{FILE_NOT_AUTHORIZED, STEP_STOPPED};
use afterload_core::error::ErrorCode;
pub(crate) use afterload_object_store::codes::OBJECT_NOT_FOUND;
pub(crate) use afterload_pipeline::codes::WITH_INVALID;

pub const OUTPUT_KEY_INVALID: ErrorCode =
    ErrorCode::permanent("output_key_invalid", "The key of an output file is not valid")
        .with_hint("a key has 1 to 1024 bytes and no control characters");
pub const OUTPUT_KEY_REPEATED: ErrorCode =
    ErrorCode::permanent("output_key_repeated", "Two output files have the same key")
        .with_hint("use `${{ file.name }}` in `output.key`");
pub const OUTPUTS_INVALID: ErrorCode =
    ErrorCode::permanent("outputs_invalid", "The outputs of the step cannot be stored");
pub const STEP_PANICKED: ErrorCode = ErrorCode::transient("step_panicked", "The step stopped with a bug");
pub const STEP_SUSPENDED: ErrorCode = ErrorCode::stopped("step_suspended", "The step is suspended until it is resumed");

/// All codes of this crate.
pub const CODES: &[ErrorCode] =
    &[OUTPUT_KEY_INVALID, OUTPUT_KEY_REPEATED, OUTPUTS_INVALID, STEP_PANICKED, STEP_SUSPENDED];
