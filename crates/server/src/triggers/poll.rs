//! Looking again and again at what lies under a prefix, for stores that tell nobody of new objects.
//!
//! The inbox says what has been seen. It is asked once for each thousand objects, only about those that are young enough
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

use super::Inner;
use super::accept::{SOURCE, Target, may_pass};
use super::event::{Told, identity};
use afterload_core::clock::{self, Millis};
use afterload_core::error::Result;
use afterload_object_store::Listed;
use afterload_state::{InboxRecord, Poll};

/// Who counts, in the inbox, the identities that a list shows and a closer look does not.
pub const LISTED: &str = "s3-listed";
/// How often to look for triggers that are due.
const LOOK: Duration = Duration::from_secs(1);
/// Looks at once.
const AT_ONCE: usize = 4;
const MINUTE: Millis = 60_000;
/// How long others leave a look alone whose process has died.
const LEASE: Millis = MINUTE;
/// The longest pause after a failed look.
const PAUSE: Millis = MINUTE;
/// How far the clock of a store may be from ours: what is older than the trigger by more than that starts nothing. No
/// store accepts signatures that are further away.
const SKEW: Millis = 15 * MINUTE;
/// How long before its appearance an object may claim to have been written: the parts of one come in first.
const UNFINISHED: Millis = 8 * 24 * 60 * MINUTE;
/// How many objects of a trigger a process remembers by itself.
const REMEMBERED: usize = 200_000;

/// Identities that need not be asked for again.
type Seen = HashSet<u128>;

/// Names a trigger that polls, as long as it looks at the same place.
pub fn id(target: &Target) -> String {
    let Target { pipeline, trigger, .. } = target;
    hex::encode(Sha256::digest(format!("{pipeline}\0{}\0{}\0{}", trigger.bucket, trigger.prefix, trigger.suffix)))
}

pub async fn work(inner: Arc<Inner>, stop: CancellationToken) {
    let mut looks: JoinSet<(String, Seen)> = JoinSet::new();
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let mut busy: HashMap<tokio::task::Id, String> = HashMap::new();
    let mut next = HashMap::new();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
            Some(ended) = looks.join_next_with_id() => {
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
        let targets = match inner.targets().await {
            Ok(targets) => targets,
            Err(error) => {
                tracing::warn!(error.code = error.code(), "looking for triggers that poll failed: {error}");
                continue;
            }
        };
        let targets: Vec<_> = targets.into_iter().filter(|target| target.trigger.poll_ms.is_some()).collect();
        let live: HashSet<String> = targets.iter().map(id).collect();
        seen.retain(|id, _| live.contains(id));
        next.retain(|id, _| live.contains(id));
        for target in targets {
            let id = id(&target);
            let due = next.get(&id).is_none_or(|at| *at <= Instant::now());
            if !due || busy.values().any(|known| *known == id) || looks.len() >= AT_ONCE {
                continue;
            }
            let period = Duration::from_millis(target.trigger.poll_ms.unwrap_or(MINUTE).unsigned_abs());
            // Another process may have looked a moment ago, so ask for the turn more often than it comes.
            next.insert(id.clone(), Instant::now() + (period / 4).max(LOOK));
            let known = seen.remove(&id).unwrap_or_default();
            let task = looks.spawn(look(inner.clone(), target, id.clone(), known, stop.clone()));
            busy.insert(task.id(), id);
        }
    }
    looks.shutdown().await;
}

/// Takes its turn, if it is this process's, and looks.
async fn look(
    inner: Arc<Inner>,
    target: Target,
    id: String,
    mut seen: Seen,
    stop: CancellationToken,
) -> (String, Seen) {
    let db = inner.engine.db();
    let began = clock::now();
    let period = target.trigger.poll_ms.unwrap_or(MINUTE);
    let claimed = db.claim_poll(&id, target.published_at, period, &inner.name, LEASE).await;
    let failed = match claimed {
        Ok(None) => return (id, seen),
        Ok(Some(poll)) => {
            let passed = tokio::select! {
                () = stop.cancelled() => Ok(false),
                passed = inner.pass(&target, &id, poll, &mut seen) => passed,
            };
            failpoint!("poll.passed");
            let pause = if passed.is_err() { period.min(PAUSE) } else { 0 };
            let passed_at = matches!(passed, Ok(true)).then_some(began);
            let released = db.release_poll(&id, &inner.name, passed_at, pause).await;
            failpoint!("poll.released");
            passed.map(drop).and(released).err()
        }
        Err(error) => Some(error),
    };
    if let Some(error) = failed {
        let bucket = &target.trigger.bucket;
        tracing::warn!(
            error.code = error.code(),
            pipeline.name = target.pipeline,
            object.bucket = bucket,
            "looking for new objects failed and will be tried again: {error}"
        );
    }
    (id, seen)
}

impl Inner {
    /// Looks at every object once. False if another process has taken over.
    async fn pass(&self, target: &Target, id: &str, poll: Poll, seen: &mut Seen) -> Result<bool> {
        let (oldest, db) = (oldest(poll), self.engine.db());
        let (mut from, mut listed) = (None, Seen::new());
        loop {
            let page = self.engine.objects().list(&target.trigger.bucket, &target.trigger.prefix, from).await?;
            let young = page.objects.into_iter().filter(|object| object.modified_at >= oldest);
            let wanted = young.filter(|object| target.trigger.matches(&target.trigger.bucket, &object.key));
            let mut new = Vec::new();
            for object in wanted {
                let identity = identity(&target.trigger.bucket, &object.key, None, &object.etag, object.size);
                if seen.contains(&short(&identity)) {
                    remember(&mut listed, &identity);
                } else {
                    new.push((object, identity));
                }
            }
            let keys: Vec<_> = new.iter().map(|(_, identity)| identity.clone()).collect();
            let known = db.known_keys(&target.pipeline, [SOURCE, LISTED], &keys).await?;
            for (object, identity) in new {
                if !known.contains(&identity) {
                    self.found(target, object, &identity).await?;
                    failpoint!("poll.found");
                    if !db.keep_poll(id, &self.name, LEASE).await? {
                        return Ok(false);
                    }
                }
                remember(&mut listed, &identity);
            }
            from = page.next;
            if from.is_none() {
                *seen = listed;
                return Ok(true);
            }
            if !db.keep_poll(id, &self.name, LEASE).await? {
                return Ok(false);
            }
        }
    }

    async fn found(&self, target: &Target, object: Listed, listed: &str) -> Result<()> {
        let Listed { key, etag, size, modified_at } = object;
        let bucket = target.trigger.bucket.clone();
        let told = Told { bucket, keys: vec![key], version: None, etag, size: Some(size), at: Some(modified_at) };
        let accepted = match self.accept(std::slice::from_ref(target), &told).await {
            Err(error) if !may_pass(&error) => {
                let key = &told.keys[0];
                tracing::error!(error.code = error.code(), object.key = key, "a new object starts nothing: {error}");
                return Ok(());
            }
            accepted => accepted?,
        };
        // A list shows no versions: without a note the object would be looked at closely every time.
        if accepted.identity.is_some_and(|identity| identity != listed) {
            let note = InboxRecord {
                pipeline: target.pipeline.clone(),
                source: LISTED.to_owned(),
                key: listed.to_owned(),
                fingerprint: None,
                run_id: accepted.started.into_iter().next().unwrap_or_else(|| Ulid::nil().to_string()),
            };
            let mut tx = self.engine.db().begin().await?;
            tx.insert_inbox(&note).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

/// What was written before cannot be new.
fn oldest(poll: Poll) -> Millis {
    let since = poll.since - SKEW;
    poll.passed_at.map_or(since, |passed_at| since.max(passed_at - UNFINISHED))
}

fn short(identity: &str) -> u128 {
    u128::from_str_radix(identity.get(..32).unwrap_or_default(), 16).unwrap_or_default()
}

fn remember(seen: &mut Seen, identity: &str) {
    if seen.len() < REMEMBERED {
        seen.insert(short(identity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_trigger_starts_nothing() {
        let new = Poll { since: 10 * UNFINISHED, passed_at: None };
        assert_eq!(oldest(new), 10 * UNFINISHED - SKEW);
        let soon = Poll { passed_at: Some(10 * UNFINISHED + MINUTE), ..new };
        assert_eq!(oldest(soon), oldest(new), "what was begun before may have been finished since");
        let later = Poll { passed_at: Some(20 * UNFINISHED), ..new };
        assert_eq!(oldest(later), 19 * UNFINISHED);
    }
}
