//! Loading many rows at once, the fastest way that each database has.

use std::sync::Arc;

use super::Connection;
use crate::backends::BackendLoader;
use crate::batch::{BatchColumnType, RowBatch};
use crate::bulk_load::{ChunkCommit, ChunkCommitFn, ConflictRule, LoadOutcome, LoadPlan};
use crate::checkpoint::{Fence, refuse_reserved_table};
use crate::table::TableInfo;
use crate::target_database::{ChunkLoader, TargetDatabase};
use afterload_core::error::Result;

/// A table made ready for loading.
pub struct BulkLoader {
    loader: BackendLoader,
}

impl Connection {
    /// Makes a table ready to receive these columns. The names in `columns` and `conflict` must be those of `table`.
    ///
    /// # Errors
    /// `column_not_found`, `conflict_keys_not_unique`, `table_reserved`, `connection_read_only`, or those of the database.
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
    /// Loads a batch in one transaction, with what `seal` makes of its outcome. With a fence, the cursor and the rejects
    /// are committed too; without one they are only handed back.
    ///
    /// A row that the database refuses is left out and told in the outcome; all others are committed.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has taken over, or those of the database; then nothing was committed.
    pub async fn load<T: AsRef<RowBatch> + Send + Sync + 'static>(
        &mut self,
        rows: Arc<T>,
        fence: Option<&Fence>,
        seal: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)> {
        self.loader.load_chunk(rows, fence, seal).await
    }
}
