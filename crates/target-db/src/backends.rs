//! The list of back ends, and the enum that picks one for each call.

use std::sync::Arc;

use crate::batch::RowBatch;
use crate::bind::{BindValues, ParameterizedSql};
use crate::bulk_load::{ChunkCommit, ChunkCommitFn, LoadOutcome, LoadPlan};
use crate::bulk_update::{BoundUpdate, BulkUpdate, UpdatePlan};
use crate::checkpoint::{CheckpointExpiry, Fence, RejectedRow};
use crate::config::{ConnectionConfig, ConnectionOptions};
use crate::errors::invalid_url_error;
use crate::postgres::PostgresDatabase;
use crate::query::{QueryLimits, RowVisitor, SelectRequest};
use crate::read_only::Refusal;
use crate::row_source::RowSource;
use crate::sqlite::SqliteDatabase;
use crate::statement::{Checkpoint, StatementResult, StatementRun};
use crate::table::TableInfo;
use crate::target_database::{ChunkLoader, TargetDatabase};
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;
use afterload_core::identifier::TableName;

/// Declares an enum of all back ends that passes each call on. Rows are read and written without dynamic dispatch.
macro_rules! backends {
    ($($name:ident($database:ty),)+) => {
        /// A target database of any dialect.
        #[derive(Clone)]
        pub(crate) enum Backend {
            $($name($database),)+
        }

        /// A loader of any dialect.
        pub(crate) enum BackendLoader {
            $($name(Box<<$database as TargetDatabase>::Loader>),)+
        }

        impl Backend {
            pub(crate) fn dialect(&self) -> Dialect {
                match self {
                    $(Self::$name(_) => Dialect::$name,)+
                }
            }
        }

        impl ChunkLoader for BackendLoader {
            fn share_transaction(&mut self) {
                match self {
                    $(Self::$name(loader) => loader.share_transaction(),)+
                }
            }

            async fn end_shared(&mut self, fence: Option<&Fence>, commit: Option<&ChunkCommit>) -> Result<()> {
                match self {
                    $(Self::$name(loader) => loader.end_shared(fence, commit).await,)+
                }
            }

            async fn load_chunk<T: AsRef<RowBatch> + Send + Sync + 'static>(
                &mut self,
                rows: Arc<T>,
                fence: Option<&Fence>,
                commit: ChunkCommitFn,
            ) -> Result<(LoadOutcome, ChunkCommit)> {
                match self {
                    $(Self::$name(loader) => loader.load_chunk(rows, fence, commit).await,)+
                }
            }
        }

        impl TargetDatabase for Backend {
            type Loader = BackendLoader;

            async fn open(config: &ConnectionConfig, options: ConnectionOptions) -> Result<Self> {
                match Dialect::from_url(config.url.expose_secret()) {
                    $(Some(Dialect::$name) => <$database>::open(config, options).await.map(Self::$name),)+
                    None => Err(invalid_url_error(&options.name)),
                }
            }

            async fn prepare_load(&self, plan: LoadPlan) -> Result<BackendLoader> {
                match self {
                    $(Self::$name(database) => {
                        database.prepare_load(plan).await.map(|loader| BackendLoader::$name(Box::new(loader)))
                    })+
                }
            }

            async fn select_rows<R: RowVisitor>(
                &self,
                requests: Vec<SelectRequest>,
                limits: QueryLimits,
                visitor: R,
            ) -> Result<R> {
                match self {
                    $(Self::$name(database) => database.select_rows(requests, limits, visitor).await,)+
                }
            }

            fn bind_bulk_update(&self, update: &BulkUpdate, rows: impl RowSource) -> BoundUpdate {
                match self {
                    $(Self::$name(database) => database.bind_bulk_update(update, rows),)+
                }
            }

            fn options(&self) -> &ConnectionOptions {
                match self {
                    $(Self::$name(database) => database.options(),)+
                }
            }

            fn plan_bulk_update(&self, plan: &UpdatePlan<'_>) -> Result<BulkUpdate> {
                match self {
                    $(Self::$name(database) => database.plan_bulk_update(plan),)+
                }
            }

            fn record_columns(&self, table: &TableInfo) -> String {
                match self {
                    $(Self::$name(database) => database.record_columns(table),)+
                }
            }

            fn typed_parameter(&self, name: &str, type_name: &str) -> String {
                match self {
                    $(Self::$name(database) => database.typed_parameter(name, type_name),)+
                }
            }

            fn key_as_text(&self, key: &str) -> String {
                match self {
                    $(Self::$name(database) => database.key_as_text(key),)+
                }
            }

            fn key_bound_as_text(&self, key: &str) -> String {
                match self {
                    $(Self::$name(database) => database.key_bound_as_text(key),)+
                }
            }

            fn prefers_plain_insert(&self) -> bool {
                match self {
                    $(Self::$name(database) => database.prefers_plain_insert(),)+
                }
            }

            fn max_writers(&self, wanted: usize) -> usize {
                match self {
                    $(Self::$name(database) => database.max_writers(wanted),)+
                }
            }

            async fn describe_table(&self, name: &TableName) -> Result<Option<TableInfo>> {
                match self {
                    $(Self::$name(database) => database.describe_table(name).await,)+
                }
            }

            async fn has_unique_keys(&self, table: &TableName, keys: &[String]) -> Result<bool> {
                match self {
                    $(Self::$name(database) => database.has_unique_keys(table, keys).await,)+
                }
            }

            async fn create_checkpoint_tables(&self) -> Result<()> {
                match self {
                    $(Self::$name(database) => database.create_checkpoint_tables().await,)+
                }
            }

            async fn claim_checkpoint(&self, fence: &Fence) -> Result<Option<Option<String>>> {
                match self {
                    $(Self::$name(database) => database.claim_checkpoint(fence).await,)+
                }
            }

            async fn save_checkpoint(&self, fence: &Fence, cursor: &str, finished: bool) -> Result<bool> {
                match self {
                    $(Self::$name(database) => database.save_checkpoint(fence, cursor, finished).await,)+
                }
            }

            async fn list_rejects(&self, key: &str, after: i64, limit: i64) -> Result<Vec<RejectedRow>> {
                match self {
                    $(Self::$name(database) => database.list_rejects(key, after, limit).await,)+
                }
            }

            async fn prune_checkpoints(&self, expiry: CheckpointExpiry) -> Result<()> {
                match self {
                    $(Self::$name(database) => database.prune_checkpoints(expiry).await,)+
                }
            }

            async fn find_refusal(&self, sql: &ParameterizedSql, values: &BindValues) -> Result<Option<Refusal>> {
                match self {
                    $(Self::$name(database) => database.find_refusal(sql, values).await,)+
                }
            }

            async fn run_statement(&self, run: StatementRun) -> Result<(StatementResult, Checkpoint)> {
                match self {
                    $(Self::$name(database) => database.run_statement(run).await,)+
                }
            }
        }
    };
}

// A new back end needs a folder and a line here. Its name must be the one of its `Dialect`.
backends! {
    Sqlite(SqliteDatabase),
    Postgres(PostgresDatabase),
}
