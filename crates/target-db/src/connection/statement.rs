//! Runs single statements.

use crate::codes;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::Connection;
use crate::bind::BindValues;
use crate::checkpoint::Fence;
use crate::statement::{
    Checkpoint, CheckpointFn, ParsedStatement, ResultMode, ResultRows, StatementArgs, StatementResult, StatementRun,
    read_refused_error,
};
use crate::target_database::TargetDatabase;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::quote_identifier;

impl Connection {
    /// Runs a statement that only reads.
    ///
    /// # Errors
    /// `step_stopped`, `sql_refused` for a statement that may write, `sql_result_too_large`, `sql_parameter_missing`,
    /// or those of the database.
    pub async fn read_statement(&self, command: &ParsedStatement, call: StatementArgs) -> Result<StatementResult> {
        self.verify_read_only(command, &call.values, &call.stop).await?;
        let note: CheckpointFn = Box::new(|_| Ok(Checkpoint::default()));
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

    /// Runs a statement in its own transaction. `note` makes the checkpoint from the result.
    ///
    /// With a fence, the transaction also commits the checkpoint. Without one it is only returned. After an error, no
    /// change of the statement remains.
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

    /// Refuses a statement that does more than read, by its text or by what the database says.
    ///
    /// # Errors
    /// `step_stopped`, `sql_refused`, `sql_invalid`, `sql_parameter_missing`, or those of the database.
    pub async fn verify_read_only(
        &self,
        command: &ParsedStatement,
        values: &BindValues,
        stop: &CancellationToken,
    ) -> Result<()> {
        command.check_read_only(&self.backend.options().functions)?;
        self.ensure_same_dialect(command)?;
        let refusal = self.find_refusal(&command.sql, values, stop).await?;
        refusal.map_or(Ok(()), |refusal| Err(read_refused_error(refusal)))
    }

    fn ensure_same_dialect(&self, command: &ParsedStatement) -> Result<()> {
        match command.sql.dialect() == self.dialect() {
            true => Ok(()),
            false => Err(Error::new(codes::INTERNAL_ERROR, "the statement was read for another database")),
        }
    }

    pub(super) async fn run_statement(&self, mut job: StatementRun) -> Result<(StatementResult, Checkpoint)> {
        job.check_stopped()?;
        let command = &job.statement;
        self.ensure_same_dialect(command)?;
        job.args.values.retain(|name, _| command.has_parameter(name));
        self.backend.run_statement(job).await
    }

    /// Reads the current row of a table whose `key` column holds this value.
    ///
    /// # Errors
    /// `table_not_found`, `column_not_found`, `record_ambiguous` if several rows have the key, `sql_result_too_large`
    /// if the rows found have more than 2 MiB, or those of the database.
    pub async fn fetch_record(
        &self,
        table: &str,
        key: &str,
        value: &Value,
        stop: &CancellationToken,
    ) -> Result<Option<Map<String, Value>>> {
        let table = self.describe_table(table).await?;
        let key = &table.find_column(key)?.name;
        let columns = self.backend.record_columns(&table);
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
            // The column cannot hold this value, so no row has it as its key.
            Err(error) if error.code() == codes::SQL_VALUE_INVALID => ResultRows::default(),
            read => read?.rows,
        };
        if rows.len() > 1 {
            let message = format!("several rows of `{}` have the same `{key}`", table.name);
            return Err(Error::new(codes::RECORD_AMBIGUOUS, message)
                .with_hint("name a unique column as the `key` of the param"));
        }
        Ok((!rows.is_empty()).then(|| rows.row_to_json(0)))
    }
}
