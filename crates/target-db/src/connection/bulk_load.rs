//! Bulk loading in the fastest way that each database offers.

use std::sync::Arc;

use super::Connection;
use crate::backends::BackendLoader;
use crate::batch::{BatchColumnType, RowBatch};
use crate::bulk_load::{ChunkCommit, ChunkCommitFn, ConflictRule, LoadOutcome, LoadPlan};
use crate::checkpoint::{Fence, refuse_reserved_table};
use crate::codes;
use crate::table::{TableColumn, TableInfo};
use crate::target_database::{ChunkLoader, TargetDatabase};
use afterload_core::error::{Error, Result};

/// A table that is prepared for bulk loading.
pub struct BulkLoader {
    loader: BackendLoader,
}

impl Connection {
    /// Prepares a table to receive these columns. `columns` and `conflict` must name columns of `table`.
    ///
    /// # Errors
    /// `column_not_found`, `column_required` for a column that needs a value and is not among them,
    /// `conflict_keys_not_unique`, `table_reserved`, `connection_read_only`, or those of the database.
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
        require_columns(table, &columns)?;
        let conflict = match conflict {
            Some(ConflictRule { keys, action, update, keep_on_null }) => {
                let resolve = |names: Vec<String>| {
                    names.iter().map(|name| Ok(table.find_column(name)?.name.clone())).collect::<Result<Vec<_>>>()
                };
                let update = update.map(resolve).transpose()?;
                Some(ConflictRule { keys: resolve(keys)?, action, update, keep_on_null: resolve(keep_on_null)? })
            }
            None => None,
        };
        let plan = LoadPlan { table: table.clone(), columns, conflict, index: None };
        Ok(BulkLoader { loader: self.backend.prepare_load(plan).await? })
    }
}

/// Refuses a load that would break `NOT NULL` in every row. A trigger may still set the value.
fn require_columns(table: &TableInfo, loaded: &[(TableColumn, BatchColumnType)]) -> Result<()> {
    let is_loaded = |name: &String| loaded.iter().any(|(column, _)| column.name == *name);
    match table.required_columns.iter().find(|name| !is_loaded(name)) {
        Some(name) if !table.has_triggers => {
            let message = format!("`{name}` of table `{}` needs a value, and the import does not fill it", table.name);
            Err(Error::new(codes::COLUMN_REQUIRED, message))
        }
        _ => Ok(()),
    }
}

impl BulkLoader {
    /// Lets all batches share one transaction. Nothing is committed until `commit_shared`.
    #[must_use]
    pub fn in_one_transaction(mut self) -> Self {
        self.loader.share_transaction();
        self
    }

    /// Commits the shared transaction, and the checkpoint with it.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has taken over, or those of the database. Nothing is committed then.
    pub async fn commit_shared(&mut self, fence: Option<&Fence>, checkpoint: &ChunkCommit) -> Result<()> {
        self.loader.end_shared(fence, Some(checkpoint)).await
    }

    /// Undoes all batches of the shared transaction.
    ///
    /// # Errors
    /// Those of the database. Nothing is committed then either.
    pub async fn undo_shared(&mut self) -> Result<()> {
        self.loader.end_shared(None, None).await
    }

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
