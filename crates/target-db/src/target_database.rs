//! The traits that each back end implements.

use std::sync::Arc;

use crate::batch::RowBatch;
use crate::bind::{BindValues, ParameterizedSql};
use crate::bulk_load::{ChunkCommit, ChunkCommitFn, LoadOutcome, LoadPlan};
use crate::bulk_update::{BoundUpdate, BulkUpdate, UpdatePlan};
use crate::checkpoint::{CheckpointExpiry, Fence, RejectedRow};
use crate::config::{ConnectionConfig, ConnectionOptions};
use crate::query::{QueryLimits, RowVisitor, SelectRequest};
use crate::read_only::Refusal;
use crate::row_source::RowSource;
use crate::statement::{Checkpoint, StatementResult, StatementRun};
use crate::table::TableInfo;
use afterload_core::error::Result;
use afterload_core::identifier::TableName;

/// A target database. Cheap to clone.
///
/// [`Connection`](crate::Connection) makes the checks that all databases share before it calls the back end. Examples
/// are reserved tables, read-only connections and ambiguous records.
pub(crate) trait TargetDatabase: Clone {
    /// The loader of this back end.
    type Loader: ChunkLoader;

    /// Opens the database.
    ///
    /// # Errors
    /// `connection_invalid` for an invalid address; `connection_unavailable` (transient) if it does not answer.
    async fn open(config: &ConnectionConfig, options: ConnectionOptions) -> Result<Self>;

    fn options(&self) -> &ConnectionOptions;

    /// Describes a table. `None` if it does not exist.
    async fn describe_table(&self, name: &TableName) -> Result<Option<TableInfo>>;

    /// Creates the tables for checkpoints and rejected rows if they are missing.
    async fn create_checkpoint_tables(&self) -> Result<()>;

    /// Claims the checkpoint for an attempt and returns its cursor, if any. `None` if a later attempt has claimed it.
    async fn claim_checkpoint(&self, fence: &Fence) -> Result<Option<Option<String>>>;

    /// Saves a cursor without rows. Returns false if a later attempt has claimed the checkpoint.
    async fn save_checkpoint(&self, fence: &Fence, cursor: &str, finished: bool) -> Result<bool>;

    /// Lists the rejected rows of a step whose `seq` is greater than `after`, in order, at most `limit`.
    async fn list_rejects(&self, key: &str, after: i64, limit: i64) -> Result<Vec<RejectedRow>>;

    /// Deletes expired checkpoints with their rejected rows.
    async fn prune_checkpoints(&self, expiry: CheckpointExpiry) -> Result<()>;

    /// Whether a unique constraint covers just these columns, as `ON CONFLICT` requires.
    async fn has_unique_keys(&self, table: &TableName, keys: &[String]) -> Result<bool>;

    /// Prepares a table for loading.
    ///
    /// # Errors
    /// `conflict_keys_not_unique`, or those of the database.
    async fn prepare_load(&self, plan: LoadPlan) -> Result<Self::Loader>;

    /// Runs a statement in its own transaction, which also saves its checkpoint.
    async fn run_statement(&self, run: StatementRun) -> Result<(StatementResult, Checkpoint)>;

    /// Asks the database whether a statement only reads. It parses and plans the text, and runs nothing.
    ///
    /// # Errors
    /// `sql_invalid` for text that the database cannot parse, `sql_parameter_missing`, or those of the database.
    async fn find_refusal(&self, sql: &ParameterizedSql, values: &BindValues) -> Result<Option<Refusal>>;

    /// Passes all rows of the queries to the visitor, one query after the other, in one read-only transaction.
    async fn select_rows<R: RowVisitor>(
        &self,
        requests: Vec<SelectRequest>,
        limits: QueryLimits,
        visitor: R,
    ) -> Result<R>;

    /// Prepares the statements of a bulk update.
    fn plan_bulk_update(&self, plan: &UpdatePlan<'_>) -> Result<BulkUpdate>;

    /// Binds the values of rows to a bulk update.
    fn bind_bulk_update(&self, update: &BulkUpdate, rows: impl RowSource) -> BoundUpdate;

    /// The `SELECT` list that reads all columns of a row as JSON.
    fn record_columns(&self, table: &TableInfo) -> String;

    /// Renders the parameter `:name` with the type of a column.
    fn typed_parameter(&self, name: &str, type_name: &str) -> String;

    /// Renders a key expression whose value can be bound again without loss.
    fn key_as_text(&self, key: &str) -> String;

    /// Like `key_as_text`, for the bound of a range. The value is null if the key is not sortable.
    fn key_bound_as_text(&self, key: &str) -> String;

    /// Whether new rows are inserted faster without an `ON CONFLICT` clause.
    fn prefers_plain_insert(&self) -> bool;

    /// How many of `wanted` writers can write at once.
    fn max_writers(&self, wanted: usize) -> usize;
}

/// Loads chunks of rows into a prepared table.
pub(crate) trait ChunkLoader {
    /// Lets all following batches share one transaction, which `end_shared` ends.
    fn share_transaction(&mut self);

    /// Loads a batch in a transaction of its own, or in the shared one. `commit` makes the checkpoint from the outcome.
    async fn load_chunk<T: AsRef<RowBatch> + Send + Sync + 'static>(
        &mut self,
        rows: Arc<T>,
        fence: Option<&Fence>,
        commit: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)>;

    /// Commits the shared transaction with its checkpoint, or undoes it.
    async fn end_shared(&mut self, fence: Option<&Fence>, commit: Option<&ChunkCommit>) -> Result<()>;
}
