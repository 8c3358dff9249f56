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
    /// Runs a worker for each selected queue, including queues that appear later. A paused queue fetches no jobs; its
    /// running jobs continue.
    pub(crate) async fn run_queue_workers(&self, queues: &QueueSelection, stop: &CancellationToken) {
        let executor = self.executor.clone();
        let handler: JobHandler = Arc::new(move |lease| {
            let executor = executor.clone();
            Box::pin(async move { executor.run_job(lease).await })
        });
        let drain = self.config.drain;
        let (mut gates, mut workers) = (HashMap::<String, watch::Sender<bool>>::new(), JoinSet::new());
        let mut paused = BTreeSet::new();
        while !stop.is_cancelled() {
            match self.db.pauses().list(PauseTarget::Queue).await {
                Ok(now) => paused = now.into_iter().map(|(name, _)| name).collect(),
                // The claim checks pauses too, so an outdated list starts no paused step.
                Err(error) => warn!(error.code = error.code().name(), "the pauses could not be read: {error}"),
            }
            for name in self.queues.select_queues(queues).await {
                if gates.contains_key(&name) {
                    continue;
                }
                let concurrency = self.config.queues.get(&name).copied().unwrap_or(QueueConfig::default()).concurrency;
                let (sender, gate) = PauseGate::new(!paused.contains(&name));
                info!(queue = name, concurrency, "queue worker started");
                gates.insert(name.clone(), sender);
                let queue = QueueWorkerSpec { name, concurrency, gate };
                workers.spawn(self.queue.clone().run_queue_worker(queue, handler.clone(), stop.clone(), drain));
            }
            for (name, gate) in &gates {
                let open = !paused.contains(name);
                if gate.send_if_modified(|now| std::mem::replace(now, open) != open) {
                    info!(queue = name, paused = !open, "queue paused or resumed");
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.pauses.wait_for_change() => {}
                () = tokio::time::sleep(QUEUE_POLL_INTERVAL) => {}
            }
        }
        while workers.join_next().await.is_some() {}
    }
}
