//! The tasks of a process that works: one worker per queue, the keep-alive, the sweep, the listener.

use afterload_core::failpoint;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Engine, Inbox, Inner, Queues, notify, retention};
use afterload_core::clock;
use afterload_core::error::Result;
use afterload_state::queue::{Chain, Push};

/// How often the sweep looks for what has come due.
const SWEEP: Duration = Duration::from_secs(5);
/// How often it is looked for what other processes did: changes of runs that are watched here, cancels.
const LOOK: Duration = Duration::from_millis(500);
/// How often, in looks, cancels are settled that a crash left half done.
const SETTLE_EVERY: u32 = 20;
/// How often, in looks, runs that wait for room are looked after.
const PLACES_EVERY: u32 = 2;
/// The sweep pushes this much ahead of time, so that what is due between two sweeps waits in the queue.
const AHEAD: Duration = Duration::from_secs(10);
/// How many steps one sweep pushes; the rest follows in the next.
const SWEEP_BATCH: u32 = 1000;
/// How often long-gone workers are forgotten, in sweeps.
const PRUNE_EVERY: u32 = 120;

impl Engine {
    /// Works these queues, and does what every process does, until `stop`; then parks what can be parked and waits for
    /// the rest, at most `limits.drain`.
    ///
    /// # Errors
    /// Those of the database at the start; later ones are logged and survived.
    pub async fn work(&self, queues: Queues, stop: CancellationToken) -> Result<()> {
        let inner = self.0.clone();
        let _alive = inner.reclaim_if_alone().await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(every(Chain::KEEP_ALIVE, stop.clone(), inner.clone(), |inner, _| async move {
            inner.chain.keep_alive().await
        }));
        tasks.spawn(every(Chain::WAKE_DUE, stop.clone(), inner.clone(), |inner, _| async move {
            inner.chain.wake_due().await
        }));
        tasks.spawn(every(SWEEP, stop.clone(), inner.clone(), |inner, turn| async move { inner.sweep(turn).await }));
        tasks.spawn(every(LOOK, stop.clone(), inner.clone(), |inner, turn| async move {
            inner.look_for_cancelled(turn % SETTLE_EVERY == 0).await?;
            if turn % PLACES_EVERY == 0 {
                inner.look_after_places().await?;
            }
            inner.look_at_watched().await
        }));
        tasks.spawn(every(retention::EVERY, stop.clone(), inner.clone(), |inner, turn| async move {
            inner.let_go(turn).await
        }));
        tasks.spawn(notify::send(inner.clone(), stop.clone()));
        tasks.spawn(listen(inner.clone(), stop.clone()));
        tasks.spawn(go_on(inner.clone()));
        tasks.spawn(drain_at(inner.clone(), stop.clone()));
        inner.clone().work_queues(&queues, &stop).await;
        tasks.shutdown().await;
        Ok(())
    }
}

/// Steps in hand are asked to stop as soon as the process is.
async fn drain_at(inner: Arc<Inner>, stop: CancellationToken) {
    stop.cancelled().await;
    inner.draining.cancel();
}

/// What this process resumes gets its jobs at once.
async fn go_on(inner: Arc<Inner>) {
    loop {
        inner.pauses.ended().await;
        let pushed = async {
            while inner.push_missing().await? {}
            Ok::<_, afterload_core::error::Error>(())
        };
        if let Err(error) = pushed.await {
            warn!(error.code = error.code(), "what was resumed is left to the next sweep: {error}");
        }
    }
}

async fn listen(inner: Arc<Inner>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = inner.chain.listen(&stop).await {
            warn!(error.code = error.code(), "listening for new jobs failed; polling meanwhile: {error}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Calls `work` at every tick; a failure is logged and does not end it. The keep-alive goes on while the process drains.
async fn every<F>(period: Duration, stop: CancellationToken, inner: Arc<Inner>, work: impl Fn(Arc<Inner>, u32) -> F)
where
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

impl Inner {
    /// On SQLite a process that is alone takes back at once what a crash left, instead of waiting for the leases to
    /// end. The returned file is the sign that somebody lives; hold it.
    async fn reclaim_if_alone(&self) -> Result<Option<File>> {
        let Some(path) = self.db.path() else { return Ok(None) };
        let file = File::options().create(true).append(true).open(path.with_added_extension("alive"))?;
        if file.try_lock().is_ok() {
            let reclaimed = self.chain.reclaim_all().await?;
            if reclaimed > 0 {
                info!(steps = reclaimed, "took back the steps that a crash left");
            }
        }
        let shared = tokio::task::spawn_blocking(move || file.lock_shared().map(|()| file));
        Ok(Some(shared.await.map_err(|error| afterload_core::error::Error::transient("io_error", error.to_string()))??))
    }

    /// Pushes the jobs of steps that have come due, and of any step that should have one and does not. True: there may
    /// be more.
    async fn push_missing(&self) -> Result<bool> {
        let until = clock::now() + AHEAD.as_millis() as i64;
        let missing = self.chain.missing(until, SWEEP_BATCH).await?;
        let more = missing.len() == SWEEP_BATCH as usize;
        for id in missing {
            let mut tx = self.db.begin().await?;
            let Some(step) = tx.lock_due_step(&id).await? else { continue };
            if !self.chain.has_job(&mut tx, &id).await? {
                let push = Push { step_run: &id, queue: &step.queue, priority: step.priority, due_at: step.due_at };
                self.chain.push(&mut tx, &[push]).await?;
                failpoint!("sweep.push.before_commit");
                tx.commit().await?;
                failpoint!("sweep.push.after_commit");
                self.chain.wake(&step.queue);
            }
        }
        Ok(more)
    }

    /// Pushes what is missing, frees what nobody works on, and forgets what is long over.
    async fn sweep(&self, turn: u32) -> Result<()> {
        self.push_missing().await?;
        self.chain.free_ghosts().await?;
        if turn % PRUNE_EVERY == 1 {
            self.chain.prune_workers().await?;
            let before = clock::now() - Inbox::REMEMBERED.as_millis() as i64;
            self.db.forget_rates(clock::now() - super::rate::KEPT).await?;
            self.db.forget_app_events(clock::now() - super::sleep::KEPT).await?;
            self.db.forget_inbox(Inbox::IDEMPOTENCY_KEY, before).await?;
        }
        Ok(())
    }
}
