//! Whose records an attempt writes.

/// The step that effects, deliveries and links belong to, the same over all its attempts.
#[derive(Clone)]
pub(super) struct StepOwner {
    /// The run.
    pub(super) run: String,
    /// The key of the step's effects within the run.
    pub(super) step: String,
}
