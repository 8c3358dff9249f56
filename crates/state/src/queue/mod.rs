//! The job queue of the engine. Only this folder names apalis and its tables.
//!
//! apalis serves as a queue with leases: its tables, its push and its worker. One step is one job with the same id, and
//! the locked row is the lease. This crate fetches, reclaims and acknowledges jobs itself: a fetch takes as many jobs as
//! the worker has free slots, and the transaction that ends the step deletes the row. So a lost lease and a lost write are
//! the same thing. The acknowledgements, retries, timeouts and panic handling of apalis stay off.
//!
//! All statements get the time from the clock of the process, which PostgreSQL corrects.

mod claim;
mod dialect;
mod fetch;
mod hand_over;
mod job_slot;
mod job_source;
mod leases;
mod listen;
mod notices;
mod pause_gate;
mod worker;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use apalis::prelude::{Task, TaskBuilder, TaskId};
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::codes;
use crate::migrate::{acquire_file_lock, migration_failed};
use crate::pauses::STEP_NOT_PAUSED;
use crate::sql_args::{SqlArgs, args};
use crate::steps::STEP_NEEDS_JOB;
use crate::tx::BackendTx;
use crate::{Db, DbRow, DbTx, StepStatus};
use afterload_core::clock::UnixMillis;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result, Retryability};
use afterload_metrics::QueueDepth;
use dialect::QueueDialect;
use notices::NoticeSender;

pub use hand_over::HandedStep;
pub use job_slot::{JobSlot, SlotWait};
pub use leases::ActiveLease;
pub use pause_gate::PauseGate;
pub use worker::QueueWorkerSpec;

/// A job that is due later than this stays out of the queue until the sweep pushes it. Fetches slow down with the
/// number of jobs that wait in the queue.
pub const MAX_ENQUEUE_LEAD_TIME: Duration = Duration::from_secs(60);

/// How many renewals fit into the time of a lease.
const HEARTBEATS_PER_LEASE: u32 = 3;
/// Priorities of the queue start at 0, those of pipelines at -100.
const PRIORITY_SHIFT: i64 = 100;

/// The payload of a job. It is only a reference: the state of the step is in `step_runs`, under the id of the job.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StepJob {
    #[serde(default)]
    step_run: String,
}

/// The right to work on a step: the row of its job as fetched. The name of the worker alone is not enough, because a
/// stalled worker can fetch its own reclaimed job again.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The id of the step and of its job.
    pub step_run: String,
    worker: String,
    attempts: i64,
    /// Cancelled once another worker holds the job or the job is gone.
    pub lost: CancellationToken,
}

/// A job to push into its queue.
pub struct NewJob<'a> {
    /// The id of the step and of its job.
    pub step_run: &'a str,
    /// The queue.
    pub queue: &'a str,
    /// The priority. A higher one goes first.
    pub priority: i64,
    /// When the job may start; `None` means now.
    pub due_at: Option<UnixMillis>,
}

/// The state of a step whose job is locked.
pub struct LockedJob {
    /// The status of the step; `None` if the step no longer exists.
    pub status: Option<StepStatus>,
    /// Whether the queue or the pipeline of the step is paused.
    pub paused: bool,
}

/// Handles a job, which holds a slot of its queue. It cannot fail: it returns when the job is acknowledged or rescheduled,
/// or the lease is lost.
pub type JobHandler = Arc<dyn Fn(Lease, JobSlot) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The job queue.
pub struct JobQueue {
    db: Db,
    /// How often the leases of this process are renewed.
    heartbeat: Duration,
    process: Ulid,
    wake_signals: Mutex<HashMap<String, Arc<Notify>>>,
    /// The worker of each queue.
    workers: Mutex<HashMap<String, String>>,
    /// How many workers this process has started.
    worker_count: AtomicU64,
    /// The leases under which a task of this process works, by step.
    active_leases: Mutex<HashMap<String, Lease>>,
    /// The leases of hand-overs that are being committed.
    handing_over: Mutex<Vec<(String, String, i64)>>,
    /// Tells other processes of new jobs.
    notices: NoticeSender,
    /// The leases of this process that had no task at the last check.
    orphans: Mutex<HashSet<(String, String, i64)>>,
}

fn lock_mutex<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobQueue {
    /// Migrates the queue's own tables. Other processes take over the jobs of a process that has not renewed its
    /// `lease` in time.
    ///
    /// # Errors
    /// `queue_unsupported` if the tables do not fit this version, `database_extension_missing`, or an error of the
    /// database.
    pub async fn open(db: Db, lease: Duration) -> Result<Arc<Self>> {
        if let (Some(pool), Some(path)) = (db.sqlite_pool(), db.path()) {
            let _lock = acquire_file_lock(path).await?;
            // `SqliteStorage::setup` would leave a connection at `synchronous = OFF`.
            let mut migrator = SqliteStorage::migrations();
            migrator.set_ignore_missing(true);
            migrator.run(pool).await.map_err(sqlx::Error::from)?;
        }
        if let Some(pool) = db.postgres_pool() {
            require_extensions(pool).await?;
            PostgresStorage::setup(pool).await.map_err(|error| match error {
                apalis_postgres::Error::Database(error) => migration_failed(Dialect::Postgres, error),
                other => Error::new(codes::MIGRATION_FAILED, other.to_string()),
            })?;
            drop_notify_trigger(pool).await?;
        }
        let chain = Self {
            db,
            heartbeat: lease / HEARTBEATS_PER_LEASE,
            process: Ulid::generate(),
            wake_signals: Mutex::default(),
            workers: Mutex::default(),
            worker_count: AtomicU64::new(0),
            active_leases: Mutex::default(),
            handing_over: Mutex::default(),
            notices: NoticeSender::default(),
            orphans: Mutex::default(),
        };
        // Our statements need these columns. An upgrade that changes them fails here, and not later.
        let QueueDialect { jobs, workers, .. } = chain.dialect();
        let columns = format!(
            "SELECT j.id, job, job_type, status, attempts, max_attempts, run_at, lock_at, lock_by, priority, last_seen
             FROM {jobs} j, {workers} w LIMIT 0"
        );
        chain.db.fetch(&columns, &[]).await.map_err(|error| Error::new(codes::QUEUE_UNSUPPORTED, error.message()))?;
        Ok(Arc::new(chain))
    }

    fn dialect(&self) -> &'static QueueDialect {
        QueueDialect::of(self.db.dialect())
    }

    /// Pushes jobs in the transaction of the caller, which calls [`Self::announce_jobs`] for their queues after the
    /// commit. The sweep pushes jobs that are due beyond [`MAX_ENQUEUE_LEAD_TIME`].
    pub async fn enqueue_jobs(&self, tx: &mut DbTx, jobs: &[NewJob<'_>]) -> Result<()> {
        let now = tx.now();
        let horizon = now + MAX_ENQUEUE_LEAD_TIME.as_millis() as i64;
        for job in jobs.iter().filter(|job| job.due_at.is_none_or(|due| due <= horizon)) {
            let payload = serde_json::to_vec(&StepJob { step_run: job.step_run.to_owned() });
            let payload = payload.map_err(|error| Error::new(codes::QUEUE_ERROR, error.to_string()))?;
            let id =
                Ulid::from_string(job.step_run).map_err(|error| Error::new(codes::QUEUE_ERROR, error.to_string()))?;
            let run_at = job.due_at.map_or(past_second(now), ceil_seconds);
            let task: TaskBuilder<Vec<u8>> = TaskBuilder::new(payload)
                .task_id(TaskId::from_ulid(id))
                .priority((job.priority + PRIORITY_SHIFT).max(0) as usize)
                .run_at_timestamp(run_at as u64);
            let task: Task<Vec<u8>> = task.build();
            match &mut tx.backend {
                BackendTx::Sqlite(tx) => {
                    apalis_sqlite::queries::push_tasks(&mut **tx, job.queue, &[task]).await.map_err(queue_error)?;
                }
                BackendTx::Postgres(tx) => {
                    apalis_postgres::queries::push_tasks(&mut **tx, job.queue, vec![task])
                        .await
                        .map_err(queue_error)?;
                }
            }
        }
        Ok(())
    }

    /// Locks the jobs of these steps until the end of the transaction. All callers use the same order, so they cannot
    /// deadlock.
    pub async fn lock_jobs(&self, tx: &mut DbTx, steps: &[String]) -> Result<()> {
        if tx.dialect() == Dialect::Postgres && !steps.is_empty() {
            let mut args = SqlArgs::default();
            let ids = args.add_list(steps);
            let sql = format!("SELECT id FROM {} WHERE id IN ({ids}) ORDER BY id FOR UPDATE", self.dialect().jobs);
            tx.fetch(&sql, args.as_slice()).await?;
        }
        Ok(())
    }

    /// Deletes the job of a step.
    pub async fn delete_job(&self, tx: &mut DbTx, step_run: &str) -> Result<()> {
        tx.execute(&format!("DELETE FROM {} WHERE id = $1", self.dialect().jobs), &args![step_run]).await.map(drop)
    }

    /// Returns true if the step has a job, locked or not.
    pub async fn has_job(&self, tx: &mut DbTx, step_run: &str) -> Result<bool> {
        let sql = format!("SELECT id FROM {} WHERE id = $1", self.dialect().jobs);
        Ok(!tx.fetch(&sql, &args![step_run]).await?.is_empty())
    }

    /// Lists steps due by `until` that should have a job and have none. Paused steps should have none.
    pub async fn steps_without_job(&self, until: UnixMillis, limit: u32) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT s.id FROM step_runs s WHERE {STEP_NEEDS_JOB}
             AND (s.due_at <= $1 OR s.due_at IS NULL AND s.status <> 'suspended')
             AND NOT EXISTS (SELECT 1 FROM {} j WHERE j.id = s.id) AND {STEP_NOT_PAUSED} LIMIT $2",
            self.dialect().jobs
        );
        self.db.fetch(&sql, &args![until, limit]).await?.iter().map(|row| row.get_text("id")).collect()
    }

    /// Counts all jobs, locked or not.
    pub async fn count_jobs(&self) -> Result<i64> {
        let row = self.db.fetch_optional(&format!("SELECT COUNT(*) AS jobs FROM {}", self.dialect().jobs), &[]).await?;
        row.map_or(Ok(0), |row| row.get_int("jobs"))
    }

    /// Counts the jobs of each queue.
    pub async fn count_jobs_by_queue(&self) -> Result<Vec<QueueDepth>> {
        let sql = format!(
            "SELECT job_type, COUNT(*) AS jobs, COUNT(lock_by) AS held FROM {} GROUP BY job_type",
            self.dialect().jobs
        );
        let depth = |row: &DbRow| {
            let held = row.get_int("held")?;
            Ok(QueueDepth { queue: row.get_text("job_type")?, waiting: row.get_int("jobs")? - held, running: held })
        };
        self.db.fetch(&sql, &[]).await?.iter().map(depth).collect()
    }

    /// Wakes the worker of a queue, if this process has one. A worker that starts looks for jobs by itself.
    pub fn wake_queue(&self, queue: &str) {
        if let Some(signal) = lock_mutex(&self.wake_signals).get(queue) {
            signal.notify_one();
        }
    }

    /// Wakes the workers of this process that have a due job, also one of which they got no notice. One query that
    /// only reads replaces the poll of each worker, which would begin a write transaction.
    pub async fn wake_due_queues(&self) -> Result<()> {
        for queue in self.find_due_queues(&self.worked_queues()).await? {
            self.wake_queue(&queue);
        }
        Ok(())
    }

    /// The queues that have a worker in this process, sorted by name.
    pub fn worked_queues(&self) -> Vec<String> {
        let mut queues: Vec<String> = lock_mutex(&self.workers).keys().cloned().collect();
        queues.sort_unstable();
        queues
    }

    /// Finds those of the queues that have a due job. They are one argument, because both databases limit the number of
    /// arguments and the size of a statement.
    pub async fn find_due_queues(&self, queues: &[String]) -> Result<Vec<String>> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let QueueDialect { jobs, json_texts, .. } = self.dialect();
        let mut args = SqlArgs::default();
        args.add(&serde_json::Value::from(queues));
        let now = self.dialect().time_from_millis(&args.add(self.db.now()));
        // The limit keeps PostgreSQL from joining all jobs: it looks into the index once for each queue.
        let sql = format!(
            "SELECT CAST(q.value AS TEXT) AS queue FROM {json_texts} WHERE
             (SELECT 1 FROM {jobs} WHERE job_type = q.value AND status = 'Pending' AND run_at <= {now} LIMIT 1) IS NOT NULL"
        );
        let rows = self.db.fetch(&sql, args.as_slice()).await?;
        rows.iter().map(|row| row.get_text("queue")).collect()
    }

    fn wake_signal(&self, queue: &str) -> Arc<Notify> {
        lock_mutex(&self.wake_signals).entry(queue.to_owned()).or_default().clone()
    }

    /// How often the caller must call [`Self::renew_leases`].
    pub fn lease_renew_interval(&self) -> Duration {
        self.heartbeat
    }

    /// How often the caller must call [`Self::wake_due_queues`].
    pub const WAKE_DUE_INTERVAL: Duration = Duration::from_secs(1);
}

/// Whole seconds, as the queue stores times. They are rounded up, so that nothing starts early.
fn ceil_seconds(millis: UnixMillis) -> i64 {
    millis.div_euclid(1000) + i64::from(millis.rem_euclid(1000) > 0)
}

/// The last whole second that is over, for jobs that are due at once. The clocks of other processes may be a little behind
/// this one; another second covers that.
fn past_second(now: UnixMillis) -> i64 {
    now.div_euclid(1000) - 1
}

fn queue_error(error: impl std::fmt::Display) -> Error {
    Error::new(codes::QUEUE_ERROR, error.to_string()).with_retryability(Retryability::Transient)
}

/// Drops the trigger of apalis that notifies in each transaction that pushes jobs; see `notices.rs`.
async fn drop_notify_trigger(pool: &sqlx::PgPool) -> Result<()> {
    let select = "SELECT EXISTS (SELECT 1 FROM pg_trigger
        WHERE tgname = 'notify_workers' AND tgrelid = CAST('apalis.jobs' AS regclass))";
    let present: bool = sqlx::query_scalar(select).fetch_one(pool).await?;
    if present
        && let Err(error) = sqlx::query("DROP TRIGGER IF EXISTS notify_workers ON apalis.jobs").execute(pool).await
    {
        tracing::warn!(
            "the trigger `notify_workers` of `apalis.jobs` cannot be dropped, so commits are slower: {error}"
        );
    }
    Ok(())
}

async fn require_extensions(pool: &sqlx::PgPool) -> Result<()> {
    for name in ["hstore", "pgcrypto"] {
        let present: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = $1)")
            .bind(name)
            .fetch_one(pool)
            .await?;
        if present {
            continue;
        }
        let create = format!("CREATE EXTENSION IF NOT EXISTS {name}");
        sqlx::query(sqlx::AssertSqlSafe(create.clone())).execute(pool).await.map_err(|error| {
            Error::new(
                codes::DATABASE_EXTENSION_MISSING,
                format!("PostgreSQL lacks the extension `{name}`, and creating it failed: {error}"),
            )
            .with_hint(format!("let an administrator run `{create};` in this database"))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{ceil_seconds, past_second};

    #[test]
    fn due_times_round_up_to_whole_seconds() {
        assert_eq!([past_second(4_000), past_second(4_999)], [3, 3]);
        assert_eq!([ceil_seconds(0), ceil_seconds(1), ceil_seconds(1000), ceil_seconds(1001)], [0, 1, 1, 2]);
    }
}
