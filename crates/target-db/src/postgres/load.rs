//! Bulk loading into PostgreSQL: binary COPY into the table, or into a staging table if rows may update others.
//!
//! Most batches hold no row that the database refuses, so all rows are first loaded at once. If that fails, the server
//! tries them one by one (`row_load`). A batch behind one with refused rows is tried row by row at once.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use afterload_core::failpoint;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Postgres};

use super::copy_in::{COPY_BUFFER_BYTES, LoadError, classify_load_error, send_rows};
use super::load_sql::LoadSql;
use super::row_load::RowLoader;
use super::{INVALID_COLUMN_REFERENCE, PostgresDatabase, describe, pg_copy, sqlstate};
use crate::batch::{BatchCell, RowBatch};
use crate::bulk_load::{
    ChunkCommit, ChunkCommitFn, KeyConflictAction, LoadOutcome, LoadPlan, conflict_keys_error, is_directly_loadable,
};
use crate::checkpoint::{CheckpointSql, Fence};
use crate::table::DbColumnType;
use crate::target_database::ChunkLoader;
use afterload_core::clock::Clock;
use afterload_core::error::Result;

/// A loader for one table. Its own connection holds the staging tables.
pub struct PostgresLoader {
    connection: PoolConnection<Postgres>,
    plan: LoadPlan,
    clock: Clock,
    checkpoint_sql: CheckpointSql,
    load_sql: LoadSql,
    row_loader: RowLoader,
    buffer: Vec<u8>,
    /// Whether all batches share one transaction.
    shares_transaction: bool,
    /// Whether a transaction is open. After an error it stays open until the connection is closed.
    in_transaction: bool,
    /// Whether the batch before held refused rows, so that this one probably does.
    expects_refusals: bool,
}

impl PostgresLoader {
    pub(super) async fn new(postgres: &PostgresDatabase, mut plan: LoadPlan) -> Result<Self> {
        let mut connection = postgres.pool.acquire().await?;
        // The next user of the connection must not find temporary tables or an unfinished COPY.
        connection.close_on_drop();
        let mut sql = LoadSql::new(&plan);
        let mut probed = connection.execute(AssertSqlSafe(sql.probe.as_str())).await;
        if probed.as_ref().is_err_and(|error| sqlstate(error).as_deref() == Some(INVALID_COLUMN_REFERENCE)) {
            plan.index = describe::find_key_index(&mut connection, &plan).await?;
            sql = LoadSql::new(&plan);
            probed = connection.execute(AssertSqlSafe(sql.probe.as_str())).await;
        }
        probed.map_err(|error| match sqlstate(&error).as_deref() {
            Some(INVALID_COLUMN_REFERENCE) => conflict_keys_error(&plan),
            _ => error.into(),
        })?;
        if sql.copy_direct.is_none() {
            connection.execute(AssertSqlSafe(sql.create_staging.as_str())).await?;
        }
        let buffer = Vec::with_capacity(COPY_BUFFER_BYTES + (COPY_BUFFER_BYTES >> 1));
        Ok(Self {
            connection,
            row_loader: RowLoader::new(&plan),
            plan,
            clock: postgres.options.clock.clone(),
            checkpoint_sql: postgres.checkpoint_sql.clone(),
            load_sql: sql,
            buffer,
            shares_transaction: false,
            in_transaction: false,
            expects_refusals: false,
        })
    }

    async fn begin(&mut self) -> Result<()> {
        self.connection.execute("BEGIN").await?;
        self.in_transaction = true;
        Ok(())
    }

    /// Locks the checkpoint, or fails if a later attempt has claimed it.
    async fn check_fence(&mut self, fence: &Fence) -> Result<()> {
        let check = sqlx::query(AssertSqlSafe(self.checkpoint_sql.check_epoch()));
        let check = check.bind(&fence.checkpoint_key).bind(fence.epoch);
        match check.execute(&mut *self.connection).await?.rows_affected() {
            0 => Err(fence.lease_lost_error()),
            _ => Ok(()),
        }
    }

    async fn commit(&mut self, fence: Option<&Fence>, sealed: &ChunkCommit) -> Result<()> {
        if let Some(fence) = fence {
            let now = self.clock.now();
            let advance =
                sqlx::query(AssertSqlSafe(self.checkpoint_sql.update_cursor())).bind(&sealed.cursor).bind(now);
            let advance = advance.bind(sealed.finished.then_some(now)).bind(&fence.checkpoint_key);
            advance.execute(&mut *self.connection).await?;
            if !sealed.rejects.is_empty() {
                let (seqs, lines): (Vec<_>, Vec<_>) =
                    sealed.rejects.iter().map(|reject| (reject.seq, reject.line.as_str())).unzip();
                let insert = sqlx::query(AssertSqlSafe(self.checkpoint_sql.insert_rejects()));
                insert.bind(&fence.checkpoint_key).bind(seqs).bind(lines).execute(&mut *self.connection).await?;
            }
        }
        failpoint!("chunk.before_commit");
        self.connection.execute("COMMIT").await?;
        self.in_transaction = false;
        failpoint!("chunk.after_commit");
        Ok(())
    }

    async fn load_batch(&mut self, rows: &RowBatch) -> Result<LoadOutcome> {
        if rows.row_count() == 0 {
            return Ok(LoadOutcome::default());
        }
        if !self.expects_refusals && !has_repeated_keys(&self.plan, rows) {
            let work = BatchLoad {
                connection: &mut self.connection,
                plan: &self.plan,
                load_sql: &self.load_sql,
                buffer: &mut self.buffer,
                rows,
                clears_staging: self.shares_transaction,
            };
            if let Some(outcome) = work.load_at_once().await? {
                return Ok(outcome);
            }
        }
        let connection = &mut *self.connection;
        let outcome = self.row_loader.load(connection, &self.plan, &self.load_sql, rows, &mut self.buffer).await?;
        self.expects_refusals = !outcome.refused.is_empty();
        Ok(outcome)
    }
}

impl ChunkLoader for PostgresLoader {
    fn share_transaction(&mut self) {
        self.shares_transaction = true;
    }

    async fn load_chunk<T: AsRef<RowBatch> + Send + Sync + 'static>(
        &mut self,
        rows: Arc<T>,
        fence: Option<&Fence>,
        seal: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)> {
        if !self.in_transaction {
            self.begin().await?;
        }
        if let (Some(fence), false) = (fence, self.shares_transaction) {
            self.check_fence(fence).await?;
        }
        let outcome = self.load_batch((*rows).as_ref()).await?;
        let sealed = seal(&outcome);
        if !self.shares_transaction {
            self.commit(fence, &sealed).await?;
        }
        Ok((outcome, sealed))
    }

    /// The checkpoint is locked only here: a transaction that lasts would keep later attempts waiting.
    async fn end_shared(&mut self, fence: Option<&Fence>, sealed: Option<&ChunkCommit>) -> Result<()> {
        match sealed {
            Some(sealed) => {
                if !self.in_transaction {
                    self.begin().await?;
                }
                if let Some(fence) = fence {
                    self.check_fence(fence).await?;
                }
                self.commit(fence, sealed).await
            }
            None => {
                if std::mem::take(&mut self.in_transaction) {
                    self.connection.execute("ROLLBACK").await?;
                }
                Ok(())
            }
        }
    }
}

/// The load of one batch at once.
struct BatchLoad<'a> {
    connection: &'a mut PgConnection,
    plan: &'a LoadPlan,
    load_sql: &'a LoadSql,
    buffer: &'a mut Vec<u8>,
    rows: &'a RowBatch,
    /// Whether the staging table may hold rows of the batch before.
    clears_staging: bool,
}

impl BatchLoad<'_> {
    /// Loads all rows. `None` if one of them may be at fault; nothing is loaded then.
    async fn load_at_once(mut self) -> Result<Option<LoadOutcome>> {
        self.connection.execute("SAVEPOINT afterload").await?;
        match self.load_all().await {
            Ok(outcome) => Ok(Some(outcome)),
            Err(LoadError::Other(error)) => Err(error),
            Err(LoadError::MaybeRow(_)) => {
                self.connection.execute("ROLLBACK TO SAVEPOINT afterload; RELEASE SAVEPOINT afterload").await?;
                Ok(None)
            }
        }
    }

    async fn load_all(&mut self) -> Result<LoadOutcome, LoadError> {
        let outcome = match &self.load_sql.copy_direct {
            Some(copy) => {
                let (count, copy) = (self.rows.row_count(), copy.clone());
                let inserted = self.copy_rows(0..count, &copy, false).await?;
                LoadOutcome { inserted, skipped: (count as u64).saturating_sub(inserted), ..LoadOutcome::default() }
            }
            None => self.merge_rows().await?,
        };
        // A deferred constraint would fail at the commit, where its row is unknown.
        let settle = "SET CONSTRAINTS ALL IMMEDIATE; RELEASE SAVEPOINT afterload";
        self.connection.execute(settle).await.map_err(classify_load_error)?;
        Ok(outcome)
    }

    async fn merge_rows(&mut self) -> Result<LoadOutcome, LoadError> {
        if self.clears_staging {
            let clear = AssertSqlSafe(self.load_sql.clear_staging.as_str());
            self.connection.execute(clear).await.map_err(classify_load_error)?;
        }
        let (count, copy) = (self.rows.row_count(), self.load_sql.copy_staging.clone());
        self.copy_rows(0..count, &copy, true).await?;
        let query = sqlx::query_as(AssertSqlSafe(self.load_sql.merge.as_str())).bind(0_i32).bind(count as i32);
        let (fresh, merged): (i64, i64) = query.fetch_one(&mut *self.connection).await.map_err(classify_load_error)?;
        let (fresh, merged) = (fresh as u64, merged as u64);
        let skipped = (count as u64).saturating_sub(merged);
        Ok(LoadOutcome { inserted: fresh, updated: merged - fresh, skipped, refused: Vec::new() })
    }

    async fn copy_rows(&mut self, rows: Range<usize>, copy: &str, numbered: bool) -> Result<u64, LoadError> {
        let kinds = (0..self.rows.width).map(|index| sent_column_type(self.plan, index)).collect::<Vec<_>>();
        let rows = rows.map(|row| (numbered.then_some(row as i32), row));
        send_rows(self.connection, copy, self.rows, rows, &kinds, self.buffer).await
    }
}

/// Whether rows of an update have the same key. One statement cannot update a row twice, and each of the rows has to keep
/// the rules of the table, so they are tried one by one.
///
/// A key that holds a null never equals another key.
fn has_repeated_keys(plan: &LoadPlan, rows: &RowBatch) -> bool {
    if plan.conflict_action() != Some(KeyConflictAction::Update) {
        return false;
    }
    let (keys, count) = (plan.key_indexes(), rows.row_count());
    let mut seen: HashSet<Vec<u8>> = HashSet::with_capacity(count);
    (0..count).any(|row| {
        let cells = rows.row_cells(row);
        if keys.iter().any(|key| cells[*key] == BatchCell::Null) {
            return false;
        }
        let mut key = Vec::with_capacity(16 * keys.len());
        for index in &keys {
            pg_copy::write_cell(rows, cells[*index], sent_column_type(plan, *index), &mut key);
        }
        !seen.insert(key)
    })
}

/// The type that is sent for a column: text if the database has to cast.
fn sent_column_type(plan: &LoadPlan, index: usize) -> DbColumnType {
    let (column, shape) = &plan.columns[index];
    if is_directly_loadable(column.column_type, *shape) { column.column_type } else { DbColumnType::Text }
}
