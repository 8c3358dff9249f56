//! The source of the jobs of a worker, as apalis's worker drives it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::persistence::{Persisted, Persistence, State, TaskEvent};
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::layers::Identity;
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::TaskId;
use apalis_core::worker::context::WorkerContext;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::sync::Notify;
use ulid::Ulid;

use super::job_slot::{JobSlot, QueueSlots};
use super::{JobQueue, Lease, StepJob};
use crate::codes;
use afterload_core::error::{Error, Result};

/// How often a worker polls the queue by itself. Commits and [`JobQueue::wake_due_queues`] wake it earlier.
const JOB_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// A fetched job. It has a slot, so it begins at once.
#[derive(Clone)]
pub(super) struct FetchedJob {
    pub(super) lease: Lease,
    pub(super) slot: JobSlot,
}

/// Fetches as many jobs of a queue as it has free slots.
#[derive(Clone)]
pub(super) struct JobSource {
    pub(super) queue: Arc<JobQueue>,
    /// The name of the queue.
    pub(super) name: String,
    pub(super) slots: QueueSlots,
}

impl Persistence for JobSource {
    type Compact = StepJob;
    type Response = ();
    type Error = Error;

    async fn register(&mut self, worker: &WorkerContext) -> Result<()> {
        self.queue.reclaim_expired_leases(&self.name).await?;
        self.queue.register_worker(&self.name, worker.name()).await
    }

    /// The leases of this process are renewed elsewhere, for all its workers at once.
    async fn heartbeat(&mut self, _: &WorkerContext) -> Result<()> {
        self.queue.reclaim_expired_leases(&self.name).await
    }

    async fn fetch_next(&mut self, worker: &WorkerContext) -> Result<Vec<Task<StepJob>>> {
        let slots = self.slots.take_free();
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        let leases = self.queue.fetch_jobs(&self.name, worker.name(), slots.len()).await?;
        leases.into_iter().zip(slots).map(|(lease, slot)| new_task(FetchedJob { lease, slot })).collect()
    }

    /// A worker that ends gives back what it has fetched and not begun.
    async fn reenqueue_abandoned(&mut self, tasks: Vec<Task<StepJob>>, worker: &WorkerContext) -> Result<u64> {
        let steps: Vec<String> = tasks.iter().map(|task| task.args.step_run.clone()).collect();
        self.queue.give_back_jobs(worker.name(), &steps).await?;
        Ok(steps.len() as u64)
    }

    /// The transaction that ends a step acknowledges its job.
    async fn handle_events(&mut self, _: Vec<TaskEvent<()>>, _: &WorkerContext) -> Result<()> {
        Ok(())
    }

    async fn push_tasks(&mut self, _: Vec<Task<StepJob>>) -> Result<()> {
        Err(Error::new(codes::QUEUE_ERROR, "jobs are pushed in the transaction of their step"))
    }
}

fn new_task(fetched: FetchedJob) -> Result<Task<StepJob>> {
    let step_run = fetched.lease.step_run.clone();
    let id = Ulid::from_string(&step_run).map_err(|error| Error::new(codes::QUEUE_ERROR, error.to_string()))?;
    Ok(TaskBuilder::new(StepJob { step_run }).task_id(TaskId::from_ulid(id)).data(fetched).build())
}

/// The backend of a worker: its source, and what wakes it.
pub(super) struct JobBackend {
    source: Persisted<JobSource>,
    wakes: WakeStream,
    heartbeat: Duration,
    /// A wake-up came during a fetch, which may not see the job.
    fetches_again: bool,
}

impl JobBackend {
    pub(super) fn new(source: JobSource, signal: Arc<Notify>, heartbeat: Duration) -> Self {
        Self { source: Persisted::new(source), wakes: wake_stream(signal), heartbeat, fetches_again: false }
    }

    fn is_fetching(&self) -> bool {
        matches!(self.source.state(), State::Fetch(_))
    }
}

impl Backend for JobBackend {
    type Task = Task<StepJob>;
    type Error = Error;

    fn poll_ready(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<()>> {
        self.source.poll_ready(cx, worker, self.heartbeat)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Option<Result<Self::Task>>> {
        // A wake-up only has to lead here: the source fetches each time, unless a fetch is on its way.
        self.fetches_again |= self.wakes.poll_next_unpin(cx).is_ready() && self.is_fetching();
        let polled = self.source.poll_next(cx, worker);
        if polled.is_pending() && !self.is_fetching() && std::mem::take(&mut self.fetches_again) {
            cx.waker().wake_by_ref();
        }
        polled
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<()>> {
        self.source.poll_close(cx, worker)
    }
}

impl BackendConfig for JobBackend {
    type Args = StepJob;
    type Id = Ulid;
    type Kind = Ephemeral;
    type Config = Duration;
    type Layer = Identity;

    fn config(&self) -> &Duration {
        &self.heartbeat
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
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
