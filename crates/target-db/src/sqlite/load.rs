//! Bulk loading into SQLite: prepared statements run once per row.

use std::sync::Arc;

use afterload_core::failpoint;
use rusqlite::{Connection, Statement, TransactionBehavior, ffi};
use sqlx::Sqlite;
use sqlx::pool::PoolConnection;

use super::bound_cell::BoundCell;
use super::foreign_keys::{ForeignKey, has_deferred_violations, list_foreign_keys};
use super::key_index::find_key_index;
use super::refusals::{explain_refusal, is_row_error};
use super::{SqliteDatabase, error_text, map_sqlite_error};
use crate::batch::RowBatch;
use crate::bulk_load::{ChunkCommit, ChunkCommitFn, KeyConflictAction, LoadOutcome, LoadPlan, conflict_keys_error};
use crate::checkpoint::{CheckpointSql, Fence};
use crate::load_order::LoadOrder;
use crate::refusals::RefusedRow;
use crate::target_database::ChunkLoader;
use afterload_core::clock::Clock;
use afterload_core::error::Result;
use afterload_core::identifier::quote_identifiers;

/// A loader for one table.
pub struct SqliteLoader {
    database: SqliteDatabase,
    shared: Arc<SqliteLoadJob>,
    /// Whether all batches share one transaction.
    shares_transaction: bool,
    /// The connection of the shared transaction.
    held: Option<PoolConnection<Sqlite>>,
}

struct SqliteLoadJob {
    plan: LoadPlan,
    clock: Clock,
    checkpoint_sql: CheckpointSql,
    insert: String,
    upsert: Option<String>,
    foreign_keys: Vec<ForeignKey>,
}

impl SqliteLoader {
    pub(super) async fn new(sqlite: SqliteDatabase, plan: LoadPlan) -> Result<Self> {
        let (clock, checkpoint_sql) = (sqlite.options.clock.clone(), sqlite.checkpoint_sql.clone());
        let prepare = move |connection: &mut Connection| SqliteLoadJob::new(connection, plan, clock, checkpoint_sql);
        let shared = Arc::new(sqlite.run_blocking(prepare).await?);
        Ok(Self { database: sqlite, shared, shares_transaction: false, held: None })
    }

    /// The connection of the shared transaction. If it is dropped, it is closed, which undoes what is not committed.
    async fn take_held(&mut self) -> Result<PoolConnection<Sqlite>> {
        if let Some(held) = self.held.take() {
            return Ok(held);
        }
        let mut held = self.database.pool.acquire().await?;
        held.close_on_drop();
        Ok(held)
    }
}

/// Whether SQLite accepts these conflict keys for `insert`, a statement without a conflict clause.
///
/// SQLite has no error code for keys that are not unique. If the statement is good without the clause, only the clause
/// can be at fault.
pub(super) fn accepts_conflict_keys(connection: &Connection, insert: &str, keys: &[String]) -> Result<bool> {
    connection.prepare(insert).map_err(map_sqlite_error)?;
    let keys = quote_identifiers(keys.iter().map(String::as_str));
    match connection.prepare(&format!("{insert} ON CONFLICT ({keys}) DO NOTHING")) {
        Ok(_) => Ok(true),
        Err(error) if error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_ERROR) => Ok(false),
        Err(error) => Err(map_sqlite_error(error)),
    }
}

impl ChunkLoader for SqliteLoader {
    fn share_transaction(&mut self) {
        self.shares_transaction = true;
    }

    async fn load_chunk<T: AsRef<RowBatch> + Send + Sync + 'static>(
        &mut self,
        rows: Arc<T>,
        fence: Option<&Fence>,
        seal: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)> {
        let (shared, fence) = (Arc::clone(&self.shared), fence.cloned());
        if !self.shares_transaction {
            let load = move |connection: &mut Connection| {
                shared.load_in_transaction(connection, (*rows).as_ref(), fence.as_ref(), seal)
            };
            return self.database.run_blocking(load).await;
        }
        let held = self.take_held().await?;
        let load = move |connection: &mut Connection| {
            begin_if_needed(connection)?;
            let outcome = shared.load_rows(connection, (*rows).as_ref())?;
            let sealed = seal(&outcome);
            Ok((outcome, sealed))
        };
        let (held, done) = SqliteDatabase::run_on(held, load).await?;
        self.held = Some(held);
        Ok(done)
    }

    async fn end_shared(&mut self, fence: Option<&Fence>, sealed: Option<&ChunkCommit>) -> Result<()> {
        let (shared, fence, sealed) = (Arc::clone(&self.shared), fence.cloned(), sealed.cloned());
        let held = self.take_held().await?;
        let end = move |connection: &mut Connection| {
            let Some(sealed) = sealed else {
                let undo = if connection.is_autocommit() { "" } else { "ROLLBACK" };
                return connection.execute_batch(undo).map_err(map_sqlite_error);
            };
            begin_if_needed(connection)?;
            if let Some(fence) = &fence {
                shared.check_fence(connection, fence)?;
                shared.save_checkpoint(connection, fence, &sealed)?;
            }
            failpoint!("chunk.before_commit");
            connection.execute_batch("COMMIT").map_err(map_sqlite_error)?;
            failpoint!("chunk.after_commit");
            Ok(())
        };
        SqliteDatabase::run_on(held, end).await.map(drop)
    }
}

fn begin_if_needed(connection: &Connection) -> Result<()> {
    let begin = if connection.is_autocommit() { "BEGIN IMMEDIATE" } else { "" };
    connection.execute_batch(begin).map_err(map_sqlite_error)
}

impl SqliteLoadJob {
    /// Prepares the statements once, so that errors show before the first batch.
    fn new(connection: &Connection, mut plan: LoadPlan, clock: Clock, checkpoint_sql: CheckpointSql) -> Result<Self> {
        let places = (1..=plan.columns.len()).map(|place| format!("?{place}")).collect::<Vec<_>>().join(", ");
        let rows = format!(
            "INTO {} ({}) VALUES ({places})",
            plan.table.name.to_quoted_sql(),
            quote_identifiers(plan.column_names())
        );
        let plain = format!("INSERT {rows}");
        if let Some(conflict) = &plan.conflict
            && !accepts_conflict_keys(connection, &plain, &conflict.keys)?
        {
            let index = find_key_index(connection, &plan).map_err(map_sqlite_error)?;
            plan.index = Some(index.ok_or_else(|| conflict_keys_error(&plan))?);
        }
        let insert = match plan.conflict_action() {
            // A table may replace rows by itself. Rejecting keeps what is there.
            Some(KeyConflictAction::Reject) => format!("INSERT OR ABORT {rows}"),
            _ => format!("{plain}{}", plan.on_conflict_do_nothing()),
        };
        let upsert = (plan.conflict_action() == Some(KeyConflictAction::Update))
            .then(|| format!("{plain}{}", plan.on_conflict_do_update()));
        for sql in std::iter::once(&insert).chain(&upsert) {
            connection.prepare(sql).map_err(map_sqlite_error)?;
        }
        let foreign_keys = list_foreign_keys(connection, &plan.table).map_err(map_sqlite_error)?;
        Ok(Self { plan, clock, checkpoint_sql, insert, upsert, foreign_keys })
    }

    fn load_in_transaction(
        &self,
        connection: &mut Connection,
        rows: &RowBatch,
        fence: Option<&Fence>,
        seal: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)> {
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(map_sqlite_error)?;
        if let Some(fence) = fence {
            self.check_fence(&transaction, fence)?;
        }
        let outcome = self.load_rows(&transaction, rows)?;
        let sealed = seal(&outcome);
        if let Some(fence) = fence {
            self.save_checkpoint(&transaction, fence, &sealed)?;
        }
        failpoint!("chunk.before_commit");
        transaction.commit().map_err(map_sqlite_error)?;
        failpoint!("chunk.after_commit");
        Ok((outcome, sealed))
    }

    fn check_fence(&self, connection: &Connection, fence: &Fence) -> Result<()> {
        let check = self.checkpoint_sql.check_epoch();
        match connection.execute(&check, (&fence.checkpoint_key, fence.epoch)).map_err(map_sqlite_error)? {
            0 => Err(fence.lease_lost_error()),
            _ => Ok(()),
        }
    }

    fn save_checkpoint(&self, connection: &Connection, fence: &Fence, sealed: &ChunkCommit) -> Result<()> {
        let now = self.clock.now();
        let values = (&sealed.cursor, now, sealed.finished.then_some(now), &fence.checkpoint_key);
        connection.execute(&self.checkpoint_sql.update_cursor(), values).map_err(map_sqlite_error)?;
        let mut insert = connection.prepare(&self.checkpoint_sql.insert_reject()).map_err(map_sqlite_error)?;
        for reject in &sealed.rejects {
            insert.execute((&fence.checkpoint_key, reject.seq, &reject.line)).map_err(map_sqlite_error)?;
        }
        Ok(())
    }

    /// Loads all rows. The savepoints of single rows are left out as long as nothing needs them.
    fn load_rows(&self, connection: &Connection, rows: &RowBatch) -> Result<LoadOutcome> {
        let order = LoadOrder::new(&self.plan, rows);
        let has_triggers = self.plan.table.has_triggers;
        if !has_triggers && self.foreign_keys.is_empty() {
            return self.load_in_order(connection, rows, &order, false);
        }
        let run = |sql| connection.execute_batch(sql).map_err(map_sqlite_error);
        run("SAVEPOINT afterload_batch")?;
        let mut outcome = self.load_in_order(connection, rows, &order, false)?;
        // A trigger may fail after it has changed something. A deferred key would fail at the commit, where its row is
        // unknown.
        let needs_guards = has_triggers && !outcome.refused.is_empty() || has_deferred_violations(connection);
        if needs_guards {
            run("ROLLBACK TO afterload_batch")?;
            outcome = self.load_in_order(connection, rows, &order, true)?;
        }
        run("RELEASE afterload_batch")?;
        Ok(outcome)
    }

    fn load_in_order(
        &self,
        connection: &Connection,
        rows: &RowBatch,
        order: &LoadOrder,
        guarded: bool,
    ) -> Result<LoadOutcome> {
        let insert = connection.prepare(&self.insert).map_err(map_sqlite_error)?;
        let upsert = self.upsert.as_ref().map(|sql| connection.prepare(sql)).transpose().map_err(map_sqlite_error)?;
        let mut load = BatchLoad { job: self, connection, rows, insert, upsert, outcome: LoadOutcome::default() };
        for row in &order.singles {
            let unit = std::slice::from_ref(row);
            let done = if guarded { load.load_guarded(unit) } else { load.load_unit(unit) };
            load.count_effects(unit, done)?;
        }
        for circle in &order.circles {
            // The rows of a circle are complete only together.
            let defer = |on: &str| connection.execute_batch(&format!("PRAGMA defer_foreign_keys = {on}"));
            defer("ON").map_err(map_sqlite_error)?;
            let done = load.load_guarded(circle);
            defer("OFF").map_err(map_sqlite_error)?;
            load.count_effects(circle, done)?;
        }
        let mut outcome = load.outcome;
        outcome.refused.sort_by_key(|refusal| refusal.row);
        Ok(outcome)
    }
}

/// The load of one batch.
struct BatchLoad<'a> {
    job: &'a SqliteLoadJob,
    connection: &'a Connection,
    rows: &'a RowBatch,
    insert: Statement<'a>,
    upsert: Option<Statement<'a>>,
    outcome: LoadOutcome,
}

/// How many rows were inserted, updated and left as they are.
#[derive(Clone, Copy, Default)]
struct RowEffects {
    inserted: u64,
    updated: u64,
    unchanged: u64,
}

impl BatchLoad<'_> {
    /// Adds what became of rows to the outcome. If the rows failed, all of them are refused.
    fn count_effects(&mut self, unit: &[usize], done: rusqlite::Result<RowEffects>) -> Result<()> {
        match done {
            Ok(effects) => {
                self.outcome.inserted += effects.inserted;
                self.outcome.updated += effects.updated;
                self.outcome.skipped += effects.unchanged;
            }
            // A failed statement undoes only itself, unless a constraint or trigger asks for `ROLLBACK`.
            Err(error) if is_row_error(&error) && !self.connection.is_autocommit() => {
                for row in unit {
                    let row = RefusedRow { plan: &self.job.plan, rows: self.rows, row: *row };
                    let refusal = match unit.len() {
                        1 => explain_refusal(self.connection, &self.job.foreign_keys, row, &error),
                        _ => Ok(row.broken_circle(&error_text(&error))),
                    };
                    self.outcome.refused.push(refusal.map_err(map_sqlite_error)?);
                }
            }
            Err(error) => return Err(map_sqlite_error(error)),
        }
        Ok(())
    }

    /// Loads rows in a savepoint, and undoes them if one of them fails or leaves a deferred constraint violated.
    fn load_guarded(&mut self, unit: &[usize]) -> rusqlite::Result<RowEffects> {
        self.connection.execute_batch("SAVEPOINT afterload_row")?;
        let mut done = self.load_unit(unit);
        if done.is_ok() && has_deferred_violations(self.connection) {
            let message = "FOREIGN KEY constraint failed".to_owned();
            let error = ffi::Error::new(ffi::SQLITE_CONSTRAINT_FOREIGNKEY);
            done = Err(rusqlite::Error::SqliteFailure(error, Some(message)));
        }
        // After a `ROLLBACK` by a trigger there is no savepoint left.
        if !self.connection.is_autocommit() {
            let undo = if done.is_ok() { "" } else { "ROLLBACK TO afterload_row;" };
            self.connection.execute_batch(&format!("{undo} RELEASE afterload_row"))?;
        }
        done
    }

    fn load_unit(&mut self, unit: &[usize]) -> rusqlite::Result<RowEffects> {
        let mut effects = RowEffects::default();
        for row in unit {
            self.load_row(*row, &mut effects)?;
        }
        Ok(effects)
    }

    /// Inserts or updates a row. It tries a plain insert first, because an upsert alone cannot report new rows.
    fn load_row(&mut self, row: usize, effects: &mut RowEffects) -> rusqlite::Result<()> {
        let is_view = self.job.plan.table.is_view;
        let before = if is_view { self.connection.total_changes() } else { 0 };
        let inserted = execute_row(&mut self.insert, &self.job.plan, self.rows, row)? > 0;
        // What the triggers of a view do is counted only in the total.
        if inserted || is_view && self.connection.total_changes() > before {
            effects.inserted += 1;
            return Ok(());
        }
        let updated = match &mut self.upsert {
            Some(upsert) => execute_row(upsert, &self.job.plan, self.rows, row)? > 0,
            None => false,
        };
        effects.updated += u64::from(updated);
        effects.unchanged += u64::from(!updated);
        Ok(())
    }
}

fn execute_row(statement: &mut Statement<'_>, plan: &LoadPlan, rows: &RowBatch, row: usize) -> rusqlite::Result<usize> {
    for index in 0..plan.columns.len() {
        statement.raw_bind_parameter(index + 1, BoundCell::new(plan, rows, row, index))?;
    }
    statement.raw_execute()
}
