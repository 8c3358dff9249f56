//! Claims: an attempt takes its step if the lease is valid and the step may run now.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use crate::db_retry::wait_for_db;
use crate::lifecycle::advance::{Transition, TransitionPublisher};
use crate::lifecycle::finish::stopped_end;
use crate::lifecycle::follow_up::StepFollowUp;
use crate::scheduling::pauses::Pauses;
use afterload_core::error::Result;
use afterload_core::failpoint;
use afterload_state::queue::{JobQueue, Lease};
use afterload_state::{AttemptEnd, Db, DbTx, RunRecord, RunStop, StepClaim, StepStatus, TxOutcome};

/// How long a crashed step waits while this process tries another crashed step.
const SUSPECT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A step that an attempt has claimed.
pub(super) struct ClaimedStep {
    pub(super) claimed: StepClaim,
    /// The run of the step, as of the claim.
    pub(super) run: RunRecord,
    /// The permit to run a step that crashed before; `None` for a step without crashes.
    pub(super) _suspect: Option<OwnedSemaphorePermit>,
}

/// The result of a claim.
enum ClaimOutcome {
    /// The lease is lost: the attempt may not write anything.
    Lost,
    /// The step may not run now: its job went back to the queue, or had no step to run.
    NotReady,
    /// The run was cancelled or timed out, and the step ended with it.
    Ended(Box<(RunRecord, Transition)>),
    Claimed(Box<ClaimedStep>),
}

/// Why the step has to end with its run, if it has to.
fn find_stop(claimed: &StepClaim, run: &RunRecord) -> Option<RunStop> {
    run.stop().filter(|stop| stop.stops_section(&claimed.step.section))
}

pub(crate) struct StepClaimer {
    pub(crate) db: Db,
    pub(crate) queue: Arc<JobQueue>,
    pub(crate) pauses: Arc<Pauses>,
    pub(crate) follow_up: StepFollowUp,
    pub(crate) publisher: TransitionPublisher,
    /// Limits the process to one crashed step at a time.
    pub(crate) suspects: Arc<Semaphore>,
}

impl StepClaimer {
    /// Claims the step for this attempt, and retries while the database is unavailable.
    /// `None`: the lease is lost, or the step may not run now.
    pub(super) async fn claim_with_retry(&self, lease: &Lease) -> Option<ClaimedStep> {
        loop {
            match self.try_claim_step(lease).await {
                Ok(claimed) => return claimed,
                Err(error) if error.is_transient() => wait_for_db(&error, "claiming a step").await,
                Err(error) => {
                    // Without an active lease the sweep releases the job, and a worker fetches it again.
                    warn!(error.code = error.code().name(), "claiming a step failed: {error}");
                    return None;
                }
            }
        }
    }

    async fn try_claim_step(&self, lease: &Lease) -> Result<Option<ClaimedStep>> {
        // On PostgreSQL one round trip claims a step that never crashed. All other cases need the transaction below.
        let alone = self.queue.claim_and_start_run(lease).await?;
        let claim = match alone.filter(|(claimed, run)| find_stop(claimed, run).is_none()) {
            Some((claimed, run)) => ClaimOutcome::Claimed(Box::new(ClaimedStep { claimed, run, _suspect: None })),
            None => {
                let written = self.db.with_tx(async |tx| {
                    let claim = self.write_claim(tx, lease).await?;
                    failpoint!("claim.before_commit");
                    Ok(match claim {
                        ClaimOutcome::Lost => TxOutcome::Rollback(ClaimOutcome::Lost),
                        claim => TxOutcome::Commit(claim),
                    })
                });
                written.await?
            }
        };
        failpoint!("claim.after_commit");
        Ok(match claim {
            ClaimOutcome::Lost | ClaimOutcome::NotReady => None,
            ClaimOutcome::Ended(ended) => {
                self.publisher.after_commit(&ended.0, &ended.1);
                None
            }
            ClaimOutcome::Claimed(taken) => {
                self.publisher.watches.publish_run_change(&taken.run);
                Some(*taken)
            }
        })
    }

    async fn write_claim(&self, tx: &mut DbTx, lease: &Lease) -> Result<ClaimOutcome> {
        let claimed = match self.queue.claim_leased_step(tx, lease).await? {
            Some(claimed) => claimed,
            None => match self.queue.lock_job(tx, lease).await? {
                None => return Ok(ClaimOutcome::Lost),
                Some(held) if held.paused => {
                    self.pauses.return_paused_job(tx, lease, &held).await?;
                    return Ok(ClaimOutcome::NotReady);
                }
                // The step was resumed just now, or it has ended and its job is left over.
                Some(_) => match tx.claims().claim(&lease.step_run).await? {
                    Some(claimed) => claimed,
                    None => {
                        self.queue.acknowledge_job(tx, lease).await?;
                        return Ok(ClaimOutcome::NotReady);
                    }
                },
            },
        };
        let run = tx.runs().mark_started(&claimed.step.run_id, &claimed.step.section).await?;
        if let Some(stop) = find_stop(&claimed, &run) {
            let ending = stopped_end(stop);
            self.queue.acknowledge_job(tx, lease).await?;
            tx.claims().end(&lease.step_run, claimed.step.claims, None, &ending).await?;
            let moves = self.follow_up.advance_after_step(tx, &run, &claimed.step, StepStatus::Cancelled, None).await?;
            return Ok(ClaimOutcome::Ended(Box::new((run, moves))));
        }
        // A process runs one crashed step at a time, so that another crash does not count against healthy steps.
        let suspect = match claimed.step.crashes {
            0 => None,
            _ => match self.suspects.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let due_at = tx.now() + SUSPECT_RETRY_DELAY.as_millis() as i64;
                    self.queue.reschedule_job(tx, lease, due_at).await?;
                    let parked = AttemptEnd::Park { due_at, error: None };
                    tx.claims().end(&lease.step_run, claimed.step.claims, None, &parked).await?;
                    return Ok(ClaimOutcome::NotReady);
                }
            },
        };
        Ok(ClaimOutcome::Claimed(Box::new(ClaimedStep { claimed, run, _suspect: suspect })))
    }
}
