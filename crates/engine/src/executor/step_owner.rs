//! Identifies the step that the logs of an attempt belong to.

/// The owner of effects, deliveries and links. It is the same for all attempts of a step.
#[derive(Clone)]
pub(super) struct StepOwner {
    /// The id of the run.
    pub(super) run: String,
    /// The effect key of the step, unique within the run.
    pub(super) step: String,
}
