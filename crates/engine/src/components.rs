//! The parts of an engine and how they depend on each other.

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::EngineDeps;
use crate::config::EngineConfig;
use crate::executor::claim::StepClaimer;
use crate::executor::download_links::StepLinks;
use crate::executor::job::Executor;
use crate::executor::progress::ProgressStore;
use crate::executor::queue_workers::QueueWorkers;
use crate::executor::run::StepRunner;
use crate::executor::step_files::AttemptFiles;
use crate::executor::supervise::Supervisor;
use crate::expr_context::ContextBuilder;
use crate::lifecycle::admit::Admission;
use crate::lifecycle::advance::{StepAdvancer, TransitionPublisher};
use crate::lifecycle::cancel::{Canceller, RunningAttempts};
use crate::lifecycle::deadlines::DeadlineEnforcer;
use crate::lifecycle::finish::AttemptFinisher;
use crate::lifecycle::follow_up::StepFollowUp;
use crate::lifecycle::reconcile::ConcurrencyReconciler;
use crate::lifecycle::retry::RunRetrier;
use crate::lifecycle::run_notifications::RunNotifier;
use crate::lifecycle::start::RunStarter;
use crate::maintenance::retention::RetentionCleaner;
use crate::maintenance::sweep::QueueSweeper;
use crate::plan_cache::PlanCache;
use crate::record_params::RecordLoader;
use crate::run_watch::RunWatches;
use crate::scheduling::fan_out::ItemScheduler;
use crate::scheduling::pauses::Pauses;
use crate::scheduling::queue_depth::QueueDepthCache;
use crate::scheduling::queues::QueueList;
use crate::scheduling::rate_limit::{KeyedLocks, StartLimiter};
use crate::scheduling::suspend::Suspensions;
use afterload_core::error::Result;
use afterload_metrics::Metrics;
use afterload_object_store::ObjectStore;
use afterload_pipeline::StepCatalog;
use afterload_state::Db;
use afterload_state::queue::JobQueue;

/// The parts that [`crate::Engine`] calls directly. They own all other parts.
pub(crate) struct EngineCore {
    pub(crate) db: Db,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) objects: ObjectStore,
    pub(crate) metrics: Metrics,
    pub(crate) queue: Arc<JobQueue>,
    pub(crate) plans: Arc<PlanCache>,
    pub(crate) watches: Arc<RunWatches>,
    pub(crate) starter: RunStarter,
    pub(crate) retrier: RunRetrier,
    pub(crate) canceller: Canceller,
    pub(crate) deadlines: DeadlineEnforcer,
    pub(crate) reconciler: ConcurrencyReconciler,
    pub(crate) suspensions: Suspensions,
    pub(crate) pauses: Arc<Pauses>,
    pub(crate) queues: Arc<QueueList>,
    pub(crate) depths: QueueDepthCache,
    pub(crate) workers: QueueWorkers,
    pub(crate) notifier: RunNotifier,
    pub(crate) sweeper: QueueSweeper,
    pub(crate) retention: RetentionCleaner,
    /// Cancelled when the process shuts down: running steps stop at their next checkpoint.
    pub(crate) draining: CancellationToken,
}

impl EngineCore {
    /// Opens the queue and builds the parts.
    pub(crate) async fn open(deps: EngineDeps) -> Result<Self> {
        let queue = JobQueue::open(deps.db.clone(), deps.config.lease).await?;
        let shared = SharedParts::new(&deps, queue);
        Ok(shared.into_core(deps))
    }
}

/// The parts that several other parts use.
struct SharedParts {
    config: Arc<EngineConfig>,
    queue: Arc<JobQueue>,
    plans: Arc<PlanCache>,
    watches: Arc<RunWatches>,
    contexts: ContextBuilder,
    publisher: TransitionPublisher,
    admission: Admission,
    follow_up: StepFollowUp,
    suspensions: Suspensions,
    pauses: Arc<Pauses>,
    attempts: Arc<RunningAttempts>,
    draining: CancellationToken,
}

impl SharedParts {
    fn new(deps: &EngineDeps, queue: Arc<JobQueue>) -> Self {
        let EngineDeps { db, redactor, metrics, steps, .. } = deps;
        let config = Arc::new(deps.config.clone());
        let kinds = StepCatalog(steps.iter().map(|step| step.kind.clone()).collect());
        let plans = Arc::new(PlanCache::new(db.clone(), kinds, config.smtputf8));
        let watches = Arc::new(RunWatches::new(db.clone()));
        let contexts = ContextBuilder { db: db.clone(), config: config.clone() };
        let advancer = StepAdvancer {
            queue: queue.clone(),
            plans: plans.clone(),
            contexts: contexts.clone(),
            redactor: redactor.clone(),
        };
        let admission = Admission { steps: advancer };
        Self {
            follow_up: StepFollowUp { items: ItemScheduler { queue: queue.clone() }, admission: admission.clone() },
            publisher: TransitionPublisher {
                queue: queue.clone(),
                watches: watches.clone(),
                metrics: metrics.clone(),
                notification_due: Arc::new(Notify::new()),
            },
            suspensions: Suspensions { db: db.clone(), queue: queue.clone(), watches: watches.clone() },
            pauses: Arc::new(Pauses::new(db.clone(), queue.clone())),
            attempts: Arc::default(),
            draining: CancellationToken::new(),
            config,
            queue,
            plans,
            watches,
            contexts,
            admission,
        }
    }

    fn into_core(self, deps: EngineDeps) -> EngineCore {
        let db = &deps.db;
        let queues = Arc::new(QueueList { db: db.clone(), config: self.config.clone(), plans: self.plans.clone() });
        let canceller = Canceller {
            db: db.clone(),
            queue: self.queue.clone(),
            attempts: self.attempts.clone(),
            follow_up: self.follow_up.clone(),
            publisher: self.publisher.clone(),
        };
        let reconciler = ConcurrencyReconciler {
            db: db.clone(),
            plans: self.plans.clone(),
            admission: self.admission.clone(),
            canceller: canceller.clone(),
            publisher: self.publisher.clone(),
        };
        EngineCore {
            starter: self.new_starter(&deps, &queues, &reconciler),
            retrier: RunRetrier {
                db: db.clone(),
                config: self.config.clone(),
                plans: self.plans.clone(),
                admission: self.admission.clone(),
                reconciler: reconciler.clone(),
                publisher: self.publisher.clone(),
            },
            workers: QueueWorkers {
                db: db.clone(),
                queue: self.queue.clone(),
                config: self.config.clone(),
                queues: queues.clone(),
                pauses: self.pauses.clone(),
                executor: Arc::new(self.new_executor(&deps)),
            },
            notifier: RunNotifier {
                db: db.clone(),
                config: self.config.clone(),
                http: deps.http.clone(),
                redactor: deps.redactor.clone(),
                due: self.publisher.notification_due.clone(),
            },
            sweeper: QueueSweeper { db: db.clone(), queue: self.queue.clone() },
            retention: RetentionCleaner { db: db.clone(), config: self.config.clone(), objects: deps.objects.clone() },
            depths: QueueDepthCache::new(self.queue.clone()),
            deadlines: DeadlineEnforcer {
                db: db.clone(),
                admission: self.admission.clone(),
                canceller: canceller.clone(),
                publisher: self.publisher.clone(),
            },
            canceller,
            reconciler,
            queues,
            config: self.config,
            queue: self.queue,
            plans: self.plans,
            watches: self.watches,
            suspensions: self.suspensions,
            pauses: self.pauses,
            draining: self.draining,
            db: deps.db,
            objects: deps.objects,
            metrics: deps.metrics,
        }
    }

    fn new_starter(
        &self,
        deps: &EngineDeps,
        queues: &Arc<QueueList>,
        reconciler: &ConcurrencyReconciler,
    ) -> RunStarter {
        RunStarter {
            db: deps.db.clone(),
            config: self.config.clone(),
            redactor: deps.redactor.clone(),
            metrics: deps.metrics.clone(),
            plans: self.plans.clone(),
            queues: queues.clone(),
            admission: self.admission.clone(),
            reconciler: reconciler.clone(),
            publisher: self.publisher.clone(),
        }
    }

    fn new_executor(&self, deps: &EngineDeps) -> Executor {
        let db = &deps.db;
        Executor {
            claimer: StepClaimer {
                db: db.clone(),
                queue: self.queue.clone(),
                pauses: self.pauses.clone(),
                follow_up: self.follow_up.clone(),
                publisher: self.publisher.clone(),
                suspects: Arc::new(Semaphore::new(1)),
            },
            runner: self.new_runner(deps),
            finisher: AttemptFinisher {
                db: db.clone(),
                queue: self.queue.clone(),
                objects: deps.objects.clone(),
                metrics: deps.metrics.clone(),
                suspensions: self.suspensions.clone(),
                follow_up: self.follow_up.clone(),
                publisher: self.publisher.clone(),
            },
        }
    }

    fn new_runner(&self, deps: &EngineDeps) -> StepRunner {
        let (db, config) = (&deps.db, &self.config);
        StepRunner {
            db: db.clone(),
            config: config.clone(),
            steps: deps.steps.clone(),
            plans: self.plans.clone(),
            contexts: self.contexts.clone(),
            records: RecordLoader(deps.records.clone()),
            files: AttemptFiles { objects: deps.objects.clone(), config: config.clone() },
            links: StepLinks { db: db.clone(), base_url: config.base_url.clone(), keyring: config.keyring.clone() },
            limiter: StartLimiter {
                db: db.clone(),
                contexts: self.contexts.clone(),
                start_locks: KeyedLocks::default(),
                draining: self.draining.clone(),
            },
            progress: ProgressStore { db: db.clone(), watches: self.watches.clone() },
            supervisor: Supervisor { drain: config.drain, draining: self.draining.clone() },
            attempts: self.attempts.clone(),
            redactor: deps.redactor.clone(),
            draining: self.draining.clone(),
        }
    }
}
