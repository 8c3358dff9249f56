//! Claims: how an attempt claims its step, records progress and ends.
//!
//! Each write is fenced by the number of the claim. An attempt whose claim is lost writes nothing.

use serde_json::Value;

use super::sql_args::{SqlArgs, args};
use super::step_status::StepStatus;
use super::steps::{STEP_COLUMNS, StepRecord, step_from_row};
use super::suspensions::WakeCondition;
use super::tx::DbTx;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// A step that an attempt has claimed.
#[derive(Clone, Debug)]
pub struct StepClaim {
    /// The step. Its `claims` is the number of this claim.
    pub step: StepRecord,
}

/// How an attempt ends.
#[derive(Clone, Debug)]
pub enum AttemptEnd {
    /// The step ends for good.
    Final {
        /// The final status.
        status: StepStatus,
        /// The outputs, which later steps can use, with the seals of their files.
        outputs: Option<Value>,
        /// The error of the attempt.
        error: Option<Value>,
    },
    /// The attempt failed, and the step is retried.
    Retry {
        /// The error of the attempt.
        error: Value,
        /// When the next attempt is due.
        due_at: UnixMillis,
    },
    /// The step is suspended until a time or an event.
    Suspend(WakeCondition),
    /// The step has fanned out. The same transaction stores its items, and no attempt works on the step until they
    /// have ended.
    FanOut,
    /// The step is parked: the process shuts down, or it cannot work on the step now.
    Park {
        /// When the step may be claimed again.
        due_at: UnixMillis,
        /// Why, if the machine lacks something that the step needs.
        error: Option<Value>,
    },
}

/// The assignments of a claim; `now` is the placeholder of the time.
///
/// A step that is still `running` was left by a crash. Its count of crashes starts anew if its progress has moved
/// since the last claim.
pub(super) fn claim_assignments(now: &str) -> String {
    format!(
        "crashes = CASE WHEN status <> 'running' THEN crashes WHEN progress_seq > progress_seq_at_claim THEN 1 ELSE crashes + 1 END,
         status = 'running', claims = claims + 1, progress_seq_at_claim = progress_seq, due_at = NULL,
         started_at = COALESCE(started_at, {now})"
    )
}

/// The condition that a claim still holds.
pub(super) fn claim_holds(args: &mut SqlArgs, id: &str, claim: i64) -> String {
    format!("id = {} AND claims = {} AND status = 'running'", args.add(id), args.add(claim))
}

/// The assignments that end a step for good: status, outputs and error.
pub(super) fn final_assignments(
    args: &mut SqlArgs,
    now: UnixMillis,
    progress: Option<&Value>,
    (status, outputs, error): (StepStatus, Option<&Value>, Option<&Value>),
) -> String {
    format!(
        "status = {}, outputs = {}, error = {}, finished_at = {}, crashes = 0, {}",
        args.add(status.as_str()),
        args.add(outputs.map(Value::to_string)),
        args.add(error.map(Value::to_string)),
        args.add(now),
        progress_assignment(args, progress)
    )
}

/// Keeps the stored progress if there is no newer one.
fn progress_assignment(args: &mut SqlArgs, progress: Option<&Value>) -> String {
    format!("progress = COALESCE({}, progress)", args.add(progress.map(Value::to_string)))
}

/// Writes the claims of attempts.
pub struct ClaimStore<'a>(pub(super) &'a mut DbTx);

impl ClaimStore<'_> {
    /// Claims a step. The caller has checked the lease in this transaction. Returns `None` if the step has ended or is
    /// not ready, so that the wake-up is stale.
    pub async fn claim(self, id: &str) -> Result<Option<StepClaim>> {
        let sql = format!(
            "UPDATE step_runs SET {} WHERE id = $1 AND status IN ('queued', 'retrying', 'running', 'suspended')
             RETURNING {STEP_COLUMNS}",
            claim_assignments("$2")
        );
        let rows = self.0.fetch(&sql, &args![id, self.0.now()]).await?;
        rows.first().map(|row| Ok(StepClaim { step: step_from_row(row)? })).transpose()
    }

    /// Stores progress. `moved` is true if the step got further than all attempts before. Returns false if the claim
    /// is lost.
    pub async fn record_progress(self, id: &str, claim: i64, progress: &Value, moved: bool) -> Result<bool> {
        let mut args = SqlArgs::default();
        let (progress, moved) = (args.add(progress), args.add(moved));
        let holds = claim_holds(&mut args, id, claim);
        let sql =
            format!("UPDATE step_runs SET progress = {progress}, progress_seq = progress_seq + {moved} WHERE {holds}");
        Ok(self.0.execute(&sql, args.as_slice()).await? == 1)
    }

    /// Ends an attempt. Returns false if the claim is lost; then nothing of the attempt may be written.
    pub async fn end(self, id: &str, claim: i64, progress: Option<&Value>, ending: &AttemptEnd) -> Result<bool> {
        let mut args = SqlArgs::default();
        let changes = match ending {
            AttemptEnd::Final { status, outputs, error } => {
                final_assignments(&mut args, self.0.now(), progress, (*status, outputs.as_ref(), error.as_ref()))
            }
            AttemptEnd::Retry { error, due_at } => format!(
                "status = 'retrying', failures = failures + 1, error = {}, due_at = {}, crashes = 0, {}",
                args.add(error),
                args.add(*due_at),
                progress_assignment(&mut args, progress)
            ),
            AttemptEnd::Suspend(condition) => {
                return self.0.suspensions().suspend(id, claim, progress, condition).await;
            }
            AttemptEnd::FanOut => "crashes = 0".into(),
            AttemptEnd::Park { due_at, error } => format!(
                "status = 'queued', due_at = {}, error = COALESCE({}, error), {}",
                args.add(*due_at),
                args.add(error.as_ref().map(Value::to_string)),
                progress_assignment(&mut args, progress)
            ),
        };
        let holds = claim_holds(&mut args, id, claim);
        let sql = format!("UPDATE step_runs SET {changes} WHERE {holds}");
        Ok(self.0.execute(&sql, args.as_slice()).await? == 1)
    }
}
