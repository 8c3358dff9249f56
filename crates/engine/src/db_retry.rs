//! What to do while the database is away.

use std::time::Duration;

use tracing::warn;

use afterload_core::error::Error;

/// How long to wait before trying a database that failed us again.
const DB_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Logs the failure and waits a moment.
pub(crate) async fn wait_for_db(error: &Error, doing: &str) {
    warn!(error.code = error.code().name(), "{doing} failed and will be tried again: {error}");
    tokio::time::sleep(DB_RETRY_DELAY).await;
}
