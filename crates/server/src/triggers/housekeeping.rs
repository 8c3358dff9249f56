//! Periodic work for the live triggers: their buckets, expired uploads, and old dedup keys.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::accept::S3_SOURCE;
use super::{TriggerDeps, cron, poll, publish_event};
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::Result;

/// How often the live triggers are read.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);
/// How often old dedup keys are deleted, in ticks.
const DEDUP_SWEEP_TICKS: u32 = 3600;
/// How often expired uploads are deleted, in ticks.
const UPLOAD_SWEEP_TICKS: u32 = 60;
/// How long after its expiry an upload may still be in transfer.
pub const UPLOAD_GRACE: UnixMillis = 2 * 3_600_000;
const DAY_MS: UnixMillis = 86_400_000;
/// How long dedup keys are kept: longer than any sender repeats an event.
const DEDUP_RETENTION_MS: UnixMillis = 30 * DAY_MS;

/// The source of the dedup keys of direct uploads.
pub const UPLOAD_SOURCE: &str = "uploads";

/// The buckets that are known to exist.
#[derive(Default)]
pub struct EnsuredBuckets(BTreeSet<String>);

pub async fn run_housekeeping(inner: Arc<TriggerDeps>, stop: CancellationToken) {
    let mut made = EnsuredBuckets::default();
    let mut tick = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for turn in 0_u32.. {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let worked = async {
            ensure_buckets(&inner, &mut made).await?;
            if turn.is_multiple_of(UPLOAD_SWEEP_TICKS) {
                delete_expired_uploads(&inner).await?;
            }
            if turn.is_multiple_of(DEDUP_SWEEP_TICKS) { prune_dedup(&inner).await } else { Ok(()) }
        };
        let worked = tokio::select! {
            () = stop.cancelled() => return,
            worked = worked => worked,
        };
        if let Err(error) = worked {
            tracing::warn!(error.code = error.code(), "housekeeping of the triggers failed: {error}");
        }
    }
}

/// Creates the embedded buckets that triggers name.
pub async fn ensure_buckets(inner: &TriggerDeps, made: &mut EnsuredBuckets) -> Result<()> {
    let objects = inner.engine.objects();
    for target in inner.live_s3_triggers().await? {
        let bucket = target.trigger.bucket;
        if objects.is_embedded(&bucket) && !made.0.contains(&bucket) {
            objects.ensure_bucket(&bucket).await?;
            made.0.insert(bucket);
        }
    }
    Ok(())
}

/// Deletes uploads that were announced but never completed, with their bytes.
async fn delete_expired_uploads(inner: &TriggerDeps) -> Result<()> {
    let db = inner.engine.db();
    for upload in db.list_expired_uploads(clock::now_millis() - UPLOAD_GRACE, 100).await? {
        // If the run exists, the bytes belong to it, and only the record of the upload is deleted.
        if db.find_run(&upload.id).await?.is_none() {
            let (bucket, key) = (upload.file["bucket"].as_str(), upload.file["key"].as_str());
            if let (Some(bucket), Some(key)) = (bucket, key)
                && let Err(error) = inner.engine.objects().delete_object(bucket, key).await
            {
                // A failed deletion must not block the others.
                tracing::warn!(error.code = error.code(), "an expired upload could not be deleted: {error}");
                if error.is_transient() {
                    continue;
                }
            }
        }
        db.delete_upload(&upload.id).await?;
    }
    Ok(())
}

/// Deletes old dedup keys. Every scan lists a polled object again, so retention counts from the oldest last scan.
async fn prune_dedup(inner: &TriggerDeps) -> Result<()> {
    let db = inner.engine.db();
    let targets = inner.live_s3_triggers().await?;
    let live: Vec<String> = targets.iter().map(poll::poll_id).collect();
    db.delete_stale_polls(clock::now_millis() - DAY_MS, &live).await?;
    let seen = db.find_oldest_scan().await?.unwrap_or_else(clock::now_millis).min(clock::now_millis());
    for source in [S3_SOURCE, poll::S3_LISTED_SOURCE, UPLOAD_SOURCE, publish_event::EVENT_SOURCE, cron::CRON_SOURCE] {
        db.delete_dedup_keys(source, seen - DEDUP_RETENTION_MS).await?;
    }
    Ok(())
}
