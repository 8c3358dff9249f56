//! Errors of runs: their stored form, and errors that several modules use.

use crate::codes;
use serde_json::{Value, json};

use crate::plan_cache::CompiledPlan;
use afterload_core::error::Error;
use afterload_state::{StepRecord, StepStatus};

/// The stored form of an error.
pub(crate) fn error_to_json(error: &Error) -> Value {
    let mut json = json!({ "code": error.code().name(), "message": error.message() });
    if let Some(hint) = error.hint_text() {
        json["hint"] = hint.into();
    }
    if let Some(details) = error.details() {
        json["details"] = details.clone();
    }
    json
}

/// The error of the run: that of the first step that failed without `continue_on_error`.
pub(crate) fn run_error(compiled: &CompiledPlan, steps: &[StepRecord]) -> Option<Value> {
    let failed = |status| matches!(status, StepStatus::Failed | StepStatus::Quarantined);
    let pairs = compiled.steps.iter().zip(steps);
    let (_, step) = pairs.into_iter().find(|(known, step)| failed(step.status) && !known.step.continue_on_error)?;
    let mut error = step.error.clone().unwrap_or_else(|| json!({}));
    error["step"] = step.step_id.clone().into();
    Some(error)
}

/// The error for a pipeline without a live definition.
pub(crate) fn pipeline_not_found(name: &str) -> Error {
    Error::new(codes::PIPELINE_NOT_FOUND, format!("there is no live pipeline `{name}`"))
        .with_hint("`GET /v1/pipelines` lists those that are")
}

/// The error for an unknown run.
pub(crate) fn run_not_found(id: &str) -> Error {
    Error::new(codes::RUN_NOT_FOUND, format!("there is no run `{id}`"))
}
