//! One SQL statement of a user's, with named parameters, run so that it can be stopped and takes effect once.
//!
//! A [`Command`] is checked text. [`Connection::write`] runs it in a transaction of its own, together with what is noted
//! of it in `afterload_checkpoints`.

mod parsed;
mod postgres;
mod row_collector;
mod sqlite;

use std::time::Duration;

use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

pub use parsed::ParsedStatement;
pub(super) use postgres::run_until_stopped;
pub use row_collector::{ResultMode, ResultRows, compare_values};

use super::bind::BindValues;
use super::checkpoint::Fence;
use super::{Connection, DbColumnType, RowSource};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::{quote_identifier, quote_identifiers};

/// What a statement is run with.
#[derive(Clone, Debug)]
pub struct StatementArgs {
    /// The values of its parameters; others are passed over.
    pub values: BindValues,
    /// What is kept of the rows that it gives.
    pub result_mode: ResultMode,
    /// Ends when it should stop.
    pub stop: CancellationToken,
}

/// What a statement did.
#[derive(Clone, Debug, Default)]
pub struct StatementResult {
    /// Rows that it inserted, updated or deleted; for a `SELECT` those that it gave.
    pub affected: u64,
    /// The rows that it gave, if they were to be kept.
    pub rows: ResultRows,
    /// The greatest value of the first column of the rows that it gave, if that was to be kept.
    pub max_value: Option<Value>,
    /// How long its transaction has held its locks.
    pub lock_duration: Duration,
}

/// What is noted with a statement: the cursor, and whether nothing is left to do.
pub type Checkpoint = (String, bool);
/// Says, once the effect of a statement is known, what is to be committed with it.
pub type CheckpointFn = Box<dyn FnOnce(&StatementResult) -> Result<Checkpoint> + Send>;

/// What both databases need for one run of a statement.
struct StatementRun {
    statement: ParsedStatement,
    args: StatementArgs,
    /// On SQLite: rows of values in the order of the statement's parameters, with each of which it is run; none: it is run once,
    /// with those of the call.
    row_source: Option<Box<dyn RowSource>>,
    writes: bool,
    fence: Option<Fence>,
    checkpoint_fn: CheckpointFn,
}

impl Connection {
    /// Runs a statement that only reads.
    ///
    /// # Errors
    /// `step_stopped`, `sql_refused` for a statement that may write, `sql_result_too_large`, `sql_parameter_missing`, or those of
    /// the database.
    pub async fn read_statement(&self, command: &ParsedStatement, call: StatementArgs) -> Result<StatementResult> {
        if !command.is_read_only() {
            return Err(may_write_error());
        }
        let note: CheckpointFn = Box::new(|_| Ok((String::new(), false)));
        let job = StatementRun {
            statement: command.clone(),
            args: call,
            row_source: None,
            writes: false,
            fence: None,
            checkpoint_fn: note,
        };
        self.run_statement(job).await.map(|(effect, _)| effect)
    }

    /// Runs a statement in a transaction of its own, with what `note` makes of its effect. With a fence, that is
    /// committed too; without one it is only handed back. After an error nothing has taken effect.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has taken over; `connection_read_only`, `step_stopped`, `sql_result_too_large`,
    /// `sql_parameter_missing`, those of `note`, or those of the database.
    pub async fn write_statement(
        &self,
        command: &ParsedStatement,
        call: StatementArgs,
        fence: Option<&Fence>,
        note: CheckpointFn,
    ) -> Result<(StatementResult, Checkpoint)> {
        self.ensure_writable()?;
        self.run_statement(StatementRun {
            statement: command.clone(),
            args: call,
            row_source: None,
            writes: true,
            fence: fence.cloned(),
            checkpoint_fn: note,
        })
        .await
    }

    /// The same on SQLite for a statement that is run once for each of the rows, whose values are those of its parameters in
    /// their order, and gives none itself.
    ///
    /// # Errors
    /// Those of [`Connection::write`].
    pub async fn write_each_row(
        &self,
        command: &ParsedStatement,
        (rows, call): (Box<dyn RowSource>, StatementArgs),
        fence: Option<&Fence>,
        note: CheckpointFn,
    ) -> Result<(StatementResult, Checkpoint)> {
        self.ensure_writable()?;
        self.run_statement(StatementRun {
            statement: command.clone(),
            args: call,
            row_source: Some(rows),
            writes: true,
            fence: fence.cloned(),
            checkpoint_fn: note,
        })
        .await
    }

    async fn run_statement(&self, mut job: StatementRun) -> Result<(StatementResult, Checkpoint)> {
        job.check_stopped()?;
        let command = &job.statement;
        if command.sql.dialect() != self.dialect() {
            return Err(Error::new(codes::INTERNAL_ERROR, "the statement was read for another database"));
        }
        job.args.values.retain(|name, _| command.has_parameter(name));
        match self {
            Self::Sqlite(database) => sqlite::run(database, job).await,
            Self::Postgres(database) => postgres::run(database, job).await,
        }
    }

    /// The row of a table whose `key` column holds this value, as it is now.
    ///
    /// # Errors
    /// `table_not_found`, `column_not_found`, `record_ambiguous` where several rows have the key, `sql_result_too_large`
    /// for a row of more than 1 MiB, or those of the database.
    pub async fn fetch_record(
        &self,
        table: &str,
        key: &str,
        value: &Value,
        stop: &CancellationToken,
    ) -> Result<Option<Map<String, Value>>> {
        let table = self.describe_table(table).await?;
        let key = &table.find_column(key)?.name;
        let columns = match self {
            Self::Sqlite(_) => "*".to_owned(),
            // What has no shape of its own in JSON is read as PostgreSQL writes it.
            Self::Postgres(_) => {
                let column = |name: &str, kind| match kind {
                    DbColumnType::Other => format!("CAST({0} AS text) AS {0}", quote_identifier(name)),
                    _ => quote_identifiers([name]),
                };
                let columns = table.columns.iter().map(|found| column(&found.name, found.column_type));
                columns.collect::<Vec<_>>().join(", ")
            }
        };
        let sql = format!(
            "SELECT {columns} FROM {} WHERE {} = :key LIMIT 2",
            table.name.to_quoted_sql(),
            quote_identifier(key)
        );
        let command = ParsedStatement::parse(&sql, self.dialect())?;
        let values = BindValues::from([("key".to_owned(), value.clone())]);
        let call =
            StatementArgs { values, result_mode: ResultMode::All { rows: 2, bytes: 2 << 20 }, stop: stop.clone() };
        let rows = match self.read_statement(&command, call).await {
            // No row can have a key that its column cannot hold.
            Err(error) if error.code() == codes::SQL_VALUE_INVALID => ResultRows::default(),
            read => read?.rows,
        };
        if rows.len() > 1 {
            let message = format!("several rows of `{}` have the same `{key}`", table.name);
            return Err(Error::new(codes::RECORD_AMBIGUOUS, message));
        }
        Ok((!rows.is_empty()).then(|| rows.row_to_json(0)))
    }
}

impl StatementRun {
    fn check_stopped(&self) -> Result<()> {
        if self.args.stop.is_cancelled() { Err(stopped_error()) } else { Ok(()) }
    }
}

/// The error of a statement that was stopped; nothing of it has taken effect.
pub(super) fn stopped_error() -> Error {
    Error::new(codes::STEP_STOPPED, "the statement was stopped")
}

fn may_write_error() -> Error {
    Error::new(codes::SQL_REFUSED, "the statement may write where only reading is allowed")
        .with_hint("write a `SELECT`")
}
