//! Runs. Each run is one row.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::concurrency_slot::{self, ConcurrencySlot};
use super::db::Db;
use super::run_stop::{self, RunDeadlines, RunStop};
use super::sql_args::{SqlArgs, args};
use super::tx::{DbRow, DbTx};
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::file_seals::FileSeals;

/// Where a run is. `ARCHITECTURE.md` draws the transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Accepted; nothing has started yet.
    Queued,
    /// At least one step has started.
    Running,
    /// Every step that had to succeed did.
    Succeeded,
    /// A step failed for good.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

impl RunStatus {
    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Parses a status.
    pub fn from_name(text: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// A run as stored.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// The id, a ULID, so runs sort by their creation.
    pub id: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The digest of the definition that the run keeps until its end.
    pub digest: String,
    /// The status of the run.
    pub status: RunStatus,
    /// The origin of the run, such as `api`.
    pub origin: String,
    /// The params of the run.
    pub params: serde_json::Value,
    /// The trigger event, as expressions see it; `None` for a call of the API.
    pub event: Option<serde_json::Value>,
    /// How many runs came before it in its chain: each wrote or sent what started the next one.
    pub hops: u32,
    /// The seals of the files in the params and the event.
    pub file_seals: FileSeals,
    /// The error: `{code, message, step}`.
    pub error: Option<serde_json::Value>,
    /// Rises with every change of the run or its steps.
    pub revision: i64,
    /// When the run may start; `None` means at once.
    pub run_at: Option<UnixMillis>,
    /// When a cancel was requested.
    pub cancel_requested_at: Option<UnixMillis>,
    /// When the run times out.
    pub deadlines: RunDeadlines,
    /// When it timed out.
    pub timed_out_at: Option<UnixMillis>,
    /// When the run was accepted.
    pub created_at: UnixMillis,
    /// When the first step started.
    pub started_at: Option<UnixMillis>,
    /// When the run ended.
    pub finished_at: Option<UnixMillis>,
    /// The concurrency slot, if the pipeline limits how many runs are active.
    pub concurrency_slot: Option<ConcurrencySlot>,
}

impl RunRecord {
    /// Why the steps of the run are stopped, if they are. A cancel goes further than a timeout.
    pub fn stop(&self) -> Option<RunStop> {
        let cancelled = self.cancel_requested_at.map(|_| RunStop::Cancelled);
        cancelled.or(self.timed_out_at.map(|_| RunStop::TimedOut))
    }
}

/// A filter for lists of runs.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only runs of these pipelines; `None` means all pipelines.
    pub pipelines: Option<Vec<String>>,
    /// Only runs with this status.
    pub status: Option<RunStatus>,
    /// Only runs whose error has this code.
    pub error_code: Option<String>,
    /// Only runs with this id or a later one.
    pub from_id: Option<String>,
    /// Only runs with this id or an earlier one.
    pub to_id: Option<String>,
    /// Only runs before this id.
    pub before_id: Option<String>,
    /// The maximum of runs to list.
    pub limit: u32,
}

impl RunFilter {
    /// The condition of these runs, whose values it adds to `args`.
    fn to_sql(&self, args: &mut SqlArgs) -> String {
        // SQLite has no statistics here and may take the index of the condition that matches most. `|| ''` hides that
        // condition from the indexes: few runs have a given code, few have another status than `succeeded`, and most
        // runs of a pipeline have that one.
        let few_by_status = self.status.is_some_and(|status| status != RunStatus::Succeeded);
        let few_by_code = self.error_code.is_some();
        let pipeline = if few_by_code || few_by_status { "(pipeline || '')" } else { "pipeline" };
        let few_by_pipeline = self.pipelines.is_some() && !few_by_status;
        let status = if few_by_code || few_by_pipeline { "(status || '')" } else { "status" };
        let mut conditions = vec!["1 = 1".to_owned()];
        if let Some(pipelines) = &self.pipelines {
            conditions.push(format!("{pipeline} IN ({})", args.add_list(pipelines)));
        }
        if let Some(wanted) = self.status {
            conditions.push(format!("{status} = {}", args.add(wanted.as_str())));
        }
        if let Some(code) = &self.error_code {
            conditions.push(format!("error_code = {}", args.add(code)));
        }
        for (sign, id) in [(">=", &self.from_id), ("<=", &self.to_id), ("<", &self.before_id)] {
            if let Some(id) = id {
                conditions.push(format!("id {sign} {}", args.add(id)));
            }
        }
        conditions.join(" AND ")
    }
}

/// How many runs of a pipeline ended alike in a span of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedRunCount {
    /// The number of the span since 1970.
    pub span: i64,
    /// The pipeline.
    pub pipeline: String,
    /// The status of the runs.
    pub status: String,
    /// The code of their error.
    pub error_code: Option<String>,
    /// How many there are.
    pub number: i64,
}

/// The columns are named one by one, because a later version may add columns while an older process still reads.
const RUN_COLUMNS: &str = "id, pipeline, digest, status, origin, params, event, hops, error, revision, run_at, cancel_requested_at, \
     created_at, started_at, finished_at";

/// The columns that [`run_from_row`] reads.
pub(super) fn all_run_columns() -> String {
    format!("{RUN_COLUMNS}, {}, {}", run_stop::DEADLINE_COLUMNS, concurrency_slot::CONCURRENCY_COLUMNS)
}

pub(super) fn run_from_row(row: &DbRow) -> Result<RunRecord> {
    let status = row.get_text("status")?;
    let mut file_seals = FileSeals::default();
    Ok(RunRecord {
        id: row.get_text("id")?,
        pipeline: row.get_text("pipeline")?,
        digest: row.get_text("digest")?,
        status: RunStatus::from_name(&status)
            .ok_or_else(|| Error::new(codes::DATABASE_ERROR, format!("unknown run status `{status}`")))?,
        origin: row.get_text("origin")?,
        params: row.get_sealed_json("params", &mut file_seals)?.unwrap_or_default(),
        event: row.get_sealed_json("event", &mut file_seals)?,
        hops: row.get_u32("hops")?,
        file_seals,
        error: row.get_json("error")?,
        revision: row.get_int("revision")?,
        run_at: row.get_opt_int("run_at")?,
        cancel_requested_at: row.get_opt_int("cancel_requested_at")?,
        deadlines: run_stop::deadlines_from_row(row)?,
        timed_out_at: row.get_opt_int("timed_out_at")?,
        created_at: row.get_int("created_at")?,
        started_at: row.get_opt_int("started_at")?,
        finished_at: row.get_opt_int("finished_at")?,
        concurrency_slot: concurrency_slot::slot_from_row(row)?,
    })
}

/// Raises the revision of a run and returns the run. `id` is a placeholder or a subquery.
pub(super) fn bump_revision_sql(id: &str) -> String {
    format!("UPDATE runs SET revision = revision + 1 WHERE id = {id} RETURNING {}", all_run_columns())
}

/// Marks a run as started, unless it is cancelled or timed out and stops the section of the step. All arguments are
/// placeholders or expressions.
pub(super) fn mark_run_started_sql(id: &str, section: &str, now: &str) -> String {
    let stopped = run_stop::section_is_stopped_sql(section);
    format!(
        "UPDATE runs SET revision = revision + 1,
            status = CASE WHEN status = 'queued' AND NOT {stopped} THEN 'running' ELSE status END,
            started_at = CASE WHEN {stopped} THEN started_at ELSE COALESCE(started_at, {now}) END
         WHERE id = {id}"
    )
}

fn require_run(id: &str, rows: &[DbRow]) -> Result<RunRecord> {
    let found = rows.first().map(run_from_row).transpose()?;
    found.ok_or_else(|| Error::new(codes::RUN_NOT_FOUND, format!("there is no run `{id}`")))
}

/// Reads and writes runs.
#[derive(Clone, Copy)]
pub struct RunStore<C>(pub(super) C);

impl RunStore<&mut DbTx> {
    /// Stores a new run.
    pub async fn insert(self, run: &RunRecord) -> Result<()> {
        let sql =
            "INSERT INTO runs (id, pipeline, digest, status, origin, params, event, hops, revision, created_at, run_at,
                   queue_deadline_at, deadline_at, deadline_check_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10, $11, $12, $13)";
        let RunRecord { id, pipeline, digest, origin, file_seals, created_at, run_at, deadlines, .. } = run;
        let params = file_seals.seal_copy(&run.params);
        let event = run.event.as_ref().map(|event| file_seals.seal_copy(event).to_string());
        let RunDeadlines { queue, end } = *deadlines;
        let (status, hops) = (run.status.as_str(), run.hops);
        let args = args![
            id,
            pipeline,
            digest,
            status,
            origin,
            &params,
            event,
            hops,
            *created_at,
            *run_at,
            queue,
            end,
            deadlines.first()
        ];
        self.0.execute(sql, &args).await.map(drop)
    }

    /// Raises the revision of a run and returns the run. The row stays locked until the end of the transaction, so
    /// that the ends of two of its steps follow one another.
    pub async fn bump_revision(self, id: &str) -> Result<RunRecord> {
        require_run(id, &self.0.fetch(&bump_revision_sql("$1"), &args![id]).await?)
    }

    /// As [`Self::bump_revision`], and marks the run as started because one of its steps starts. A run that is cancelled
    /// or timed out is started only by a step of a section that it does not stop.
    pub async fn mark_started(self, id: &str, section: &str) -> Result<RunRecord> {
        let sql = format!("{} RETURNING {}", mark_run_started_sql("$1", "$3", "$2"), all_run_columns());
        require_run(id, &self.0.fetch(&sql, &args![id, self.0.now(), section]).await?)
    }

    /// Requests the cancel of a run. Returns false if it was requested before or the run has ended.
    pub async fn request_cancel(self, id: &str) -> Result<bool> {
        let sql = "UPDATE runs SET cancel_requested_at = $2
                   WHERE id = $1 AND cancel_requested_at IS NULL AND finished_at IS NULL";
        Ok(self.0.execute(sql, &args![id, self.0.now()]).await? == 1)
    }

    /// Reopens an ended run, so that it goes on until its new deadlines.
    pub async fn reopen(self, id: &str, deadlines: RunDeadlines) -> Result<()> {
        let sql = "UPDATE runs SET status = 'queued', error = NULL, error_code = NULL, finished_at = NULL, cancel_requested_at = NULL,
                   artifacts_released_at = NULL, run_at = NULL, timed_out_at = NULL, queue_deadline_at = $2,
                   deadline_at = $3, deadline_check_at = $4 WHERE id = $1";
        self.0.execute(sql, &args![id, deadlines.queue, deadlines.end, deadlines.first()]).await?;
        self.0.notifications().reset(id).await
    }

    /// Stores another definition of an ended run, and the params as that definition binds them.
    pub async fn set_definition(self, run: &RunRecord) -> Result<()> {
        let params = run.file_seals.seal_copy(&run.params);
        let sql = "UPDATE runs SET digest = $2, params = $3 WHERE id = $1";
        self.0.execute(sql, &args![&run.id, &run.digest, &params]).await.map(drop)
    }

    /// Records the error of a run. The first error stays.
    pub async fn set_error(self, id: &str, error: &serde_json::Value) -> Result<()> {
        let sql = "UPDATE runs SET error = $2, error_code = $3 WHERE id = $1 AND error IS NULL";
        self.0.execute(sql, &args![id, error, error["code"].as_str()]).await.map(drop)
    }

    /// Fails a run whose definition this version cannot read, and cancels its waiting steps. Returns true if the run
    /// has a notification, which is now due.
    pub async fn fail_unreadable(self, id: &str, error: &serde_json::Value) -> Result<bool> {
        let sql =
            "UPDATE step_runs SET status = 'cancelled', finished_at = $2 WHERE run_id = $1 AND status = 'waiting'";
        self.0.execute(sql, &args![id, self.0.now()]).await?;
        self.0.runs().set_error(id, error).await?;
        self.0.runs().finish(id, RunStatus::Failed).await
    }

    /// Ends a run and makes its notification due. Returns true if it has one.
    pub async fn finish(self, id: &str, status: RunStatus) -> Result<bool> {
        let sql = "UPDATE runs SET status = $2, finished_at = $3, started_at = COALESCE(started_at, $3) WHERE id = $1";
        let args = args![id, status.as_str(), self.0.now()];
        self.0.notifications().end_run_with(id, sql, &args).await
    }
}

impl RunStore<&Db> {
    /// Finds a run by its id.
    pub async fn find(self, id: &str) -> Result<Option<RunRecord>> {
        self.0
            .fetch_optional(&format!("SELECT {} FROM runs WHERE id = $1", all_run_columns()), &args![id])
            .await?
            .as_ref()
            .map(run_from_row)
            .transpose()
    }

    /// Lists the runs whose steps are being stopped, each with the reason.
    pub async fn list_stopping(self) -> Result<Vec<(String, RunStop)>> {
        let sql = "SELECT id, CAST(0 AS BIGINT) AS timed_out FROM runs
                   WHERE cancel_requested_at IS NOT NULL AND finished_at IS NULL
                   UNION ALL
                   SELECT id, CAST(1 AS BIGINT) AS timed_out FROM runs
                   WHERE timed_out_at IS NOT NULL AND finished_at IS NULL AND cancel_requested_at IS NULL";
        let stop = |row: &DbRow| match row.get_int("timed_out")? {
            0 => Ok((row.get_text("id")?, RunStop::Cancelled)),
            _ => Ok((row.get_text("id")?, RunStop::TimedOut)),
        };
        self.0.fetch(sql, &[]).await?.iter().map(stop).collect()
    }

    /// Lists the revisions of these runs, without runs that no longer exist.
    pub async fn list_revisions(self, ids: &[String]) -> Result<Vec<(String, i64)>> {
        let mut args = SqlArgs::default();
        let sql = format!("SELECT id, revision FROM runs WHERE id IN ({})", args.add_list(ids));
        let rows = self.0.fetch(&sql, args.as_slice()).await?;
        rows.iter().map(|row| Ok((row.get_text("id")?, row.get_int("revision")?))).collect()
    }

    /// Lists runs, newest first.
    pub async fn list(self, filter: &RunFilter) -> Result<Vec<RunRecord>> {
        let mut args = SqlArgs::default();
        let condition = filter.to_sql(&mut args);
        let columns = all_run_columns();
        let limit = args.add(filter.limit);
        let sql = format!("SELECT {columns} FROM runs WHERE {condition} ORDER BY id DESC LIMIT {limit}");
        self.0.fetch(&sql, args.as_slice()).await?.iter().map(run_from_row).collect()
    }

    /// Counts runs, at most `filter.limit` of them, so that the count of many runs costs no more than that of some.
    pub async fn count(self, filter: &RunFilter) -> Result<i64> {
        let mut args = SqlArgs::default();
        let condition = filter.to_sql(&mut args);
        let limit = args.add(filter.limit);
        let sql = format!(
            "SELECT COUNT(*) AS number FROM (SELECT 1 AS found FROM runs WHERE {condition} LIMIT {limit}) AS counted"
        );
        self.0.fetch_optional(&sql, args.as_slice()).await?.map_or(Ok(0), |row| row.get_int("number"))
    }

    /// Counts the runs that have ended since a time and before another one, by span of time, pipeline, status and error
    /// code.
    pub async fn count_ended(self, since: UnixMillis, before: UnixMillis, span_ms: i64) -> Result<Vec<EndedRunCount>> {
        // The division is one of whole numbers on both databases.
        let sql = "SELECT finished_at / $3 AS span, pipeline, status, error_code, COUNT(*) AS number FROM runs
                   WHERE finished_at IS NOT NULL AND finished_at >= $1 AND finished_at < $2
                   GROUP BY 1, pipeline, status, error_code";
        let count = |row: &DbRow| {
            Ok(EndedRunCount {
                span: row.get_int("span")?,
                pipeline: row.get_text("pipeline")?,
                status: row.get_text("status")?,
                error_code: row.get_opt_text("error_code")?,
                number: row.get_int("number")?,
            })
        };
        self.0.fetch(sql, &args![since, before, span_ms]).await?.iter().map(count).collect()
    }

    /// Lists the runs that wait for a slot of their `concurrency`, at most `limit`.
    pub async fn list_waiting_for_slot(self, limit: u32) -> Result<Vec<RunRecord>> {
        let sql = format!(
            "SELECT {} FROM runs WHERE waiting_since IS NOT NULL AND finished_at IS NULL LIMIT $1",
            all_run_columns()
        );
        self.0.fetch(&sql, &args![limit]).await?.iter().map(run_from_row).collect()
    }
}
