//! What a back end does for a connection.

use std::sync::Arc;

use crate::batch::RowBatch;
use crate::bulk_load::{ChunkCommit, ChunkCommitFn, LoadOutcome, LoadPlan};
use crate::bulk_update::{BoundUpdate, BulkUpdate, UpdatePlan};
use crate::checkpoint::{CheckpointExpiry, Fence, RejectedRow};
use crate::config::{ConnectionConfig, ConnectionOptions};
use crate::query::{QueryOptions, RowVisitor, SelectQuery};
use crate::row_source::RowSource;
use crate::statement::{Checkpoint, StatementResult, StatementRun};
use crate::table::TableInfo;
use afterload_core::error::Result;
use afterload_core::identifier::TableName;

/// A kind of database that users own. Cheap to clone.
///
/// What is true of all databases (which tables are reserved, which connections may be written, which rows a record has) is
/// checked by [`Connection`](crate::Connection) before it asks the back end.
pub(crate) trait TargetDatabase: Clone {
    /// A table made ready for loading.
    type Loader: ChunkLoader;

    /// Opens the database.
    ///
    /// # Errors
    /// `connection_invalid` for an address that is none; `connection_unavailable` (transient) if it does not answer.
    async fn open(config: &ConnectionConfig, options: ConnectionOptions) -> Result<Self>;

    fn options(&self) -> &ConnectionOptions;

    /// What the database knows of a table; nothing if there is none.
    async fn describe_table(&self, name: &TableName) -> Result<Option<TableInfo>>;

    /// Makes the tables for checkpoints and rejected rows if they are missing.
    async fn create_checkpoint_tables(&self) -> Result<()>;

    /// Takes the checkpoint for an attempt and gives its cursor, if it has one; nothing if a later attempt has it.
    async fn claim_checkpoint(&self, fence: &Fence) -> Result<Option<Option<String>>>;

    /// Saves a cursor by itself. False if a later attempt has the checkpoint.
    async fn save_checkpoint(&self, fence: &Fence, cursor: &str, finished: bool) -> Result<bool>;

    /// The rejected rows of a step after `after`, in order, at most `limit`.
    async fn list_rejects(&self, key: &str, after: i64, limit: i64) -> Result<Vec<RejectedRow>>;

    /// Forgets checkpoints that are too old, with their rejected rows.
    async fn prune_checkpoints(&self, expiry: CheckpointExpiry) -> Result<()>;

    /// Makes a table ready for loading.
    ///
    /// # Errors
    /// `conflict_keys_not_unique`, or those of the database.
    async fn prepare_load(&self, plan: LoadPlan) -> Result<Self::Loader>;

    /// Runs a statement in a transaction of its own, in which its checkpoint is saved too.
    async fn run_statement(&self, run: StatementRun) -> Result<(StatementResult, Checkpoint)>;

    /// Hands all rows to the visitor, in one transaction that cannot write.
    async fn select_rows<R: RowVisitor>(&self, select: &SelectQuery, options: QueryOptions, visitor: R) -> Result<R>;

    /// The statements that fill columns of many rows.
    fn plan_bulk_update(&self, plan: &UpdatePlan<'_>) -> Result<BulkUpdate>;

    /// Those statements with the values of rows.
    fn bind_bulk_update(&self, update: &BulkUpdate, rows: impl RowSource) -> BoundUpdate;

    /// What a `SELECT` names to read all columns of a row as JSON.
    fn record_columns(&self, table: &TableInfo) -> String;

    /// The parameter `:name` in the type of a column.
    fn typed_parameter(&self, name: &str, type_name: &str) -> String;

    /// A key so that it can be bound again without loss.
    fn key_as_text(&self, key: &str) -> String;

    /// The same for a key that bounds a range; null where such keys have no order.
    fn key_bound_as_text(&self, key: &str) -> String;

    /// Whether rows that are expected to be new are inserted faster if nothing is said of conflicts.
    fn prefers_plain_insert(&self) -> bool;

    /// How many of `wanted` can write at once.
    fn max_writers(&self, wanted: usize) -> usize;
}

/// A table made ready for loading.
pub(crate) trait ChunkLoader {
    /// Loads a batch in one transaction, with what `commit` makes of its outcome.
    async fn load_chunk<T: AsRef<RowBatch> + Send + Sync + 'static>(
        &mut self,
        rows: Arc<T>,
        fence: Option<&Fence>,
        commit: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)>;
}
