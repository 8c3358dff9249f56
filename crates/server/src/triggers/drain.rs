//! The events of the embedded store. They are written with the objects, in one transaction, and forgotten after the runs
//! have been committed: a crash in between repeats an event, and the inbox knows it.

use afterload_core::failpoint;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::accept::may_pass;
use super::event::Told;
use afterload_core::error::Result;
use afterload_s3_server::{Embedded, Event, EventKind};

/// How often to look for what other processes of the folder have created.
const LOOK: Duration = Duration::from_secs(1);
/// Events in one go.
const BATCH: u32 = 200;
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

pub async fn work(inner: Arc<Inner>, embedded: Embedded, stop: CancellationToken) {
    let mut pause = LOOK;
    loop {
        let drained = tokio::select! {
            () = stop.cancelled() => return,
            drained = drain(&inner, &embedded) => drained,
        };
        match drained {
            Ok(()) => {
                pause = LOOK;
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = timeout(LOOK, embedded.news()) => {}
                }
            }
            Err(error) => {
                tracing::warn!(error.code = error.code(), "events of the object store wait for a better time: {error}");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn drain(inner: &Inner, embedded: &Embedded) -> Result<()> {
    loop {
        let events = embedded.events_after(0, BATCH).await?;
        let Some(last) = events.last() else { return Ok(()) };
        let targets = inner.targets().await?;
        for event in &events {
            if event.kind != EventKind::Created || targets.iter().all(|target| target.trigger.bucket != event.bucket) {
                continue;
            }
            if let Err(error) = inner.accept(&targets, &told(event)).await {
                if may_pass(&error) {
                    return Err(error);
                }
                let (bucket, key) = (&event.bucket, &event.key);
                tracing::error!(
                    error.code = error.code(),
                    object.bucket = bucket,
                    object.key = key,
                    "a new object starts nothing: {error}"
                );
            }
        }
        failpoint!("drain.before_forget");
        embedded.forget_events(last.seq).await?;
        failpoint!("drain.forgotten");
    }
}

fn told(event: &Event) -> Told {
    let Event { bucket, key, etag, size, at, .. } = event.clone();
    Told { bucket, keys: vec![key], version: None, etag, size: Some(size), at: Some(at) }
}
