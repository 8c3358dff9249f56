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

use super::files::Files;
use afterload_core::clock::Millis;
use afterload_core::error::{Error, Result};
use afterload_pipeline::Scope;

/// The run that a step belongs to, as expressions name it.
#[derive(Clone, Debug, Serialize)]
pub struct RunFacts {
    /// The run's id.
    pub id: String,
    /// Where the run can be seen.
    pub url: String,
    /// The name of its pipeline.
    pub pipeline: String,
}

/// The step itself.
#[derive(Clone, Debug)]
pub struct StepFacts {
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
pub struct Context {
    /// The run.
    pub run: RunFacts,
    /// The step.
    pub step: StepFacts,
    /// What expressions can name, for the parts of `with` that the step resolves itself.
    pub scope: Scope,
    /// Where the step says how far it is.
    pub progress: Progress,
    /// Ends when the step should stop: asked for, timed out, lease lost, or the process is going down. Chunked steps
    /// look at it between chunks and return [`Context::stopped`].
    pub stop: CancellationToken,
    /// Files that belong to this run.
    pub files: Files,
    /// Links to files for people, who have no API key.
    pub links: Arc<dyn FileLinks>,
    /// The record of effects that must not be repeated.
    pub effects: Arc<dyn Effects>,
    /// The record of whom the step has told.
    pub deliveries: Arc<dyn Deliveries>,
    /// What woke the step, if it has slept.
    pub slept: Option<Slept>,
    /// Where it says that it wants to sleep.
    pub bed: Bed,
}

/// What a step wants to wait for without a worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suspension {
    /// Until when at the latest.
    pub until: Option<Millis>,
    /// The name of an event, and what its fields must be.
    pub event: Option<(String, serde_json::Map<String, serde_json::Value>)>,
}

/// How a step slept before this attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Slept {
    /// Until when it was to sleep.
    pub until: Option<Millis>,
    /// The event that woke it.
    pub event: Option<serde_json::Value>,
}

/// Where a step leaves what it wants to wait for.
#[derive(Clone, Default)]
pub struct Bed(Arc<Mutex<Option<Suspension>>>);

impl Bed {
    /// What the step wants to wait for.
    pub fn taken(&self) -> Option<Suspension> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Context {
    /// Ends the attempt without an end of the step: it is started again when what it waits for has come, and then finds
    /// it in [`Context::slept`]. Return the error that this gives.
    pub fn suspend(&self, wanted: Suspension) -> Error {
        *self.bed.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        Error::stopped("step_suspended", "the step waits")
    }

    /// An error if the step should stop now.
    ///
    /// # Errors
    /// `step_stopped` once [`Context::stop`] has been cancelled.
    pub fn stopped(&self) -> Result<()> {
        match self.stop.is_cancelled() {
            true => Err(Error::stopped("step_stopped", "the step was asked to stop")),
            false => Ok(()),
        }
    }
}

/// Named counts of a progress, such as `inserted`.
pub type Counts = BTreeMap<String, u64>;

/// How far a step is, as it was last committed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Units done.
    pub done: u64,
    /// Units in all; `None` while unknown.
    pub total: Option<u64>,
    /// What is counted, such as `rows` or `bytes`.
    pub unit: String,
    /// What is going on, for people.
    pub message: Option<String>,
    /// Further counts, such as `inserted` and `rejected`.
    pub counts: Counts,
}

/// Where a step says how far it is. Saying it is cheap; the engine stores it at most twice a second.
#[derive(Clone)]
pub struct Progress(Arc<watch::Sender<Report>>);

impl Progress {
    /// A progress and the end that the engine listens to.
    pub fn channel() -> (Self, watch::Receiver<Report>) {
        let (sender, receiver) = watch::channel(Report::default());
        (Self(Arc::new(sender)), receiver)
    }

    /// Says what has been committed. `done` never falls: a lower one is raised to what was said before.
    pub fn committed(&self, report: Report) {
        self.0.send_modify(|last| {
            let done = report.done.max(last.done);
            *last = Report { done, ..report };
        });
    }
}

/// What is known of an effect before it is tried.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// Never tried: go ahead.
    Fresh,
    /// Tried, but the outcome was lost.
    Uncertain,
    /// Done; holds what was recorded with it.
    Done(serde_json::Value),
}

/// What the outside world answers in time.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// The record of effects that must not knowingly be repeated (mails, calls), kept in the service's database.
pub trait Effects: Send + Sync {
    /// What is known of the effect `key` of this step; records nothing.
    fn known(&self, key: &str) -> Answer<Begun>;
    /// Records that the effect `key` of this step is about to be tried, and says what was known before.
    fn begin(&self, key: &str) -> Answer<Begun>;
    /// Records that it is done, with what later attempts need to know of it.
    fn done(&self, key: &str, detail: serde_json::Value) -> Answer<()>;
    /// Records that it certainly did not happen, so that it may be tried again freely.
    fn undone(&self, key: &str) -> Answer<()>;
}

/// What became of a message to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Who it was for, by a key that tells people apart.
    pub person: String,
    /// Why, such as `mention`.
    pub reason: &'static str,
    /// The code of the error for which it cannot be delivered; `None`: it was.
    pub failure: Option<&'static str>,
}

/// The record of whom a step has told, kept in the service's database.
pub trait Deliveries: Send + Sync {
    /// Whose deliveries among these have ended, by their keys.
    fn known(&self, people: Vec<String>) -> Answer<Vec<String>>;
    /// Records the end of a delivery. A second one for the same person changes nothing.
    fn record(&self, delivery: Delivery) -> Answer<()>;
    /// How many were delivered, and how many cannot be.
    fn tally(&self) -> Answer<(u64, u64)>;
}

/// Makes links to files for people, who have no API key.
pub trait FileLinks: Send + Sync {
    /// The link to an artifact, good for at least `lives` from now on. The same step gets the same link each time.
    /// `None`: the artifact is not there.
    fn link(&self, artifact: &str, lives: Duration) -> Answer<Option<String>>;
}
