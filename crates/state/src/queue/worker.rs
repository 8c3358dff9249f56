//! The worker of a queue: its start, its restart after an error of the database, and its wake-ups.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use apalis::layers::WorkerBuilderExt;
use apalis::prelude::{Attempt, BoxDynError, Data, Monitor, ParallelizeExt, TaskId, WorkerBuilder, WorkerContext};
use apalis_core::backend::ext::BackendExt;
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::job_slot::QueueSlots;
use super::{HEARTBEATS_PER_LEASE, JobHandler, JobQueue, Lease, PauseGate, StepJob, lock_mutex};

/// How often a worker polls the queue by itself. Commits and [`JobQueue::wake_due_queues`] wake it earlier.
const JOB_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How long to wait before a worker is started again.
const WORKER_RESTART_DELAY: Duration = Duration::from_secs(1);

/// The settings of the worker of a queue.
pub struct QueueWorkerSpec {
    /// The name of the queue.
    pub name: String,
    /// How many jobs of the queue this process runs at the same time.
    pub concurrency: usize,
    /// Whether the worker may fetch jobs.
    pub gate: PauseGate,
}

/// The data that every job of a queue gets.
#[derive(Clone)]
struct WorkerData {
    queue: Arc<JobQueue>,
    handler: JobHandler,
    /// The slots outlive the worker: it restarts after an error of the database while its jobs go on.
    slots: QueueSlots,
    /// The tasks of the jobs. They outlive the worker, too.
    jobs: TaskTracker,
}

/// Registers an active lease until it is dropped.
struct ActiveLease(Arc<JobQueue>, Lease);

impl Drop for ActiveLease {
    fn drop(&mut self) {
        let mut hands = lock_mutex(&self.0.active_leases);
        if hands.get(&self.1.step_run).is_some_and(|held| held.is_same_lease(&self.1)) {
            hands.remove(&self.1.step_run);
        }
    }
}

impl JobQueue {
    /// Runs the worker of a queue until `stop`, then waits at most `drain` for its active jobs.
    ///
    /// When an error of the database ends the worker, a new one starts under a new name, after the leases of this
    /// process are renewed. When a closed gate ends the worker, a new one starts once the gate opens. Its jobs go on
    /// meanwhile.
    pub async fn run_queue_worker(
        self: Arc<Self>,
        queue: QueueWorkerSpec,
        handler: JobHandler,
        stop: CancellationToken,
        drain: Duration,
    ) {
        let QueueWorkerSpec { name: queue, concurrency, mut gate } = queue;
        let slots = QueueSlots::new(concurrency);
        let work = WorkerData { queue: self.clone(), handler, slots, jobs: TaskTracker::new() };
        while gate.wait_until_open(&stop).await {
            let (end, worker) = (stop.child_token(), self.new_worker_name(&queue));
            let working = self.run_worker_once(&queue, &worker, concurrency, work.clone(), end.clone(), drain);
            gate.run_until_closed(working, &end).await;
            self.forget_worker(&queue, &worker);
            if end.is_cancelled() {
                if !stop.is_cancelled() {
                    self.release_fetched_jobs(&worker).await;
                }
                continue;
            }
            tracing::warn!(queue, "the worker of a queue ended; starting a new one");
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(WORKER_RESTART_DELAY) => {}
                }
                if self.renew_leases().await.is_ok() {
                    break;
                }
            }
        }
        // The last worker does not wait for jobs of earlier workers, nor for jobs that have left their slot.
        work.jobs.close();
        drop(tokio::time::timeout(drain, work.jobs.wait()).await);
        // A queue that nothing names any more leaves nothing behind, unless its next worker has started meanwhile.
        if !lock_mutex(&self.workers).contains_key(&queue) {
            lock_mutex(&self.wake_signals).remove(&queue);
        }
    }

    /// No name is used twice: the queue would take the row of a dead worker with the same name for a live one.
    fn new_worker_name(&self, queue: &str) -> String {
        let number = self.worker_count.fetch_add(1, Ordering::Relaxed);
        format!("{}-{queue}-{number}", self.process)
    }

    /// Forgets an ended worker, unless the next worker of its queue has taken its place.
    fn forget_worker(&self, queue: &str, worker: &str) {
        let mut workers = lock_mutex(&self.workers);
        if workers.get(queue).is_some_and(|known| known == worker) {
            workers.remove(queue);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the queue's worker owns the tasks of its jobs")]
    async fn run_worker_once(
        &self,
        queue: &str,
        worker: &str,
        concurrency: usize,
        work: WorkerData,
        stop: CancellationToken,
        drain: Duration,
    ) {
        let (name, heartbeat) = (worker.to_owned(), self.heartbeat);
        lock_mutex(&self.workers).insert(queue.to_owned(), name.clone());
        macro_rules! build_worker {
            ($storage:ident, $config:ty, $pool:expr) => {{
                let (pool, queue, signal) = ($pool.clone(), queue.to_owned(), self.wake_signal(queue));
                move |_| {
                    let config = <$config>::default()
                        .queue(&queue)
                        .batch_size(1)
                        .heartbeat_interval(heartbeat)
                        .missed_heartbeats(HEARTBEATS_PER_LEASE as _)
                        .lock_tasks(false)
                        .persist_results(false);
                    let backend = $storage::<StepJob>::new(&pool)
                        .with_config(config)
                        .poll_with_stream(wake_stream(signal.clone()));
                    WorkerBuilder::new(name.clone())
                        .backend(backend)
                        .data(work.clone())
                        .concurrency(concurrency)
                        .parallelize(tokio::spawn)
                        .build(handle_job)
                }
            }};
        }
        let monitor = Monitor::new().should_restart(|_, _| false);
        let monitor = if let Some(pool) = self.db.sqlite_pool() {
            monitor.register(build_worker!(SqliteStorage, apalis_sqlite::Config, pool))
        } else if let Some(pool) = self.db.fetch_pool() {
            monitor.register(build_worker!(PostgresStorage, apalis_postgres::Config, pool))
        } else {
            monitor
        };
        let signal = async move {
            stop.cancelled().await;
            Ok(())
        };
        if let Err(error) = monitor.shutdown_timeout(drain).run_with_signal(signal).await {
            tracing::warn!(queue, "a worker ended with an error: {error}");
        }
    }
}

async fn handle_job(
    _: StepJob,
    id: TaskId,
    attempt: Attempt,
    worker: WorkerContext,
    work: Data<WorkerData>,
) -> Result<(), BoxDynError> {
    // The worker raises the attempt before it calls the handler. The row still holds the number as fetched.
    let attempts = attempt.current() as i64 - 1;
    let (step_run, worker, lost) = (id.to_string(), worker.name().to_owned(), CancellationToken::new());
    let lease = Lease { step_run, worker, attempts, lost };
    let Some(slot) = work.slots.acquire().await else { return Ok(()) };
    if !register_lease(&work.queue, &lease) {
        return Ok(());
    }
    let active = ActiveLease(work.queue.clone(), lease.clone());
    let (left, handler) = (slot.left(), work.handler.clone());
    let job = work.jobs.spawn(async move {
        if AssertUnwindSafe(handler(lease, slot.clone())).catch_unwind().await.is_err() {
            // The drop of the lease makes the job an orphan. The sweep releases it, and a worker fetches it again.
            tracing::error!(step_run = active.1.step_run, "a job handler panicked");
        }
        slot.end();
        drop(active);
    });
    // The worker fetches another job once this one has ended or has left its slot.
    tokio::select! {
        _ = job => {}
        () = left.cancelled() => {}
    }
    Ok(())
}

/// Returns false if a task works under this same lease. PostgreSQL can crash after an unsynced fetch and then hand out
/// the same job to the same worker again.
fn register_lease(chain: &JobQueue, lease: &Lease) -> bool {
    let mut hands = lock_mutex(&chain.active_leases);
    if hands.get(&lease.step_run).is_some_and(|held| held.is_same_lease(lease)) {
        return false;
    }
    hands.insert(lease.step_run.clone(), lease.clone());
    true
}

/// Wakes a worker by `signal` and by a timer. It re-arms itself after every event: the poller of the queue drops a
/// ready event without arming a waker for the next one, and would sleep until its heartbeat.
struct WakeStream(BoxStream<'static, ()>);

impl Stream for WakeStream {
    type Item = ();

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<()>> {
        match self.0.poll_next_unpin(cx) {
            Poll::Ready(Some(())) => {
                cx.waker().wake_by_ref();
                Poll::Ready(Some(()))
            }
            _ => Poll::Pending,
        }
    }
}

fn wake_stream(signal: Arc<Notify>) -> WakeStream {
    let tick = futures::stream::unfold(tokio::time::interval(JOB_POLL_INTERVAL), |mut interval| async move {
        interval.tick().await;
        Some(((), interval))
    });
    let signal = futures::stream::unfold(signal, |signal| async move {
        signal.notified().await;
        Some(((), signal))
    });
    WakeStream(futures::stream::select(tick, signal).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Db;
    use afterload_core::clock::Clock;

    #[tokio::test]
    async fn a_lease_is_registered_once() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("afterload.db").display());
        let chain =
            JobQueue::open(Db::open(&url, Clock::system()).await.unwrap(), Duration::from_secs(15)).await.unwrap();
        let lease = |attempts| {
            let (step_run, worker, lost) = ("step".to_owned(), "worker".to_owned(), CancellationToken::new());
            Lease { step_run, worker, attempts, lost }
        };
        // Another attempt is another lease.
        let taken = [0, 0, 1].map(|attempts| register_lease(&chain, &lease(attempts)));
        assert_eq!(taken, [true, false, true]);
    }
}
