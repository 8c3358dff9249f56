//! One SQL statement of a user's, with named parameters, run so that it can be stopped and takes effect once.
//!
//! A [`Command`] is checked text. [`Connection::write`] runs it in a transaction of its own, together with what is noted
//! of it in `afterload_checkpoints`.

mod answer;
mod parse;
mod postgres;
mod sqlite;

use std::time::Duration;

use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

pub use answer::{Keep, Rows, order};
pub use parse::Command;
pub(super) use postgres::until_stopped;

use super::bind::Bind;
use super::checkpoints::Fence;
use super::{Connection, Given, Kind};
use afterload_core::error::{Error, Result};
use afterload_core::table_name::{identifier, list};

/// What a statement is run with.
#[derive(Clone, Debug)]
pub struct Call {
    /// The values of its parameters; others are passed over.
    pub values: Bind,
    /// What is kept of the rows that it gives.
    pub keep: Keep,
    /// Ends when it should stop.
    pub stop: CancellationToken,
}

/// What a statement did.
#[derive(Clone, Debug, Default)]
pub struct Effect {
    /// Rows that it inserted, updated or deleted; for a `SELECT` those that it gave.
    pub affected: u64,
    /// The rows that it gave, if they were to be kept.
    pub rows: Rows,
    /// The greatest value of the first column of the rows that it gave, if that was to be kept.
    pub greatest: Option<Value>,
    /// How long its transaction has held its locks.
    pub held: Duration,
}

/// What is noted with a statement: the cursor, and whether nothing is left to do.
pub type Noted = (String, bool);
/// Says, once the effect of a statement is known, what is to be committed with it.
pub type Note = Box<dyn FnOnce(&Effect) -> Result<Noted> + Send>;

/// What both databases need for one run of a statement.
struct Job {
    command: Command,
    call: Call,
    /// On SQLite: rows of values in the order of the statement's parameters, with each of which it is run; none: it is run once,
    /// with those of the call.
    rows: Option<Box<dyn Given>>,
    writes: bool,
    fence: Option<Fence>,
    note: Note,
}

impl Connection {
    /// Runs a statement that only reads.
    ///
    /// # Errors
    /// `step_stopped`, `sql_refused` for a statement that may write, `sql_result_too_large`, `sql_parameter_missing`, or those of
    /// the database.
    pub async fn read(&self, command: &Command, call: Call) -> Result<Effect> {
        if !command.reads() {
            return Err(may_write());
        }
        let note: Note = Box::new(|_| Ok((String::new(), false)));
        let job = Job { command: command.clone(), call, rows: None, writes: false, fence: None, note };
        self.run(job).await.map(|(effect, _)| effect)
    }

    /// Runs a statement in a transaction of its own, with what `note` makes of its effect. With a fence, that is
    /// committed too; without one it is only handed back. After an error nothing has taken effect.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has taken over; `connection_read_only`, `step_stopped`, `sql_result_too_large`,
    /// `sql_parameter_missing`, those of `note`, or those of the database.
    pub async fn write(
        &self,
        command: &Command,
        call: Call,
        fence: Option<&Fence>,
        note: Note,
    ) -> Result<(Effect, Noted)> {
        self.writable()?;
        self.run(Job { command: command.clone(), call, rows: None, writes: true, fence: fence.cloned(), note }).await
    }

    /// The same on SQLite for a statement that is run once for each of the rows, whose values are those of its parameters in
    /// their order, and gives none itself.
    ///
    /// # Errors
    /// Those of [`Connection::write`].
    pub async fn write_each(
        &self,
        command: &Command,
        (rows, call): (Box<dyn Given>, Call),
        fence: Option<&Fence>,
        note: Note,
    ) -> Result<(Effect, Noted)> {
        self.writable()?;
        self.run(Job { command: command.clone(), call, rows: Some(rows), writes: true, fence: fence.cloned(), note })
            .await
    }

    async fn run(&self, mut job: Job) -> Result<(Effect, Noted)> {
        job.stopped()?;
        let command = &job.command;
        if command.statement.dialect() != self.dialect() {
            return Err(Error::permanent("internal_error", "the statement was read for another database"));
        }
        job.call.values.retain(|name, _| command.takes(name));
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
    pub async fn record(
        &self,
        table: &str,
        key: &str,
        value: &Value,
        stop: &CancellationToken,
    ) -> Result<Option<Map<String, Value>>> {
        let table = self.table(table).await?;
        let key = &table.column(key)?.name;
        let columns = match self {
            Self::Sqlite(_) => "*".to_owned(),
            // What has no shape of its own in JSON is read as PostgreSQL writes it.
            Self::Postgres(_) => {
                let column = |name: &str, kind| match kind {
                    Kind::Other => format!("CAST({0} AS text) AS {0}", identifier(name)),
                    _ => list([name]),
                };
                let columns = table.columns.iter().map(|found| column(&found.name, found.kind));
                columns.collect::<Vec<_>>().join(", ")
            }
        };
        let sql = format!("SELECT {columns} FROM {} WHERE {} = :key LIMIT 2", table.name.quoted(), identifier(key));
        let command = Command::parse(&sql, self.dialect())?;
        let values = Bind::from([("key".to_owned(), value.clone())]);
        let call = Call { values, keep: Keep::All { rows: 2, bytes: 2 << 20 }, stop: stop.clone() };
        let rows = match self.read(&command, call).await {
            // No row can have a key that its column cannot hold.
            Err(error) if error.code() == postgres::NOT_OF_TYPE => Rows::default(),
            read => read?.rows,
        };
        if rows.len() > 1 {
            let message = format!("several rows of `{}` have the same `{key}`", table.name);
            return Err(
                Error::permanent("record_ambiguous", message).hint("name a unique column as the `key` of the param")
            );
        }
        Ok((!rows.is_empty()).then(|| rows.map(0)))
    }
}

impl Job {
    fn stopped(&self) -> Result<()> {
        if self.call.stop.is_cancelled() { Err(stopped()) } else { Ok(()) }
    }
}

/// The code of a statement that was stopped.
pub(super) const STOPPED: &str = "step_stopped";

/// The error of a statement that was stopped; nothing of it has taken effect.
pub(super) fn stopped() -> Error {
    Error::stopped(STOPPED, "the statement was stopped")
}

fn may_write() -> Error {
    Error::permanent("sql_refused", "the statement may write where only reading is allowed").hint("write a `SELECT`")
}
