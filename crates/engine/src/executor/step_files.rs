//! The files of an attempt: where they are stored, and how files of earlier attempts are deleted.

use std::sync::Arc;

use serde_json::Value;
use tracing::warn;

use crate::attempt::AttemptContext;
use crate::config::EngineConfig;
use afterload_core::file_seals::FileSeals;
use afterload_object_store::ObjectStore;
use afterload_pipeline::plan::OutputTarget;
use afterload_pipeline::{self as pipeline, ExprContext};
use afterload_state::{StepClaim, StepRecord};
use afterload_step_api::{ArtifactLocation, FileVerifier, OutputDestination, StepFiles};

/// The number of earlier attempts whose files are deleted. Older ones were cleaned by those attempts.
const MAX_CLEANED_CLAIMS: i64 = 3;

/// Creates and cleans up the files of attempts.
pub(crate) struct AttemptFiles {
    pub(crate) objects: ObjectStore,
    pub(crate) config: Arc<EngineConfig>,
}

impl AttemptFiles {
    pub(super) fn new_step_files(
        &self,
        attempt: AttemptContext<'_>,
        output: Option<&OutputTarget>,
        scope: ExprContext,
        file_seals: FileSeals,
    ) -> StepFiles {
        let AttemptContext { claimed, run, .. } = attempt;
        let step = &claimed.step;
        // An object may start a run, which then has one run more before it.
        let hops = run.hops.saturating_add(1);
        let prefix = format!("{}{}/", artifacts_prefix(step), step.claims);
        let destination = output.cloned().map(|OutputTarget { bucket, key, cache_control }| {
            let key = move |file: &Value| pipeline::resolve_to_text(&key, &scope.clone().with_file(file));
            OutputDestination { bucket, key: Arc::new(key), cache_control, hops }
        });
        let EngineConfig { artifacts, base_url, keyring, .. } = &*self.config;
        let location = ArtifactLocation { bucket: artifacts.clone(), prefix, base_url: base_url.clone() };
        let verifier = FileVerifier::new(keyring.clone(), step.run_id.clone(), file_seals);
        StepFiles::new(self.objects.clone(), location, step.step_id.clone(), destination, verifier)
    }

    /// Deletes unpublished files of earlier attempts. A failure is logged and does not stop the attempt.
    pub(super) async fn delete_stale_files(&self, claimed: &StepClaim) {
        let step = &claimed.step;
        if step.claims > 1 {
            // Only files of older claims: if this attempt is stale, a newer one may have published its files.
            for claim in (step.claims - MAX_CLEANED_CLAIMS).max(1)..step.claims {
                let prefix = format!("{}{claim}/", artifacts_prefix(step));
                if let Err(error) = self.objects.delete_prefix(&self.config.artifacts, &prefix).await {
                    warn!(error.code = error.code().name(), "files of an earlier attempt were not removed: {error}");
                }
            }
        }
    }
}

/// The key prefix of the artifacts of a step, shared by all its attempts.
fn artifacts_prefix(step: &StepRecord) -> String {
    format!("runs/{}/{}/", step.run_id, step.effect_key())
}
