//! Starts runs: stores the run, its steps and its first jobs in one transaction.

use afterload_core::failpoint;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use ulid::Ulid;

use crate::Engine;
use crate::codes;
use crate::config::EngineConfig;
use crate::lifecycle::admit::{Admission, AdmissionKind};
use crate::lifecycle::advance::TransitionPublisher;
use crate::lifecycle::deadlines::run_deadlines;
use crate::lifecycle::file_grants::FileGrants;
use crate::lifecycle::reconcile::ConcurrencyReconciler;
use crate::plan_cache::{CompiledStep, PlanCache};
use crate::run_errors::{error_to_json, pipeline_not_found};
use crate::scheduling::concurrency::concurrency_slot;
use crate::scheduling::queues::QueueList;
use afterload_core::blocking::run_sized;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::file::{File, FileIdentity};
use afterload_core::file_seals::FileSeals;
use afterload_core::redactor::Redactor;
use afterload_metrics::Metrics;
use afterload_pipeline::params::estimate_params_size;
use afterload_pipeline::plan::Retention;
use afterload_state::{
    Db, DedupRecord, DefinitionRecord, RetentionOverride, RunDeadlines, RunRecord, RunStatus, StepRecord, StepStatus,
};

/// A run to start.
#[derive(Clone, Debug, Default)]
pub struct NewRun {
    /// The id of the run. Uploads are already stored under it.
    pub id: String,
    /// The name of the pipeline.
    pub pipeline: String,
    /// The parameters as given; starting the run binds and validates them. The run may read the files that
    /// [`Engine::seal_file`] has sealed for it, here and in `event`.
    pub params: Map<String, Value>,
    /// The params whose value the author of the pipeline wrote. Their files need no seal.
    pub author_params: BTreeSet<String>,
    /// The kind of trigger, such as `api`.
    pub origin: &'static str,
    /// The run that this one repeats. It becomes part of the stored origin.
    pub replay_of: Option<String>,
    /// The uploaded files; they become artifacts of the run.
    pub uploads: Vec<File>,
    /// When the run may start; `None`: at once.
    pub run_at: Option<UnixMillis>,
    /// Overrides the priority of all steps.
    pub priority: Option<i32>,
    /// Overrides the queue of all steps. It must be one that the configuration, a live pipeline or an open step names.
    pub queue: Option<String>,
    /// The `event` value in expressions.
    pub event: Option<Value>,
    /// How many runs came before it in its chain: each wrote or sent what started the next one.
    pub hops: u32,
    /// The URL to notify when the run has ended.
    pub notify_url: Option<String>,
    /// The dedup key, if the run must start at most once.
    pub dedup_key: Option<DedupKey>,
}

/// A key that starts at most one run per pipeline.
#[derive(Clone, Debug)]
pub struct DedupKey {
    /// The namespace of the key.
    pub source: &'static str,
    /// The key, unique per pipeline and source.
    pub key: String,
    /// Identifies the content of the request, so that a caller can detect a key that is used for another one.
    pub fingerprint: Option<String>,
}

impl DedupKey {
    /// The source of `Idempotency-Key` headers. These keys are kept for [`Self::IDEMPOTENCY_KEY_RETENTION`].
    pub const IDEMPOTENCY_KEY_SOURCE: &str = "idempotency-key";
    /// How long an idempotency key is kept.
    pub const IDEMPOTENCY_KEY_RETENTION: Duration = Duration::from_secs(24 * 3600);

    fn into_record(self, run: &RunRecord) -> DedupRecord {
        let Self { source, key, fingerprint } = self;
        let (pipeline, run_id) = (run.pipeline.clone(), run.id.clone());
        DedupRecord { pipeline, source: source.to_owned(), key, fingerprint, run_id }
    }
}

/// The result of starting a run.
#[derive(Debug)]
pub enum StartOutcome {
    /// The run was committed.
    Created(Box<RunRecord>),
    /// The dedup key was used before, and nothing was written.
    Duplicate {
        /// The earlier run. It may have been deleted since.
        run_id: String,
        /// The fingerprint that was stored with the key.
        fingerprint: Option<String>,
    },
}

impl From<DedupRecord> for StartOutcome {
    fn from(known: DedupRecord) -> Self {
        Self::Duplicate { run_id: known.run_id, fingerprint: known.fingerprint }
    }
}

impl Engine {
    /// Creates the seal that lets a run read a file. The caller has checked that the run may.
    pub fn seal_file(&self, run: &str, file: &File) -> FileSeals {
        let identity = FileIdentity::from(file);
        let seal = self.0.config.keyring.create_file_seal(&identity, run);
        let mut seals = FileSeals::default();
        seals.insert(identity, seal);
        seals
    }

    /// Starts a run and returns after the commit. Of several calls with one dedup key the first starts a run; the
    /// others wait for it and return its id. After a database error the caller may repeat the call.
    ///
    /// # Errors
    /// `pipeline_not_found`, `hops_exceeded`, `params_invalid`, `queue_unknown`, `file_not_authorized`,
    /// `concurrency_key_invalid`, or a database error.
    pub async fn start_run(&self, new: NewRun) -> Result<StartOutcome> {
        self.0.starter.start_run(new).await
    }

    /// Records a run that failed before its first step, such as for invalid params. It is for triggers, where no client
    /// waits for a response. The params are stored as given.
    ///
    /// # Errors
    /// `pipeline_not_found`, or a database error.
    pub async fn record_rejected_run(&self, new: NewRun, error: &Error) -> Result<StartOutcome> {
        self.0.starter.record_rejected_run(new, error).await
    }
}

pub(crate) struct RunStarter {
    pub(crate) db: Db,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) redactor: Redactor,
    pub(crate) metrics: Metrics,
    pub(crate) plans: Arc<PlanCache>,
    pub(crate) queues: Arc<QueueList>,
    pub(crate) admission: Admission,
    pub(crate) reconciler: ConcurrencyReconciler,
    pub(crate) publisher: TransitionPublisher,
}

impl RunStarter {
    async fn start_run(&self, mut new: NewRun) -> Result<StartOutcome> {
        // This check is only a shortcut. The insert below decides.
        if let Some(DedupKey { source, key, .. }) = &new.dedup_key
            && let Some(known) = self.db.dedup_keys().find(&new.pipeline, source, key).await?
        {
            return Ok(known.into());
        }
        let definition = self.db.definitions().find_live(&new.pipeline).await?;
        let definition = definition.ok_or_else(|| pipeline_not_found(&new.pipeline))?;
        if new.hops > self.config.max_hops {
            self.metrics.count_stopped_chain(&new.pipeline);
            return Err(hops_exceeded(new.hops, self.config.max_hops));
        }
        let compiled = self.plans.load_plan(&definition.digest).await?;
        if let Some(queue) = &new.queue {
            self.queues.ensure_queue_exists(queue).await?;
        }
        let sealed = new.params.values_mut().chain(&mut new.event);
        let grants = FileGrants::take_from(&self.config.keyring, &new.id, sealed);
        let plan = compiled.plan.clone();
        let params = run_sized(estimate_params_size(&new.params), move || plan.bind_params(new.params)).await??;
        let file_seals = grants.into_seals(&compiled.plan.params, &params, &new.author_params)?;
        let (origin, now) = (stored_origin(new.origin, new.replay_of.as_deref()), self.db.now());
        let mut run = RunRecord {
            params: Value::Object(params),
            event: new.event,
            hops: new.hops,
            file_seals,
            run_at: new.run_at,
            deadlines: run_deadlines(&compiled.plan, new.run_at.unwrap_or(now).max(now)),
            ..new_run_record(new.id, definition, origin, now)
        };
        run.concurrency_slot = concurrency_slot(&self.config, &self.redactor, self.db.clock(), &compiled.plan, &run)?;
        let mut tx = self.db.begin().await?;
        if let Some(dedup_key) = new.dedup_key
            && let Some(known) = tx.dedup_keys().insert(&dedup_key.into_record(&run)).await?
        {
            return Ok(known.into());
        }
        tx.runs().insert(&run).await?;
        if let Some(Retention { runs_ms, artifacts_ms }) = compiled.plan.retention {
            tx.retention().set_override(&run.id, RetentionOverride { runs_ms, artifacts_ms }).await?;
        }
        if let Some(url) = &new.notify_url {
            tx.notifications().insert(&run.id, url).await?;
        }
        for (position, known) in compiled.steps.iter().enumerate() {
            let mut step = new_step_record(&run.id, position, known);
            step.priority = new.priority.map_or(step.priority, i64::from);
            step.queue = new.queue.clone().unwrap_or(step.queue);
            tx.steps().insert(&step).await?;
        }
        for file in &new.uploads {
            let id = file.artifact_id.as_deref().unwrap_or_default();
            tx.artifacts().insert(id, &run.id, None, &json!(file)).await?;
        }
        // A reference keeps an artifact of another run from expiring.
        let live = tx.artifacts().retain_live(artifact_ids(&run.file_seals)).await?;
        for id in live {
            if tx.artifacts().lock_live(&id).await? {
                tx.artifacts().add_ref(&id, &run.id).await?;
            }
        }
        let moves = self.admission.admit_run(&mut tx, &run, &compiled.plan, AdmissionKind::New).await?;
        failpoint!("start.before_commit");
        tx.commit().await?;
        failpoint!("start.after_commit");
        self.metrics.count_accepted_run(&run.pipeline, new.origin);
        tracing::info!(run.id = run.id, pipeline.name = run.pipeline, origin = run.origin, "run accepted");
        self.publisher.after_commit(&run, &moves);
        self.reconciler.cancel_superseded_by(&run).await;
        Ok(StartOutcome::Created(Box::new(run)))
    }

    async fn record_rejected_run(&self, mut new: NewRun, error: &Error) -> Result<StartOutcome> {
        let db = &self.db;
        // No step of this run will read a file.
        new.params.values_mut().chain(&mut new.event).for_each(|value| FileSeals::default().write_into(value));
        let error = &self.redactor.redact_error(error.clone());
        let definition =
            db.definitions().find_live(&new.pipeline).await?.ok_or_else(|| pipeline_not_found(&new.pipeline))?;
        let run = RunRecord {
            params: Value::Object(new.params),
            event: new.event,
            hops: new.hops,
            ..new_run_record(new.id, definition, new.origin.to_owned(), db.now())
        };
        let mut tx = db.begin().await?;
        if let Some(dedup_key) = new.dedup_key
            && let Some(known) = tx.dedup_keys().insert(&dedup_key.into_record(&run)).await?
        {
            return Ok(known.into());
        }
        tx.runs().insert(&run).await?;
        tx.runs().set_error(&run.id, &error_to_json(error)).await?;
        tx.runs().finish(&run.id, RunStatus::Failed).await?;
        failpoint!("refuse.before_commit");
        tx.commit().await?;
        failpoint!("refuse.after_commit");
        self.metrics.count_accepted_run(&run.pipeline, &run.origin);
        self.metrics.count_ended_run(&run.pipeline, RunStatus::Failed.as_str());
        let (code, name) = (error.code().name(), &run.pipeline);
        tracing::warn!(run.id = run.id, pipeline.name = name, error.code = code, "a run failed at its start: {error}");
        Ok(StartOutcome::Created(Box::new(run)))
    }
}

/// A queued run without params, which may start at once.
fn new_run_record(id: String, definition: DefinitionRecord, origin: String, now: UnixMillis) -> RunRecord {
    RunRecord {
        id,
        pipeline: definition.name,
        digest: definition.digest,
        status: RunStatus::Queued,
        origin,
        params: Value::Null,
        event: None,
        hops: 0,
        file_seals: FileSeals::default(),
        error: None,
        revision: 1,
        run_at: None,
        cancel_requested_at: None,
        deadlines: RunDeadlines::default(),
        timed_out_at: None,
        created_at: now,
        started_at: None,
        finished_at: None,
        concurrency_slot: None,
    }
}

/// The origin as runs show it, such as `replay of 01ARZ3NDEKTSV4RRFFQ69G5FAV`.
fn stored_origin(origin: &str, replay_of: Option<&str>) -> String {
    match replay_of {
        Some(id) => format!("{origin} of {id}"),
        None => origin.to_owned(),
    }
}

/// The error for a run at the end of a chain that is too long.
fn hops_exceeded(hops: u32, max_hops: u32) -> Error {
    let message = format!("{hops} runs came before this one in its chain, and at most {max_hops} may");
    Error::new(codes::HOPS_EXCEEDED, message)
}

/// The ids of the artifacts that the run may read. They are sorted, so that all runs lock them in the same order.
fn artifact_ids(seals: &FileSeals) -> Vec<String> {
    let ids: BTreeSet<_> = seals.files().filter_map(|file| file.artifact_id.clone()).collect();
    ids.into_iter().collect()
}

/// A step that waits for its start.
pub(super) fn new_step_record(
    run: &str,
    position: usize,
    CompiledStep { step, section, .. }: &CompiledStep,
) -> StepRecord {
    StepRecord {
        id: Ulid::generate().to_string(),
        run_id: run.to_owned(),
        section: section.field_name().to_owned(),
        position: position as i64,
        step_id: step.id.clone(),
        uses: step.uses.clone(),
        queue: step.queue.clone(),
        priority: step.priority.into(),
        status: StepStatus::Waiting,
        claims: 0,
        failures: 0,
        crashes: 0,
        suspend_count: 0,
        suspended_until: None,
        wake_event: None,
        round: 0,
        parent: None,
        item_index: None,
        item: None,
        item_counts: None,
        progress: None,
        outputs: None,
        file_seals: FileSeals::default(),
        error: None,
        due_at: None,
        started_at: None,
        finished_at: None,
    }
}
