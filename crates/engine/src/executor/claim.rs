//! Claims: a step is taken for one attempt, if its lease holds and it is its turn.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use crate::db_retry::wait_for_db;
use crate::lifecycle::advance::{Transition, TransitionPublisher};
use crate::lifecycle::finish::cancelled_end;
use crate::lifecycle::follow_up::StepFollowUp;
use crate::scheduling::pauses::Pauses;
use afterload_core::clock;
use afterload_core::error::Result;
use afterload_core::failpoint;
use afterload_pipeline::Section;
use afterload_state::queue::{JobQueue, Lease};
use afterload_state::{AttemptEnd, Db, DbTx, RunRecord, StepClaim, StepStatus, TxOutcome};

/// How long a step that was left by a crash waits while another one is being tried.
const SUSPECT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A step that is taken for an attempt.
pub(super) struct ClaimedStep {
    pub(super) claimed: StepClaim,
    /// Its run, as of the claim.
    pub(super) run: RunRecord,
    /// The right to work on a suspect, if it is one.
    pub(super) _suspect: Option<OwnedSemaphorePermit>,
}

/// What came of a claim.
enum ClaimOutcome {
    /// The lease is lost; nothing may be written.
    Lost,
    /// It is not this step's turn: its job is given back, or was left over.
    NotReady,
    /// The run was asked to stop, and so the step has ended.
    Ended(Box<(RunRecord, Transition)>),
    /// The step is taken.
    Claimed(Box<ClaimedStep>),
}

/// Whether the step runs whatever becomes of its run.
pub(super) fn is_finally_step(claimed: &StepClaim) -> bool {
    claimed.step.section == Section::Finally.field_name()
}

/// Whether the run was asked to stop, and the step has to end with it.
fn is_cancelled(claimed: &StepClaim, run: &RunRecord) -> bool {
    run.cancel_requested_at.is_some() && !is_finally_step(claimed)
}

/// Claims steps.
pub(crate) struct StepClaimer {
    pub(crate) db: Db,
    pub(crate) queue: Arc<JobQueue>,
    pub(crate) pauses: Arc<Pauses>,
    pub(crate) follow_up: StepFollowUp,
    pub(crate) publisher: TransitionPublisher,
    /// At most one step that was left by a crash runs at a time.
    pub(crate) suspects: Arc<Semaphore>,
}

impl StepClaimer {
    /// Takes the step for this attempt, and with a suspect the right to work on one. `None`: the wake-up was stale, the
    /// lease is lost, or it is not this step's turn.
    pub(super) async fn claim_with_retry(&self, lease: &Lease) -> Option<ClaimedStep> {
        loop {
            match self.try_claim_step(lease).await {
                Ok(claimed) => return claimed,
                Err(error) if error.is_transient() => wait_for_db(&error, "claiming a step").await,
                Err(error) => {
                    // Out of hand, the job is freed by the sweep and fetched again.
                    warn!(error.code = error.code().name(), "claiming a step failed: {error}");
                    return None;
                }
            }
        }
    }

    async fn try_claim_step(&self, lease: &Lease) -> Result<Option<ClaimedStep>> {
        let alone = self.queue.claim_and_start_run(lease).await?;
        let claim = match alone.filter(|(claimed, run)| !is_cancelled(claimed, run)) {
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
                // It was resumed just now, or has ended without its job, and the job is left over.
                Some(_) => match tx.claims().claim(&lease.step_run).await? {
                    Some(claimed) => claimed,
                    None => {
                        self.queue.acknowledge_job(tx, lease).await?;
                        return Ok(ClaimOutcome::NotReady);
                    }
                },
            },
        };
        let run = tx.runs().mark_started(&claimed.step.run_id, is_finally_step(&claimed)).await?;
        if is_cancelled(&claimed, &run) {
            let ending = cancelled_end();
            self.queue.acknowledge_job(tx, lease).await?;
            tx.claims().end(&lease.step_run, claimed.step.claims, None, &ending).await?;
            let moves = self.follow_up.advance_after_step(tx, &run, &claimed.step, StepStatus::Cancelled).await?;
            return Ok(ClaimOutcome::Ended(Box::new((run, moves))));
        }
        // A process runs at most one step that was left by a crash, so that innocents do not share its fate.
        let suspect = match claimed.step.crashes {
            0 => None,
            _ => match self.suspects.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let due_at = clock::now_millis() + SUSPECT_RETRY_DELAY.as_millis() as i64;
                    self.queue.reschedule_job(tx, lease, due_at).await?;
                    tx.claims().end(&lease.step_run, claimed.step.claims, None, &AttemptEnd::Park { due_at }).await?;
                    return Ok(ClaimOutcome::NotReady);
                }
            },
        };
        Ok(ClaimOutcome::Claimed(Box::new(ClaimedStep { claimed, run, _suspect: suspect })))
    }
}
