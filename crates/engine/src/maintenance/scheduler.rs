//! A scheduler for periodic tasks.
//!
//! Each task has its own interval. Tasks run concurrently, so that a slow task does not delay others. A task never runs
//! twice at the same time.

use crate::codes;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use afterload_core::error::{Error, Result};

/// A task that runs periodically.
pub struct PeriodicTask {
    name: &'static str,
    interval: Duration,
    first_run_after: Duration,
    run: Arc<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>,
}

impl PeriodicTask {
    /// A task that runs at once and then at every interval. Each run gets a clone of `part`.
    pub fn new<P, F>(
        name: &'static str,
        interval: Duration,
        part: P,
        run: impl Fn(P) -> F + Send + Sync + 'static,
    ) -> Self
    where
        P: Clone + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let run = Arc::new(move || -> BoxFuture<'static, Result<()>> { Box::pin(run(part.clone())) });
        Self { name, interval, first_run_after: Duration::ZERO, run }
    }

    /// Delays the first run.
    #[must_use]
    pub fn first_run_after(self, delay: Duration) -> Self {
        Self { first_run_after: delay, ..self }
    }
}

/// A task and its schedule.
struct ScheduledTask {
    task: PeriodicTask,
    /// When the next run is due; `None` during a run.
    due: Option<Instant>,
    started: Instant,
    failing: bool,
}

impl ScheduledTask {
    fn new(task: PeriodicTask, now: Instant) -> Self {
        Self { due: Some(now + task.first_run_after), task, started: now, failing: false }
    }

    /// Marks the task as running if it is due.
    fn start_if_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            (self.due, self.started) = (None, now);
        }
        due
    }

    /// Schedules the next run: one interval after the last start, or at once if the run took longer.
    fn finish(&mut self, done: Result<()>, now: Instant) {
        self.due = Some(now.max(self.started + self.task.interval));
        let name = self.task.name;
        match (&done, self.failing) {
            (Ok(()), true) => info!(task.name = name, "a periodic task recovered"),
            (Err(error), false) => {
                warn!(task.name = name, error.code = error.code().name(), "a periodic task failed; retrying: {error}");
            }
            // Only the first failure in a row is logged.
            (Ok(()), false) | (Err(_), true) => {}
        }
        self.failing = done.is_err();
    }
}

/// Runs periodic tasks.
#[derive(Default)]
pub struct TaskScheduler(Vec<PeriodicTask>);

impl TaskScheduler {
    /// Adds tasks to the scheduler.
    pub fn add_tasks(&mut self, tasks: impl IntoIterator<Item = PeriodicTask>) {
        self.0.extend(tasks);
    }

    /// Runs the tasks until `stop`, and then aborts running ones.
    pub async fn run(self, stop: CancellationToken) {
        let now = Instant::now();
        let mut tasks: Vec<_> = self.0.into_iter().map(|task| ScheduledTask::new(task, now)).collect();
        let (mut runs, mut indices) = (JoinSet::new(), HashMap::<Id, usize>::new());
        loop {
            let now = Instant::now();
            for (index, task) in tasks.iter_mut().enumerate() {
                if task.start_if_due(now) {
                    indices.insert(runs.spawn((task.task.run)()).id(), index);
                }
            }
            let next = tasks.iter().filter_map(|task| task.due).min();
            let (id, done) = tokio::select! {
                () = stop.cancelled() => break,
                () = wait_until(next) => continue,
                Some(ended) = runs.join_next_with_id() => match ended {
                    Ok(ended) => ended,
                    Err(error) => (error.id(), Err(Error::new(codes::INTERNAL_ERROR, error.to_string()))),
                },
            };
            if let Some(index) = indices.remove(&id) {
                tasks[index].finish(done, Instant::now());
            }
        }
        runs.shutdown().await;
    }
}

/// Waits until the time; without a time it never returns.
async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn panic_on_purpose() -> Result<()> {
        panic!("on purpose")
    }

    fn idle_task(interval: Duration) -> PeriodicTask {
        PeriodicTask::new("idle", interval, (), |()| async { Ok(()) })
    }

    #[test]
    fn task_is_due_one_interval_after_its_last_start() {
        let start = Instant::now();
        let mut task = ScheduledTask::new(idle_task(10 * SECOND), start);
        assert!(task.start_if_due(start));
        assert!(!task.start_if_due(start + 60 * SECOND), "it is still running");
        task.finish(Ok(()), start + 3 * SECOND);
        assert!(!task.start_if_due(start + 9 * SECOND));
        assert!(task.start_if_due(start + 10 * SECOND));
    }

    #[test]
    fn task_longer_than_its_interval_is_due_at_once_without_catch_up() {
        let start = Instant::now();
        let mut task = ScheduledTask::new(idle_task(SECOND), start);
        assert!(task.start_if_due(start));
        task.finish(Ok(()), start + 5 * SECOND);
        assert!(task.start_if_due(start + 5 * SECOND));
        task.finish(Ok(()), start + 5 * SECOND);
        assert!(!task.start_if_due(start + 5 * SECOND), "missed runs are not made up for");
    }

    #[test]
    fn first_run_waits_for_its_delay() {
        let start = Instant::now();
        let mut task = ScheduledTask::new(idle_task(SECOND).first_run_after(5 * SECOND), start);
        assert!(!task.start_if_due(start + 4 * SECOND));
        assert!(task.start_if_due(start + 5 * SECOND));
    }

    #[test]
    fn failing_task_is_scheduled_again_and_recovers() {
        let start = Instant::now();
        let mut task = ScheduledTask::new(idle_task(SECOND), start);
        for (second, fails) in [(0, true), (1, true), (2, false)] {
            let now = start + second * SECOND;
            assert!(task.start_if_due(now), "second {second}");
            let done = if fails { Err(Error::new(codes::IO_ERROR, "away")) } else { Ok(()) };
            task.finish(done, now);
            assert_eq!(task.failing, fails, "second {second}");
        }
    }

    #[tokio::test]
    async fn slow_and_panicking_tasks_do_not_block_others_and_stop_ends_all() {
        let (ran, mut runs) = mpsc::unbounded_channel();
        let slow_runs = Arc::new(AtomicU32::new(0));
        let tick = Duration::from_millis(1);
        let mut scheduler = TaskScheduler::default();
        scheduler.add_tasks([
            PeriodicTask::new("slow", tick, slow_runs.clone(), |runs| {
                runs.fetch_add(1, Ordering::Relaxed);
                std::future::pending()
            }),
            PeriodicTask::new("panicking", tick, (), |()| async { panic_on_purpose() }),
            PeriodicTask::new("counting", tick, ran, |ran| async move {
                ran.send(()).map_err(|_| Error::new(codes::INTERNAL_ERROR, "nobody listens"))
            }),
        ]);
        let stop = CancellationToken::new();
        let counting = async {
            for _ in 0..5 {
                runs.recv().await.expect("the task runs");
            }
            stop.cancel();
        };
        tokio::join!(scheduler.run(stop.clone()), counting);
        assert_eq!(slow_runs.load(Ordering::Relaxed), 1, "it never ends, so it never runs again");
    }
}
