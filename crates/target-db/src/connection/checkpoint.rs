//! Claims and saves checkpoints, and lists rejected rows.

use afterload_core::failpoint;

use super::Connection;
use crate::checkpoint::{CheckpointExpiry, Fence, RejectedRow};
use crate::target_database::TargetDatabase;
use afterload_core::error::Result;

impl Connection {
    /// Claims the checkpoint for this attempt and returns the last committed cursor.
    ///
    /// It also creates missing tables and deletes expired checkpoints.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has it, or those of the database.
    pub async fn claim_checkpoint(&self, fence: &Fence) -> Result<Option<String>> {
        let created = self.backend.create_checkpoint_tables().await;
        created.map_err(|error| {
            error.context(format!("making `afterload_checkpoints` in connection `{}`", self.name()))
        })?;
        if let Err(error) =
            self.backend.prune_checkpoints(CheckpointExpiry::at(self.backend.options().clock.now())).await
        {
            // Cleanup may collide with the cleanup of another step. The next claim cleans up again.
            tracing::debug!(connection.name = self.name(), %error, "old checkpoints were not removed");
        }
        let claimed = self.backend.claim_checkpoint(fence).await?;
        failpoint!("checkpoint.claimed");
        claimed.ok_or_else(|| fence.lease_lost_error())
    }

    /// Saves a cursor without rows.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has taken over, or those of the database.
    pub async fn save_checkpoint(&self, fence: &Fence, cursor: &str, finished: bool) -> Result<()> {
        match self.backend.save_checkpoint(fence, cursor, finished).await? {
            true => Ok(()),
            false => Err(fence.lease_lost_error()),
        }
    }

    /// Lists the rejected rows of a step whose `seq` is greater than `after`, in order, at most `limit`.
    pub async fn list_rejects(&self, key: &str, after: i64, limit: i64) -> Result<Vec<RejectedRow>> {
        self.backend.list_rejects(key, after, limit).await
    }
}
