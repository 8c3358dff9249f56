//! From a created object to the runs that it starts.

use super::TriggerDeps;
use super::batches::{BatchOutcome, BatchedTrigger, s3_trigger_key};
use super::object_created::{ObjectCreated, ObjectWrite, is_folder_marker, object_identity, s3_event};
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_engine::{DedupKey, StartOutcome};
use afterload_object_store::ObjectHead;
use afterload_pipeline::{S3Trigger, Trigger};

/// The source of the dedup keys of objects.
pub const S3_SOURCE: &str = "s3";

/// An s3 trigger of a live pipeline.
#[derive(Clone, Debug)]
pub struct LiveS3Trigger {
    /// The name of the pipeline.
    pub pipeline: String,
    /// The trigger.
    pub trigger: S3Trigger,
    /// When the pipeline went live.
    pub published_at: UnixMillis,
}

/// The result of accepting an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectOutcome {
    /// The ids of the started runs.
    pub started: Vec<String>,
    /// The ids of the runs that it will start together with other objects.
    pub batched: Vec<String>,
    /// How many pipelines have already had the object.
    pub duplicates: usize,
    /// The identity of the object, if the object exists.
    pub identity: Option<String>,
}

impl ObjectOutcome {
    /// True if no pipeline wants the object, or it is gone.
    pub fn is_ignored(&self) -> bool {
        self.started.is_empty() && self.batched.is_empty() && self.duplicates == 0
    }
}

/// The store's response for an object.
enum HeadResult {
    Found(ObjectHead),
    Missing,
    /// Access denied: the run will fail with that error and report it.
    Denied,
}

impl TriggerDeps {
    /// The s3 triggers of all live pipelines.
    pub async fn live_s3_triggers(&self) -> Result<Vec<LiveS3Trigger>> {
        let mut targets = Vec::new();
        for live in self.engine.list_live_plans().await? {
            for trigger in live.plan.triggers.iter().filter_map(Trigger::as_s3) {
                let (pipeline, trigger) = (live.plan.name.clone(), trigger.clone());
                targets.push(LiveS3Trigger { pipeline, trigger, published_at: live.published_at });
            }
        }
        Ok(targets)
    }

    /// Starts a run of each pipeline whose trigger matches the object and that has not had it yet. The runs are
    /// committed when this returns.
    ///
    /// # Errors
    /// Fails only if a retry can help; then the caller must send the object again.
    pub async fn accept_object(&self, targets: &[LiveS3Trigger], created: &ObjectCreated) -> Result<ObjectOutcome> {
        for key in created.keys.iter().filter(|key| !is_folder_marker(key, created.size)) {
            let wanted = matching_triggers(targets, &created.bucket, key);
            if wanted.is_empty() {
                continue;
            }
            // Check the dedup keys first: a repeated event with a version then needs no request to the store.
            if let Some(identity) = created.identity_for_key(key)
                && self.is_duplicate_for_all(&wanted, &identity).await?
            {
                return Ok(ObjectOutcome {
                    duplicates: wanted.len(),
                    identity: Some(identity),
                    ..ObjectOutcome::default()
                });
            }
            let stored = match self.head_object(created, key).await? {
                HeadResult::Found(stored) => stored,
                HeadResult::Denied => created.to_object_head(key),
                HeadResult::Missing => continue,
            };
            return self.start_runs(&wanted, stored, created.at).await;
        }
        Ok(ObjectOutcome::default())
    }

    async fn is_duplicate_for_all(&self, wanted: &[&LiveS3Trigger], identity: &str) -> Result<bool> {
        for target in wanted {
            if self.engine.db().dedup_keys().find(&target.pipeline, S3_SOURCE, identity).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the current object. If it was replaced since the event, the earlier bytes are gone.
    async fn head_object(&self, created: &ObjectCreated, key: &str) -> Result<HeadResult> {
        match self.engine.objects().head_version(&created.bucket, key, created.version.as_deref()).await {
            Ok(stored) => Ok(HeadResult::Found(stored)),
            Err(error) if error.is_transient() => Err(error),
            Err(error) if error.code() == codes::OBJECT_NOT_FOUND => {
                tracing::info!(
                    object.bucket = created.bucket,
                    object.key = key,
                    "a new object was deleted before its run started"
                );
                Ok(HeadResult::Missing)
            }
            Err(_) => Ok(HeadResult::Denied),
        }
    }

    async fn start_runs(
        &self,
        wanted: &[&LiveS3Trigger],
        stored: ObjectHead,
        at: Option<UnixMillis>,
    ) -> Result<ObjectOutcome> {
        let identity = object_identity(&stored.meta.bucket, &stored.meta.key, ObjectWrite::from_head(&stored));
        let event = s3_event(stored, at.unwrap_or_else(|| self.engine.db().now()));
        let mut accepted = ObjectOutcome { identity: Some(identity.clone()), ..ObjectOutcome::default() };
        for target in wanted {
            let dedup_key = DedupKey { source: S3_SOURCE, key: identity.clone(), fingerprint: None };
            if let Some(batching) = target.trigger.batching {
                let (key, with) = (s3_trigger_key(&target.trigger), &target.trigger.with);
                let trigger = BatchedTrigger { pipeline: &target.pipeline, key, with, batching };
                match self.add_to_batch(&trigger, &event, dedup_key).await? {
                    BatchOutcome::Joined(run) => accepted.batched.push(run),
                    BatchOutcome::Duplicate(_) => accepted.duplicates += 1,
                }
                continue;
            }
            match self.start_run(&target.pipeline, &target.trigger.with, &event, dedup_key).await {
                Ok(StartOutcome::Created(run)) => accepted.started.push(run.id),
                Ok(StartOutcome::Duplicate { .. }) => accepted.duplicates += 1,
                // The pipeline was removed a moment ago.
                Err(error) if error.code() == codes::PIPELINE_NOT_FOUND => {}
                Err(error) => return Err(error),
            }
        }
        Ok(accepted)
    }
}

/// The first matching trigger of each pipeline.
fn matching_triggers<'a>(targets: &'a [LiveS3Trigger], bucket: &str, key: &str) -> Vec<&'a LiveS3Trigger> {
    let mut wanted: Vec<&LiveS3Trigger> = Vec::new();
    for target in targets.iter().filter(|target| target.trigger.matches_object(bucket, key)) {
        if wanted.iter().all(|other| other.pipeline != target.pipeline) {
            wanted.push(target);
        }
    }
    wanted
}

/// True if a retry may succeed. Unexpected database errors are retried too; otherwise the object would be lost.
pub fn is_retryable(error: &Error) -> bool {
    error.is_transient() || error.code() == codes::DATABASE_ERROR
}
