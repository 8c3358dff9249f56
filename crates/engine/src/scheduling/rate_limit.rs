//! Limits how often steps may start: `rate_limit`.
//!
//! An attempt reserves the next free start of its key. For a distant one the step returns to the queue. For a near one
//! the attempt waits in memory, without its slot in the queue, so that no worker waits. An attempt may be late for its
//! start, because the queue has a resolution of a second and workers may be busy. Late attempts must not start together,
//! so each start is one statement that fails if the previous start is too recent. The attempts of one process start one
//! after another.

use crate::codes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::attempt::AttemptContext;
use crate::db_retry::wait_for_db;
use crate::expr_context::ContextBuilder;
use crate::plan_cache::CompiledPlan;
use afterload_core::clock::{Clock, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_pipeline::resolve_to_text;
use afterload_state::queue::{JobSlot, SlotWait};
use afterload_state::{Db, DbTx, StepClaim, TxOutcome};

/// A start that is further ahead, in milliseconds, is waited for in the queue.
const MAX_WAIT_IN_MEMORY_MS: UnixMillis = 1_000;
/// An attempt that misses its start by more, in milliseconds, and comes after another start, reserves a new one. This
/// spreads the many late attempts after a downtime.
const MAX_START_DELAY_MS: UnixMillis = 3_000;
/// How long an attempt that may start waits for a free worker before it returns to the queue.
const WORKER_PATIENCE: Duration = Duration::from_secs(1);
/// The resolution of the queue, in milliseconds.
const QUEUE_RESOLUTION_MS: UnixMillis = 1_000;
/// Unused keys are deleted after this time, in milliseconds.
pub(crate) const RATE_LIMIT_RETENTION_MS: UnixMillis = 24 * 3_600_000;

/// Locks by key: attempts of this process start one after another.
#[derive(Default)]
pub(crate) struct KeyedLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl KeyedLocks {
    fn lock_for_key(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
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

/// The key of a rate limit and its interval.
struct StartRate {
    key: String,
    /// In milliseconds.
    interval_ms: i64,
}

/// The result of trying to start.
enum StartDecision {
    /// The attempt has started.
    Started,
    /// The attempt may start at this time.
    NotBefore(UnixMillis),
}

/// What an attempt does about its start.
enum StartWait {
    /// It has started.
    Started,
    /// It has missed its reserved start.
    Missed,
    /// It waits in the queue until this time.
    InQueue(UnixMillis),
}

/// The tokens that end the wait for a start, and the clock that tells when it is due.
struct CancelTokens<'a>([&'a CancellationToken; 3], &'a Clock);

impl CancelTokens<'_> {
    /// Sleeps until a time; fails if a token is cancelled.
    async fn sleep_until(&self, until: UnixMillis) -> Result<()> {
        let rest = Duration::from_millis(u64::try_from(until - self.1.now()).unwrap_or(0));
        tokio::select! {
            () = tokio::time::sleep(rest) => Ok(()),
            () = self.any_cancelled() => Err(stopped_error()),
        }
    }

    async fn any_cancelled(&self) {
        let [one, two, three] = self.0;
        tokio::select! {
            () = one.cancelled() => {}
            () = two.cancelled() => {}
            () = three.cancelled() => {}
        }
    }
}

/// Enforces `rate_limit`.
pub(crate) struct StartLimiter {
    pub(crate) db: Db,
    pub(crate) contexts: ContextBuilder,
    pub(crate) start_locks: KeyedLocks,
    /// Cancelled when the process shuts down.
    pub(crate) draining: CancellationToken,
}

impl StartLimiter {
    /// Waits until a step may start; returns at once without a `rate_limit`. `Some`: the step should wait in the queue
    /// until this time.
    ///
    /// # Errors
    /// `expression_failed` for its key; `step_stopped` if the attempt is stopped before it starts.
    pub(crate) async fn wait_for_rate_limit(
        &self,
        attempt: AttemptContext<'_>,
        compiled: &CompiledPlan,
        index: usize,
    ) -> Result<Option<UnixMillis>> {
        let AttemptContext { lease, slot, claimed, run, cancel, .. } = attempt;
        let known = &compiled.steps[index];
        let limited = known.step.rate_limit.as_ref().filter(|_| known.fan_out_spec(&claimed.step).is_none());
        let Some(limit) = limited else { return Ok(None) };
        let key = match &limit.key {
            Some(key) => {
                resolve_to_text(key, &self.contexts.step_scope(run, compiled, known, &claimed.step).await?.expr)?
            }
            None => format!("{}/{}", compiled.plan.name, known.step.id),
        };
        // The key is stored as a digest, because its value may be long or secret.
        let rate = StartRate { key: hex::encode(Sha256::digest(key)), interval_ms: limit.interval_ms };
        let stops = CancelTokens([cancel, &self.draining, &lease.lost], self.db.clock());
        // True after a missed start: then a new one is reserved.
        let mut late = false;
        loop {
            let taken = self.reserve_or_start(claimed, &rate, late).await;
            let start = match self.retry_if_db_down(taken, &stops).await? {
                Some(StartDecision::Started) => return Ok(None),
                Some(StartDecision::NotBefore(start)) => start,
                None => continue,
            };
            if start > self.db.now() + MAX_WAIT_IN_MEMORY_MS {
                return Ok(Some(floor_second(start)));
            }
            match self.start_in_time(claimed, slot, &rate, start, &stops).await? {
                StartWait::Started => return Ok(None),
                StartWait::InQueue(until) => return Ok(Some(until)),
                StartWait::Missed => late = true,
            }
        }
    }

    /// Reserves a start unless the step has a valid one. Starts if that is due and the last start is old enough.
    async fn reserve_or_start(&self, claimed: &StepClaim, rate: &StartRate, late: bool) -> Result<StartDecision> {
        let (id, claim) = (&claimed.step.id, claimed.step.claims);
        let taken = self.db.with_tx(async |tx| {
            let known = tx.rate_limits().find_reserved_start(id, claim).await?.ok_or_else(stopped_error)?;
            let now = tx.now();
            let valid = known.filter(|start| !late && now <= start + MAX_START_DELAY_MS);
            // A step that comes late may start if nobody else does. In a queue that is always late it would never start
            // otherwise.
            let came_late = known.is_some() && valid.is_none() && !late;
            if came_late && try_start(tx, claimed, rate).await?.is_none() {
                return Ok(TxOutcome::Commit(StartDecision::Started));
            }
            let start = match valid {
                Some(start) => start,
                None => tx.rate_limits().reserve_start(&rate.key, now, rate.interval_ms).await?,
            };
            if start <= now && try_start(tx, claimed, rate).await?.is_none() {
                return Ok(TxOutcome::Commit(StartDecision::Started));
            }
            tx.rate_limits().record_reserved_start(id, claim, start).await?;
            Ok(TxOutcome::Commit(StartDecision::NotBefore(start)))
        });
        taken.await
    }

    /// Waits for a near start without a slot of the queue. Then the attempt starts when the previous start is old enough,
    /// unless that would be too late.
    async fn start_in_time(
        &self,
        claimed: &StepClaim,
        slot: &JobSlot,
        rate: &StartRate,
        start: UnixMillis,
        stops: &CancelTokens<'_>,
    ) -> Result<StartWait> {
        let deadline = start + MAX_START_DELAY_MS;
        let lock = self.start_locks.lock_for_key(&rate.key);
        let turn = async {
            stops.sleep_until(start).await?;
            tokio::select! {
                turn = lock.lock() => Ok(Some(turn)),
                rested = stops.sleep_until(deadline) => rested.map(|()| None),
            }
        };
        let _turn = match slot.wait_without_slot(turn, WORKER_PATIENCE).await? {
            SlotWait::Done(Some(turn)) => turn,
            SlotWait::Done(None) => return Ok(StartWait::Missed),
            SlotWait::NoPlace | SlotWait::NoSlot => return Ok(self.wait_in_queue(start)),
        };
        loop {
            let tried = self.try_start_attempt(claimed, rate).await;
            let time = match self.retry_if_db_down(tried, stops).await? {
                Some(StartDecision::Started) => return Ok(StartWait::Started),
                Some(StartDecision::NotBefore(time)) => time,
                None => continue,
            };
            if time > deadline {
                return Ok(StartWait::Missed);
            }
            match slot.wait_without_slot(stops.sleep_until(time), WORKER_PATIENCE).await? {
                SlotWait::Done(()) => {}
                SlotWait::NoPlace | SlotWait::NoSlot => return Ok(self.wait_in_queue(time)),
            }
        }
    }

    /// Sends an attempt to the queue that cannot wait in memory. It comes back when its start is due, not earlier: it
    /// would find the same again.
    fn wait_in_queue(&self, start: UnixMillis) -> StartWait {
        StartWait::InQueue(floor_second(start.max(self.db.now()) + QUEUE_RESOLUTION_MS))
    }

    async fn try_start_attempt(&self, claimed: &StepClaim, rate: &StartRate) -> Result<StartDecision> {
        let (id, claim) = (&claimed.step.id, claimed.step.claims);
        let tried = self.db.with_tx(async |tx| {
            tx.rate_limits().find_reserved_start(id, claim).await?.ok_or_else(stopped_error)?;
            Ok(match try_start(tx, claimed, rate).await? {
                None => TxOutcome::Commit(StartDecision::Started),
                Some(time) => TxOutcome::Rollback(StartDecision::NotBefore(time)),
            })
        });
        tried.await
    }

    /// Returns `None` after a pause if the database is unavailable, because that is not a failure of the step.
    async fn retry_if_db_down(
        &self,
        done: Result<StartDecision>,
        stops: &CancelTokens<'_>,
    ) -> Result<Option<StartDecision>> {
        match done {
            Err(error) if error.is_transient() => {
                wait_for_db(&error, "taking a slot").await;
                stops.sleep_until(self.db.now()).await.map(|()| None)
            }
            done => done.map(Some),
        }
    }
}

/// Starts the attempt if the last start is old enough. `Some`: the earliest time for its start.
async fn try_start(tx: &mut DbTx, claimed: &StepClaim, rate: &StartRate) -> Result<Option<UnixMillis>> {
    let now = tx.now();
    let refused = tx.rate_limits().try_start_now(&rate.key, now, rate.interval_ms).await?;
    if refused.is_none() {
        tx.rate_limits().record_start(&claimed.step.id, claimed.step.claims, now).await?;
    }
    Ok(refused)
}

/// The second in which a time lies. The queue delivers a job at the begin of a second.
fn floor_second(time: UnixMillis) -> UnixMillis {
    time - time.rem_euclid(QUEUE_RESOLUTION_MS)
}

/// The error of an attempt that is stopped while it waits for its start.
fn stopped_error() -> Error {
    Error::new(codes::STEP_STOPPED, "the step was stopped before it started")
}

/// The error of an attempt that returns to the queue until its start.
pub(crate) fn rate_limited_error() -> Error {
    Error::new(codes::STEP_WAITS, "the step waits for its `rate_limit`")
}
