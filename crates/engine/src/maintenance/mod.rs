//! What a process does again and again: one scheduler, and the tasks of the engine. Other parts add theirs.

pub(crate) mod retention;
mod scheduler;
pub(crate) mod sweep;

use std::time::Duration;

use crate::Engine;

pub use scheduler::{PeriodicTask, TaskScheduler};

/// How often the sweep looks for what has come due.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How often records are deleted whose time is over.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);
/// How often runs and files are deleted whose time is over.
const RETENTION_INTERVAL: Duration = Duration::from_secs(5);
/// How often objects without an owner are looked for. Not at the start of a process, which has better things to do.
const ORPHANS_INTERVAL: Duration = Duration::from_secs(12 * 3600);
/// How often cancels are finished that a crash left half done.
const FINISH_CANCELS_INTERVAL: Duration = Duration::from_secs(10);
/// How often runs that wait for room are looked at.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);

impl Engine {
    /// The periodic tasks of the engine, for the scheduler of the process.
    pub fn maintenance_tasks(&self) -> Vec<PeriodicTask> {
        let core = &self.0;
        vec![
            PeriodicTask::new("sweep", SWEEP_INTERVAL, core.sweeper.clone(), |sweeper| async move {
                sweeper.run_sweep().await
            }),
            PeriodicTask::new("prune_records", PRUNE_INTERVAL, core.sweeper.clone(), |sweeper| async move {
                sweeper.prune_records().await
            })
            .first_run_after(SWEEP_INTERVAL),
            PeriodicTask::new("retention", RETENTION_INTERVAL, core.retention.clone(), |retention| async move {
                retention.apply_retention().await
            }),
            PeriodicTask::new("orphan_objects", ORPHANS_INTERVAL, core.retention.clone(), |retention| async move {
                retention.clean_embedded_store().await
            })
            .first_run_after(ORPHANS_INTERVAL),
            PeriodicTask::new(
                "finish_cancels",
                FINISH_CANCELS_INTERVAL,
                core.canceller.clone(),
                |canceller| async move { canceller.finish_cancels().await },
            ),
            PeriodicTask::new(
                "reconcile_concurrency",
                RECONCILE_INTERVAL,
                core.reconciler.clone(),
                |reconciler| async move { reconciler.reconcile_concurrency().await },
            ),
        ]
    }
}
