//! What every running step has: who it is, its progress, its files, and the records of what it did. What a kind needs
//! beyond that it names as its `Deps`.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::files::StepFiles;
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_pipeline::ExprContext;

/// The run that a step belongs to, as expressions name it.
#[derive(Clone, Debug, Serialize)]
pub struct RunInfo {
    /// The run's id.
    pub id: String,
    /// Where the run can be seen.
    pub url: String,
    /// The name of its pipeline.
    pub pipeline: String,
}

/// The step itself.
#[derive(Clone, Debug)]
pub struct StepInfo {
    /// The id in the pipeline, such as `import`.
    pub id: String,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Stable over all attempts of this step of this run: `{run}/{step}`. Idempotency keys derive from it.
    pub key: String,
    /// Rises with every attempt; writers outside the service's database fence with it.
    pub epoch: i64,
}

/// What every running step has.
#[derive(Clone)]
pub struct StepContext {
    /// The run.
    pub run: RunInfo,
    /// The step.
    pub step: StepInfo,
    /// What expressions can name, for the parts of `with` that the step resolves itself.
    pub expr_context: ExprContext,
    /// Where the step says how far it is.
    pub progress: ProgressReporter,
    /// Ends when the step should stop: asked for, timed out, lease lost, or the process is going down. Chunked steps
    /// look at it between chunks and return [`StepContext::check_stopped`].
    pub stop: CancellationToken,
    /// Files that belong to this run.
    pub files: StepFiles,
    /// Links to files for people, who have no API key.
    pub links: Arc<dyn FileLinks>,
    /// The record of effects that must not be repeated.
    pub effect_log: Arc<dyn EffectRecorder>,
    /// The record of whom the step has told.
    pub delivery_log: Arc<dyn DeliveryRecorder>,
    /// What woke the step, if it has slept.
    pub resumed: Option<Resumed>,
    /// Where it says that it wants to sleep.
    pub suspend_slot: SuspendSlot,
}

/// What a step wants to wait for without a worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SuspendRequest {
    /// Until when at the latest.
    pub until: Option<UnixMillis>,
    /// The name of an event, and what its fields must be.
    pub event: Option<(String, serde_json::Map<String, serde_json::Value>)>,
}

/// How a step slept before this attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Resumed {
    /// Until when it was to sleep.
    pub until: Option<UnixMillis>,
    /// The event that woke it.
    pub event: Option<serde_json::Value>,
}

/// Where a step leaves what it wants to wait for.
#[derive(Clone, Default)]
pub struct SuspendSlot(Arc<Mutex<Option<SuspendRequest>>>);

impl SuspendSlot {
    /// What the step wants to wait for.
    pub fn request(&self) -> Option<SuspendRequest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl StepContext {
    /// Ends the attempt without an end of the step: it is started again when what it waits for has come, and then finds
    /// it in [`StepContext::resumed`]. Return the error that this gives.
    pub fn suspend_step(&self, wanted: SuspendRequest) -> Error {
        *self.suspend_slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        Error::new(codes::STEP_SUSPENDED, "the step waits")
    }

    /// An error if the step should stop now.
    ///
    /// # Errors
    /// `step_stopped` once [`StepContext::stop`] has been cancelled.
    pub fn check_stopped(&self) -> Result<()> {
        match self.stop.is_cancelled() {
            true => Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop")),
            false => Ok(()),
        }
    }
}

/// Named counts of a progress, such as `inserted`.
pub type ProgressCounts = BTreeMap<String, u64>;

/// How far a step is, as it was last committed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgressUpdate {
    /// Units done.
    pub done: u64,
    /// Units in all; `None` while unknown.
    pub total: Option<u64>,
    /// What is counted, such as `rows` or `bytes`.
    pub unit: String,
    /// What is going on, for people.
    pub message: Option<String>,
    /// Further counts, such as `inserted` and `rejected`.
    pub counts: ProgressCounts,
}

/// Where a step says how far it is. Saying it is cheap; the engine stores it at most twice a second.
#[derive(Clone)]
pub struct ProgressReporter(Arc<watch::Sender<ProgressUpdate>>);

impl ProgressReporter {
    /// A progress and the end that the engine listens to.
    pub fn new_channel() -> (Self, watch::Receiver<ProgressUpdate>) {
        let (sender, receiver) = watch::channel(ProgressUpdate::default());
        (Self(Arc::new(sender)), receiver)
    }

    /// Says what has been committed. `done` never falls: a lower one is raised to what was said before.
    pub fn report_committed(&self, report: ProgressUpdate) {
        self.0.send_modify(|last| {
            let done = report.done.max(last.done);
            *last = ProgressUpdate { done, ..report };
        });
    }
}

/// What is known of an effect before it is tried.
#[derive(Clone, Debug, PartialEq)]
pub enum EffectState {
    /// Never tried: go ahead.
    New,
    /// Tried, but the outcome was lost.
    Uncertain,
    /// Done; holds what was recorded with it.
    Done(serde_json::Value),
}

/// What the outside world answers in time.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// The record of effects that must not knowingly be repeated (mails, calls), kept in the service's database.
pub trait EffectRecorder: Send + Sync {
    /// What is known of the effect `key` of this step; records nothing.
    fn effect_state(&self, key: &str) -> BoxFuture<EffectState>;
    /// Records that the effect `key` of this step is about to be tried, and says what was known before.
    fn begin_effect(&self, key: &str) -> BoxFuture<EffectState>;
    /// Records that it is done, with what later attempts need to know of it.
    fn mark_done(&self, key: &str, detail: serde_json::Value) -> BoxFuture<()>;
    /// Records that it certainly did not happen, so that it may be tried again freely.
    fn mark_not_done(&self, key: &str) -> BoxFuture<()>;
}

/// What became of a message to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// Who it was for, by a key that tells people apart.
    pub person: String,
    /// Why, such as `mention`.
    pub reason: &'static str,
    /// The code of the error for which it cannot be delivered; `None`: it was.
    pub failure: Option<&'static str>,
}

/// The record of whom a step has told, kept in the service's database.
pub trait DeliveryRecorder: Send + Sync {
    /// Whose deliveries among these have ended, by their keys.
    fn filter_finished(&self, people: Vec<String>) -> BoxFuture<Vec<String>>;
    /// Records the end of a delivery. A second one for the same person changes nothing.
    fn record_delivery(&self, delivery: DeliveryRecord) -> BoxFuture<()>;
    /// How many were delivered, and how many cannot be.
    fn delivery_counts(&self) -> BoxFuture<(u64, u64)>;
}

/// Makes links to files for people, who have no API key.
pub trait FileLinks: Send + Sync {
    /// The link to an artifact, good for at least `lives` from now on. The same step gets the same link each time.
    /// `None`: the artifact is not there.
    fn create_link(&self, artifact: &str, lives: Duration) -> BoxFuture<Option<String>>;
}
