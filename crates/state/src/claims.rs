//! Attempts at steps: how they take a step, move it and leave it. Each writes under the number of its claim, so that one that was
//! overtaken writes nothing.

use serde_json::Value;

use super::sql_args::{SqlArgs, args};
use super::step_status::StepStatus;
use super::steps::{STEP_COLUMNS, StepRecord, step_from_row};
use super::suspensions::WakeCondition;
use super::tx::DbTx;
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

/// What a claim at the time `now`, a placeholder, sets in its step. A step found running was left by a crash. The count of
/// crashes starts anew when the progress has moved since the last claim.
pub(super) fn claim_assignments(now: &str) -> String {
    format!(
        "crashes = CASE WHEN status <> 'running' THEN crashes WHEN progress_seq > progress_seq_at_claim THEN 1 ELSE crashes + 1 END,
         status = 'running', claims = claims + 1, progress_seq_at_claim = progress_seq, due_at = NULL,
         started_at = COALESCE(started_at, {now})"
    )
}

/// Holds for a step while a claim on it does.
pub(super) fn claim_holds(args: &mut SqlArgs, id: &str, claim: i64) -> String {
    format!("id = {} AND claims = {} AND status = 'running'", args.add(id), args.add(claim))
}

/// What ends a step for good: its status, outputs and error.
pub(super) fn final_assignments(
    args: &mut SqlArgs,
    progress: Option<&Value>,
    (status, outputs, error): (StepStatus, Option<&Value>, Option<&Value>),
) -> String {
    format!(
        "status = {}, outputs = {}, error = {}, finished_at = {}, crashes = 0, {}",
        args.add(status.as_str()),
        args.add(outputs.map(Value::to_string)),
        args.add(error.map(Value::to_string)),
        args.add(clock::now_millis()),
        progress_assignment(args, progress)
    )
}

/// Keeps the stored progress if there is no newer one.
fn progress_assignment(args: &mut SqlArgs, progress: Option<&Value>) -> String {
    format!("progress = COALESCE({}, progress)", args.add(progress.map(Value::to_string)))
}

/// The claims of attempts on their steps.
pub struct ClaimStore<'a>(pub(super) &'a mut DbTx);

impl ClaimStore<'_> {
    /// Claims a step for an attempt whose lease the caller has checked in this transaction. `None`: the step has ended
    /// or was not ready, the wake-up is stale.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim(self, id: &str) -> Result<Option<StepClaim>> {
        let sql = format!(
            "UPDATE step_runs SET {} WHERE id = $1 AND status IN ('queued', 'retrying', 'running', 'suspended')
             RETURNING {STEP_COLUMNS}",
            claim_assignments("$2")
        );
        let rows = self.0.fetch(&sql, &args![id, clock::now_millis()]).await?;
        rows.first().map(|row| Ok(StepClaim { step: step_from_row(row)? })).transpose()
    }

    /// Stores progress; `moved` says that it is more than the attempts before had. False: the claim is lost.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_progress(self, id: &str, claim: i64, progress: &Value, moved: bool) -> Result<bool> {
        let mut args = SqlArgs::default();
        let (progress, moved) = (args.add(progress), args.add(moved));
        let holds = claim_holds(&mut args, id, claim);
        let sql =
            format!("UPDATE step_runs SET progress = {progress}, progress_seq = progress_seq + {moved} WHERE {holds}");
        Ok(self.0.execute(&sql, args.as_slice()).await? == 1)
    }

    /// Ends an attempt. False: the claim is lost, and nothing of the attempt may be written.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end(self, id: &str, claim: i64, progress: Option<&Value>, ending: &AttemptEnd) -> Result<bool> {
        let mut args = SqlArgs::default();
        let changes = match ending {
            AttemptEnd::Final { status, outputs, error } => {
                final_assignments(&mut args, progress, (*status, outputs.as_ref(), error.as_ref()))
            }
            AttemptEnd::Retry { error, due_at } => format!(
                "status = 'retrying', failures = failures + 1, error = {}, due_at = {}, crashes = 0, {}",
                args.add(error),
                args.add(*due_at),
                progress_assignment(&mut args, progress)
            ),
            AttemptEnd::Suspend(condition) => return self.0.suspensions().suspend(id, claim, condition).await,
            AttemptEnd::FanOut => "crashes = 0".into(),
            AttemptEnd::Park { due_at } => format!(
                "status = 'queued', due_at = {}, {}",
                args.add(*due_at),
                progress_assignment(&mut args, progress)
            ),
        };
        let holds = claim_holds(&mut args, id, claim);
        let sql = format!("UPDATE step_runs SET {changes} WHERE {holds}");
        Ok(self.0.execute(&sql, args.as_slice()).await? == 1)
    }
}
