//! Waits out an unavailable database.

use std::time::Duration;

use tracing::warn;

use afterload_core::error::Error;

/// The pause after a failed call to the database.
const DB_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Logs the error and waits before the caller tries again.
pub(crate) async fn wait_for_db(error: &Error, doing: &str) {
    warn!(error.code = error.code().name(), "{doing} failed; retrying: {error}");
    tokio::time::sleep(DB_RETRY_DELAY).await;
}
