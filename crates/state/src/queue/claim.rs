//! What an attempt does with its job: claims its step under it, holds it, gives it up or back.

use serde_json::Value;

use super::{JobQueue, Lease, LockedJob, MAX_ENQUEUE_LEAD_TIME, ceil_seconds};
use crate::{DbTx, RunRecord, STEP_NOT_PAUSED, StepClaim, StepRecord, StepStatus, args};
use afterload_core::clock::UnixMillis;
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;

impl JobQueue {
    /// Claims the step of a lease that holds, unless it is paused, and holds its job until the end of the transaction.
    /// `None`: [`Self::hold`] says why not.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_leased_step(&self, tx: &mut DbTx, lease: &Lease) -> Result<Option<StepClaim>> {
        let condition = self.claim_condition(tx.dialect());
        tx.claim_step_if(&lease.step_run, &condition, &args![&lease.worker, lease.attempts]).await
    }

    /// The same and the start of the step's run, in a transaction of its own, where that takes one round trip. `None`: it has
    /// to be claimed in steps.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_and_start_run(&self, lease: &Lease) -> Result<Option<(StepClaim, RunRecord)>> {
        let dialect = self.db.dialect();
        if dialect == Dialect::Sqlite {
            return Ok(None);
        }
        let values = args![&lease.worker, lease.attempts];
        self.db.claim_and_start_run(&lease.step_run, &self.claim_condition(dialect), &values).await
    }

    /// Holds for a step `s` of the id `$1` under a lease of the worker `$3` and the attempts `$4`.
    fn claim_condition(&self, dialect: Dialect) -> String {
        format!(
            "EXISTS (SELECT 1 FROM {} j WHERE j.id = $1 AND j.lock_by = $3 AND j.attempts = $4{}) AND {STEP_NOT_PAUSED}",
            self.jobs_table(),
            row_lock_clause(dialect)
        )
    }

    /// Holds the job of a lease until the end of the transaction, and says how its step is. `None`: the lease is lost.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lock_job(&self, tx: &mut DbTx, lease: &Lease) -> Result<Option<LockedJob>> {
        let lock = row_lock_clause(tx.dialect());
        let sql = format!(
            "SELECT s.status, CAST(CASE WHEN {STEP_NOT_PAUSED} THEN 0 ELSE 1 END AS BIGINT) AS paused
             FROM {} j LEFT JOIN step_runs s ON s.id = j.id
             WHERE j.id = $1 AND j.lock_by = $2 AND j.attempts = $3{lock}",
            self.jobs_table()
        );
        let rows = tx.fetch(&sql, &lease.to_sql_args()).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let status = row.get_opt_text("status")?.map(|status| StepStatus::parse(&status)).transpose()?;
        Ok(Some(LockedJob { status, paused: row.get_int("paused")? == 1 }))
    }

    /// Deletes the job if the lease still holds: acknowledgement and fence in one. False: write nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn acknowledge_job(&self, tx: &mut DbTx, lease: &Lease) -> Result<bool> {
        let sql = format!("DELETE FROM {} WHERE id = $1 AND lock_by = $2 AND attempts = $3", self.jobs_table());
        Ok(tx.execute(&sql, &lease.to_sql_args()).await? == 1)
    }

    /// On PostgreSQL: deletes the job, ends the step for good with its outputs or its error, and raises the revision of its run,
    /// whose row is held until the end of the transaction, in one round trip. `None`: the lease or the claim is lost, and nothing
    /// may be kept.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn finish_step(
        &self,
        tx: &mut DbTx,
        lease: &Lease,
        step: &StepRecord,
        progress: Option<&Value>,
        last: (StepStatus, Option<&Value>, Option<&Value>),
    ) -> Result<Option<RunRecord>> {
        let give_up =
            format!("DELETE FROM {} WHERE id = $1 AND lock_by = $8 AND attempts = $9 RETURNING id", self.jobs_table());
        let values = args![&lease.worker, lease.attempts];
        tx.end_step_and_job((&step.id, step.claims), progress, last, (&give_up, &values)).await
    }

    /// Gives the job back, to be fetched from `due_at` on, if the lease still holds. False: write nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reschedule_job(&self, tx: &mut DbTx, lease: &Lease, due_at: UnixMillis) -> Result<bool> {
        if due_at > afterload_core::clock::now_millis() + MAX_ENQUEUE_LEAD_TIME.as_millis() as i64 {
            return self.acknowledge_job(tx, lease).await;
        }
        let run_at = if tx.dialect() == Dialect::Postgres { "to_timestamp($4)" } else { "$4" };
        let sql = format!(
            "UPDATE {} SET status = 'Pending', lock_by = NULL, lock_at = NULL, attempts = attempts + 1, run_at = {run_at}
             WHERE id = $1 AND lock_by = $2 AND attempts = $3",
            self.jobs_table()
        );
        let args = args![&lease.step_run, &lease.worker, lease.attempts, ceil_seconds(due_at)];
        Ok(tx.execute(&sql, &args).await? == 1)
    }
}

/// What locks the jobs `j` of a query until the end of the transaction. SQLite's is the only writer already.
fn row_lock_clause(dialect: Dialect) -> &'static str {
    if dialect == Dialect::Postgres { " FOR UPDATE OF j" } else { "" }
}
