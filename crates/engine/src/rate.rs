//! Steps that may not start too often: `rate_limit`.
//!
//! An attempt takes the next free slot of its key. If that is some way ahead it goes back to the queue until then, so
//! that no worker is held; what is left is waited for here. It may come late for its slot (the queue has a grain of a
//! second, and its workers may be busy), and several late ones must not start together: so each start is one statement
//! that is refused while the start before it is too near. Those of one process ask one after another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::compiled::Compiled;
use afterload_core::clock::{self, Millis};
use afterload_core::error::{Error, Result};
use afterload_pipeline::resolve_to_text;
use afterload_state::queue::Lease;
use afterload_state::{Claimed, RunRecord, Verdict};

/// A slot further ahead than this, in milliseconds, is not waited for in place.
const AHEAD: Millis = 1_000;
/// An attempt that is later than this for its slot, in milliseconds, takes another one: many that are late, as after a
/// downtime, are spread anew.
const PATIENCE: Millis = 3_000;
/// The grain of the queue, in milliseconds.
const GRAIN: Millis = 1_000;
/// Keys that nobody has used for this long, in milliseconds, are forgotten.
pub(super) const KEPT: Millis = 24 * 3_600_000;

/// Those of this process that want to start under a key ask one after another.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Lanes {
    fn of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(key).and_then(Weak::upgrade) {
            return lane;
        }
        lanes.retain(|_, lane| lane.strong_count() > 0);
        let lane = Arc::default();
        lanes.insert(key.to_owned(), Arc::downgrade(&lane));
        lane
    }
}

/// How often the attempts of a key may start.
struct Rate {
    key: String,
    /// In milliseconds.
    interval: i64,
}

/// Where an attempt is with its slot.
enum Slot {
    /// It has started.
    Started,
    /// It may start at this time.
    At(Millis),
}

/// What ends the waiting for a slot.
struct Stops<'a>([&'a CancellationToken; 3]);

impl Stops<'_> {
    /// Rests until a time.
    async fn rest(&self, until: Millis) -> Result<()> {
        let rest = Duration::from_millis(u64::try_from(until - clock::now()).unwrap_or(0));
        tokio::select! {
            () = tokio::time::sleep(rest) => Ok(()),
            () = self.stopped() => Err(stopped()),
        }
    }

    async fn stopped(&self) {
        let [one, two, three] = self.0;
        tokio::select! {
            () = one.cancelled() => {}
            () = two.cancelled() => {}
            () = three.cancelled() => {}
        }
    }
}

impl Inner {
    /// Returns when a step may start: at once without a `rate_limit`. `Some`: not before this time, to be waited for in
    /// the queue.
    ///
    /// # Errors
    /// `expression_failed` for its key; `step_stopped` if the attempt is to stop before it has started.
    pub(super) async fn pace(
        &self,
        (lease, claimed, cancel): (&Lease, &Claimed, &CancellationToken),
        run: &RunRecord,
        compiled: &Compiled,
        index: usize,
    ) -> Result<Option<Millis>> {
        let known = &compiled.steps[index];
        let limited = known.step.rate_limit.as_ref().filter(|_| known.fans_out(&claimed.step).is_none());
        let Some(limit) = limited else { return Ok(None) };
        let key = match &limit.key {
            Some(key) => resolve_to_text(key, &self.scope(run, compiled, known, &claimed.step).await?)?,
            None => format!("{}/{}", compiled.plan.name, known.step.id),
        };
        // A digest: what the key says may be long, or a secret.
        let rate = Rate { key: hex::encode(Sha256::digest(key)), interval: limit.interval_ms };
        let stops = Stops([cancel, &self.draining, &lease.lost]);
        let mut late = false;
        loop {
            let taken = self.take_slot(claimed, &rate, late).await;
            let slot = match self.unless_away(taken, &stops).await? {
                Some(Slot::Started) => return Ok(None),
                Some(Slot::At(slot)) => slot,
                None => continue,
            };
            if slot > clock::now() + AHEAD {
                return Ok(Some(slot - slot.rem_euclid(GRAIN)));
            }
            stops.rest(slot).await?;
            if self.start_by(claimed, &rate, slot + PATIENCE, &stops).await? {
                return Ok(None);
            }
            late = true;
        }
    }

    /// Takes a slot, unless the step has one that still counts, and starts if it is there and nobody has just started.
    async fn take_slot(&self, claimed: &Claimed, rate: &Rate, late: bool) -> Result<Slot> {
        let (id, claim) = (&claimed.step.id, claimed.step.claims);
        let taken = self.db.write(async |tx| {
            let known = tx.slot(id, claim).await?.ok_or_else(stopped)?;
            let now = clock::now();
            let slot = match known.filter(|slot| !late && now <= slot + PATIENCE) {
                Some(slot) => slot,
                None => tx.take_slot(&rate.key, now, rate.interval).await?,
            };
            if slot <= now && tx.start_in_slot(&rate.key, now, rate.interval).await?.is_none() {
                tx.use_slot(id, claim, now).await?;
                return Ok(Verdict::Keep(Slot::Started));
            }
            tx.wait_for_slot(id, claim, slot).await?;
            Ok(Verdict::Keep(Slot::At(slot)))
        });
        taken.await
    }

    /// Starts as soon as the start before is far enough away. False: that would be after the deadline.
    async fn start_by(&self, claimed: &Claimed, rate: &Rate, deadline: Millis, stops: &Stops<'_>) -> Result<bool> {
        let lane = self.lanes.of(&rate.key);
        let _turn = tokio::select! {
            turn = lane.lock() => turn,
            rested = stops.rest(deadline) => return rested.map(|()| false),
        };
        loop {
            let tried = self.try_start(claimed, rate).await;
            match self.unless_away(tried, stops).await? {
                Some(Slot::Started) => return Ok(true),
                Some(Slot::At(time)) if time > deadline => return Ok(false),
                Some(Slot::At(time)) => stops.rest(time).await?,
                None => {}
            }
        }
    }

    async fn try_start(&self, claimed: &Claimed, rate: &Rate) -> Result<Slot> {
        let (id, claim) = (&claimed.step.id, claimed.step.claims);
        let tried = self.db.write(async |tx| {
            tx.slot(id, claim).await?.ok_or_else(stopped)?;
            let now = clock::now();
            if let Some(time) = tx.start_in_slot(&rate.key, now, rate.interval).await? {
                return Ok(Verdict::Undo(Slot::At(time)));
            }
            tx.use_slot(id, claim, now).await?;
            Ok(Verdict::Keep(Slot::Started))
        });
        tried.await
    }

    /// A database that is away is no failure of the step: `None`, after a pause.
    async fn unless_away(&self, done: Result<Slot>, stops: &Stops<'_>) -> Result<Option<Slot>> {
        match done {
            Err(error) if error.is_transient() => {
                self.pause(&error, "taking a slot").await;
                stops.rest(clock::now()).await.map(|()| None)
            }
            done => done.map(Some),
        }
    }
}

/// Why an attempt that waits for its slot ends.
fn stopped() -> Error {
    Error::stopped("step_stopped", "the step was stopped before it started")
}

/// What an attempt leaves that goes back to the queue until its slot.
pub(super) fn waits() -> Error {
    Error::stopped("step_waits", "the step waits for its `rate_limit`")
}
