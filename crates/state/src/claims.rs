//! Attempts at steps: how they take a step, move it and leave it. Each writes under the number of its claim, so that one that was
//! overtaken writes nothing.

use serde_json::Value;

use super::db::{Db, DbTx, SqlArg, args};
use super::runs::{self, RunRecord};
use super::step_status::StepStatus;
use super::steps::{STEP_COLUMNS, StepRecord, step_from_row};
use super::suspensions::WakeCondition;
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::Result;

/// What a claim gives to the attempt that holds it.
#[derive(Clone, Debug)]
pub struct StepClaim {
    /// The step; its `claims` is the number of this claim.
    pub step: StepRecord,
}

/// How an attempt leaves its step.
#[derive(Clone, Debug)]
pub enum AttemptEnd {
    /// For good.
    Final {
        /// A final status.
        status: StepStatus,
        /// What later steps can use.
        outputs: Option<Value>,
        /// Why it failed.
        error: Option<Value>,
    },
    /// Failed, to be tried again.
    Retry {
        /// Why it failed.
        error: Value,
        /// When to try again.
        due_at: UnixMillis,
    },
    /// Not done yet: it waits for something without a worker.
    Suspend(WakeCondition),
    /// Not done yet: its items are written in the same transaction, and nobody works on it until they have ended.
    FanOut,
    /// Given back untouched: its process goes down, or cannot work on it now.
    Park {
        /// When it may be claimed again.
        due_at: UnixMillis,
    },
}

/// Claims the step `s` of the id `$1` at the time `$2`, if it has one of these statuses and a condition holds.
fn claim_sql(statuses: &str, condition: &str) -> String {
    // A step found running was left by a crash. The count starts anew when its progress had moved since its claim.
    format!(
        "UPDATE step_runs AS s SET
            crashes = CASE WHEN status <> 'running' THEN crashes WHEN progress_seq > progress_seq_at_claim THEN 1 ELSE crashes + 1 END,
            status = 'running', claims = claims + 1, progress_seq_at_claim = progress_seq, due_at = NULL,
            started_at = COALESCE(started_at, $2)
        WHERE id = $1 AND status IN ({statuses}) AND {condition} RETURNING {STEP_COLUMNS}"
    )
}

/// Holds for the step `$1` while the claim `$2` does.
const WHERE_CLAIM_HOLDS: &str = "WHERE id = $1 AND claims = $2 AND status = 'running'";

/// Ends a step for good.
const UPDATE_FINAL_STEP: &str =
    "UPDATE step_runs SET status = $4, outputs = $5, error = $6, finished_at = $7, crashes = 0,
                     progress = COALESCE($3, progress)";

fn final_step_args(
    id: &str,
    claim: i64,
    progress: Option<String>,
    (status, outputs, error): (StepStatus, Option<&Value>, Option<&Value>),
) -> [SqlArg; 7] {
    let (outputs, error) = (outputs.map(Value::to_string), error.map(Value::to_string));
    args![id, claim, progress, status.as_str(), outputs, error, clock::now_millis()]
}

fn claim_args(id: &str, values: &[SqlArg]) -> Vec<SqlArg> {
    args![id, clock::now_millis()].into_iter().chain(values.iter().cloned()).collect()
}

impl DbTx {
    /// Claims a step for an attempt whose lease the caller has checked in this transaction. `None`: the step has ended
    /// or was not ready, the wake-up is stale.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_step(&mut self, id: &str) -> Result<Option<StepClaim>> {
        self.claim_step_if(id, "1 = 1", &[]).await
    }

    /// The same if a condition holds, whose values are `$3` and so on; the step is `s`, its id `$1`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_step_if(&mut self, id: &str, condition: &str, values: &[SqlArg]) -> Result<Option<StepClaim>> {
        let sql = claim_sql("'queued', 'retrying', 'running', 'suspended'", condition);
        let rows = self.fetch(&sql, &claim_args(id, values)).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(StepClaim { step: step_from_row(row)? }))
    }

    /// Stores progress; `moved` says that it is more than the attempts before had. False: the claim is lost.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_progress(&mut self, id: &str, claim: i64, progress: &Value, moved: bool) -> Result<bool> {
        let sql = format!("UPDATE step_runs SET progress = $3, progress_seq = progress_seq + $4 {WHERE_CLAIM_HOLDS}");
        Ok(self.execute(&sql, &args![id, claim, progress, moved]).await? == 1)
    }

    /// Ends an attempt. False: the claim is lost, and nothing of the attempt may be written.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_step(
        &mut self,
        id: &str,
        claim: i64,
        progress: Option<&Value>,
        ending: &AttemptEnd,
    ) -> Result<bool> {
        let progress = progress.map(Value::to_string);
        let touched = match ending {
            AttemptEnd::Final { status, outputs, error } => {
                let args = final_step_args(id, claim, progress, (*status, outputs.as_ref(), error.as_ref()));
                self.execute(&format!("{UPDATE_FINAL_STEP} {WHERE_CLAIM_HOLDS}"), &args).await?
            }
            AttemptEnd::Retry { error, due_at } => {
                let sql = format!(
                    "UPDATE step_runs SET status = 'retrying', failures = failures + 1, error = $4, due_at = $5, crashes = 0,
                     progress = COALESCE($3, progress) {WHERE_CLAIM_HOLDS}"
                );
                self.execute(&sql, &args![id, claim, progress, error, *due_at]).await?
            }
            AttemptEnd::Suspend(sleep) => return self.suspend_step(id, claim, sleep).await,
            AttemptEnd::FanOut => {
                self.execute(&format!("UPDATE step_runs SET crashes = 0 {WHERE_CLAIM_HOLDS}"), &args![id, claim])
                    .await?
            }
            AttemptEnd::Park { due_at } => {
                let sql = format!(
                    "UPDATE step_runs SET status = 'queued', due_at = $4, progress = COALESCE($3, progress) {WHERE_CLAIM_HOLDS}"
                );
                self.execute(&sql, &args![id, claim, progress, *due_at]).await?
            }
        };
        Ok(touched == 1)
    }

    /// On PostgreSQL: ends a step for good and raises the revision of its run, as [`Tx::end_step`] and [`Tx::touch_run`] do, in
    /// one round trip with a statement that gives up the step's job. That one gives a row if the job was held; its values are
    /// `$8` and so on. `None`: the job or the claim is lost, and nothing may be kept.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_step_and_job(
        &mut self,
        (id, claim): (&str, i64),
        progress: Option<&Value>,
        last: (StepStatus, Option<&Value>, Option<&Value>),
        (give_up, values): (&str, &[SqlArg]),
    ) -> Result<Option<RunRecord>> {
        let touch = runs::bump_revision_sql("(SELECT run_id FROM ended)");
        let sql = format!(
            "WITH given_up AS ({give_up}),
             ended AS ({UPDATE_FINAL_STEP} {WHERE_CLAIM_HOLDS} AND EXISTS (SELECT 1 FROM given_up) RETURNING run_id)
             {touch}"
        );
        let args = final_step_args(id, claim, progress.map(Value::to_string), last);
        let args: Vec<_> = args.into_iter().chain(values.iter().cloned()).collect();
        self.fetch(&sql, &args).await?.first().map(runs::run_from_row).transpose()
    }
}

impl Db {
    /// On PostgreSQL: as [`Tx::claim_step_if`] and then [`Tx::start_run`] in a transaction of their own, but in one round trip.
    /// `None`: nothing was done; the step was perhaps left by a crash, and has to be taken with the care that suspects need.
    ///
    /// # Errors
    /// Those of the database; the outcome may then be unknown, and shows as a claim that a crash left.
    pub async fn claim_and_start_run(
        &self,
        id: &str,
        condition: &str,
        values: &[SqlArg],
    ) -> Result<Option<(StepClaim, RunRecord)>> {
        const RUN_COLUMN_PREFIX: &str = "run__";
        let claim = claim_sql("'queued', 'retrying', 'suspended'", &format!("s.crashes = 0 AND {condition}"));
        let start =
            runs::mark_run_started_sql("(SELECT run_id FROM claimed)", "(SELECT section FROM claimed) = 'finally'");
        let named = runs::all_run_columns()
            .split(", ")
            .map(|name| format!("{name} AS {RUN_COLUMN_PREFIX}{name}"))
            .collect::<Vec<_>>()
            .join(", ");
        let sql =
            format!("WITH claimed AS ({claim}), started AS ({start} RETURNING {named}) SELECT * FROM claimed, started");
        let Some(row) = self.fetch_optional(&sql, &claim_args(id, values)).await? else { return Ok(None) };
        let claimed = StepClaim { step: step_from_row(&row)? };
        Ok(Some((claimed, runs::run_from_row(&row.with_prefix(RUN_COLUMN_PREFIX))?)))
    }
}
