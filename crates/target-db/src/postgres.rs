//! PostgreSQL: binary COPY straight into the table, or into a temporary one where keys may collide.

use crate::codes;
use afterload_core::failpoint;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::bulk_load::{
    ChunkCommit, ChunkCommitFn, KeyConflictAction, LoadOutcome, LoadPlan, RowRefusal, conflict_keys_error,
    is_directly_loadable,
};
use super::checkpoint::{CheckpointSql, Fence};
use super::staging::{LoadSql, STAGING_TABLE};
use super::{BatchCell, ConnectionOptions, DbColumnType, RowBatch, invalid_url_error, pg_copy, unavailable_error};
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::{TableName, quote_identifier};

/// How long a connection may take to come.
const PG_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A PostgreSQL database.
#[derive(Clone)]
pub struct PostgresDatabase {
    pub(super) pool: PgPool,
    pub(super) options: Arc<ConnectionOptions>,
    pub(super) checkpoint_sql: CheckpointSql,
    schema: Option<Arc<str>>,
    session: Arc<SessionSetup>,
    /// How many may still read with a connection of their own.
    pub(super) reader_permits: Arc<Semaphore>,
}

/// How each session begins.
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
        // A server that cannot do it sees that a process has died when its statement ends.
        drop(connection.execute("SET client_connection_check_interval = '2s'").await);
        if self.read_only {
            connection.execute("SET default_transaction_read_only = on").await?;
        }
        Ok(())
    }
}

impl PostgresDatabase {
    pub(super) async fn open(url: &str, schema: Option<&str>, facts: Arc<ConnectionOptions>) -> Result<Self> {
        let options = PgConnectOptions::from_str(url).map_err(|_| invalid_url_error(&facts.name))?;
        let options = options.application_name("afterload");
        let session = Arc::new(SessionSetup {
            // `public` stays reachable for the types and operators of extensions.
            search_path: schema.map(|schema| format!("{}, public", quote_identifier(schema))),
            read_only: facts.read_only,
        });
        // A pool would try again until its timeout where nobody listens; the step's own retries do that better.
        let probe = async { PgConnection::connect_with(&options).await?.close().await };
        let probed = timeout(PG_CONNECT_TIMEOUT, probe).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        probed.map_err(|error| unavailable_error(&facts.name, &error))?;
        let pool = session.build_pool(8, options);
        let (statements, schema) = (CheckpointSql::new(schema), schema.map(Arc::from));
        Ok(Self {
            pool,
            options: facts,
            checkpoint_sql: statements,
            schema,
            session,
            reader_permits: Arc::new(Semaphore::new(8)),
        })
    }

    /// A connection that belongs to no pool, and to the runtime of whoever opens it. As a pool does, it waits a while for a server
    /// that starts or has no connection left.
    pub(super) async fn connect_unpooled(&self) -> sqlx::Result<PgConnection> {
        let alone = self.session.build_pool(1, (*self.pool.connect_options()).clone());
        alone.acquire().await.map(PoolConnection::detach)
    }

    /// An unqualified name, in the connection's schema if it has one.
    pub(super) fn qualify_table(&self, name: &TableName) -> TableName {
        let schema = name.schema.clone().or_else(|| self.schema.as_deref().map(str::to_owned));
        TableName { schema, table: name.table.clone() }
    }

    /// Two sessions that create one table at once collide in the catalogue, so they take turns.
    pub(super) async fn create_checkpoint_tables(&self) -> Result<()> {
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
}

/// A table made ready to receive rows. It has a connection of its own, which holds the temporary table.
pub struct PostgresLoader {
    connection: PoolConnection<sqlx::Postgres>,
    plan: LoadPlan,
    checkpoint_sql: CheckpointSql,
    load_sql: LoadSql,
    buffer: Vec<u8>,
}

/// Why a range of rows could not be loaded.
enum LoadError {
    /// A row of it is not to the database's liking.
    RowRefused(String),
    /// Something else.
    Other(Error),
}

const COPY_BUFFER_BYTES: usize = 128 << 10;

impl PostgresLoader {
    pub(super) async fn new(postgres: &PostgresDatabase, plan: LoadPlan) -> Result<Self> {
        let mut connection = postgres.pool.acquire().await?;
        // Neither the temporary table nor a COPY that was cut off may be met by the next user.
        connection.close_on_drop();
        let sql = LoadSql::new(&plan);
        if sql.copy_direct.is_none() {
            connection.execute(AssertSqlSafe(sql.create_staging.as_str())).await?;
            // Planning the statement finds keys that no constraint covers.
            let probe = format!("EXPLAIN {}", sql.merge.replace("$1", "0").replace("$2", "0"));
            connection.execute(AssertSqlSafe(probe)).await.map_err(|error| match sqlstate(&error).as_deref() {
                Some("42P10") => conflict_keys_error(&plan),
                _ => error.into(),
            })?;
        }
        let buffer = Vec::with_capacity(COPY_BUFFER_BYTES + (COPY_BUFFER_BYTES >> 1));
        Ok(Self { connection, plan, checkpoint_sql: postgres.checkpoint_sql.clone(), load_sql: sql, buffer })
    }

    pub(super) async fn load(
        &mut self,
        rows: &RowBatch,
        fence: Option<&Fence>,
        seal: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)> {
        let Self { connection, plan, checkpoint_sql: statements, load_sql: sql, buffer } = self;
        let mut transaction = connection.begin().await?;
        if let Some(fence) = fence {
            let mine =
                sqlx::query(AssertSqlSafe(statements.check_epoch())).bind(&fence.checkpoint_key).bind(fence.epoch);
            if mine.execute(&mut *transaction).await?.rows_affected() == 0 {
                return Err(fence.lease_lost_error());
            }
        }
        let keys = plan.key_indexes();
        let mut work =
            BatchLoad { connection: &mut transaction, plan, load_sql: sql, keys, buffer, rows, staged: false };
        let outcome = work.load_all().await?;
        let sealed = seal(&outcome);
        if let Some(fence) = fence {
            let now = clock::now_millis();
            let advance = sqlx::query(AssertSqlSafe(statements.update_cursor())).bind(&sealed.cursor).bind(now);
            advance.bind(sealed.finished.then_some(now)).bind(&fence.checkpoint_key).execute(&mut *transaction).await?;
            if !sealed.rejects.is_empty() {
                let (seqs, lines): (Vec<_>, Vec<_>) =
                    sealed.rejects.iter().map(|reject| (reject.seq, reject.line.as_str())).unzip();
                let insert = sqlx::query(AssertSqlSafe(statements.insert_rejects()));
                insert.bind(&fence.checkpoint_key).bind(seqs).bind(lines).execute(&mut *transaction).await?;
            }
        }
        failpoint!("chunk.before_commit");
        transaction.commit().await?;
        failpoint!("chunk.after_commit");
        Ok((outcome, sealed))
    }
}

/// One batch under way.
struct BatchLoad<'a> {
    connection: &'a mut PgConnection,
    plan: &'a LoadPlan,
    load_sql: &'a LoadSql,
    keys: Vec<usize>,
    buffer: &'a mut Vec<u8>,
    rows: &'a RowBatch,
    /// Whether all rows lie in the temporary table already.
    staged: bool,
}

impl BatchLoad<'_> {
    /// Loads all rows; where the database refuses some, halves the range until each of them stands alone.
    async fn load_all(&mut self) -> Result<LoadOutcome> {
        let mut outcome = LoadOutcome::default();
        let mut ranges = Vec::from([Range { start: 0, end: self.rows.row_count() }]);
        while let Some(range) = ranges.pop() {
            if range.is_empty() {
                continue;
            }
            self.connection.execute("SAVEPOINT afterload").await?;
            match self.attempt_range(&range).await {
                Ok(done) => {
                    outcome.inserted += done.inserted;
                    outcome.updated += done.updated;
                    outcome.skipped += done.skipped;
                    outcome.refused.extend(done.refused);
                }
                Err(LoadError::Other(error)) => return Err(error),
                Err(LoadError::RowRefused(message)) => {
                    self.connection.execute("ROLLBACK TO SAVEPOINT afterload; RELEASE SAVEPOINT afterload").await?;
                    if range.len() == 1 {
                        outcome.refused.push(RowRefusal { row: range.start, code: codes::DATABASE_REFUSED, message });
                        continue;
                    }
                    if range.len() == self.rows.row_count() {
                        self.stage_rows().await?;
                    }
                    let middle = range.start + range.len() / 2;
                    ranges.push(middle..range.end);
                    ranges.push(range.start..middle);
                }
            }
        }
        outcome.refused.sort_by_key(|refusal| refusal.row);
        Ok(outcome)
    }

    /// Sends all rows into the temporary table, so that halving need not send them again and again. Where even that fails
    /// (as with characters that the database's encoding lacks), each range is sent by itself.
    async fn stage_rows(&mut self) -> Result<()> {
        self.connection.execute(AssertSqlSafe(self.load_sql.create_staging.as_str())).await?;
        self.connection.execute("SAVEPOINT afterload_stage").await?;
        match self.copy_rows(0..self.rows.row_count(), true).await {
            Ok(_) => self.staged = true,
            Err(LoadError::Other(error)) => return Err(error),
            Err(LoadError::RowRefused(_)) => {
                self.connection.execute("ROLLBACK TO SAVEPOINT afterload_stage").await?;
            }
        }
        Ok(())
    }

    async fn attempt_range(&mut self, range: &Range<usize>) -> Result<LoadOutcome, LoadError> {
        let done = self.load_range(range).await?;
        // What is deferred to the commit would fail there, where nobody can tell the row.
        let settle = "SET CONSTRAINTS ALL IMMEDIATE; RELEASE SAVEPOINT afterload";
        self.connection.execute(settle).await.map_err(classify_load_error)?;
        Ok(done)
    }

    async fn load_range(&mut self, range: &Range<usize>) -> Result<LoadOutcome, LoadError> {
        let repeated = self.find_duplicate_keys(range);
        let sent = (range.len() - repeated.len()) as u64;
        if !self.staged {
            let left = range.clone().filter(|row| !repeated.contains(row));
            let copied = self.copy_rows(left, self.load_sql.copy_direct.is_none()).await?;
            if self.load_sql.copy_direct.is_some() {
                return Ok(LoadOutcome {
                    inserted: copied,
                    skipped: sent - copied.min(sent),
                    ..LoadOutcome::default()
                });
            }
        } else if !repeated.is_empty() {
            let rows = repeated.iter().map(|row| *row as i32).collect::<Vec<_>>();
            let leave_out =
                sqlx::query(AssertSqlSafe(format!("DELETE FROM {STAGING_TABLE} WHERE ord = ANY ($1)"))).bind(rows);
            leave_out.execute(&mut *self.connection).await.map_err(classify_load_error)?;
        }
        let (from, to) = (range.start as i32, range.end as i32);
        let mut taken: Vec<i32> = Vec::new();
        if let Some(sql) = &self.load_sql.delete_conflicts {
            let query = sqlx::query_scalar(AssertSqlSafe(sql.as_str())).bind(from).bind(to);
            taken = query.fetch_all(&mut *self.connection).await.map_err(classify_load_error)?;
        }
        let query = sqlx::query_as(AssertSqlSafe(self.load_sql.merge.as_str())).bind(from).bind(to);
        let (fresh, merged): (i64, i64) = query.fetch_one(&mut *self.connection).await.map_err(classify_load_error)?;
        let (fresh, merged) = (fresh as u64, merged as u64);
        let mut outcome = LoadOutcome { inserted: fresh, updated: merged - fresh, ..LoadOutcome::default() };
        let silent = sent - taken.len() as u64 - merged;
        match self.plan.conflict_action() {
            Some(KeyConflictAction::Reject) => {
                let known = taken.iter().map(|row| *row as usize).chain(repeated);
                outcome.refused.extend(known.map(|row| self.plan.conflict_refusal(row)));
                if silent > 0 && range.len() > 1 {
                    // The database sees a collision that we do not, as with case-insensitive types.
                    return Err(LoadError::RowRefused(String::new()));
                }
                if silent > 0 {
                    outcome.refused.push(self.plan.conflict_refusal(range.start));
                }
            }
            Some(KeyConflictAction::Update) => {
                outcome.updated += repeated.len() as u64;
                outcome.skipped = silent;
            }
            _ => outcome.skipped = silent,
        }
        Ok(outcome)
    }

    /// Rows whose key comes again in the range: one statement may not touch a row twice. The last one wins an update, the
    /// first one otherwise. A key with a null in it is never the same as another.
    fn find_duplicate_keys(&self, range: &Range<usize>) -> BTreeSet<usize> {
        let mut losers = BTreeSet::new();
        let Some(action @ (KeyConflictAction::Update | KeyConflictAction::Reject)) = self.plan.conflict_action() else {
            return losers;
        };
        let mut seen: HashMap<Vec<u8>, usize> = HashMap::with_capacity(range.len());
        for row in range.clone() {
            let cells = self.rows.row_cells(row);
            if self.keys.iter().any(|key| cells[*key] == BatchCell::Null) {
                continue;
            }
            let mut key = Vec::with_capacity(16 * self.keys.len());
            for index in &self.keys {
                pg_copy::write_cell(self.rows, cells[*index], self.sent_column_type(*index), &mut key);
            }
            match (seen.insert(key.clone(), row), action) {
                (Some(before), KeyConflictAction::Update) => drop(losers.insert(before)),
                (Some(before), _) => {
                    seen.insert(key, before);
                    losers.insert(row);
                }
                (None, _) => {}
            }
        }
        losers
    }

    /// What is sent for a column: text where the database has to cast.
    fn sent_column_type(&self, index: usize) -> DbColumnType {
        let (column, shape) = &self.plan.columns[index];
        if is_directly_loadable(column.column_type, *shape) { column.column_type } else { DbColumnType::Text }
    }

    async fn copy_rows(&mut self, rows: impl Iterator<Item = usize>, staged: bool) -> Result<u64, LoadError> {
        let kinds = (0..self.rows.width).map(|index| self.sent_column_type(index)).collect::<Vec<_>>();
        let target = if staged {
            &self.load_sql.copy_staging
        } else {
            self.load_sql.copy_direct.as_ref().unwrap_or(&self.load_sql.copy_staging)
        };
        let mut copy = self.connection.copy_in_raw(target).await.map_err(classify_load_error)?;
        self.buffer.clear();
        self.buffer.extend_from_slice(pg_copy::COPY_HEADER);
        for row in rows {
            pg_copy::write_field_count(kinds.len() + usize::from(staged), self.buffer);
            if staged {
                pg_copy::write_int4(row as i32, self.buffer);
            }
            for (cell, kind) in self.rows.row_cells(row).iter().zip(&kinds) {
                pg_copy::write_cell(self.rows, *cell, *kind, self.buffer);
            }
            if self.buffer.len() >= COPY_BUFFER_BYTES {
                copy.send(&self.buffer[..]).await.map_err(classify_load_error)?;
                self.buffer.clear();
            }
        }
        self.buffer.extend_from_slice(pg_copy::COPY_TRAILER);
        copy.send(&self.buffer[..]).await.map_err(classify_load_error)?;
        copy.finish().await.map_err(classify_load_error)
    }
}

pub(super) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(std::borrow::Cow::into_owned)
}

/// Classes 21 (cardinality), 22 (data), 23 (constraint), 44 (check option), 54 (too complex or large) and P0 (raised by a
/// trigger) speak of a row; everything else would befall any row.
fn classify_load_error(error: sqlx::Error) -> LoadError {
    let state = sqlstate(&error).unwrap_or_default();
    let of_a_row = ["21", "22", "23", "44", "54", "P0"].iter().any(|class| state.starts_with(class));
    match error.as_database_error() {
        Some(database) if of_a_row => LoadError::RowRefused(database.message().to_owned()),
        _ => LoadError::Other(error.into()),
    }
}
