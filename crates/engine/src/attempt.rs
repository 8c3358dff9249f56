//! One attempt of a step, as the parts see it that work on it.

use tokio_util::sync::CancellationToken;

use afterload_state::queue::Lease;
use afterload_state::{RunRecord, StepClaim};

/// One attempt of a step.
#[derive(Clone, Copy)]
pub(crate) struct AttemptContext<'a> {
    /// The right to write for it.
    pub(crate) lease: &'a Lease,
    /// Its step, as of the claim.
    pub(crate) claimed: &'a StepClaim,
    /// The run of the step, as of the claim.
    pub(crate) run: &'a RunRecord,
    /// Cancelled with the run, unless the step runs in any case.
    pub(crate) cancel: &'a CancellationToken,
}
