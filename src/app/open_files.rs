//! How many files and sockets this process may open.

use tracing::warn;

/// The limit of a system that does not tell it.
const FALLBACK_OPEN_FILES: u64 = 256;

/// Raises the limit of this process as far as the system permits, and returns it. The usual limit of 1024 suits
/// programs that use `select`.
pub(super) fn raise_open_file_limit() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        warn!("the limit of open files cannot be raised: {error}");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(FALLBACK_OPEN_FILES)
    })
}
