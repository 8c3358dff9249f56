//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{DEFINITION_INVALID, IO_ERROR};
use afterload_core::error::ErrorCode;

pub const DEFINITION_SUSPICIOUS: ErrorCode =
    ErrorCode::permanent("definition_suspicious", "A definition is valid but probably not what was meant");
pub const EXPRESSION_FAILED: ErrorCode = ErrorCode::permanent("expression_failed", "An expression cannot be evaluated");
pub const NOT_SUPPORTED_YET: ErrorCode =
    ErrorCode::permanent("not_supported_yet", "This is not supported yet").with_status(422);
pub const PARAM_EMAIL_NOT_ASCII: ErrorCode = ErrorCode::permanent(
    "param_email_not_ascii",
    "An e-mail address is not ASCII before its `@`",
)
.with_status(422)
.with_hint(
    "use an address in ASCII, or set `mail.smtputf8`; its host may be international, such as `a@bücher.example`",
);
pub const PARAM_FILE_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("param_file_too_large", "The file of a param is larger than its `max_size`").with_status(422);
pub const PARAM_FILE_TYPE: ErrorCode =
    ErrorCode::permanent("param_file_type", "The file of a param has a type that the param does not take")
        .with_status(422);
pub const PARAM_MISSING: ErrorCode =
    ErrorCode::permanent("param_missing", "A required param is missing").with_status(422);
pub const PARAM_NO_MATCH: ErrorCode =
    ErrorCode::permanent("param_no_match", "A param does not match the pattern or format of its type").with_status(422);
pub const PARAM_NOT_A_CHOICE: ErrorCode =
    ErrorCode::permanent("param_not_a_choice", "A param is not one of its choices").with_status(422);
pub const PARAM_OUT_OF_RANGE: ErrorCode =
    ErrorCode::permanent("param_out_of_range", "A param is too small or too large").with_status(422);
pub const PARAM_TOO_LONG: ErrorCode = ErrorCode::permanent("param_too_long", "A param is too long").with_status(422);
pub const PARAM_TOO_MANY_ITEMS: ErrorCode =
    ErrorCode::permanent("param_too_many_items", "A list has more items than its `max_items`").with_status(422);
pub const PARAM_TOO_SHORT: ErrorCode = ErrorCode::permanent("param_too_short", "A param is too short").with_status(422);
pub const PARAM_UNKNOWN: ErrorCode =
    ErrorCode::permanent("param_unknown", "The pipeline has no such param").with_status(422);
pub const PARAM_WRONG_TYPE: ErrorCode =
    ErrorCode::permanent("param_wrong_type", "A param does not have its type").with_status(422);
pub const PARAMS_INVALID: ErrorCode =
    ErrorCode::permanent("params_invalid", "The parameters do not fit the pipeline").with_status(422);
pub const TRIGGER_LOOP: ErrorCode =
    ErrorCode::permanent("trigger_loop", "Pipelines start each other again, without end");
pub const WITH_INVALID: ErrorCode = ErrorCode::permanent("with_invalid", "A value in the step's `with` is not valid");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    DEFINITION_SUSPICIOUS,
    EXPRESSION_FAILED,
    NOT_SUPPORTED_YET,
    PARAM_EMAIL_NOT_ASCII,
    PARAM_FILE_TOO_LARGE,
    PARAM_FILE_TYPE,
    PARAM_MISSING,
    PARAM_NO_MATCH,
    PARAM_NOT_A_CHOICE,
    PARAM_OUT_OF_RANGE,
    PARAM_TOO_LONG,
    PARAM_TOO_MANY_ITEMS,
    PARAM_TOO_SHORT,
    PARAM_UNKNOWN,
    PARAM_WRONG_TYPE,
    PARAMS_INVALID,
    TRIGGER_LOOP,
    WITH_INVALID,
];
