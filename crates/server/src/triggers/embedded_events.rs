//! The events of the embedded store. They are written with the objects, in one transaction, and forgotten after the runs
//! have been committed: a crash in between repeats an event, and its dedup key is known.

use afterload_core::failpoint;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::TriggerDeps;
use super::accept::is_retryable;
use super::object_created::ObjectCreated;
use afterload_core::error::Result;
use afterload_s3_server::{EmbeddedStore, ObjectEvent, ObjectEventKind};

/// How often to check for objects that other processes created in the same folder.
const EMBEDDED_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How many events are read at once.
const EVENT_BATCH_SIZE: u32 = 200;
/// The longest pause after a failure.
const MAX_EVENT_RETRY_DELAY: Duration = Duration::from_secs(15);

pub async fn run_embedded_events(inner: Arc<TriggerDeps>, embedded: EmbeddedStore, stop: CancellationToken) {
    let mut pause = EMBEDDED_POLL_INTERVAL;
    loop {
        let drained = tokio::select! {
            () = stop.cancelled() => return,
            drained = process_events(&inner, &embedded) => drained,
        };
        match drained {
            Ok(()) => {
                pause = EMBEDDED_POLL_INTERVAL;
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = timeout(EMBEDDED_POLL_INTERVAL, embedded.wait_for_change()) => {}
                }
            }
            Err(error) => {
                tracing::warn!(error.code = error.code().name(), "processing object events failed; retrying: {error}");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(MAX_EVENT_RETRY_DELAY);
            }
        }
    }
}

async fn process_events(inner: &TriggerDeps, embedded: &EmbeddedStore) -> Result<()> {
    loop {
        let events = embedded.events_after(0, EVENT_BATCH_SIZE).await?;
        let Some(last) = events.last() else { return Ok(()) };
        let targets = inner.live_s3_triggers().await?;
        for event in &events {
            if event.kind != ObjectEventKind::Created
                || targets.iter().all(|target| target.trigger.bucket != event.bucket)
            {
                continue;
            }
            if let Err(error) = inner.accept_object(&targets, &object_created_from_event(event)).await {
                if is_retryable(&error) {
                    return Err(error);
                }
                let (bucket, key) = (&event.bucket, &event.key);
                tracing::error!(
                    error.code = error.code().name(),
                    object.bucket = bucket,
                    object.key = key,
                    "a new object starts no run: {error}"
                );
            }
        }
        failpoint!("drain.before_forget");
        embedded.delete_events(last.seq).await?;
        failpoint!("drain.forgotten");
    }
}

fn object_created_from_event(event: &ObjectEvent) -> ObjectCreated {
    let ObjectEvent { bucket, key, etag, size, occurred_at: at, .. } = event.clone();
    ObjectCreated { bucket, keys: vec![key], version: None, etag, size: Some(size), at: Some(at) }
}
