//! Hand-overs: the worker whose step ends takes the next step of the run in the same transaction.
//!
//! The step is claimed and its job is born locked under the lease of the worker, so nobody fetches it. A crash after the
//! commit leaves a locked job of a dead worker, as after any other claim.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::leases::ActiveLease;
use super::{JobQueue, Lease, PRIORITY_SHIFT, StepJob, lock_mutex, past_second};
use crate::claims::claim_assignments;
use crate::codes;
use crate::pauses::STEP_NOT_PAUSED;
use crate::sql_args::SqlArgs;
use crate::steps::{STEP_COLUMNS, step_from_row};
use crate::{DbRow, DbTx, StepClaim, StepRecord};
use afterload_core::clock::UnixMillis;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// What apalis sets for a job that says nothing else.
const MAX_ATTEMPTS: i64 = 25;

/// A step that a worker has taken over.
pub struct HandedStep {
    lease: Lease,
    claimed: StepClaim,
    handing: HandingOver,
}

/// A lease whose transaction is being committed. The release of orphans leaves it alone until this is dropped.
struct HandingOver(Arc<JobQueue>, Lease);

impl HandingOver {
    fn new(queue: &Arc<JobQueue>, lease: &Lease) -> Self {
        lock_mutex(&queue.handing_over).push(lease.lease_token());
        Self(queue.clone(), lease.clone())
    }
}

impl Drop for HandingOver {
    fn drop(&mut self) {
        let mut tokens = lock_mutex(&self.0.handing_over);
        if let Some(index) = tokens.iter().position(|token| *token == self.1.lease_token()) {
            tokens.swap_remove(index);
        }
    }
}

impl HandedStep {
    /// Makes the lease active. Call it after the commit. Returns `None` if a task works under this same lease.
    pub fn begin(self) -> Option<(Lease, StepClaim, ActiveLease)> {
        let Self { lease, claimed, handing } = self;
        let active = ActiveLease::register(&handing.0, &lease)?;
        Some((lease, claimed, active))
    }
}

impl JobQueue {
    /// Claims a waiting step for the worker of a lease whose own step ends in this transaction. Returns `None` if another
    /// worker has to fetch it: another queue, a worker that is ending, a pause, or a job of a higher priority that waits.
    /// The caller has checked that the step is ready.
    pub async fn hand_over(
        self: &Arc<Self>,
        tx: &mut DbTx,
        lease: &Lease,
        step: &StepRecord,
    ) -> Result<Option<HandedStep>> {
        // Leases of workers that have ended are not renewed for long.
        let is_current = lock_mutex(&self.workers).get(&step.queue).is_some_and(|name| *name == lease.worker);
        if !is_current || lease.lost.is_cancelled() {
            return Ok(None);
        }
        let (worker, lost) = (lease.worker.clone(), CancellationToken::new());
        let next = Lease { step_run: step.id.clone(), worker, attempts: 0, lost };
        let handing = HandingOver::new(self, &next);
        let Some(claimed) = self.claim_waiting_step(tx, &next, step).await? else { return Ok(None) };
        Ok(Some(HandedStep { lease: next, claimed, handing }))
    }

    /// Claims the step and pushes its locked job, on PostgreSQL in one statement.
    async fn claim_waiting_step(&self, tx: &mut DbTx, lease: &Lease, step: &StepRecord) -> Result<Option<StepClaim>> {
        let jobs = self.dialect().jobs;
        let mut args = SqlArgs::default();
        let (id, queue, now) = (args.add(&step.id), args.add(&step.queue), args.add(tx.now()));
        let (priority, is_due) = (args.add(job_priority(step)), self.dialect().job_is_due(&now));
        // The order makes PostgreSQL use the index of the fetch. A comparison would let it read all jobs of the queue.
        let claim = format!(
            "UPDATE step_runs AS s SET {} WHERE id = {id} AND status = 'waiting' AND {STEP_NOT_PAUSED}
             AND COALESCE((SELECT j.priority FROM {jobs} j WHERE j.job_type = {queue} AND j.status = 'Pending'
                AND j.lock_by IS NULL AND {is_due} ORDER BY j.priority DESC, j.run_at LIMIT 1), 0) <= {priority}
             RETURNING {STEP_COLUMNS}",
            claim_assignments(&now)
        );
        match tx.dialect() {
            Dialect::Sqlite => {
                let claimed = claim_from_rows(&tx.fetch(&claim, args.as_slice()).await?)?;
                if claimed.is_some() {
                    let mut args = SqlArgs::default();
                    let push = self.push_locked_sql(&mut args, tx.now(), lease, step)?;
                    tx.execute(&push, args.as_slice()).await?;
                }
                Ok(claimed)
            }
            Dialect::Postgres => {
                let push = self.push_locked_sql(&mut args, tx.now(), lease, step)?;
                let sql = format!("WITH claimed AS ({claim}), pushed AS ({push} FROM claimed) SELECT * FROM claimed");
                claim_from_rows(&tx.fetch(&sql, args.as_slice()).await?)
            }
        }
    }

    /// The statement that pushes a job which this worker has locked already. It is a query, so that it can depend on
    /// another one.
    fn push_locked_sql(&self, args: &mut SqlArgs, now: UnixMillis, lease: &Lease, step: &StepRecord) -> Result<String> {
        let payload = serde_json::to_string(&StepJob { step_run: step.id.clone() });
        let payload = payload.map_err(|error| Error::new(codes::QUEUE_ERROR, error.to_string()))?;
        let dialect = self.dialect();
        let (jobs, bytes) = (dialect.jobs, dialect.bytes_from_text(&args.add(payload)));
        let due = dialect.time_from_millis(&args.add(past_second(now) * 1000));
        let locked = dialect.time_from_millis(&args.add(now));
        let (id, queue, worker) = (args.add(&step.id), args.add(&step.queue), args.add(&lease.worker));
        let (attempts, priority) = (args.add(lease.attempts), args.add(job_priority(step)));
        Ok(format!(
            "INSERT INTO {jobs} (id, job_type, job, status, attempts, max_attempts, run_at, priority, lock_by, lock_at)
             SELECT {id}, {queue}, {bytes}, 'Queued', CAST({attempts} AS INTEGER), {MAX_ATTEMPTS}, {due},
                CAST({priority} AS INTEGER), {worker}, {locked}"
        ))
    }
}

fn claim_from_rows(rows: &[DbRow]) -> Result<Option<StepClaim>> {
    rows.first().map(|row| Ok(StepClaim { step: step_from_row(row)? })).transpose()
}

/// The priority of the job of a step.
fn job_priority(step: &StepRecord) -> i64 {
    (step.priority + PRIORITY_SHIFT).max(0)
}
