//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{INTERNAL_ERROR, STEP_STOPPED};
use afterload_core::error::ErrorCode;

pub const GEO_FILE_INVALID: ErrorCode =
    ErrorCode::permanent("geo_file_invalid", "The geo database file cannot be read").with_hint("download it again");
pub const GEO_FILE_MISSING: ErrorCode = ErrorCode::permanent("geo_file_missing", "The geo database file is missing")
    .with_hint("put the file there; `geo.folder` of the configuration says where files are looked for");
pub const GEO_PROVIDER_RESTING: ErrorCode =
    ErrorCode::transient("geo_provider_resting", "The geo provider is paused after failures");
pub const GEO_PROVIDER_UNKNOWN: ErrorCode =
    ErrorCode::permanent("geo_provider_unknown", "The configuration has no such geo provider");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[GEO_FILE_INVALID, GEO_FILE_MISSING, GEO_PROVIDER_RESTING, GEO_PROVIDER_UNKNOWN];
