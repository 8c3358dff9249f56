//! What follows the live pipelines beside their events: the buckets of their triggers, and the age of the inbox.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::accept::SOURCE;
use super::{Inner, cron, poll, tell};
use afterload_core::clock::{self, Millis};
use afterload_core::error::Result;

/// How often to look at what is live.
const LOOK: Duration = Duration::from_secs(1);
/// How often the inbox is swept, in looks.
const SWEEP_EVERY: u32 = 3600;
/// How often uploads that never came are swept, in looks.
const UPLOADS_EVERY: u32 = 60;
/// How long after its end an upload may still be arriving.
pub const LATE: Millis = 2 * 3_600_000;
const DAY: Millis = 86_400_000;
/// How long an object is remembered: longer than anybody tells of it again.
const REMEMBERED: Millis = 30 * DAY;

/// Who counts the announced uploads in the inbox.
pub const UPLOADS: &str = "uploads";

/// The buckets that are there for certain.
#[derive(Default)]
pub struct Made(BTreeSet<String>);

pub async fn work(inner: Arc<Inner>, stop: CancellationToken) {
    let mut made = Made::default();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for turn in 0_u32.. {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let worked = async {
            make_buckets(&inner, &mut made).await?;
            if turn.is_multiple_of(UPLOADS_EVERY) {
                sweep_uploads(&inner).await?;
            }
            if turn.is_multiple_of(SWEEP_EVERY) { sweep(&inner).await } else { Ok(()) }
        };
        let worked = tokio::select! {
            () = stop.cancelled() => return,
            worked = worked => worked,
        };
        if let Err(error) = worked {
            tracing::warn!(error.code = error.code(), "following the live triggers failed: {error}");
        }
    }
}

/// Makes the embedded buckets that triggers name.
pub async fn make_buckets(inner: &Inner, made: &mut Made) -> Result<()> {
    let objects = inner.engine.objects();
    for target in inner.targets().await? {
        let bucket = target.trigger.bucket;
        if objects.is_embedded(&bucket) && !made.0.contains(&bucket) {
            objects.ensure_bucket(&bucket).await?;
            made.0.insert(bucket);
        }
    }
    Ok(())
}

/// Forgets announced uploads that were never completed, with their bytes.
async fn sweep_uploads(inner: &Inner) -> Result<()> {
    let db = inner.engine.db();
    for upload in db.expired_uploads(clock::now() - LATE, 100).await? {
        if db.run(&upload.id).await?.is_none() {
            let (bucket, key) = (upload.file["bucket"].as_str(), upload.file["key"].as_str());
            if let (Some(bucket), Some(key)) = (bucket, key)
                && let Err(error) = inner.engine.objects().delete(bucket, key).await
            {
                // One that cannot be deleted must not keep the others.
                tracing::warn!(error.code = error.code(), "an upload that never came was not deleted: {error}");
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
async fn sweep(inner: &Inner) -> Result<()> {
    let db = inner.engine.db();
    let targets = inner.targets().await?;
    let live: Vec<String> = targets.iter().map(poll::id).collect();
    db.forget_polls(clock::now() - DAY, &live).await?;
    let seen = db.all_polled_at().await?.unwrap_or_else(clock::now).min(clock::now());
    for source in [SOURCE, poll::LISTED, UPLOADS, tell::SOURCE, cron::SOURCE] {
        db.forget_inbox(source, seen - REMEMBERED).await?;
    }
    Ok(())
}
