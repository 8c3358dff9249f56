//! Bulk loading into PostgreSQL: binary COPY into the table, or into a staging table if keys may conflict.

use crate::codes;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use afterload_core::failpoint;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::load_sql::{LoadSql, STAGING_TABLE};
use super::{INVALID_COLUMN_REFERENCE, PostgresDatabase, pg_copy, sqlstate};
use crate::batch::{BatchCell, RowBatch};
use crate::bulk_load::{
    ChunkCommit, ChunkCommitFn, KeyConflictAction, LoadOutcome, LoadPlan, RowRefusal, conflict_keys_error,
    is_directly_loadable,
};
use crate::checkpoint::{CheckpointSql, Fence};
use crate::table::DbColumnType;
use crate::target_database::ChunkLoader;
use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result};

/// A loader for one table. Its own connection holds the staging table.
pub struct PostgresLoader {
    connection: PoolConnection<sqlx::Postgres>,
    plan: LoadPlan,
    clock: Clock,
    checkpoint_sql: CheckpointSql,
    load_sql: LoadSql,
    buffer: Vec<u8>,
}

/// Why a range of rows could not be loaded.
enum LoadError {
    /// The database refuses a row of the range.
    RowRefused(String),
    /// Another error, which ends the load.
    Other(Error),
}

const COPY_BUFFER_BYTES: usize = 128 << 10;

impl PostgresLoader {
    pub(super) async fn new(postgres: &PostgresDatabase, plan: LoadPlan) -> Result<Self> {
        let mut connection = postgres.pool.acquire().await?;
        // The next user of the connection must not find the staging table or an unfinished COPY.
        connection.close_on_drop();
        let sql = LoadSql::new(&plan);
        if sql.copy_direct.is_none() {
            connection.execute(AssertSqlSafe(sql.create_staging.as_str())).await?;
            // Planning the statement fails if no unique constraint covers the keys.
            let probe = format!("EXPLAIN {}", sql.merge.replace("$1", "0").replace("$2", "0"));
            connection.execute(AssertSqlSafe(probe)).await.map_err(|error| match sqlstate(&error).as_deref() {
                Some(INVALID_COLUMN_REFERENCE) => conflict_keys_error(&plan),
                _ => error.into(),
            })?;
        }
        let buffer = Vec::with_capacity(COPY_BUFFER_BYTES + (COPY_BUFFER_BYTES >> 1));
        let (clock, checkpoint_sql) = (postgres.options.clock.clone(), postgres.checkpoint_sql.clone());
        Ok(Self { connection, plan, clock, checkpoint_sql, load_sql: sql, buffer })
    }
}

impl ChunkLoader for PostgresLoader {
    async fn load_chunk<T: AsRef<RowBatch> + Send + Sync + 'static>(
        &mut self,
        rows: Arc<T>,
        fence: Option<&Fence>,
        seal: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)> {
        let rows = (*rows).as_ref();
        let Self { connection, plan, clock, checkpoint_sql: statements, load_sql: sql, buffer } = self;
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
            let now = clock.now();
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

/// The load of one batch.
struct BatchLoad<'a> {
    connection: &'a mut PgConnection,
    plan: &'a LoadPlan,
    load_sql: &'a LoadSql,
    keys: Vec<usize>,
    buffer: &'a mut Vec<u8>,
    rows: &'a RowBatch,
    /// Whether the staging table already holds all rows.
    staged: bool,
}

impl BatchLoad<'_> {
    /// Loads all rows. If the database refuses a row, the range is halved until the refused row is alone.
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

    /// Copies all rows into the staging table, so that halving does not send them again.
    ///
    /// The copy can fail too, for example if the database's encoding lacks a character. Each range is then sent alone.
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
        // A deferred constraint would fail at the commit, where its row is unknown.
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
                    // The database finds a conflict that our comparison of keys misses, as with case-insensitive types.
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

    /// Finds the rows to leave out because another row of the range has the same key.
    ///
    /// One statement cannot change a row twice. An update keeps the last row of a key, a rejection keeps the first.
    /// A key that holds a null never equals another key.
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

    /// The type that is sent for a column: text if the database has to cast.
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

/// Decides whether an error concerns one row or the whole load.
///
/// Classes 21 (cardinality), 22 (data), 23 (constraint), 44 (check option), 54 (limit exceeded) and P0 (raised by a
/// trigger) concern one row.
fn classify_load_error(error: sqlx::Error) -> LoadError {
    let state = sqlstate(&error).unwrap_or_default();
    let of_a_row = ["21", "22", "23", "44", "54", "P0"].iter().any(|class| state.starts_with(class));
    match error.as_database_error() {
        Some(database) if of_a_row => LoadError::RowRefused(database.message().to_owned()),
        _ => LoadError::Other(error.into()),
    }
}
