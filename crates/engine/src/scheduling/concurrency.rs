//! The concurrency slot of a run.

use crate::codes;
use sha2::{Digest, Sha256};

use crate::config::EngineConfig;
use crate::run_view::run_facts;
use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result};
use afterload_core::redactor::Redactor;
use afterload_pipeline::{ExprContext, OnRunConflict, PipelinePlan, resolve_to_text};
use afterload_state::{ConcurrencySlot, RunRecord};

/// The slot that a new run needs; `None` if its pipeline has no `concurrency`.
///
/// # Errors
/// `concurrency_key_invalid`
pub(crate) fn concurrency_slot(
    config: &EngineConfig,
    redactor: &Redactor,
    clock: &Clock,
    plan: &PipelinePlan,
    run: &RunRecord,
) -> Result<Option<ConcurrencySlot>> {
    let Some(said) = &plan.concurrency else { return Ok(None) };
    let facts = run_facts(&config.base_url, run);
    let params = crate::record_params::params_with_references(plan, run);
    let secrets = config.secrets.clone();
    let scope =
        ExprContext::new().with_params(&params).with_event(&run.event.clone().unwrap_or_default()).with_run(&facts);
    let scope = scope
        .with_clock(clock)
        .with_secrets(move |name| secrets.get(name).map(|secret| secret.expose_secret().to_owned()));
    let key = resolve_to_text(said.key.as_deref().unwrap_or_default(), &scope).map_err(|error| {
        let error = redactor.redact_error(error);
        let told = Error::new(codes::CONCURRENCY_KEY_INVALID, error.message()).context("`concurrency.key`");
        match error.hint_text() {
            Some(hint) => told.with_hint(hint),
            None => told,
        }
    })?;
    // The key is stored as a digest, because its value may be long or private.
    let key = hex::encode(Sha256::digest(format!("{}\n{key}", run.pipeline)));
    let supersedes = said.on_conflict == OnRunConflict::CancelPrevious;
    Ok(Some(ConcurrencySlot { key, limit: said.limit, supersedes, queue_position: None, waiting_since: None }))
}
