//! The queue under the engine. The only folder that names apalis or its tables.
//!
//! apalis is used as a lease queue: push, fetch with a lock, reclaim of what dead workers held. One step is one job,
//! whose id is the step's; the locked row is the lease. Acknowledging is ours: the row is deleted in the transaction
//! that ends the step, so that a lost lease and a lost write are the same thing. apalis's own acknowledgement,
//! retries, time limits and panic handling stay off.

mod claim;
mod leases;
mod listen;
mod pause_gate;
mod worker;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
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
use crate::{Db, DbRow, DbTx, STEP_NEEDS_JOB, STEP_NOT_PAUSED, SqlArg, StepStatus, args};
use afterload_core::clock::UnixMillis;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result, Retryability};
use afterload_metrics::QueueDepth;

pub use pause_gate::PauseGate;
pub use worker::QueueWorkerSpec;

/// What is due later than this stays out of the queue until the sweep finds it due: fetching slows down with the
/// number of jobs that wait there.
pub const MAX_ENQUEUE_LEAD_TIME: Duration = Duration::from_secs(60);

/// How many jobs that were pushed here are remembered at most.
const MAX_OWN_INSERTS: usize = 10_000;
/// How often a lease is renewed before it would end.
const HEARTBEATS_PER_LEASE: u32 = 3;
/// The queue's priorities start at 0, the language's at -100.
const PRIORITY_SHIFT: i64 = 100;

/// The payload of a job. Only a reference: the truth lies in `step_runs`, under the job's own id.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StepJob {
    #[serde(default)]
    step_run: String,
}

/// The right to work on a step: the job's row as it was fetched. The worker's name alone would not do, for a paused
/// worker can fetch its own reclaimed job again.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The step, and its job.
    pub step_run: String,
    worker: String,
    attempts: i64,
    /// Cancelled once the job is found with somebody else.
    pub lost: CancellationToken,
}

/// A job to push.
pub struct NewJob<'a> {
    /// The step, and its job.
    pub step_run: &'a str,
    /// The queue.
    pub queue: &'a str,
    /// Higher goes first.
    pub priority: i64,
    /// When it may start; `None`: now.
    pub due_at: Option<UnixMillis>,
}

/// A step whose job is held.
pub struct LockedJob {
    /// Where it is; `None`: it is gone.
    pub status: Option<StepStatus>,
    /// Its queue or its pipeline is paused.
    pub paused: bool,
}

/// What a worker does with a job. It may not fail: it returns when the lease has been given back or lost.
pub type JobHandler = Arc<dyn Fn(Lease) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The queue as the engine sees it.
pub struct JobQueue {
    db: Db,
    /// How often the leases of this process are renewed.
    heartbeat: Duration,
    process: Ulid,
    wake_signals: Mutex<HashMap<String, Arc<Notify>>>,
    /// The worker of each queue.
    workers: Mutex<HashMap<String, String>>,
    /// The leases that somebody in this process works under, by step.
    active_leases: Mutex<HashMap<String, Lease>>,
    /// While PostgreSQL is listened to: the jobs that this process has pushed and was not told of yet.
    own_inserts: Mutex<Option<HashSet<String>>>,
    /// Leases of this process that nobody worked under at the last look.
    orphans: Mutex<HashSet<(String, String, i64)>>,
}

fn lock_mutex<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobQueue {
    /// Prepares the queue's own tables. Other processes take over the jobs of one that has not renewed its `lease` in time.
    ///
    /// # Errors
    /// `queue_unsupported` if the tables are not those this version was made for; `database_extension_missing`; those of
    /// the database.
    pub async fn open(db: Db, lease: Duration) -> Result<Arc<Self>> {
        if let (Some(pool), Some(path)) = (db.sqlite_pool(), db.path()) {
            let _lock = crate::acquire_file_lock(path).await?;
            // Not `SqliteStorage::setup`: it would leave a connection at `synchronous = OFF`.
            let mut migrator = SqliteStorage::migrations();
            migrator.set_ignore_missing(true);
            migrator.run(pool).await.map_err(sqlx::Error::from)?;
        }
        if let Some(pool) = db.postgres_pool() {
            require_extensions(pool).await?;
            PostgresStorage::setup(pool).await.map_err(|error| match error {
                apalis_postgres::Error::Database(error) => crate::migration_failed(Dialect::Postgres, error),
                other => Error::new(codes::MIGRATION_FAILED, other.to_string()),
            })?;
        }
        let chain = Self {
            db,
            heartbeat: lease / HEARTBEATS_PER_LEASE,
            process: Ulid::generate(),
            wake_signals: Mutex::default(),
            workers: Mutex::default(),
            active_leases: Mutex::default(),
            own_inserts: Mutex::default(),
            orphans: Mutex::default(),
        };
        // What our own statements rely on: an upgrade that changes it fails here, loudly.
        let columns = format!(
            "SELECT j.id, job, job_type, status, attempts, max_attempts, run_at, lock_at, lock_by, priority, last_seen
             FROM {} j, {} w LIMIT 0",
            chain.jobs_table(),
            chain.workers_table()
        );
        chain.db.fetch(&columns, &[]).await.map_err(|error| Error::new(codes::QUEUE_UNSUPPORTED, error.message()))?;
        Ok(Arc::new(chain))
    }

    fn jobs_table(&self) -> &'static str {
        match self.db.dialect() {
            Dialect::Sqlite => "Jobs",
            Dialect::Postgres => "apalis.jobs",
        }
    }

    fn workers_table(&self) -> &'static str {
        match self.db.dialect() {
            Dialect::Sqlite => "Workers",
            Dialect::Postgres => "apalis.workers",
        }
    }

    /// Pushes jobs in the caller's transaction; [`Chain::wake`] the queues after its commit. What is due beyond
    /// [`HORIZON`] is left to the sweep.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn enqueue_jobs(&self, tx: &mut DbTx, jobs: &[NewJob<'_>]) -> Result<()> {
        let horizon = afterload_core::clock::now_millis() + MAX_ENQUEUE_LEAD_TIME.as_millis() as i64;
        for job in jobs.iter().filter(|job| job.due_at.is_none_or(|due| due <= horizon)) {
            let payload = serde_json::to_vec(&StepJob { step_run: job.step_run.to_owned() });
            let payload = payload.map_err(|error| Error::new(codes::QUEUE_ERROR, error.to_string()))?;
            let id =
                Ulid::from_string(job.step_run).map_err(|error| Error::new(codes::QUEUE_ERROR, error.to_string()))?;
            let mut task: TaskBuilder<Vec<u8>> = TaskBuilder::new(payload)
                .task_id(TaskId::from_ulid(id))
                .priority((job.priority + PRIORITY_SHIFT).max(0) as usize);
            if let Some(due) = job.due_at {
                task = task.run_at_timestamp(ceil_seconds(due) as u64);
            }
            let task: Task<Vec<u8>> = task.build();
            match tx {
                DbTx::Sqlite(tx) => {
                    apalis_sqlite::queries::push_tasks(&mut **tx, job.queue, &[task]).await.map_err(queue_error)?;
                }
                DbTx::Postgres(tx) => {
                    self.record_insert(job);
                    apalis_postgres::queries::push_tasks(&mut **tx, job.queue, vec![task])
                        .await
                        .map_err(queue_error)?;
                }
            }
        }
        Ok(())
    }

    /// Remembers that a job was pushed here, if PostgreSQL will tell of it.
    fn record_insert(&self, job: &NewJob<'_>) {
        let mut pushed = lock_mutex(&self.own_inserts);
        if let Some(pushed) = pushed.as_mut()
            && job.due_at.is_none_or(|due| due <= afterload_core::clock::now_millis())
        {
            // Those of transactions that failed are never told of.
            if pushed.len() >= MAX_OWN_INSERTS {
                pushed.clear();
            }
            pushed.insert(job.step_run.to_owned());
        }
    }

    /// True if the job is one that this process has pushed and was not told of yet.
    fn is_own_insert(&self, step_run: &str) -> bool {
        lock_mutex(&self.own_inserts).as_mut().is_some_and(|pushed| pushed.remove(step_run))
    }

    /// Locks the jobs of these steps until the end of the transaction, in an order that all follow.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lock_jobs(&self, tx: &mut DbTx, steps: &[String]) -> Result<()> {
        if tx.dialect() == Dialect::Postgres && !steps.is_empty() {
            let sql = format!(
                "SELECT id FROM {} WHERE id IN ({}) ORDER BY id FOR UPDATE",
                self.jobs_table(),
                sql_placeholders(steps.len())
            );
            tx.fetch(&sql, &steps.iter().map(Into::into).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Takes the job of a step out of the queue.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_job(&self, tx: &mut DbTx, step_run: &str) -> Result<()> {
        tx.execute(&format!("DELETE FROM {} WHERE id = $1", self.jobs_table()), &args![step_run]).await.map(drop)
    }

    /// True if the step has a job, whoever holds it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_job(&self, tx: &mut DbTx, step_run: &str) -> Result<bool> {
        let sql = format!("SELECT id FROM {} WHERE id = $1", self.jobs_table());
        Ok(!tx.fetch(&sql, &args![step_run]).await?.is_empty())
    }

    /// Steps due by `until` that should have a job and have none; what is paused should have none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn steps_without_job(&self, until: UnixMillis, limit: u32) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT s.id FROM step_runs s WHERE {STEP_NEEDS_JOB}
             AND (s.due_at <= $1 OR s.due_at IS NULL AND s.status <> 'sleeping')
             AND NOT EXISTS (SELECT 1 FROM {} j WHERE j.id = s.id) AND {STEP_NOT_PAUSED} LIMIT $2",
            self.jobs_table()
        );
        self.db.fetch(&sql, &args![until, limit]).await?.iter().map(|row| row.get_text("id")).collect()
    }

    /// How many jobs there are, in the queue or with workers.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_jobs(&self) -> Result<i64> {
        let row = self.db.fetch_optional(&format!("SELECT COUNT(*) AS jobs FROM {}", self.jobs_table()), &[]).await?;
        row.map_or(Ok(0), |row| row.get_int("jobs"))
    }

    /// The jobs of each queue.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_jobs_by_queue(&self) -> Result<Vec<QueueDepth>> {
        let sql = format!(
            "SELECT job_type, COUNT(*) AS jobs, COUNT(lock_by) AS held FROM {} GROUP BY job_type",
            self.jobs_table()
        );
        let depth = |row: &DbRow| {
            let held = row.get_int("held")?;
            Ok(QueueDepth { queue: row.get_text("job_type")?, waiting: row.get_int("jobs")? - held, running: held })
        };
        self.db.fetch(&sql, &[]).await?.iter().map(depth).collect()
    }

    /// Wakes the workers of a queue in this process.
    pub fn wake_queue(&self, queue: &str) {
        self.wake_signal(queue).notify_one();
    }

    /// Wakes the workers of this process that have a job to take: those whose time has come, and those that nobody told of.
    /// One look that reads does for all of them, where each worker's own would begin a transaction that writes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn wake_due_queues(&self) -> Result<()> {
        let queues: Vec<String> = lock_mutex(&self.workers).keys().cloned().collect();
        if queues.is_empty() {
            return Ok(());
        }
        let jobs = self.jobs_table();
        let now = match self.db.dialect() {
            Dialect::Sqlite => "unixepoch()",
            Dialect::Postgres => "now()",
        };
        let looks = (1..=queues.len()).map(|place| {
            format!(
                "SELECT CAST(${place} AS TEXT) AS queue WHERE EXISTS
                 (SELECT 1 FROM {jobs} WHERE job_type = ${place} AND status = 'Pending' AND run_at <= {now})"
            )
        });
        let sql = looks.collect::<Vec<_>>().join(" UNION ALL ");
        for row in self.db.fetch(&sql, &queues.iter().map(SqlArg::from).collect::<Vec<_>>()).await? {
            self.wake_queue(&row.get_text("queue")?);
        }
        Ok(())
    }

    fn wake_signal(&self, queue: &str) -> Arc<Notify> {
        lock_mutex(&self.wake_signals).entry(queue.to_owned()).or_default().clone()
    }

    /// How often [`Chain::keep_alive`] wants to be called.
    pub fn lease_renew_interval(&self) -> Duration {
        self.heartbeat
    }

    /// How often [`Chain::wake_due`] wants to be called.
    pub const WAKE_DUE_INTERVAL: Duration = Duration::from_secs(1);
}

/// `$1, $2, …`
fn sql_placeholders(count: usize) -> String {
    (1..=count).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ")
}

/// Whole seconds, as the queue stores times; rounded up, so that nothing starts early.
fn ceil_seconds(millis: UnixMillis) -> i64 {
    millis.div_euclid(1000) + i64::from(millis.rem_euclid(1000) > 0)
}

fn queue_error(error: impl std::fmt::Display) -> Error {
    Error::new(codes::QUEUE_ERROR, error.to_string()).with_retryability(Retryability::Transient)
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
    use super::ceil_seconds;

    #[test]
    fn due_times_are_rounded_up_to_whole_seconds() {
        assert_eq!([ceil_seconds(0), ceil_seconds(1), ceil_seconds(1000), ceil_seconds(1001)], [0, 1, 1, 2]);
    }
}
