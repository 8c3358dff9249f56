//! Ends runs whose `timeout` or `queue_timeout` has passed.
//!
//! The deadlines are stored in the row of the run. One transaction marks the run as timed out, so that it happens once,
//! and from then on its steps are stopped as those of a cancelled run are. `on_failure` and `finally` still run.

use crate::codes;
use crate::lifecycle::admit::{self, Admission};
use crate::lifecycle::advance::TransitionPublisher;
use crate::lifecycle::cancel::Canceller;
use crate::plan_cache::is_unreadable_definition;
use crate::run_errors::error_to_json;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::failpoint;
use afterload_pipeline::PipelinePlan;
use afterload_state::{Db, DbTx, OverdueRun, RunDeadlines, RunRecord, RunStatus, RunStop};

/// How many runs are listed at once. After as many without a failure, the next pass continues.
const OVERDUE_BATCH_SIZE: usize = 100;

/// The deadlines of a run that may start at `start`.
pub(super) fn run_deadlines(plan: &PipelinePlan, start: UnixMillis) -> RunDeadlines {
    let after = |limit_ms: Option<i64>| limit_ms.map(|limit_ms| start.saturating_add(limit_ms));
    RunDeadlines { queue: after(plan.queue_timeout_ms), end: after(plan.timeout_ms) }
}

/// The result of checking the deadlines of a run.
enum DeadlineCheck {
    /// The run times out with this error.
    Passed(Error),
    /// The next deadline, if there is one.
    Next(Option<UnixMillis>),
}

/// Checks the deadlines of a run that has not ended.
fn check_deadlines(run: &RunRecord, now: UnixMillis) -> DeadlineCheck {
    let waits = run.status == RunStatus::Queued;
    let queue = run.deadlines.queue.filter(|_| waits);
    if queue.is_some_and(|queue| queue <= now) {
        let error = Error::new(codes::QUEUE_TIMED_OUT, "no step of the run has started within its `queue_timeout`");
        return DeadlineCheck::Passed(error);
    }
    if run.deadlines.end.is_some_and(|end| end <= now) {
        return DeadlineCheck::Passed(Error::new(codes::RUN_TIMED_OUT, "the run took longer than its `timeout`"));
    }
    DeadlineCheck::Next(RunDeadlines { queue, ..run.deadlines }.first())
}

/// Ends overdue runs.
#[derive(Clone)]
pub(crate) struct DeadlineEnforcer {
    pub(crate) db: Db,
    pub(crate) admission: Admission,
    pub(crate) canceller: Canceller,
    pub(crate) publisher: TransitionPublisher,
}

impl DeadlineEnforcer {
    /// Ends the runs of which a deadline has passed. A failure for one run does not affect the others: the runs that fail
    /// stay the most overdue ones, so each pass goes on past them.
    pub(crate) async fn end_overdue_runs(&self) -> Result<()> {
        let (mut last, mut checked) = (None::<OverdueRun>, 0);
        while checked < OVERDUE_BATCH_SIZE {
            let overdue = self.db.deadlines().list_passed(last.as_ref(), OVERDUE_BATCH_SIZE as u32).await?;
            for run in &overdue {
                checked += usize::from(self.check_overdue_run(&run.id).await);
            }
            if overdue.len() < OVERDUE_BATCH_SIZE {
                break;
            }
            last = overdue.into_iter().next_back();
        }
        Ok(())
    }

    /// Ends a run if it is overdue. Returns false if that failed.
    async fn check_overdue_run(&self, id: &str) -> bool {
        match self.end_if_overdue(id).await {
            Ok(false) => true,
            Ok(true) => {
                self.canceller.stop_steps(id, RunStop::TimedOut).await;
                true
            }
            Err(error) => {
                tracing::warn!(
                    run.id = id,
                    error.code = error.code().name(),
                    "checking the deadlines of a run failed; retrying: {error}"
                );
                false
            }
        }
    }

    /// Marks a run as timed out if it is overdue, and advances it. Returns true if its steps have to be stopped.
    async fn end_if_overdue(&self, id: &str) -> Result<bool> {
        let mut tx = self.db.begin().await?;
        // The lock on the row makes the decision follow those of other processes, and the starts and ends of steps.
        let run = tx.runs().bump_revision(id).await?;
        let check = match run.stop() {
            None if run.finished_at.is_none() => check_deadlines(&run, tx.now()),
            _ => DeadlineCheck::Next(None),
        };
        let (error, step) = match (check, first_open_step(&mut tx, id).await?) {
            (DeadlineCheck::Passed(error), Some(step)) => (error, step),
            // Only handlers are left, so the outcome of the run is decided.
            (DeadlineCheck::Passed(_), None) => {
                tx.deadlines().set_next_check(id, None).await?;
                tx.commit().await?;
                return Ok(false);
            }
            (DeadlineCheck::Next(next), _) => {
                tx.deadlines().set_next_check(id, next).await?;
                tx.commit().await?;
                return Ok(false);
            }
        };
        let mut stored = error_to_json(&error);
        stored["step"] = step.into();
        tx.deadlines().mark_timed_out(id, &stored).await?;
        let run = into_timed_out(run, stored, tx.now());
        let moves = match self.admission.advance_run(&mut tx, &run, None).await {
            Err(error) if is_unreadable_definition(&error) => admit::fail_unreadable_run(&mut tx, &run, &error).await?,
            moves => moves?,
        };
        failpoint!("timeout.before_commit");
        tx.commit().await?;
        failpoint!("timeout.after_commit");
        let (code, name) = (error.code().name(), &run.pipeline);
        tracing::warn!(run.id = id, pipeline.name = name, error.code = code, "a run timed out: {error}");
        self.publisher.after_commit(&run, &moves);
        Ok(true)
    }
}

/// The run after [`afterload_state::DeadlineStore::mark_timed_out`].
fn into_timed_out(run: RunRecord, error: serde_json::Value, now: UnixMillis) -> RunRecord {
    let mut run = RunRecord { timed_out_at: Some(now), error: Some(error), ..run };
    if let Some(slot) = &mut run.concurrency_slot {
        slot.waiting_since = None;
    }
    run
}

/// The first step that a timeout stops or keeps from its start.
async fn first_open_step(tx: &mut DbTx, run: &str) -> Result<Option<String>> {
    let steps = tx.steps().list(run).await?;
    let mut open =
        steps.into_iter().filter(|step| RunStop::TimedOut.stops_section(&step.section) && !step.status.is_final());
    Ok(open.next().map(|step| step.step_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::file_seals::FileSeals;

    fn run(status: RunStatus, deadlines: RunDeadlines) -> RunRecord {
        RunRecord {
            id: "r".into(),
            pipeline: "p".into(),
            digest: "d".into(),
            status,
            origin: "api".into(),
            params: serde_json::Value::Null,
            event: None,
            hops: 0,
            file_seals: FileSeals::default(),
            error: None,
            revision: 1,
            run_at: None,
            cancel_requested_at: None,
            deadlines,
            timed_out_at: None,
            created_at: 0,
            started_at: None,
            finished_at: None,
            concurrency_slot: None,
        }
    }

    #[test]
    fn wait_counts_until_the_first_step_starts_and_the_whole_until_the_end() {
        let outcome = |status, queue, end, now| match check_deadlines(&run(status, RunDeadlines { queue, end }), now) {
            DeadlineCheck::Passed(error) => (Some(error.code().name()), None),
            DeadlineCheck::Next(next) => (None, next),
        };
        let (queued, running) = (RunStatus::Queued, RunStatus::Running);
        assert_eq!(outcome(queued, Some(10), Some(30), 9), (None, Some(10)));
        assert_eq!(outcome(queued, Some(10), Some(30), 10), (Some("queue_timed_out"), None));
        assert_eq!(outcome(running, Some(10), Some(30), 10), (None, Some(30)));
        assert_eq!(outcome(running, Some(10), None, 10), (None, None));
        assert_eq!(outcome(running, Some(10), Some(30), 30), (Some("run_timed_out"), None));
        assert_eq!(outcome(queued, None, Some(30), 31), (Some("run_timed_out"), None));
    }
}
