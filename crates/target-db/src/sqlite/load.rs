//! Bulk loading into SQLite: prepared statements run once per row.

use crate::codes;
use std::sync::Arc;

use afterload_core::failpoint;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{ErrorCode, ToSql, TransactionBehavior, ffi};

use super::{SqliteDatabase, error_text, map_sqlite_error};
use crate::batch::{BatchCell, RowBatch};
use crate::bulk_load::{
    ChunkCommit, ChunkCommitFn, KeyConflictAction, LoadOutcome, LoadPlan, RowRefusal, conflict_keys_error,
};
use crate::checkpoint::{CheckpointSql, Fence};
use crate::table::DbColumnType;
use crate::target_database::ChunkLoader;
use afterload_core::clock::Clock;
use afterload_core::error::Result;
use afterload_core::identifier::quote_identifiers;

/// A loader for one table.
pub struct SqliteLoader {
    database: SqliteDatabase,
    shared: Arc<SqliteLoadJob>,
}

struct SqliteLoadJob {
    plan: LoadPlan,
    clock: Clock,
    checkpoint_sql: CheckpointSql,
    insert: String,
    upsert: Option<String>,
}

impl SqliteLoader {
    pub(super) async fn new(sqlite: SqliteDatabase, plan: LoadPlan) -> Result<Self> {
        let places = (1..=plan.columns.len()).map(|place| format!("?{place}")).collect::<Vec<_>>().join(", ");
        let insert = format!(
            "INSERT INTO {} ({}) VALUES ({places})",
            plan.table.name.to_quoted_sql(),
            quote_identifiers(plan.column_names())
        );
        let upsert = (plan.conflict_action() == Some(KeyConflictAction::Update))
            .then(|| format!("{insert}{}", plan.on_conflict_do_update()));
        let plain_insert = insert.clone();
        let insert = format!("{insert}{}", plan.on_conflict_do_nothing());
        let (clock, checkpoint_sql) = (sqlite.options.clock.clone(), sqlite.checkpoint_sql.clone());
        let shared = Arc::new(SqliteLoadJob { plan, clock, checkpoint_sql, insert, upsert });
        let probe = Arc::clone(&shared);
        sqlite.run_blocking(move |connection| probe.check_statements(connection, &plain_insert)).await?;
        Ok(Self { database: sqlite, shared })
    }
}

/// Whether SQLite accepts these conflict keys for `insert`, a statement without a conflict clause.
///
/// SQLite has no error code for keys that are not unique. If the statement is good without the clause, only the clause
/// can be at fault.
pub(super) fn accepts_conflict_keys(connection: &rusqlite::Connection, insert: &str, keys: &[String]) -> Result<bool> {
    connection.prepare(insert).map_err(map_sqlite_error)?;
    let keys = quote_identifiers(keys.iter().map(String::as_str));
    match connection.prepare(&format!("{insert} ON CONFLICT ({keys}) DO NOTHING")) {
        Ok(_) => Ok(true),
        Err(error) if error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_ERROR) => Ok(false),
        Err(error) => Err(map_sqlite_error(error)),
    }
}

impl ChunkLoader for SqliteLoader {
    async fn load_chunk<T: AsRef<RowBatch> + Send + Sync + 'static>(
        &mut self,
        rows: Arc<T>,
        fence: Option<&Fence>,
        seal: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)> {
        let (shared, fence) = (Arc::clone(&self.shared), fence.cloned());
        self.database
            .run_blocking(move |connection| shared.load_in_transaction(connection, (*rows).as_ref(), fence, seal))
            .await
    }
}

impl SqliteLoadJob {
    /// Prepares the statements once, so that errors show before the first batch.
    fn check_statements(&self, connection: &rusqlite::Connection, plain_insert: &str) -> Result<()> {
        if let Some(conflict) = &self.plan.conflict
            && !accepts_conflict_keys(connection, plain_insert, &conflict.keys)?
        {
            return Err(conflict_keys_error(&self.plan));
        }
        for sql in std::iter::once(&self.insert).chain(&self.upsert) {
            connection.prepare(sql).map_err(map_sqlite_error)?;
        }
        Ok(())
    }

    fn load_in_transaction(
        &self,
        connection: &mut rusqlite::Connection,
        rows: &RowBatch,
        fence: Option<Fence>,
        seal: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)> {
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(map_sqlite_error)?;
        if let Some(fence) = &fence {
            let mine = transaction
                .execute(&self.checkpoint_sql.check_epoch(), (&fence.checkpoint_key, fence.epoch))
                .map_err(map_sqlite_error)?;
            if mine == 0 {
                return Err(fence.lease_lost_error());
            }
        }
        let outcome = self.load_rows(&transaction, rows)?;
        let sealed = seal(&outcome);
        if let Some(fence) = &fence {
            let now = self.clock.now();
            let values = (&sealed.cursor, now, sealed.finished.then_some(now), &fence.checkpoint_key);
            transaction.execute(&self.checkpoint_sql.update_cursor(), values).map_err(map_sqlite_error)?;
            let mut insert = transaction.prepare(&self.checkpoint_sql.insert_reject()).map_err(map_sqlite_error)?;
            for reject in &sealed.rejects {
                insert.execute((&fence.checkpoint_key, reject.seq, &reject.line)).map_err(map_sqlite_error)?;
            }
        }
        failpoint!("chunk.before_commit");
        transaction.commit().map_err(map_sqlite_error)?;
        failpoint!("chunk.after_commit");
        Ok((outcome, sealed))
    }

    fn load_rows(&self, transaction: &rusqlite::Transaction<'_>, rows: &RowBatch) -> Result<LoadOutcome> {
        let mut insert = transaction.prepare(&self.insert).map_err(map_sqlite_error)?;
        let mut upsert =
            self.upsert.as_ref().map(|sql| transaction.prepare(sql)).transpose().map_err(map_sqlite_error)?;
        let mut outcome = LoadOutcome::default();
        for row in 0..rows.row_count() {
            match self.load_row(&mut insert, upsert.as_mut(), rows, row) {
                Ok(RowEffect::Inserted) => outcome.inserted += 1,
                Ok(RowEffect::Updated) => outcome.updated += 1,
                Ok(RowEffect::Unchanged) if self.plan.conflict_action() == Some(KeyConflictAction::Reject) => {
                    outcome.refused.push(self.plan.conflict_refusal(row));
                }
                Ok(RowEffect::Unchanged) => outcome.skipped += 1,
                // A failed statement undoes only itself, unless a constraint or trigger asks for `ROLLBACK`.
                Err(error) if is_row_error(&error) && !transaction.is_autocommit() => {
                    outcome.refused.push(RowRefusal {
                        row,
                        code: codes::DATABASE_REFUSED,
                        message: error_text(&error),
                    });
                }
                Err(error) => return Err(map_sqlite_error(error)),
            }
        }
        Ok(outcome)
    }

    /// Inserts or updates a row. It tries a plain insert first, because an upsert alone cannot report new rows.
    fn load_row(
        &self,
        insert: &mut rusqlite::Statement<'_>,
        upsert: Option<&mut rusqlite::Statement<'_>>,
        rows: &RowBatch,
        row: usize,
    ) -> rusqlite::Result<RowEffect> {
        if self.execute_row(insert, rows, row)? > 0 {
            return Ok(RowEffect::Inserted);
        }
        let touched = upsert.map_or(Ok(0), |upsert| self.execute_row(upsert, rows, row))?;
        Ok(if touched > 0 { RowEffect::Updated } else { RowEffect::Unchanged })
    }

    fn execute_row(
        &self,
        statement: &mut rusqlite::Statement<'_>,
        rows: &RowBatch,
        row: usize,
    ) -> rusqlite::Result<usize> {
        for (index, cell) in rows.row_cells(row).iter().enumerate() {
            let text = self.plan.columns[index].0.column_type == DbColumnType::Text;
            statement.raw_bind_parameter(index + 1, BoundCell { rows, cell: *cell, as_text: text })?;
        }
        statement.raw_execute()
    }
}

enum RowEffect {
    Inserted,
    Updated,
    Unchanged,
}

/// A cell that is bound to a statement. Decimals are bound as text, and the column's affinity converts them.
struct BoundCell<'a> {
    rows: &'a RowBatch,
    cell: BatchCell,
    as_text: bool,
}

impl ToSql for BoundCell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.cell {
            BatchCell::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            BatchCell::Int(value) => ToSqlOutput::Owned(Value::Integer(value)),
            BatchCell::Bool(value) if !self.as_text => ToSqlOutput::Owned(Value::Integer(value.into())),
            BatchCell::Text { start, len } => {
                ToSqlOutput::Borrowed(ValueRef::Text(&self.rows.text_buffer[start as usize..(start + len) as usize]))
            }
            cell => {
                let mut text = String::with_capacity(32);
                self.rows.render_cell(cell, &mut text);
                ToSqlOutput::Owned(Value::Text(text))
            }
        })
    }
}

/// Whether the error concerns this row only.
fn is_row_error(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig))
}
