//! What follows the live pipelines beside their events: the buckets of their triggers, and the age of the inbox.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::accept::S3_SOURCE;
use super::{TriggerDeps, cron, poll, publish_event};
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::Result;

/// How often to look at what is live.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);
/// How often the inbox is swept, in looks.
const DEDUP_SWEEP_TICKS: u32 = 3600;
/// How often uploads that never came are swept, in looks.
const UPLOAD_SWEEP_TICKS: u32 = 60;
/// How long after its end an upload may still be arriving.
pub const UPLOAD_GRACE: UnixMillis = 2 * 3_600_000;
const DAY_MS: UnixMillis = 86_400_000;
/// How long an object is remembered: longer than anybody tells of it again.
const DEDUP_RETENTION_MS: UnixMillis = 30 * DAY_MS;

/// Who counts the announced uploads in the inbox.
pub const UPLOAD_SOURCE: &str = "uploads";

/// The buckets that are there for certain.
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
            tracing::warn!(error.code = error.code().name(), "following the live triggers failed: {error}");
        }
    }
}

/// Makes the embedded buckets that triggers name.
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

/// Forgets announced uploads that were never completed, with their bytes.
async fn delete_expired_uploads(inner: &TriggerDeps) -> Result<()> {
    let db = inner.engine.db();
    for upload in db.list_expired_uploads(clock::now_millis() - UPLOAD_GRACE, 100).await? {
        if db.find_run(&upload.id).await?.is_none() {
            let (bucket, key) = (upload.file["bucket"].as_str(), upload.file["key"].as_str());
            if let (Some(bucket), Some(key)) = (bucket, key)
                && let Err(error) = inner.engine.objects().delete_object(bucket, key).await
            {
                // One that cannot be deleted must not keep the others.
                tracing::warn!(error.code = error.code().name(), "an upload that never came was not deleted: {error}");
                if error.is_transient() {
                    continue;
                }
            }
        }
        db.delete_upload(&upload.id).await?;
    }
    Ok(())
}

/// Forgets objects that nobody will tell of any more. What is polled is told of at every look, so that counts from the
/// last one.
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
