//! The tasks of a process that works: one worker per queue, the keep-alive, the sweep, the listener.

use afterload_core::failpoint;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::lifecycle::run_notifications;
use crate::maintenance::retention;
use crate::{DedupKey, Engine, EngineCore, QueueSelection};
use afterload_core::clock;
use afterload_core::error::Result;
use afterload_state::queue::{JobQueue, NewJob};

/// How often the sweep looks for what has come due.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is looked for what other processes did: changes of runs that are watched here, cancels.
const CHANGE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How often, in looks, cancels are settled that a crash left half done.
const FINISH_CANCELS_EVERY_POLLS: u32 = 20;
/// How often, in looks, runs that wait for room are looked after.
const RECONCILE_EVERY_POLLS: u32 = 2;
/// The sweep pushes this much ahead of time, so that what is due between two sweeps waits in the queue.
const ENQUEUE_LOOKAHEAD: Duration = Duration::from_secs(10);
/// How many steps one sweep pushes; the rest follows in the next.
const MAX_SWEEP_STEPS: u32 = 1000;
/// How often long-gone workers are forgotten, in sweeps.
const PRUNE_EVERY_SWEEPS: u32 = 120;

impl Engine {
    /// Works these queues, and does what every process does, until `stop`; then parks what can be parked and waits for
    /// the rest, at most `limits.drain`.
    ///
    /// # Errors
    /// Those of the database at the start; later ones are logged and survived.
    pub async fn run_workers(&self, queues: QueueSelection, stop: CancellationToken) -> Result<()> {
        let inner = self.0.clone();
        let _alive = inner.reclaim_if_alone().await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(run_periodically(
            JobQueue::LEASE_RENEW_INTERVAL,
            stop.clone(),
            inner.clone(),
            |inner, _| async move { inner.queue.renew_leases().await },
        ));
        tasks.spawn(run_periodically(
            JobQueue::WAKE_DUE_INTERVAL,
            stop.clone(),
            inner.clone(),
            |inner, _| async move { inner.queue.wake_due_queues().await },
        ));
        tasks.spawn(run_periodically(SWEEP_INTERVAL, stop.clone(), inner.clone(), |inner, turn| async move {
            inner.run_sweep(turn).await
        }));
        tasks.spawn(run_periodically(CHANGE_POLL_INTERVAL, stop.clone(), inner.clone(), |inner, turn| async move {
            inner.poll_cancelled_runs(turn % FINISH_CANCELS_EVERY_POLLS == 0).await?;
            if turn % RECONCILE_EVERY_POLLS == 0 {
                inner.reconcile_concurrency().await?;
            }
            inner.poll_watched_runs().await
        }));
        tasks.spawn(run_periodically(
            retention::RETENTION_INTERVAL,
            stop.clone(),
            inner.clone(),
            |inner, turn| async move { inner.apply_retention(turn).await },
        ));
        tasks.spawn(run_notifications::send_due_notifications(inner.clone(), stop.clone()));
        tasks.spawn(listen_with_retry(inner.clone(), stop.clone()));
        tasks.spawn(enqueue_resumed_steps(inner.clone()));
        tasks.spawn(drain_on_stop(inner.clone(), stop.clone()));
        inner.clone().run_queue_workers(&queues, &stop).await;
        tasks.shutdown().await;
        Ok(())
    }
}

/// Steps in hand are asked to stop as soon as the process is.
async fn drain_on_stop(inner: Arc<EngineCore>, stop: CancellationToken) {
    stop.cancelled().await;
    inner.draining.cancel();
}

/// What this process resumes gets its jobs at once.
async fn enqueue_resumed_steps(inner: Arc<EngineCore>) {
    loop {
        inner.pause_signals.wait_for_resume().await;
        let pushed = async {
            while inner.enqueue_missing_jobs().await? {}
            Ok::<_, afterload_core::error::Error>(())
        };
        if let Err(error) = pushed.await {
            warn!(error.code = error.code(), "what was resumed is left to the next sweep: {error}");
        }
    }
}

async fn listen_with_retry(inner: Arc<EngineCore>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = inner.queue.listen_for_jobs(&stop).await {
            warn!(error.code = error.code(), "listening for new jobs failed; polling meanwhile: {error}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Calls `work` at every tick; a failure is logged and does not end it. The keep-alive goes on while the process drains.
async fn run_periodically<F>(
    period: Duration,
    stop: CancellationToken,
    inner: Arc<EngineCore>,
    work: impl Fn(Arc<EngineCore>, u32) -> F,
) where
    F: Future<Output = Result<()>>,
{
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for turn in 0.. {
        tick.tick().await;
        if let Err(error) = work(inner.clone(), turn).await {
            warn!(
                error.code = error.code(),
                stopping = stop.is_cancelled(),
                "a regular task failed and will be tried again: {error}"
            );
        }
    }
}

impl EngineCore {
    /// On SQLite a process that is alone takes back at once what a crash left, instead of waiting for the leases to
    /// end. The returned file is the sign that somebody lives; hold it.
    async fn reclaim_if_alone(&self) -> Result<Option<File>> {
        let Some(path) = self.db.path() else { return Ok(None) };
        let file = File::options().create(true).append(true).open(path.with_added_extension("alive"))?;
        if file.try_lock().is_ok() {
            let reclaimed = self.queue.reclaim_all_leases().await?;
            if reclaimed > 0 {
                info!(steps = reclaimed, "took back the steps that a crash left");
            }
        }
        let shared = tokio::task::spawn_blocking(move || file.lock_shared().map(|()| file));
        Ok(Some(shared.await.map_err(|error| afterload_core::error::Error::transient("io_error", error.to_string()))??))
    }

    /// Pushes the jobs of steps that have come due, and of any step that should have one and does not. True: there may
    /// be more.
    async fn enqueue_missing_jobs(&self) -> Result<bool> {
        let until = clock::now_millis() + ENQUEUE_LOOKAHEAD.as_millis() as i64;
        let missing = self.queue.steps_without_job(until, MAX_SWEEP_STEPS).await?;
        let more = missing.len() == MAX_SWEEP_STEPS as usize;
        for id in missing {
            let mut tx = self.db.begin().await?;
            let Some(step) = tx.lock_due_step(&id).await? else { continue };
            if !self.queue.has_job(&mut tx, &id).await? {
                let push = NewJob { step_run: &id, queue: &step.queue, priority: step.priority, due_at: step.due_at };
                self.queue.enqueue_jobs(&mut tx, &[push]).await?;
                failpoint!("sweep.push.before_commit");
                tx.commit().await?;
                failpoint!("sweep.push.after_commit");
                self.queue.wake_queue(&step.queue);
            }
        }
        Ok(more)
    }

    /// Pushes what is missing, frees what nobody works on, and forgets what is long over.
    async fn run_sweep(&self, turn: u32) -> Result<()> {
        self.enqueue_missing_jobs().await?;
        self.queue.release_orphans().await?;
        if turn % PRUNE_EVERY_SWEEPS == 1 {
            self.queue.prune_workers().await?;
            let before = clock::now_millis() - DedupKey::IDEMPOTENCY_KEY_RETENTION.as_millis() as i64;
            self.db
                .delete_unused_rate_limits(clock::now_millis() - crate::scheduling::rate_limit::RATE_LIMIT_RETENTION_MS)
                .await?;
            self.db.delete_events_before(clock::now_millis() - crate::scheduling::suspend::EVENT_RETENTION_MS).await?;
            self.db.delete_dedup_keys(DedupKey::IDEMPOTENCY_KEY_SOURCE, before).await?;
        }
        Ok(())
    }
}
