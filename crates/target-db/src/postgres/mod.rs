//! The PostgreSQL back end: a pool that configures each session in the same way.

mod bind;
mod bulk_update;
mod called_names;
mod copy_in;
mod decode;
mod describe;
mod error_class;
mod guard;
mod load;
mod load_sql;
mod pg_copy;
mod refusals;
mod row_load;
mod row_load_sql;
mod select;
mod set_rules;
mod statement;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::bind::{BindValues, ParameterizedSql};
use crate::bulk_load::LoadPlan;
use crate::bulk_update::{BoundUpdate, BulkUpdate, UpdatePlan};
use crate::checkpoint::{self, CheckpointSql};
use crate::config::{ConnectionConfig, ConnectionOptions};
use crate::errors::{invalid_url_error, unavailable_error};
use crate::query::{QueryLimits, RowVisitor, SelectRequest};
use crate::read_only::Refusal;
use crate::row_source::RowSource;
use crate::statement::{Checkpoint, StatementResult, StatementRun};
use crate::table::{DbColumnType, TableInfo};
use crate::target_database::TargetDatabase;
use afterload_core::error::Result;
use afterload_core::identifier::{TableName, quote_identifier, quote_identifiers};
use load::PostgresLoader;

/// How long to wait for a connection.
const PG_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A PostgreSQL database.
#[derive(Clone)]
pub struct PostgresDatabase {
    pool: PgPool,
    options: Arc<ConnectionOptions>,
    checkpoint_sql: CheckpointSql,
    schema: Option<Arc<str>>,
    session: Arc<SessionSetup>,
    /// Limits the queries that read with their own connection.
    reader_permits: Arc<Semaphore>,
}

/// The settings of each new session.
struct SessionSetup {
    search_path: Option<String>,
    read_only: bool,
}

impl SessionSetup {
    fn build_pool(self: &Arc<Self>, connections: u32, options: PgConnectOptions) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(connections).acquire_timeout(PG_CONNECT_TIMEOUT);
        let session = Arc::clone(self);
        let pool = pool.after_connect(move |connection, _| {
            let session = Arc::clone(&session);
            Box::pin(async move { session.configure_connection(connection).await })
        });
        pool.connect_lazy_with(options)
    }

    async fn configure_connection(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        if let Some(path) = &self.search_path {
            let set = sqlx::query("SELECT set_config('search_path', $1, false)").bind(path);
            set.execute(&mut *connection).await?;
        }
        // We split SQL as the standard does. A database or role may be set up otherwise.
        connection.execute("SET standard_conforming_strings = on").await?;
        // Some servers lack this setting. They notice a dead client only when its statement ends.
        drop(connection.execute("SET client_connection_check_interval = '2s'").await);
        if self.read_only {
            connection.execute("SET default_transaction_read_only = on").await?;
        }
        Ok(())
    }
}

impl PostgresDatabase {
    /// Opens a connection outside of the pool, on the current runtime.
    ///
    /// Like the pool, it waits for a server that is starting or has no connection left.
    async fn connect_unpooled(&self) -> sqlx::Result<PgConnection> {
        let alone = self.session.build_pool(1, (*self.pool.connect_options()).clone());
        alone.acquire().await.map(PoolConnection::detach)
    }

    /// Adds the schema of the connection to an unqualified name.
    fn qualify_table(&self, name: &TableName) -> TableName {
        let schema = name.schema.clone().or_else(|| self.schema.as_deref().map(str::to_owned));
        TableName { schema, table: name.table.clone() }
    }
}

impl TargetDatabase for PostgresDatabase {
    type Loader = PostgresLoader;

    async fn open(config: &ConnectionConfig, facts: ConnectionOptions) -> Result<Self> {
        let (url, schema) = (config.url.expose_secret(), config.schema.as_deref());
        let options = PgConnectOptions::from_str(url).map_err(|_| invalid_url_error(&facts.name))?;
        let options = options.application_name("afterload");
        let session = Arc::new(SessionSetup {
            // Extensions often put their types and operators into `public`.
            search_path: schema.map(|schema| format!("{}, public", quote_identifier(schema))),
            read_only: facts.read_only,
        });
        // A pool would retry until its timeout if no server listens. This probe fails at once, and the step retries.
        let probe = async { PgConnection::connect_with(&options).await?.close().await };
        let probed = timeout(PG_CONNECT_TIMEOUT, probe).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        probed.map_err(|error| unavailable_error(&facts.name, &error))?;
        let pool = session.build_pool(8, options);
        let (statements, schema) = (CheckpointSql::new(schema), schema.map(Arc::from));
        Ok(Self {
            pool,
            options: Arc::new(facts),
            checkpoint_sql: statements,
            schema,
            session,
            reader_permits: Arc::new(Semaphore::new(8)),
        })
    }

    fn options(&self) -> &ConnectionOptions {
        &self.options
    }

    async fn describe_table(&self, name: &TableName) -> Result<Option<TableInfo>> {
        describe::describe_table(self, name).await
    }

    async fn has_unique_keys(&self, table: &TableName, keys: &[String]) -> Result<bool> {
        let keys = quote_identifiers(keys.iter().map(String::as_str));
        // Planning the statement fails if no unique constraint covers the keys. `EXPLAIN` plans and inserts nothing.
        let probe =
            format!("EXPLAIN INSERT INTO {} DEFAULT VALUES ON CONFLICT ({keys}) DO NOTHING", table.to_quoted_sql());
        match sqlx::query(AssertSqlSafe(probe)).execute(&self.pool).await {
            Ok(_) => Ok(true),
            Err(error) if sqlstate(&error).as_deref() == Some(INVALID_COLUMN_REFERENCE) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates the tables under a lock, because concurrent sessions that create one table conflict in the catalog.
    async fn create_checkpoint_tables(&self) -> Result<()> {
        let there = "SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL";
        let there = sqlx::query_scalar(there)
            .bind(&self.checkpoint_sql.checkpoints_table)
            .bind(&self.checkpoint_sql.rejects_table);
        if there.fetch_one(&self.pool).await? {
            return Ok(());
        }
        let mut transaction = self.pool.begin().await?;
        transaction.execute("SELECT pg_advisory_xact_lock(hashtext('afterload_checkpoints'))").await?;
        for sql in self.checkpoint_sql.create_tables() {
            transaction.execute(AssertSqlSafe(sql)).await?;
        }
        Ok(transaction.commit().await?)
    }

    checkpoint::sqlx_checkpoint_methods!();

    async fn prepare_load(&self, plan: LoadPlan) -> Result<PostgresLoader> {
        PostgresLoader::new(self, plan).await
    }

    async fn run_statement(&self, run: StatementRun) -> Result<(StatementResult, Checkpoint)> {
        statement::run(self, run).await
    }

    async fn find_refusal(&self, sql: &ParameterizedSql, values: &BindValues) -> Result<Option<Refusal>> {
        guard::find_refusal(self, sql, values).await
    }

    async fn select_rows<R: RowVisitor>(
        &self,
        requests: Vec<SelectRequest>,
        limits: QueryLimits,
        visitor: R,
    ) -> Result<R> {
        select::run(self, requests, limits, visitor).await
    }

    fn plan_bulk_update(&self, plan: &UpdatePlan<'_>) -> Result<BulkUpdate> {
        bulk_update::plan(plan)
    }

    fn bind_bulk_update(&self, update: &BulkUpdate, rows: impl RowSource) -> BoundUpdate {
        bulk_update::bind(update, &rows)
    }

    /// Casts columns to text if their type has no JSON form.
    fn record_columns(&self, table: &TableInfo) -> String {
        let column = |name: &str, kind| match kind {
            DbColumnType::Other => format!("CAST({0} AS text) AS {0}", quote_identifier(name)),
            _ => quote_identifiers([name]),
        };
        let columns = table.columns.iter().map(|found| column(&found.name, found.column_type));
        columns.collect::<Vec<_>>().join(", ")
    }

    /// PostgreSQL cannot infer the type of a parameter in a `SELECT` list, so it is cast.
    fn typed_parameter(&self, name: &str, type_name: &str) -> String {
        format!("CAST(:{name} AS {type_name})")
    }

    /// PostgreSQL can cast the text of any value back to its type.
    fn key_as_text(&self, key: &str) -> String {
        format!("CAST({key} AS text)")
    }

    fn key_bound_as_text(&self, key: &str) -> String {
        self.key_as_text(key)
    }

    fn prefers_plain_insert(&self) -> bool {
        true
    }

    fn max_writers(&self, wanted: usize) -> usize {
        wanted
    }
}

/// The SQLSTATE of `ON CONFLICT` keys that no unique constraint covers.
const INVALID_COLUMN_REFERENCE: &str = "42P10";

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(std::borrow::Cow::into_owned)
}
