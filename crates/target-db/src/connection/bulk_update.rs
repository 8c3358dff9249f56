//! Bulk updates: columns of many rows, each found by its keys, in one transaction.

use tokio_util::sync::CancellationToken;

use super::Connection;
use crate::bulk_update::{BoundUpdate, BulkUpdate, UpdatePlan};
use crate::checkpoint::refuse_reserved_table;
use crate::row_source::RowSource;
use crate::statement::{Checkpoint, CheckpointCommit, ResultMode, StatementArgs, StatementResult, StatementRun};
use crate::target_database::TargetDatabase;
use afterload_core::error::Result;

impl Connection {
    /// Prepares an update of `columns` in the rows that `keys` find.
    ///
    /// # Errors
    /// `table_not_found`, `column_not_found`, `table_reserved`, `connection_read_only`.
    pub async fn prepare_bulk_update(&self, table: &str, keys: &[String], columns: &[String]) -> Result<BulkUpdate> {
        self.ensure_writable()?;
        let table = self.describe_table(table).await?;
        refuse_reserved_table(&table.name)?;
        let columns = keys.iter().chain(columns).map(|name| table.find_column(name)).collect::<Result<Vec<_>>>()?;
        self.backend.plan_bulk_update(&UpdatePlan { table: &table.name, columns, key_count: keys.len() })
    }

    /// Updates rows and saves the checkpoint of `commit` in one transaction. Each row holds its keys, then its values.
    ///
    /// # Errors
    /// Those of [`Connection::write_statement`].
    pub async fn write_bulk_update(
        &self,
        update: &BulkUpdate,
        rows: impl RowSource,
        stop: &CancellationToken,
        commit: CheckpointCommit<'_>,
    ) -> Result<(StatementResult, Checkpoint)> {
        self.ensure_writable()?;
        let BoundUpdate { statement, values, row_source } = self.backend.bind_bulk_update(update, rows);
        self.run_statement(StatementRun {
            statement,
            args: StatementArgs { values, result_mode: ResultMode::Discard, stop: stop.clone() },
            row_source,
            writes: true,
            fence: commit.fence.cloned(),
            checkpoint_fn: commit.checkpoint_fn,
        })
        .await
    }
}
