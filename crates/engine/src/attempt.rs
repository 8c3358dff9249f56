//! One attempt of a step, as the parts of the executor pass it around.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

use afterload_state::queue::{JobSlot, Lease};
use afterload_state::{RunRecord, RunStop, StepClaim};

#[derive(Clone, Copy)]
pub(crate) struct AttemptContext<'a> {
    /// The lease that allows the attempt to write.
    pub(crate) lease: &'a Lease,
    /// The slot of the queue in which the attempt runs.
    pub(crate) slot: &'a JobSlot,
    /// The step, as of the claim.
    pub(crate) claimed: &'a StepClaim,
    /// The run of the step, as of the claim.
    pub(crate) run: &'a RunRecord,
    /// Cancelled when the run stops the step.
    pub(crate) cancel: &'a CancellationToken,
    /// Why the run does; set before `cancel`.
    pub(crate) stop_reason: &'a OnceLock<RunStop>,
}
