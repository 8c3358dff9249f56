//! The error codes of all crates. `docs/error-codes.md` is generated from them.

use afterload_core::error::ErrorCode;

/// The codes by crate, from the binary down to the ground.
pub const CODES_BY_CRATE: &[(&str, &[ErrorCode])] = &[
    ("afterload", crate::codes::CODES),
    ("afterload-dashboard", afterload_dashboard::codes::CODES),
    ("afterload-server", afterload_server::codes::CODES),
    ("afterload-engine", afterload_engine::codes::CODES),
    ("afterload-basic-steps", afterload_basic_steps::codes::CODES),
    ("afterload-image-resize", afterload_image_resize::codes::CODES),
    ("afterload-notify-fanout", afterload_notify_fanout::codes::CODES),
    ("afterload-report-query", afterload_report_query::codes::CODES),
    ("afterload-table-import", afterload_table_import::codes::CODES),
    ("afterload-step-api", afterload_step_api::codes::CODES),
    ("afterload-tabular", afterload_tabular::codes::CODES),
    ("afterload-s3-server", afterload_s3_server::codes::CODES),
    ("afterload-object-store", afterload_object_store::codes::CODES),
    ("afterload-target-db", afterload_target_db::codes::CODES),
    ("afterload-state", afterload_state::codes::CODES),
    ("afterload-egress", afterload_egress::codes::CODES),
    ("afterload-mailer", afterload_mailer::codes::CODES),
    ("afterload-geoip", afterload_geoip::codes::CODES),
    ("afterload-pipeline", afterload_pipeline::codes::CODES),
    ("afterload-core", afterload_core::codes::CODES),
];

/// All codes.
pub fn all_codes() -> impl Iterator<Item = ErrorCode> {
    CODES_BY_CRATE.iter().flat_map(|(_, codes)| codes.iter().copied())
}
