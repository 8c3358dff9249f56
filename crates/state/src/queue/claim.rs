//! The statements of an attempt on its job: claim the step, lock the job, acknowledge it or put it back.
//!
//! Each statement here is written out, because it reads or ends the lease and the step at once.

use serde_json::Value;

use super::dialect::QueueDialect;
use super::{JobQueue, Lease, LockedJob, MAX_ENQUEUE_LEAD_TIME, ceil_seconds};
use crate::claims::{claim_assignments, claim_holds, final_assignments};
use crate::pauses::STEP_NOT_PAUSED;
use crate::runs::{all_run_columns, bump_revision_sql, mark_run_started_sql, run_from_row};
use crate::sql_args::{SqlArgs, args};
use crate::steps::{STEP_COLUMNS, step_from_row};
use crate::{DbTx, RunRecord, StepClaim, StepRecord, StepStatus};
use afterload_core::clock::UnixMillis;
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;

impl JobQueue {
    /// Claims the step of a lease and locks its job until the end of the transaction. Returns `None` if the lease is
    /// lost or the step is paused or not ready; [`Self::lock_job`] tells which.
    pub async fn claim_leased_step(&self, tx: &mut DbTx, lease: &Lease) -> Result<Option<StepClaim>> {
        let mut args = SqlArgs::default();
        let now = args.add(tx.now());
        let ready = "status IN ('queued', 'retrying', 'running', 'suspended')";
        let sql = self.claim_sql(&mut args, lease, ready, &now);
        let rows = tx.fetch(&sql, args.as_slice()).await?;
        rows.first().map(|row| Ok(StepClaim { step: step_from_row(row)? })).transpose()
    }

    /// On PostgreSQL: claims the step and starts its run in one transaction and one round trip.
    ///
    /// Returns `None` if nothing was done. The caller then claims the step in a transaction. That includes steps that
    /// a crash may have left, which need more checks.
    ///
    /// # Errors
    /// An error of the database. The outcome may then be unknown: the claim may look like one that a crash left.
    pub async fn claim_and_start_run(&self, lease: &Lease) -> Result<Option<(StepClaim, RunRecord)>> {
        const RUN_COLUMN_PREFIX: &str = "run__";
        if self.db.dialect() == Dialect::Sqlite {
            return Ok(None);
        }
        let mut args = SqlArgs::default();
        let now = args.add(self.db.now());
        let ready = "status IN ('queued', 'retrying', 'suspended') AND crashes = 0";
        let claim = self.claim_sql(&mut args, lease, ready, &now);
        let (run, section) = ("(SELECT run_id FROM claimed)", "(SELECT section FROM claimed)");
        let start = mark_run_started_sql(run, section, &now);
        let run_columns = all_run_columns()
            .split(", ")
            .map(|name| format!("{name} AS {RUN_COLUMN_PREFIX}{name}"))
            .collect::<Vec<_>>()
            .join(", ");
        let sql = format!(
            "WITH claimed AS ({claim}), started AS ({start} RETURNING {run_columns}) SELECT * FROM claimed, started"
        );
        let Some(row) = self.db.fetch_optional(&sql, args.as_slice()).await? else { return Ok(None) };
        let claimed = StepClaim { step: step_from_row(&row)? };
        Ok(Some((claimed, run_from_row(&row.with_prefix(RUN_COLUMN_PREFIX))?)))
    }

    /// The statement that claims the step of a lease, if the lease holds, the step is ready and nothing pauses it.
    /// `now` is the placeholder of the time.
    fn claim_sql(&self, args: &mut SqlArgs, lease: &Lease, ready: &str, now: &str) -> String {
        let QueueDialect { jobs, lock_jobs, .. } = self.dialect();
        let (id, worker, attempts) = (args.add(&lease.step_run), args.add(&lease.worker), args.add(lease.attempts));
        format!(
            "UPDATE step_runs AS s SET {} WHERE id = {id} AND {ready}
             AND EXISTS (SELECT 1 FROM {jobs} j
                WHERE j.id = {id} AND j.lock_by = {worker} AND j.attempts = {attempts} {lock_jobs})
             AND {STEP_NOT_PAUSED} RETURNING {STEP_COLUMNS}",
            claim_assignments(now)
        )
    }

    /// Locks the job of a lease until the end of the transaction and returns the state of its step. Returns `None` if
    /// the lease is lost.
    pub async fn lock_job(&self, tx: &mut DbTx, lease: &Lease) -> Result<Option<LockedJob>> {
        let QueueDialect { jobs, lock_jobs, .. } = self.dialect();
        let sql = format!(
            "SELECT s.status, CAST(CASE WHEN {STEP_NOT_PAUSED} THEN 0 ELSE 1 END AS BIGINT) AS paused
             FROM {jobs} j LEFT JOIN step_runs s ON s.id = j.id
             WHERE j.id = $1 AND j.lock_by = $2 AND j.attempts = $3 {lock_jobs}"
        );
        let rows = tx.fetch(&sql, &lease.to_sql_args()).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let status = row.get_opt_text("status")?.map(|status| StepStatus::parse(&status)).transpose()?;
        Ok(Some(LockedJob { status, paused: row.get_int("paused")? == 1 }))
    }

    /// Deletes the job if the lease still holds. This acknowledges the job and fences the writes at once. Returns
    /// false if the lease is lost; the caller must then write nothing.
    pub async fn acknowledge_job(&self, tx: &mut DbTx, lease: &Lease) -> Result<bool> {
        let sql = format!("DELETE FROM {} WHERE id = $1 AND lock_by = $2 AND attempts = $3", self.dialect().jobs);
        Ok(tx.execute(&sql, &lease.to_sql_args()).await? == 1)
    }

    /// On PostgreSQL: deletes the job, ends the step for good and raises the revision of its run, in one round trip.
    /// The row of the run stays locked until the end of the transaction.
    ///
    /// Returns `None` if the lease or the claim is lost. The caller must then roll back.
    pub async fn finish_step(
        &self,
        tx: &mut DbTx,
        lease: &Lease,
        step: &StepRecord,
        progress: Option<&Value>,
        last: (StepStatus, Option<&Value>, Option<&Value>),
    ) -> Result<Option<RunRecord>> {
        let mut args = SqlArgs::default();
        let [id, worker, attempts] = [args.add(&lease.step_run), args.add(&lease.worker), args.add(lease.attempts)];
        let ended = final_assignments(&mut args, tx.now(), progress, last);
        let holds = claim_holds(&mut args, &step.id, step.claims);
        let sql = format!(
            "WITH given_up AS (DELETE FROM {} WHERE id = {id} AND lock_by = {worker} AND attempts = {attempts} RETURNING id),
             ended AS (UPDATE step_runs SET {ended} WHERE {holds} AND EXISTS (SELECT 1 FROM given_up) RETURNING run_id)
             {}",
            self.dialect().jobs,
            bump_revision_sql("(SELECT run_id FROM ended)")
        );
        tx.fetch(&sql, args.as_slice()).await?.first().map(run_from_row).transpose()
    }

    /// Puts the job back into the queue, due at `due_at`. Returns false if the lease is lost; the caller must then
    /// write nothing.
    pub async fn reschedule_job(&self, tx: &mut DbTx, lease: &Lease, due_at: UnixMillis) -> Result<bool> {
        if due_at > tx.now() + MAX_ENQUEUE_LEAD_TIME.as_millis() as i64 {
            return self.acknowledge_job(tx, lease).await;
        }
        let (jobs, run_at) = (self.dialect().jobs, self.dialect().time_from_millis("$4"));
        let sql = format!(
            "UPDATE {jobs} SET status = 'Pending', lock_by = NULL, lock_at = NULL, attempts = attempts + 1,
             run_at = {run_at} WHERE id = $1 AND lock_by = $2 AND attempts = $3"
        );
        let args = args![&lease.step_run, &lease.worker, lease.attempts, ceil_seconds(due_at) * 1000];
        Ok(tx.execute(&sql, &args).await? == 1)
    }
}
