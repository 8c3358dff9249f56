//! Runs the workers of a process and the tasks that keep their leases alive.

use crate::codes;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Engine;
use crate::components::EngineCore;
use crate::lifecycle::run_notifications::send_due_notifications;
use crate::maintenance::sweep::QueueSweeper;
use crate::maintenance::{PeriodicTask, TaskScheduler};
use crate::scheduling::pauses::Pauses;
use crate::scheduling::queues::QueueSelection;
use afterload_core::error::{Error, Result};
use afterload_state::Db;
use afterload_state::queue::JobQueue;

/// How often changes by other processes are polled: watched runs and cancels.
const CHANGE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The pause after the listener failed.
const LISTEN_RETRY_DELAY: Duration = Duration::from_secs(1);

impl Engine {
    /// Works these queues until `stop`. Then it parks steps and waits for the rest, at most `limits.drain`. The
    /// scheduler of the process runs [`Engine::maintenance_tasks`].
    ///
    /// # Errors
    /// A database error at the start. Later errors are logged and retried.
    pub async fn run_workers(&self, queues: QueueSelection, stop: CancellationToken) -> Result<()> {
        let core = &self.0;
        let _alive = reclaim_if_alone(&core.db, &core.queue).await?;
        let mut tasks = JoinSet::new();
        // They continue during the drain, because running steps need their leases until they end.
        let mut live = TaskScheduler::default();
        live.add_tasks(core.live_tasks());
        tasks.spawn(live.run(CancellationToken::new()));
        tasks.spawn(send_due_notifications(core.notifier.clone(), stop.clone()));
        tasks.spawn(listen_with_retry(core.queue.clone(), stop.clone()));
        tasks.spawn(enqueue_resumed_steps(core.pauses.clone(), core.sweeper.clone()));
        tasks.spawn(drain_on_stop(core.draining.clone(), stop.clone()));
        core.workers.run_queue_workers(&queues, &stop).await;
        tasks.shutdown().await;
        Ok(())
    }
}

impl EngineCore {
    /// The tasks that the workers need until the end of the drain.
    fn live_tasks(&self) -> [PeriodicTask; 4] {
        [
            PeriodicTask::new(
                "renew_leases",
                self.queue.lease_renew_interval(),
                self.queue.clone(),
                |queue| async move { queue.renew_leases().await },
            ),
            PeriodicTask::new("wake_due_queues", JobQueue::WAKE_DUE_INTERVAL, self.queue.clone(), |queue| async move {
                queue.wake_due_queues().await
            }),
            PeriodicTask::new(
                "poll_cancelled_runs",
                CHANGE_POLL_INTERVAL,
                self.canceller.clone(),
                |canceller| async move { canceller.poll_cancelled_runs().await },
            ),
            PeriodicTask::new("poll_watched_runs", CHANGE_POLL_INTERVAL, self.watches.clone(), |watches| async move {
                watches.poll_watched_runs().await
            }),
        ]
    }
}

/// Asks running steps to stop as soon as the process shuts down.
async fn drain_on_stop(draining: CancellationToken, stop: CancellationToken) {
    stop.cancelled().await;
    draining.cancel();
}

/// Enqueues the jobs of resumed steps at once, without waiting for the sweep.
async fn enqueue_resumed_steps(pauses: Arc<Pauses>, sweeper: QueueSweeper) {
    loop {
        pauses.wait_for_resume().await;
        let pushed = async {
            while sweeper.enqueue_missing_jobs().await? {}
            Ok::<_, Error>(())
        };
        if let Err(error) = pushed.await {
            warn!(error.code = error.code().name(), "enqueueing resumed steps failed; the next sweep retries: {error}");
        }
    }
}

async fn listen_with_retry(queue: Arc<JobQueue>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = queue.listen_for_jobs(&stop).await {
            warn!(error.code = error.code().name(), "listening for new jobs failed; polling meanwhile: {error}");
            tokio::time::sleep(LISTEN_RETRY_DELAY).await;
        }
    }
}

/// On SQLite a process that is alone reclaims the steps of a crashed process at once, without waiting for the leases to
/// end. Keep the returned file open: its lock shows that this process is alive.
async fn reclaim_if_alone(db: &Db, queue: &JobQueue) -> Result<Option<File>> {
    let Some(path) = db.path() else { return Ok(None) };
    let file = File::options().create(true).append(true).open(path.with_added_extension("alive"))?;
    if file.try_lock().is_ok() {
        let reclaimed = queue.reclaim_all_leases().await?;
        if reclaimed > 0 {
            info!(steps = reclaimed, "reclaimed the steps of a crashed process");
        }
    }
    let shared = tokio::task::spawn_blocking(move || file.lock_shared().map(|()| file));
    Ok(Some(shared.await.map_err(|error| Error::new(codes::IO_ERROR, error.to_string()))??))
}
