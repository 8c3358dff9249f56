//! `sql.batch`: repeats one statement in short transactions, so that it does not block other writers.

use std::cmp::Ordering;
use std::time;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::batch_sizer;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::units::HumanDuration;
use afterload_pipeline::Validator;
use afterload_step_api::{ProgressUpdate, Step, StepContext};
use afterload_target_db::{
    BindValues, Checkpoint, Connection, Connections, Fence, ParsedStatement, ResultMode, StatementArgs,
    StatementResult, check_bind, check_reads, check_sql, compare_values, default_connection, read_checkpoint,
};

const LIMIT_PARAM: &str = "limit";
const AFTER_PARAM: &str = "after";

/// Executes one SQL statement again and again, each time on a chunk of rows in a short transaction of its own, until it
/// touches nothing: to delete or change a million rows while others go on writing.
///
/// The statement takes at most `:limit` rows. It may go through a table in order: `:after` is the greatest value so far
/// that its `RETURNING` gave in the first column, a whole number or a text (compared byte by byte: order it with
/// `COLLATE "C"` on PostgreSQL).
///
/// Progress counts rows. Promise: every chunk takes effect once, also through crashes, because cursor and counts are
/// committed with it in `afterload_checkpoints`. With `checkpoints: none` on the connection a chunk may take effect
/// twice, and a new attempt starts over.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlBatch {
    /// The connection of the database.
    #[serde(default = "default_connection")]
    connection: String,
    /// One statement with `:limit`. Parameters are written `:name`; it cannot hold an expression.
    sql: String,
    /// The values of the parameters, but for `limit`; for `after` the value to start behind. A list alone in `IN (:name)`
    /// stands for its items.
    #[serde(default)]
    bind: BindValues,
    /// The most rows in a chunk. The first chunks are small; then a chunk has as many rows as take about 50 ms.
    #[serde(default = "default_chunk_rows")]
    #[schemars(range(min = 1, max = 100_000))]
    chunk: u64,
    /// The pause between two chunks, in which others get their turn. The step holds no worker meanwhile, and its `timeout`
    /// does not run.
    #[serde(default = "default_pause")]
    pause: HumanDuration,
    /// The most chunks; without it the step goes on until the statement touches nothing.
    #[serde(default)]
    #[schemars(range(min = 1))]
    max_chunks: Option<u64>,
    /// A `SELECT` that counts the rows to do, for the progress. It is executed once, before the first chunk.
    #[serde(default)]
    count: Option<String>,
}

/// What the chunks came to.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SqlBatchOutputs {
    /// Rows that were inserted, updated or deleted.
    rows_affected: u64,
    /// Chunks that touched something.
    chunks: u64,
    /// Whether nothing is left to do; false when `max_chunks` ended it.
    finished: bool,
}

/// The state that commits with every chunk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct SqlBatchCursor {
    rows: u64,
    chunks: u64,
    total: Option<u64>,
    after: Value,
    finished: bool,
    /// How many rows the last chunk was to have; 0 before the first one.
    #[serde(default)]
    chunk_rows: u64,
}

impl Step for SqlBatch {
    const KIND: &'static str = "sql.batch";
    const EXAMPLE: &'static str = r#"connection: app
sql: DELETE FROM events WHERE id IN (SELECT id FROM events WHERE account_id = :account LIMIT :limit)
count: SELECT COUNT(*) FROM events WHERE account_id = :account
bind: { account: "${{ params.account_id }}" }
"#;
    type Outputs = SqlBatchOutputs;
    type Deps = Connections;

    fn check(&self, check: &mut Validator<'_>) {
        check.check_connection(&["connection"], &self.connection, true);
        let statement =
            check_sql(check, &self.connection, &["sql"], &self.sql, &self.bind, &[LIMIT_PARAM, AFTER_PARAM]);
        if let Some(statement) = &statement {
            let example = "such as `DELETE FROM t WHERE id IN (SELECT id FROM t WHERE … LIMIT :limit)`";
            if statement.is_read_only() {
                check.report_invalid(&["sql"], "a statement that changes nothing would never end", example);
            } else if !statement.has_parameter(LIMIT_PARAM) {
                check.report_invalid(&["sql"], "the statement of a batch needs `:limit`", example);
            }
            if statement.has_parameter(AFTER_PARAM) && !self.bind.contains_key(AFTER_PARAM) {
                let hint = "name the value before the first, such as `bind: { after: 0 }`";
                check.report_invalid(&["sql"], "`:after` needs a start", hint);
            }
        }
        if self.bind.contains_key(LIMIT_PARAM) {
            check.report_invalid(
                &["bind", LIMIT_PARAM],
                "`limit` is filled by the step",
                "`chunk` says how much it is at most",
            );
        }
        let mut statements = vec![statement];
        if let Some(count) = &self.count {
            let count = check_sql(check, &self.connection, &["count"], count, &self.bind, &[]);
            check_reads(check, &self.connection, &["count"], count.as_ref(), "`count` must be a `SELECT`");
            statements.push(count);
        }
        if !self.bind.contains_key(LIMIT_PARAM) {
            check_bind(check, &["bind"], &self.bind, &statements);
        }
        if !(1..=100_000).contains(&self.chunk) {
            check.report_invalid(&["chunk"], "`chunk` must be from 1 to 100000", "10000 is a good choice");
        }
        if self.max_chunks == Some(0) {
            check.report_invalid(
                &["max_chunks"],
                "`max_chunks` must be at least 1",
                "leave it out to go on to the end",
            );
        }
        if self.pause.as_millis() > 60_000 {
            check.report_invalid(&["pause"], "`pause` must be at most 1m", "");
        }
    }

    async fn run(self, ctx: StepContext, connections: Connections) -> Result<SqlBatchOutputs> {
        let connection = connections.get(&self.connection).await?;
        let fence = connection.keeps_checkpoints().then(|| Fence::new(&ctx.step.key, ctx.step.epoch));
        let claimed = match &fence {
            Some(fence) => connection.claim_checkpoint(fence).await?,
            None => None,
        };
        let mut cursor = match claimed {
            Some(text) => read_checkpoint(&text)?,
            None => SqlBatchCursor {
                total: self.count_rows(&connection, &ctx).await?,
                after: self.bind.get(AFTER_PARAM).cloned().unwrap_or_default(),
                ..SqlBatchCursor::default()
            },
        };
        cursor.report_progress(&ctx);
        if !cursor.finished {
            let command = ParsedStatement::parse(&self.sql, connection.dialect())?;
            self.run_chunks(&ctx, &connection, &command, fence.as_ref(), &mut cursor).await?;
        }
        let SqlBatchCursor { rows, chunks, finished, .. } = cursor;
        Ok(SqlBatchOutputs { rows_affected: rows, chunks, finished })
    }
}

impl SqlBatch {
    async fn count_rows(&self, connection: &Connection, ctx: &StepContext) -> Result<Option<u64>> {
        let Some(count) = &self.count else { return Ok(None) };
        let command = ParsedStatement::parse(count, connection.dialect())?;
        let values = self.bind.clone();
        let keep = ResultMode::All { rows: 1, bytes: 1 << 10 };
        let effect = connection
            .read_statement(&command, StatementArgs { values, result_mode: keep, stop: ctx.stop.clone() })
            .await?;
        let number = effect.rows.first_value().and_then(Value::as_u64);
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(Error::new(codes::BATCH_COUNT_INVALID, "`count` does not give a whole number")),
        }
    }

    async fn run_chunks(
        &self,
        ctx: &StepContext,
        connection: &Connection,
        command: &ParsedStatement,
        fence: Option<&Fence>,
        cursor: &mut SqlBatchCursor,
    ) -> Result<()> {
        let goes_on =
            |cursor: &SqlBatchCursor| !cursor.finished && self.max_chunks.is_none_or(|most| cursor.chunks < most);
        let in_order = command.has_parameter(AFTER_PARAM);
        let mut size = match cursor.chunk_rows {
            0 => batch_sizer::first_chunk_rows(self.chunk),
            rows => rows.min(self.chunk),
        };
        while goes_on(cursor) {
            ctx.check_stopped()?;
            cursor.chunk_rows = size;
            let mut values = self.bind.clone();
            values.insert(LIMIT_PARAM.into(), size.into());
            values.insert(AFTER_PARAM.into(), cursor.after.clone());
            // Without `:after` no rows are needed.
            let keep = if in_order { ResultMode::MaxOfFirstColumn } else { ResultMode::Discard };
            let call = StatementArgs { values, result_mode: keep, stop: ctx.stop.clone() };
            let before = cursor.clone();
            let note = move |effect: &StatementResult| {
                let next = before.advance_past(effect, in_order)?;
                let cursor = serde_json::to_string(&next).unwrap_or_default();
                Ok(Checkpoint { cursor, finished: next.finished })
            };
            let (effect, saved) = connection.write_statement(command, call, fence, Box::new(note)).await?;
            *cursor = read_checkpoint(&saved.cursor)?;
            cursor.report_progress(ctx);
            size = batch_sizer::next_chunk_rows(size, effect.lock_duration, self.chunk);
            if goes_on(cursor) {
                self.pause_between_chunks(ctx, fence.is_some()).await?;
            }
        }
        Ok(())
    }

    /// Pauses without holding a worker. A long pause suspends the step, if its cursor is stored.
    async fn pause_between_chunks(&self, ctx: &StepContext, keeps_cursor: bool) -> Result<()> {
        if !keeps_cursor {
            return ctx.waits.pause_for(self.pause.0).await;
        }
        let until = ctx.clock.now().saturating_add(self.pause.as_millis());
        if ctx.waits.wait_until(until).await? { Ok(()) } else { Err(ctx.suspend_until(until)) }
    }
}

impl SqlBatchCursor {
    /// Returns the cursor after a chunk.
    fn advance_past(&self, effect: &StatementResult, in_order: bool) -> Result<Self> {
        let mut next = self.clone();
        if effect.affected == 0 {
            next.finished = true;
            return Ok(next);
        }
        next.rows += effect.affected;
        next.chunks += 1;
        if in_order {
            let Some(greatest) = &effect.max_value else {
                return Err(Error::new(codes::BATCH_CURSOR_INVALID, "the statement uses `:after` and gives no cursor")
                    .with_hint("let it end with `RETURNING` and the column that `:after` is compared with"));
            };
            if compare_values(greatest, &self.after).is_some_and(|order| order != Ordering::Greater) {
                let message = format!("the cursor stays at `{greatest}`, so the batch would never end");
                return Err(Error::new(codes::BATCH_CURSOR_INVALID, message)
                    .with_hint("take only rows behind it, as in `WHERE id > :after ORDER BY id LIMIT :limit`"));
            }
            next.after = greatest.clone();
        }
        Ok(next)
    }

    fn report_progress(&self, ctx: &StepContext) {
        let total = if self.finished { Some(self.rows) } else { self.total.map(|total| total.max(self.rows)) };
        let counts = [("chunks".to_owned(), self.chunks)].into();
        ctx.progress.report_committed(ProgressUpdate {
            done: self.rows,
            total,
            unit: "rows".into(),
            message: None,
            counts,
        });
    }
}

fn default_chunk_rows() -> u64 {
    10_000
}

/// A waiter of SQLite polls a locked database with pauses of up to 25 ms. A shorter pause could let it miss several
/// turns.
fn default_pause() -> HumanDuration {
    HumanDuration(time::Duration::from_millis(25))
}
