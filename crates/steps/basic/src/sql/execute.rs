//! `sql.execute`: executes one statement once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use afterload_core::error::Result;
use afterload_pipeline::Validator;
use afterload_step_api::{ProgressUpdate, Step, StepContext};
use afterload_target_db::{
    BindValues, Checkpoint, Connections, Fence, ParsedStatement, ResultMode, StatementArgs, StatementResult,
    check_bind, check_sql, default_connection, read_checkpoint,
};

/// Limits the returned rows, because outputs are stored with the run.
const RETURNED_ROWS: ResultMode = ResultMode::All { rows: 1_000, bytes: 1 << 20 };

/// Executes one SQL statement.
///
/// Progress counts rows. Promise: it takes effect once, also through crashes, because its outputs are recorded in the
/// same transaction of the database, in `afterload_checkpoints`; a retry gives them back and executes nothing. With
/// `checkpoints: none` on the connection: at least once.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlExecute {
    /// The connection of the database. One that is `read_only` takes a `SELECT` alone.
    #[serde(default = "default_connection")]
    connection: String,
    /// One statement. Parameters are written `:name`; it cannot hold an expression.
    sql: String,
    /// The values of the parameters. The database brings them to the types it wants; lists and maps go as JSON.
    /// A list alone in `IN (:name)` stands for its items; an empty one matches nothing.
    #[serde(default)]
    bind: BindValues,
}

/// What the statement did.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SqlExecuteOutputs {
    /// Rows that were inserted, updated or deleted; for a `SELECT` those that it gave.
    rows_affected: u64,
    /// The rows of a `SELECT` or of `RETURNING`, each a map of its columns: at most 1,000 rows and 1 MiB. A decimal
    /// with more than 15 digits, or with zeros at its end such as `19.90`, is a string.
    rows: Vec<Map<String, Value>>,
}

impl Step for SqlExecute {
    const KIND: &'static str = "sql.execute";
    const EXAMPLE: &'static str = r#"connection: app
sql: UPDATE orders SET status = 'rejected' WHERE id = :id AND status = 'open' RETURNING customer_email
bind: { id: "${{ params.order_id }}" }
"#;
    type Outputs = SqlExecuteOutputs;
    type Deps = Connections;

    fn check(&self, check: &mut Validator<'_>) {
        let statement = check_sql(check, &self.connection, &["sql"], &self.sql, &self.bind, &[]);
        let writes = statement.as_ref().is_some_and(|statement| !statement.is_read_only());
        check.check_connection(&["connection"], &self.connection, writes);
        check_bind(check, &["bind"], &self.bind, &[statement]);
    }

    async fn run(self, ctx: StepContext, connections: Connections) -> Result<SqlExecuteOutputs> {
        let connection = connections.get(&self.connection).await?;
        let command = ParsedStatement::parse(&self.sql, connection.dialect())?;
        let call = StatementArgs { values: self.bind, result_mode: RETURNED_ROWS, stop: ctx.stop.clone() };
        if connection.ensure_writable().is_err() {
            let effect = connection.read_statement(&command, call).await?;
            return Ok(report_outputs(&ctx, SqlExecuteOutputs::from_result(&effect)));
        }
        let fence = connection.keeps_checkpoints().then(|| Fence::new(&ctx.step.key, ctx.step.epoch));
        if let Some(fence) = &fence
            && let Some(text) = connection.claim_checkpoint(fence).await?
        {
            return Ok(report_outputs(&ctx, read_checkpoint(&text)?));
        }
        // A `SELECT` may call a function that writes, and only the database knows that. So every statement is recorded.
        let note = |effect: &StatementResult| {
            let cursor = serde_json::to_string(&SqlExecuteOutputs::from_result(effect)).unwrap_or_default();
            Ok(Checkpoint { cursor, finished: true })
        };
        let (effect, _) = connection.write_statement(&command, call, fence.as_ref(), Box::new(note)).await?;
        Ok(report_outputs(&ctx, SqlExecuteOutputs::from_result(&effect)))
    }
}

impl SqlExecuteOutputs {
    fn from_result(effect: &StatementResult) -> Self {
        Self { rows_affected: effect.affected, rows: effect.rows.rows_to_json() }
    }
}

fn report_outputs(ctx: &StepContext, outputs: SqlExecuteOutputs) -> SqlExecuteOutputs {
    let done = outputs.rows_affected;
    ctx.progress.report_committed(ProgressUpdate {
        done,
        total: Some(done),
        unit: "rows".into(),
        ..ProgressUpdate::default()
    });
    outputs
}
