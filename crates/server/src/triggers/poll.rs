//! Polls a prefix for new objects, for stores that send no notifications.
//!
//! The dedup keys say what has been seen. They are looked up once for each thousand objects, only about those that are young enough
//! to be new, and only about those that this process has not seen itself.

use afterload_core::failpoint;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::TriggerDeps;
use super::accept::{LiveS3Trigger, S3_SOURCE, is_retryable};
use super::object_created::{ObjectCreated, ObjectWrite, object_identity};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;
use afterload_object_store::ListedObject;
use afterload_state::{DedupRecord, PollClaim};

/// The source of the dedup keys for the identities that a list shows and a closer look does not.
pub const S3_LISTED_SOURCE: &str = "s3-listed";
/// How often to check which triggers are due.
const POLL_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How many prefixes are scanned in parallel.
const MAX_PARALLEL_POLLS: usize = 4;
const MINUTE_MS: UnixMillis = 60_000;
/// The lease of a scan. After it, another process takes over from a crashed one.
const POLL_LEASE_MS: UnixMillis = MINUTE_MS;
/// The longest pause after a failed scan.
const MAX_POLL_RETRY_DELAY_MS: UnixMillis = MINUTE_MS;
/// How far the clock of a store may differ from ours. Objects that are older than the trigger by more than this start
/// no runs. Stores reject requests with a larger difference.
const MAX_CLOCK_SKEW_MS: UnixMillis = 15 * MINUTE_MS;
/// How long before it appears an object may have its modification time: a multipart upload is dated at its start.
const MAX_UPLOAD_DURATION_MS: UnixMillis = 8 * 24 * 60 * MINUTE_MS;
/// How many seen objects a process remembers per trigger.
const MAX_SEEN_OBJECTS: usize = 200_000;

/// Shortened identities of objects that need no further query.
type SeenObjects = HashSet<u128>;

/// Identifies a polling trigger by its pipeline and what it polls.
pub fn poll_id(target: &LiveS3Trigger) -> String {
    let LiveS3Trigger { pipeline, trigger, .. } = target;
    hex::encode(Sha256::digest(format!("{pipeline}\0{}\0{}\0{}", trigger.bucket, trigger.prefix, trigger.suffix)))
}

pub async fn run_polling(inner: Arc<TriggerDeps>, stop: CancellationToken) {
    let mut polls: JoinSet<(String, SeenObjects)> = JoinSet::new();
    let mut seen: HashMap<String, SeenObjects> = HashMap::new();
    let mut busy: HashMap<tokio::task::Id, String> = HashMap::new();
    let mut next = HashMap::new();
    let mut tick = tokio::time::interval(POLL_CHECK_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
            Some(ended) = polls.join_next_with_id() => {
                match ended {
                    Ok((task, (id, known))) => {
                        busy.remove(&task);
                        seen.insert(id, known);
                    }
                    Err(error) => drop(busy.remove(&error.id())),
                }
                continue;
            }
        }
        let targets = match inner.live_s3_triggers().await {
            Ok(targets) => targets,
            Err(error) => {
                tracing::warn!(error.code = error.code().name(), "reading the polling triggers failed: {error}");
                continue;
            }
        };
        let targets: Vec<_> = targets.into_iter().filter(|target| target.trigger.poll_ms.is_some()).collect();
        let live: HashSet<String> = targets.iter().map(poll_id).collect();
        seen.retain(|id, _| live.contains(id));
        next.retain(|id, _| live.contains(id));
        for target in targets {
            let id = poll_id(&target);
            let due = next.get(&id).is_none_or(|at| *at <= Instant::now());
            if !due || busy.values().any(|known| *known == id) || polls.len() >= MAX_PARALLEL_POLLS {
                continue;
            }
            let period = Duration::from_millis(target.trigger.poll_ms.unwrap_or(MINUTE_MS).unsigned_abs());
            // Another process may hold the lease or have scanned just now, so try more often than the period.
            next.insert(id.clone(), Instant::now() + (period / 4).max(POLL_CHECK_INTERVAL));
            let known = seen.remove(&id).unwrap_or_default();
            let task = polls.spawn(poll_trigger(inner.clone(), target, id.clone(), known, stop.clone()));
            busy.insert(task.id(), id);
        }
    }
    polls.shutdown().await;
}

/// Scans the prefix if this process gets the lease.
async fn poll_trigger(
    inner: Arc<TriggerDeps>,
    target: LiveS3Trigger,
    id: String,
    mut seen: SeenObjects,
    stop: CancellationToken,
) -> (String, SeenObjects) {
    let db = inner.engine.db();
    let began = db.now();
    let period = target.trigger.poll_ms.unwrap_or(MINUTE_MS);
    let claimed = db.poll_claims().claim(&id, target.published_at, period, &inner.process_name, POLL_LEASE_MS).await;
    let failed = match claimed {
        Ok(None) => return (id, seen),
        Ok(Some(poll)) => {
            let passed = tokio::select! {
                () = stop.cancelled() => Ok(false),
                passed = inner.scan_prefix(&target, &id, poll, &mut seen) => passed,
            };
            failpoint!("poll.passed");
            let pause = if passed.is_err() { period.min(MAX_POLL_RETRY_DELAY_MS) } else { 0 };
            let passed_at = matches!(passed, Ok(true)).then_some(began);
            let released = db.poll_claims().release(&id, &inner.process_name, passed_at, pause).await;
            failpoint!("poll.released");
            passed.map(drop).and(released).err()
        }
        Err(error) => Some(error),
    };
    if let Some(error) = failed {
        let bucket = &target.trigger.bucket;
        tracing::warn!(
            error.code = error.code().name(),
            pipeline.name = target.pipeline,
            object.bucket = bucket,
            "polling for new objects failed; retrying: {error}"
        );
    }
    (id, seen)
}

impl TriggerDeps {
    /// Scans all objects once. Returns false if another process has taken over the lease.
    async fn scan_prefix(
        &self,
        target: &LiveS3Trigger,
        id: &str,
        poll: PollClaim,
        seen: &mut SeenObjects,
    ) -> Result<bool> {
        let (oldest, db) = (oldest_new_time(poll), self.engine.db());
        let (mut from, mut listed) = (None, SeenObjects::new());
        loop {
            let page = self.engine.objects().list_objects(&target.trigger.bucket, &target.trigger.prefix, from).await?;
            let young = page.objects.into_iter().filter(|object| object.modified_at >= oldest);
            let wanted = young.filter(|object| target.trigger.matches_object(&target.trigger.bucket, &object.key));
            let mut new = Vec::new();
            for object in wanted {
                let identity = listed_identity(&target.trigger.bucket, &object);
                if seen.contains(&short_identity(&identity)) {
                    mark_seen(&mut listed, &identity);
                } else {
                    new.push((object, identity));
                }
            }
            let keys: Vec<_> = new.iter().map(|(_, identity)| identity.clone()).collect();
            let known = db.dedup_keys().list_used(&target.pipeline, [S3_SOURCE, S3_LISTED_SOURCE], &keys).await?;
            for (object, identity) in new {
                if !known.contains(&identity) {
                    self.accept_listed(target, object, &identity).await?;
                    failpoint!("poll.found");
                    if !db.poll_claims().renew(id, &self.process_name, POLL_LEASE_MS).await? {
                        return Ok(false);
                    }
                }
                mark_seen(&mut listed, &identity);
            }
            from = page.next;
            if from.is_none() {
                *seen = listed;
                return Ok(true);
            }
            if !db.poll_claims().renew(id, &self.process_name, POLL_LEASE_MS).await? {
                return Ok(false);
            }
        }
    }

    async fn accept_listed(&self, target: &LiveS3Trigger, object: ListedObject, listed: &str) -> Result<()> {
        let ListedObject { key, etag, size, modified_at } = object;
        let bucket = target.trigger.bucket.clone();
        let created =
            ObjectCreated { bucket, keys: vec![key], version: None, etag, size: Some(size), at: Some(modified_at) };
        let accepted = match self.accept_object(std::slice::from_ref(target), &created).await {
            Err(error) if !is_retryable(&error) => {
                let key = &created.keys[0];
                tracing::error!(
                    error.code = error.code().name(),
                    object.key = key,
                    "a new object starts no run: {error}"
                );
                return Ok(());
            }
            accepted => accepted?,
        };
        // Lists show no versions and object ids. Record the listed identity too, or every scan would fetch the object's metadata
        // again.
        if accepted.identity.is_some_and(|identity| identity != listed) {
            let note = DedupRecord {
                pipeline: target.pipeline.clone(),
                source: S3_LISTED_SOURCE.to_owned(),
                key: listed.to_owned(),
                fingerprint: None,
                run_id: accepted
                    .started
                    .into_iter()
                    .chain(accepted.batched)
                    .next()
                    .unwrap_or_else(|| Ulid::nil().to_string()),
            };
            let mut tx = self.engine.db().begin().await?;
            tx.dedup_keys().insert(&note).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

/// The identity that a list shows: the one of a HEAD request, except for versions and object ids.
fn listed_identity(bucket: &str, object: &ListedObject) -> String {
    let ListedObject { key, etag, size, modified_at } = object;
    object_identity(bucket, key, ObjectWrite::Shown { etag, size: *size, modified_at: Some(*modified_at) })
}

/// Objects that were modified before this time cannot be new.
fn oldest_new_time(poll: PollClaim) -> UnixMillis {
    let since = poll.since - MAX_CLOCK_SKEW_MS;
    poll.last_scan_at.map_or(since, |passed_at| since.max(passed_at - MAX_UPLOAD_DURATION_MS))
}

fn short_identity(identity: &str) -> u128 {
    u128::from_str_radix(identity.get(..32).unwrap_or_default(), 16).unwrap_or_default()
}

fn mark_seen(seen: &mut SeenObjects, identity: &str) {
    if seen.len() < MAX_SEEN_OBJECTS {
        seen.insert(short_identity(identity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_older_than_the_trigger_start_no_runs() {
        let new = PollClaim { since: 10 * MAX_UPLOAD_DURATION_MS, last_scan_at: None };
        assert_eq!(oldest_new_time(new), 10 * MAX_UPLOAD_DURATION_MS - MAX_CLOCK_SKEW_MS);
        let soon = PollClaim { last_scan_at: Some(10 * MAX_UPLOAD_DURATION_MS + MINUTE_MS), ..new };
        assert_eq!(oldest_new_time(soon), oldest_new_time(new), "what was begun before may have been finished since");
        let later = PollClaim { last_scan_at: Some(20 * MAX_UPLOAD_DURATION_MS), ..new };
        assert_eq!(oldest_new_time(later), 19 * MAX_UPLOAD_DURATION_MS);
    }
}
