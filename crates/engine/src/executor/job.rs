//! Runs a job: claims its step, runs the attempt and ends it. Nothing is written without a valid lease.

use std::time::Instant;

use tracing::Instrument;

use super::claim::{ClaimedStep, StepClaimer};
use super::run::StepRunner;
use crate::lifecycle::finish::{AttemptFinisher, NextStep};
use afterload_state::queue::{JobSlot, Lease};
use afterload_state::{RunRecord, StepClaim};

/// How many steps of a run follow one another in one worker. Then the next step waits in the queue like others, so that
/// long chains leave room for other runs.
const MAX_STEPS_IN_A_ROW: u32 = 16;

/// Runs the jobs of this process.
pub(crate) struct Executor {
    pub(crate) claimer: StepClaimer,
    pub(crate) runner: StepRunner,
    pub(crate) finisher: AttemptFinisher,
}

impl Executor {
    /// Runs a job until its lease is released or lost. Then runs the steps that the end of the step before has handed over
    /// to this worker.
    pub(super) async fn run_job(&self, lease: Lease, slot: JobSlot) {
        let Some(ClaimedStep { claimed, run, _suspect: suspect }) = self.claimer.claim_with_retry(&lease).await else {
            return;
        };
        let mut next = self.run_claimed_step(&lease, &slot, &claimed, &run, true).await;
        drop(suspect);
        let mut in_a_row = 1;
        while let Some(taken) = next {
            let NextStep { handed, run } = *taken;
            let Some((lease, claimed, _active)) = handed.begin() else { return };
            in_a_row += 1;
            next = self.run_claimed_step(&lease, &slot, &claimed, &run, in_a_row < MAX_STEPS_IN_A_ROW).await;
        }
    }

    /// Runs a claimed step and ends its attempt. Returns the next step if this worker has taken it over.
    async fn run_claimed_step(
        &self,
        lease: &Lease,
        slot: &JobSlot,
        claimed: &StepClaim,
        run: &RunRecord,
        may_hand_over: bool,
    ) -> Option<Box<NextStep>> {
        let step = &claimed.step;
        let span = tracing::info_span!(
            "step",
            run.id = step.run_id,
            pipeline.name = run.pipeline,
            step.id = step.step_id,
            step.uses = step.uses
        );
        async {
            let started = Instant::now();
            let (outcome, ending) = self.runner.run_attempt(lease, slot, claimed, run).await;
            // A step that was aborted while it waited has left its slot to another one.
            let hands_over = may_hand_over && slot.is_held() && !self.runner.draining.is_cancelled();
            self.finisher.end_attempt(lease, claimed, outcome, ending, started, hands_over).await
        }
        .instrument(span)
        .await
    }
}
