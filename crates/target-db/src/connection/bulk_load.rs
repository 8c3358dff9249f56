//! Bulk loading in the fastest way that each database offers.

use std::sync::Arc;

use super::Connection;
use crate::backends::BackendLoader;
use crate::batch::{BatchColumnType, RowBatch};
use crate::bulk_load::{ChunkCommit, ChunkCommitFn, ConflictRule, LoadOutcome, LoadPlan};
use crate::checkpoint::{Fence, refuse_reserved_table};
use crate::table::TableInfo;
use crate::target_database::{ChunkLoader, TargetDatabase};
use afterload_core::error::Result;

/// A table that is prepared for bulk loading.
pub struct BulkLoader {
    loader: BackendLoader,
}

impl Connection {
    /// Prepares a table to receive these columns. `columns` and `conflict` must name columns of `table`.
    ///
    /// # Errors
    /// `column_not_found`, `conflict_keys_not_unique`, `table_reserved`, `connection_read_only`, or those of the
    /// database.
    pub async fn prepare_bulk_load(
        &self,
        table: &TableInfo,
        columns: &[(String, BatchColumnType)],
        conflict: Option<ConflictRule>,
    ) -> Result<BulkLoader> {
        self.ensure_writable()?;
        refuse_reserved_table(&table.name)?;
        let resolve = |(name, shape): &(String, BatchColumnType)| Ok((table.find_column(name)?.clone(), *shape));
        let columns = columns.iter().map(resolve).collect::<Result<Vec<_>>>()?;
        let conflict = match conflict {
            Some(ConflictRule { keys, action }) => {
                let keys =
                    keys.iter().map(|key| Ok(table.find_column(key)?.name.clone())).collect::<Result<Vec<_>>>()?;
                Some(ConflictRule { keys, action })
            }
            None => None,
        };
        let plan = LoadPlan { table: table.clone(), columns, conflict };
        Ok(BulkLoader { loader: self.backend.prepare_load(plan).await? })
    }
}

impl BulkLoader {
    /// Loads a batch in one transaction. `seal` makes the checkpoint from the outcome.
    ///
    /// With a fence, the transaction also commits the cursor and the rejects. Without one they are only returned.
    /// The outcome lists each row that the database refuses. All other rows are committed.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has taken over, or those of the database. Nothing is committed then.
    pub async fn load<T: AsRef<RowBatch> + Send + Sync + 'static>(
        &mut self,
        rows: Arc<T>,
        fence: Option<&Fence>,
        seal: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)> {
        self.loader.load_chunk(rows, fence, seal).await
    }
}
