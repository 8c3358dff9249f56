//! Periodic tasks: the scheduler, and the tasks of the engine. Other crates add their own.

pub(crate) mod retention;
mod scheduler;
pub(crate) mod sweep;

use std::time::Duration;

use crate::Engine;

pub use scheduler::{PeriodicTask, TaskScheduler};

/// How often the sweep repairs the queue.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How often expired records are deleted.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);
/// How often expired runs and files are deleted.
const RETENTION_INTERVAL: Duration = Duration::from_secs(5);
/// How often orphaned objects are deleted. The first run waits too, to keep the start of a process light.
const ORPHANS_INTERVAL: Duration = Duration::from_secs(12 * 3600);
/// How often cancels are continued that a crash interrupted.
const FINISH_CANCELS_INTERVAL: Duration = Duration::from_secs(10);
/// How often overdue runs are ended.
const DEADLINES_INTERVAL: Duration = Duration::from_secs(1);
/// How often runs that wait for a slot are checked.
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
            PeriodicTask::new("run_deadlines", DEADLINES_INTERVAL, core.deadlines.clone(), |deadlines| async move {
                deadlines.end_overdue_runs().await
            }),
            PeriodicTask::new(
                "reconcile_concurrency",
                RECONCILE_INTERVAL,
                core.reconciler.clone(),
                |reconciler| async move { reconciler.reconcile_concurrency().await },
            ),
        ]
    }
}
