//! Runs a job: claims its step, runs the attempt and ends it. Nothing is written without a valid lease.

use std::time::Instant;

use tracing::Instrument;

use super::claim::{ClaimedStep, StepClaimer};
use super::run::StepRunner;
use crate::lifecycle::finish::AttemptFinisher;
use afterload_state::queue::{JobSlot, Lease};

/// Runs the jobs of this process.
pub(crate) struct Executor {
    pub(crate) claimer: StepClaimer,
    pub(crate) runner: StepRunner,
    pub(crate) finisher: AttemptFinisher,
}

impl Executor {
    /// Runs a job until its lease is released or lost.
    pub(super) async fn run_job(&self, lease: Lease, slot: JobSlot) {
        let Some(ClaimedStep { claimed, run, _suspect }) = self.claimer.claim_with_retry(&lease).await else { return };
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
            let (outcome, ending) = self.runner.run_attempt(&lease, &slot, &claimed, &run).await;
            self.finisher.end_attempt(&lease, &claimed, outcome, ending, started).await;
        }
        .instrument(span)
        .await;
    }
}
