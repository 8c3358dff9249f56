//! Claiming and saving checkpoints.

use afterload_core::failpoint;

use super::Connection;
use crate::checkpoint::{CheckpointExpiry, Fence, RejectedRow};
use crate::target_database::TargetDatabase;
use afterload_core::error::Result;

impl Connection {
    /// Makes the tables if they are missing, forgets what is long over, takes the checkpoint for this attempt, and
    /// returns the cursor that was committed last.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has it, or those of the database.
    pub async fn claim_checkpoint(&self, fence: &Fence) -> Result<Option<String>> {
        let created = self.backend.create_checkpoint_tables().await;
        created.map_err(|error| {
            error.context(format!("making `afterload_checkpoints` in connection `{}`", self.name()))
        })?;
        if let Err(error) = self.backend.prune_checkpoints(CheckpointExpiry::now()).await {
            // Tidying may collide with another import's; the next one tidies again.
            tracing::debug!(connection.name = self.name(), %error, "old checkpoints were not removed");
        }
        let claimed = self.backend.claim_checkpoint(fence).await?;
        failpoint!("checkpoint.claimed");
        claimed.ok_or_else(|| fence.lease_lost_error())
    }

    /// Notes a cursor by itself, without rows.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has taken over, or those of the database.
    pub async fn save_checkpoint(&self, fence: &Fence, cursor: &str, finished: bool) -> Result<()> {
        match self.backend.save_checkpoint(fence, cursor, finished).await? {
            true => Ok(()),
            false => Err(fence.lease_lost_error()),
        }
    }

    /// The rejected rows of a step after `seq`, in order, at most `limit`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_rejects(&self, key: &str, after: i64, limit: i64) -> Result<Vec<RejectedRow>> {
        self.backend.list_rejects(key, after, limit).await
    }
}
