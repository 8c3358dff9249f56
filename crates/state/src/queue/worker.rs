//! The worker of a queue: its start, its restart after an error of the database, and its wake-ups.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use apalis::prelude::{BoxDynError, Data, Monitor, WorkerBuilder};
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::job_slot::QueueSlots;
use super::job_source::{FetchedJob, JobBackend, JobSource};
use super::leases::ActiveLease;
use super::{JobHandler, JobQueue, PauseGate, StepJob, lock_mutex};

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
        let slots = QueueSlots::new(concurrency, self.wake_signal(&queue));
        let work = WorkerData { queue: self.clone(), handler, slots, jobs: TaskTracker::new() };
        while gate.wait_until_open(&stop).await {
            let (end, worker) = (stop.child_token(), self.new_worker_name(&queue));
            let working = self.run_worker_once(&queue, &worker, work.clone(), end.clone(), drain);
            gate.run_until_closed(working, &end).await;
            self.forget_worker(&queue, &worker);
            if end.is_cancelled() {
                self.release_fetched_jobs(&worker).await;
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

    async fn run_worker_once(
        self: &Arc<Self>,
        queue: &str,
        worker: &str,
        work: WorkerData,
        stop: CancellationToken,
        drain: Duration,
    ) {
        let (name, heartbeat, signal) = (worker.to_owned(), self.heartbeat, self.wake_signal(queue));
        lock_mutex(&self.workers).insert(queue.to_owned(), name.clone());
        let source = JobSource { queue: self.clone(), name: queue.to_owned(), slots: work.slots.clone() };
        // No layer limits what runs at the same time: the source fetches only what has a slot.
        let monitor = Monitor::new().should_restart(|_, _| false).register(move |_| {
            WorkerBuilder::new(name.clone())
                .backend(JobBackend::new(source.clone(), signal.clone(), heartbeat))
                .data(work.clone())
                .build(handle_job)
        });
        let signal = async move {
            stop.cancelled().await;
            Ok(())
        };
        if let Err(error) = monitor.shutdown_timeout(drain).run_with_signal(signal).await {
            tracing::warn!(queue, "a worker ended with an error: {error}");
        }
    }
}

/// Runs a job in a task of its own, which outlives the worker.
async fn handle_job(_: StepJob, fetched: Data<FetchedJob>, work: Data<WorkerData>) -> Result<(), BoxDynError> {
    let FetchedJob { lease, slot } = fetched.0;
    let Some(active) = ActiveLease::register(&work.queue, &lease) else { return Ok(()) };
    let handler = work.handler.clone();
    let job = work.jobs.spawn(async move {
        if AssertUnwindSafe(handler(lease, slot.clone())).catch_unwind().await.is_err() {
            // The drop of the lease makes the job an orphan. The sweep releases it, and a worker fetches it again.
            tracing::error!(step_run = active.step_run(), "a job handler panicked");
        }
        slot.end();
        drop(active);
    });
    drop(job.await);
    Ok(())
}
