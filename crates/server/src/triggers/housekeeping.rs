//! The periodic tasks of the triggers: their buckets, uploads that never came, and the age of deduplication keys.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::accept::S3_SOURCE;
use super::{TriggerDeps, batch_runs, cron, poll, publish_event};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;
use afterload_engine::maintenance::PeriodicTask;

/// How often the buckets of live triggers are made.
const BUCKETS_INTERVAL: Duration = Duration::from_secs(1);
/// How often due batches of events get their runs.
const BATCHES_INTERVAL: Duration = Duration::from_secs(1);
/// How often old deduplication keys are deleted.
const DEDUP_INTERVAL: Duration = Duration::from_secs(3600);
/// How often uploads are deleted that never came.
const UPLOADS_INTERVAL: Duration = Duration::from_secs(60);
/// How long after its expiry an upload may still be in transfer.
pub const UPLOAD_GRACE: UnixMillis = 2 * 3_600_000;
const DAY_MS: UnixMillis = 86_400_000;
/// How long dedup keys are kept: longer than any sender repeats an event.
const DEDUP_RETENTION_MS: UnixMillis = 30 * DAY_MS;

/// The source of the dedup keys of direct uploads.
pub const UPLOAD_SOURCE: &str = "uploads";

/// The buckets that are known to exist.
#[derive(Default)]
pub struct EnsuredBuckets(Mutex<BTreeSet<String>>);

impl EnsuredBuckets {
    fn contains(&self, bucket: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(bucket)
    }

    fn insert(&self, bucket: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(bucket);
    }
}

/// The periodic tasks of the triggers, for the scheduler of the process.
pub fn maintenance_tasks(deps: &Arc<TriggerDeps>) -> Vec<PeriodicTask> {
    vec![
        PeriodicTask::new("trigger_buckets", BUCKETS_INTERVAL, deps.clone(), |deps| async move {
            ensure_buckets(&deps).await
        }),
        PeriodicTask::new("event_batches", BATCHES_INTERVAL, deps.clone(), |deps| async move {
            batch_runs::start_due_batches(&deps).await
        }),
        PeriodicTask::new("expired_uploads", UPLOADS_INTERVAL, deps.clone(), |deps| async move {
            delete_expired_uploads(&deps).await
        }),
        PeriodicTask::new("dedup_keys", DEDUP_INTERVAL, deps.clone(), |deps| async move { prune_dedup(&deps).await }),
    ]
}

/// Creates the embedded buckets that triggers name.
pub async fn ensure_buckets(inner: &TriggerDeps) -> Result<()> {
    let objects = inner.engine.objects();
    for target in inner.live_s3_triggers().await? {
        let bucket = target.trigger.bucket;
        if objects.is_embedded(&bucket) && !inner.buckets.contains(&bucket) {
            objects.ensure_bucket(&bucket).await?;
            inner.buckets.insert(bucket);
        }
    }
    Ok(())
}

/// Deletes uploads that were announced but never completed, with their bytes.
async fn delete_expired_uploads(inner: &TriggerDeps) -> Result<()> {
    let db = inner.engine.db();
    for upload in db.uploads().list_expired(db.now() - UPLOAD_GRACE, 100).await? {
        // If the run exists, the bytes belong to it, and only the record of the upload is deleted.
        if db.runs().find(&upload.id).await?.is_none() {
            let (bucket, key) = (upload.file["bucket"].as_str(), upload.file["key"].as_str());
            if let (Some(bucket), Some(key)) = (bucket, key)
                && let Err(error) = inner.engine.objects().delete_object(bucket, key).await
            {
                // A failed deletion must not block the others.
                tracing::warn!(error.code = error.code().name(), "an expired upload could not be deleted: {error}");
                if error.is_transient() {
                    continue;
                }
            }
        }
        db.uploads().delete(&upload.id).await?;
    }
    Ok(())
}

/// Deletes old dedup keys. Every scan lists a polled object again, so retention counts from the oldest last scan.
async fn prune_dedup(inner: &TriggerDeps) -> Result<()> {
    let db = inner.engine.db();
    let targets = inner.live_s3_triggers().await?;
    let live: Vec<String> = targets.iter().map(poll::poll_id).collect();
    let now = db.now();
    db.poll_claims().delete_stale(now - DAY_MS, &live).await?;
    let seen = db.poll_claims().find_oldest_scan().await?.map_or(now, |seen| seen.min(now));
    for source in [
        S3_SOURCE,
        poll::S3_LISTED_SOURCE,
        UPLOAD_SOURCE,
        publish_event::EVENT_SOURCE,
        cron::CRON_SOURCE,
        batch_runs::BATCH_SOURCE,
    ] {
        db.dedup_keys().delete_before(source, seen - DEDUP_RETENTION_MS).await?;
    }
    Ok(())
}
