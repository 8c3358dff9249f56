//! The context of every running step: its run, its progress, its files, and its records. A kind declares everything
//! else as its `Deps`.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::file_verifier::VerifiedFile;
use super::files::StepFiles;
use super::waits::{StepWaits, stopped_error};
use crate::codes;
use afterload_core::clock::{Clock, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_pipeline::ExprContext;

/// The run of a step. Expressions read it as `run`.
#[derive(Clone, Debug, Serialize)]
pub struct RunInfo {
    /// The run's id.
    pub id: String,
    /// The URL of the run's page.
    pub url: String,
    /// The name of its pipeline.
    pub pipeline: String,
    /// How many runs came before it in its chain. Expressions do not see it.
    #[serde(skip)]
    pub hops: u32,
}

impl RunInfo {
    /// How many runs come before a run that this one starts, by what it writes or sends.
    pub fn next_hops(&self) -> u32 {
        self.hops.saturating_add(1)
    }
}

/// The step of a run.
#[derive(Clone, Debug)]
pub struct StepInfo {
    /// The id in the pipeline, such as `import`.
    pub id: String,
    /// The attempt, starting at 1.
    pub attempt: u32,
    /// The step key `{run}/{step}`. It is the same for all attempts; idempotency keys derive from it.
    pub key: String,
    /// True if the step itself sets `retry`, so that a schedule of its kind does not apply.
    pub own_retry: bool,
    /// The epoch of the lease. It grows with every attempt, and writers to other databases use it as a fence.
    pub epoch: i64,
}

/// The context of every running step.
#[derive(Clone)]
pub struct StepContext {
    /// The clock of the process.
    pub clock: Clock,
    /// The run.
    pub run: RunInfo,
    /// The step.
    pub step: StepInfo,
    /// The expression context, for the deferred fields of `with`.
    pub expr_context: ExprContext,
    /// Reports the progress.
    pub progress: ProgressReporter,
    /// Cancelled when the step should stop: on request, on timeout, after a lost lease, or at shutdown. A step that
    /// works in chunks calls [`StepContext::check_stopped`] between chunks.
    pub stop: CancellationToken,
    /// Cancelled when the result of the attempt does not count any more: on timeout, on request, and after a lost lease. A
    /// shutdown does not cancel it, so that short waits can end. See [`StepContext::unless_aborted`].
    pub abort: CancellationToken,
    /// Creates the files of this step, and reads those that its run may read.
    pub files: StepFiles,
    /// Creates links to files for people without an API key.
    pub links: Arc<dyn FileLinks>,
    /// Records effects that must not happen twice.
    pub effect_log: Arc<dyn EffectRecorder>,
    /// Records the deliveries of the step.
    pub delivery_log: Arc<dyn DeliveryRecorder>,
    /// The reason for the wake-up, if the step was suspended.
    pub resumed: Option<Resumed>,
    /// Holds the request to suspend the step.
    pub suspend_slot: SuspendSlot,
    /// Waits that hold no worker.
    pub waits: StepWaits,
}

/// What a suspended step waits for. It holds no worker meanwhile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SuspendRequest {
    /// The latest time to wake up.
    pub until: Option<UnixMillis>,
    /// The name of an event, and the required values of its fields.
    pub event: Option<(String, serde_json::Map<String, serde_json::Value>)>,
}

/// The suspension that ended before this attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Resumed {
    /// The latest time to wake up.
    pub until: Option<UnixMillis>,
    /// The event that ended the suspension.
    pub event: Option<serde_json::Value>,
}

/// Holds the request to suspend the step.
#[derive(Clone, Default)]
pub struct SuspendSlot(Arc<Mutex<Option<SuspendRequest>>>);

impl SuspendSlot {
    /// Returns the request, if the step made one.
    pub fn request(&self) -> Option<SuspendRequest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl StepContext {
    /// Ends the attempt, but not the step. A new attempt starts when the wait is over, and finds the result in
    /// [`StepContext::resumed`]. The step must return this error.
    pub fn suspend_step(&self, wanted: SuspendRequest) -> Error {
        *self.suspend_slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        Error::new(codes::STEP_SUSPENDED, "the step waits")
    }

    /// As [`Self::suspend_step`], for a time.
    pub fn suspend_until(&self, until: UnixMillis) -> Error {
        self.suspend_step(SuspendRequest { until: Some(until), event: None })
    }

    /// Fails if the step should stop now.
    ///
    /// # Errors
    /// `step_stopped` once [`StepContext::stop`] is cancelled.
    pub fn check_stopped(&self) -> Result<()> {
        match self.stop.is_cancelled() {
            true => Err(stopped_error()),
            false => Ok(()),
        }
    }

    /// Waits for `work`, such as the answer of a server. Drops it at once when the attempt is aborted.
    ///
    /// # Errors
    /// `step_stopped` once [`StepContext::abort`] is cancelled, and the errors of `work`.
    pub async fn unless_aborted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.abort.run_until_cancelled(work).await.unwrap_or_else(|| Err(stopped_error()))
    }
}

/// Named counts, such as `inserted`.
pub type ProgressCounts = BTreeMap<String, u64>;

/// The progress of a step up to its last commit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgressUpdate {
    /// Units done.
    pub done: u64,
    /// The total number of units; `None` while unknown.
    pub total: Option<u64>,
    /// The unit, such as `rows` or `bytes`.
    pub unit: String,
    /// A message for people.
    pub message: Option<String>,
    /// Additional counts, such as `inserted` and `rejected`.
    pub counts: ProgressCounts,
}

/// Reports the progress of a step. A report is cheap: the engine stores the last one at most twice a second,
/// and the first progress of an attempt at once.
#[derive(Clone)]
pub struct ProgressReporter(Arc<watch::Sender<ProgressUpdate>>);

impl ProgressReporter {
    /// Creates a reporter, and the receiver for the engine.
    pub fn new_channel() -> (Self, watch::Receiver<ProgressUpdate>) {
        let (sender, receiver) = watch::channel(ProgressUpdate::default());
        (Self(Arc::new(sender)), receiver)
    }

    /// Reports committed work. `done` never decreases: a lower value is raised to the last one.
    pub fn report_committed(&self, report: ProgressUpdate) {
        self.0.send_modify(|last| {
            let done = report.done.max(last.done);
            *last = ProgressUpdate { done, ..report };
        });
    }
}

/// The state of an effect before it is tried.
#[derive(Clone, Debug, PartialEq)]
pub enum EffectState {
    /// It was never tried.
    New,
    /// It was tried, but the outcome is unknown.
    Uncertain,
    /// It is done. Holds the recorded detail.
    Done(serde_json::Value),
}

/// A boxed future, for traits that are used as objects.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Records effects that must not be repeated knowingly (mails, calls) in the service's database.
pub trait EffectRecorder: Send + Sync {
    /// Returns the state of the effect `key` of this step, and records nothing.
    fn effect_state(&self, key: &str) -> BoxFuture<EffectState>;
    /// Records the start of the effect `key` of this step, and returns its state before.
    fn begin_effect(&self, key: &str) -> BoxFuture<EffectState>;
    /// Records that the effect is done, with the detail for later attempts.
    fn mark_done(&self, key: &str, detail: serde_json::Value) -> BoxFuture<()>;
    /// Records that the effect certainly did not happen, so that a retry is safe.
    fn mark_not_done(&self, key: &str) -> BoxFuture<()>;
}

/// The result of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// The key of the recipient.
    pub person: String,
    /// The reason, such as `mention`.
    pub reason: &'static str,
    /// The code of the permanent error; `None` after a successful delivery.
    pub failure: Option<&'static str>,
}

/// Records the deliveries of a step in the service's database.
pub trait DeliveryRecorder: Send + Sync {
    /// Returns the keys of these recipients whose delivery has ended.
    fn filter_finished(&self, people: Vec<String>) -> BoxFuture<Vec<String>>;
    /// Records the end of a delivery. A second record for the same recipient changes nothing.
    fn record_delivery(&self, delivery: DeliveryRecord) -> BoxFuture<()>;
    /// Returns the number of successful and of failed deliveries.
    fn delivery_counts(&self) -> BoxFuture<(u64, u64)>;
}

/// Creates links to files for people without an API key.
pub trait FileLinks: Send + Sync {
    /// Creates a link to a file that works for at least `lives`. The same step always gets the same link. `None`: the
    /// file is not an artifact, or it does not exist.
    fn create_link(&self, file: &VerifiedFile, lives: Duration) -> BoxFuture<Option<String>>;
}
