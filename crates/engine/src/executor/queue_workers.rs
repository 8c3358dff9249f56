//! Runs one worker per queue in this process.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{EngineConfig, QueueConfig};
use crate::executor::job::Executor;
use crate::scheduling::pauses::Pauses;
use crate::scheduling::queues::{QueueList, QueueSelection};
use afterload_state::queue::{JobHandler, JobQueue, PauseGate, QueueWorkerSpec};
use afterload_state::{Db, PauseTarget};

/// How often new queues and pauses are read.
const QUEUE_POLL_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) struct QueueWorkers {
    pub(crate) db: Db,
    pub(crate) queue: Arc<JobQueue>,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) queues: Arc<QueueList>,
    pub(crate) pauses: Arc<Pauses>,
    pub(crate) executor: Arc<Executor>,
}

impl QueueWorkers {
    /// Runs a worker for each selected queue, including queues that appear later, until nothing names the queue any
    /// more. A paused queue fetches no jobs; its running jobs continue.
    pub(crate) async fn run_queue_workers(&self, queues: &QueueSelection, stop: &CancellationToken) {
        let executor = self.executor.clone();
        let handler: JobHandler = Arc::new(move |lease, slot| {
            let executor = executor.clone();
            Box::pin(async move { executor.run_job(lease, slot).await })
        });
        let (mut running, mut workers) = (HashMap::<String, RunningWorker>::new(), JoinSet::new());
        let (mut selected, mut paused) = (BTreeSet::new(), BTreeSet::new());
        while !stop.is_cancelled() {
            match self.db.pauses().list(PauseTarget::Queue).await {
                Ok(now) => paused = now.into_iter().map(|(name, _)| name).collect(),
                // The claim checks pauses too, so an outdated list starts no paused step.
                Err(error) => warn!(error.code = error.code().name(), "the pauses could not be read: {error}"),
            }
            match self.queues.select_queues(queues).await {
                Ok(now) => selected = now,
                // The configured queues are known without the database.
                Err(error) => {
                    warn!(error.code = error.code().name(), "the queues could not be read: {error}");
                    selected.extend(self.config.queues.keys().cloned());
                }
            }
            running.retain(|name, worker| {
                let is_selected = selected.contains(name);
                if !is_selected {
                    info!(queue = name, "queue worker stopped: nothing names its queue any more");
                    worker.stop.cancel();
                }
                is_selected
            });
            for name in selected.iter().filter(|name| !running.contains_key(*name)).cloned().collect::<Vec<_>>() {
                let (worker, spec) = self.new_worker(&name, !paused.contains(&name), stop);
                let (queue, stop) = (self.queue.clone(), worker.stop.clone());
                workers.spawn(queue.run_queue_worker(spec, handler.clone(), stop, self.config.drain));
                running.insert(name, worker);
            }
            for (name, worker) in &running {
                let open = !paused.contains(name);
                if worker.gate.send_if_modified(|now| std::mem::replace(now, open) != open) {
                    info!(queue = name, paused = !open, "queue paused or resumed");
                }
            }
            while workers.try_join_next().is_some() {}
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.pauses.wait_for_change() => {}
                () = tokio::time::sleep(QUEUE_POLL_INTERVAL) => {}
            }
        }
        while workers.join_next().await.is_some() {}
    }

    fn new_worker(&self, name: &str, is_open: bool, stop: &CancellationToken) -> (RunningWorker, QueueWorkerSpec) {
        let concurrency = self.config.queues.get(name).copied().unwrap_or(QueueConfig::default()).concurrency;
        info!(queue = name, concurrency, "queue worker started");
        let (gate, receiver) = PauseGate::new(is_open);
        let spec = QueueWorkerSpec { name: name.to_owned(), concurrency, gate: receiver };
        (RunningWorker { gate, stop: stop.child_token() }, spec)
    }
}

/// The controls of the worker of a queue.
struct RunningWorker {
    gate: watch::Sender<bool>,
    stop: CancellationToken,
}
