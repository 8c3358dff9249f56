//! What an attempt does with its job: claims its step under it, holds it, gives it up or back.

use serde_json::Value;

use super::{Chain, HORIZON, Held, Lease, seconds};
use crate::{Claimed, NOT_PAUSED, RunRecord, StepRecord, StepStatus, Tx, args};
use afterload_core::clock::Millis;
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;

impl Chain {
    /// Claims the step of a lease that holds, unless it is paused, and holds its job until the end of the transaction.
    /// `None`: [`Self::hold`] says why not.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim(&self, tx: &mut Tx, lease: &Lease) -> Result<Option<Claimed>> {
        let condition = self.may_claim(tx.dialect());
        tx.claim_step_if(&lease.step_run, &condition, &args![&lease.worker, lease.attempts]).await
    }

    /// The same and the start of the step's run, in a transaction of its own, where that takes one round trip. `None`: it has
    /// to be claimed in steps.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_alone(&self, lease: &Lease) -> Result<Option<(Claimed, RunRecord)>> {
        let dialect = self.db.dialect();
        if dialect == Dialect::Sqlite {
            return Ok(None);
        }
        let values = args![&lease.worker, lease.attempts];
        self.db.claim_alone(&lease.step_run, &self.may_claim(dialect), &values).await
    }

    /// Holds for a step `s` of the id `$1` under a lease of the worker `$3` and the attempts `$4`.
    fn may_claim(&self, dialect: Dialect) -> String {
        format!(
            "EXISTS (SELECT 1 FROM {} j WHERE j.id = $1 AND j.lock_by = $3 AND j.attempts = $4{}) AND {NOT_PAUSED}",
            self.jobs(),
            until_the_end(dialect)
        )
    }

    /// Holds the job of a lease until the end of the transaction, and says how its step is. `None`: the lease is lost.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hold(&self, tx: &mut Tx, lease: &Lease) -> Result<Option<Held>> {
        let lock = until_the_end(tx.dialect());
        let sql = format!(
            "SELECT s.status, CAST(CASE WHEN {NOT_PAUSED} THEN 0 ELSE 1 END AS BIGINT) AS paused
             FROM {} j LEFT JOIN step_runs s ON s.id = j.id
             WHERE j.id = $1 AND j.lock_by = $2 AND j.attempts = $3{lock}",
            self.jobs()
        );
        let rows = tx.fetch(&sql, &lease.args()).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let status = row.opt_text("status")?.map(|status| StepStatus::parse(&status)).transpose()?;
        Ok(Some(Held { status, paused: row.int("paused")? == 1 }))
    }

    /// Deletes the job if the lease still holds: acknowledgement and fence in one. False: write nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn acknowledge(&self, tx: &mut Tx, lease: &Lease) -> Result<bool> {
        let sql = format!("DELETE FROM {} WHERE id = $1 AND lock_by = $2 AND attempts = $3", self.jobs());
        Ok(tx.execute(&sql, &lease.args()).await? == 1)
    }

    /// On PostgreSQL: deletes the job, ends the step for good with its outputs or its error, and raises the revision of its run,
    /// whose row is held until the end of the transaction, in one round trip. `None`: the lease or the claim is lost, and nothing
    /// may be kept.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn finish(
        &self,
        tx: &mut Tx,
        lease: &Lease,
        step: &StepRecord,
        progress: Option<&Value>,
        last: (StepStatus, Option<&Value>, Option<&Value>),
    ) -> Result<Option<RunRecord>> {
        let give_up =
            format!("DELETE FROM {} WHERE id = $1 AND lock_by = $8 AND attempts = $9 RETURNING id", self.jobs());
        let values = args![&lease.worker, lease.attempts];
        tx.end_step_with((&step.id, step.claims), progress, last, (&give_up, &values)).await
    }

    /// Gives the job back, to be fetched from `due_at` on, if the lease still holds. False: write nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn postpone(&self, tx: &mut Tx, lease: &Lease, due_at: Millis) -> Result<bool> {
        if due_at > afterload_core::clock::now() + HORIZON.as_millis() as i64 {
            return self.acknowledge(tx, lease).await;
        }
        let run_at = if tx.dialect() == Dialect::Postgres { "to_timestamp($4)" } else { "$4" };
        let sql = format!(
            "UPDATE {} SET status = 'Pending', lock_by = NULL, lock_at = NULL, attempts = attempts + 1, run_at = {run_at}
             WHERE id = $1 AND lock_by = $2 AND attempts = $3",
            self.jobs()
        );
        let args = args![&lease.step_run, &lease.worker, lease.attempts, seconds(due_at)];
        Ok(tx.execute(&sql, &args).await? == 1)
    }
}

/// What locks the jobs `j` of a query until the end of the transaction. SQLite's is the only writer already.
fn until_the_end(dialect: Dialect) -> &'static str {
    if dialect == Dialect::Postgres { " FOR UPDATE OF j" } else { "" }
}
