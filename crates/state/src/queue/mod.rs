//! The queue under the engine. The only folder that names apalis or its tables.
//!
//! apalis is used as a lease queue: push, fetch with a lock, reclaim of what dead workers held. One step is one job,
//! whose id is the step's; the locked row is the lease. Acknowledging is ours: the row is deleted in the transaction
//! that ends the step, so that a lost lease and a lost write are the same thing. apalis's own acknowledgement,
//! retries, time limits and panic handling stay off.

mod attempt;
mod gate;
mod leases;
mod listen;
mod workers;

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

use crate::{Arg, Db, IS_TO_PUSH, NOT_PAUSED, Row, StepStatus, Tx, args};
use afterload_core::clock::Millis;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_metrics::Depth;

pub use gate::Gate;
pub use workers::Queue;

/// What is due later than this stays out of the queue until the sweep finds it due: fetching slows down with the
/// number of jobs that wait there.
pub const HORIZON: Duration = Duration::from_secs(60);

/// How many jobs that were pushed here are remembered at most.
const REMEMBERED: usize = 10_000;
const HEARTBEAT: Duration = Duration::from_secs(5);
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
pub struct Push<'a> {
    /// The step, and its job.
    pub step_run: &'a str,
    /// The queue.
    pub queue: &'a str,
    /// Higher goes first.
    pub priority: i64,
    /// When it may start; `None`: now.
    pub due_at: Option<Millis>,
}

/// A step whose job is held.
pub struct Held {
    /// Where it is; `None`: it is gone.
    pub status: Option<StepStatus>,
    /// Its queue or its pipeline is paused.
    pub paused: bool,
}

/// What a worker does with a job. It may not fail: it returns when the lease has been given back or lost.
pub type Handler = Arc<dyn Fn(Lease) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The queue as the engine sees it.
pub struct Chain {
    db: Db,
    process: Ulid,
    signals: Mutex<HashMap<String, Arc<Notify>>>,
    /// The worker of each queue.
    workers: Mutex<HashMap<String, String>>,
    /// The leases that somebody in this process works under, by step.
    hands: Mutex<HashMap<String, Lease>>,
    /// While PostgreSQL is listened to: the jobs that this process has pushed and was not told of yet.
    pushed: Mutex<Option<HashSet<String>>>,
    /// Leases of this process that nobody worked under at the last look.
    ghosts: Mutex<HashSet<(String, String, i64)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chain {
    /// Prepares the queue's own tables.
    ///
    /// # Errors
    /// `queue_unsupported` if the tables are not those this version was made for; `database_extension_missing`; those of
    /// the database.
    pub async fn open(db: Db) -> Result<Arc<Self>> {
        if let (Some(pool), Some(path)) = (db.sqlite(), db.path()) {
            let _lock = crate::lock(path).await?;
            // Not `SqliteStorage::setup`: it would leave a connection at `synchronous = OFF`.
            let mut migrator = SqliteStorage::migrations();
            migrator.set_ignore_missing(true);
            migrator.run(pool).await.map_err(sqlx::Error::from)?;
        }
        if let Some(pool) = db.postgres() {
            require_extensions(pool).await?;
            PostgresStorage::setup(pool).await.map_err(|error| match error {
                apalis_postgres::Error::Database(error) => crate::migration_failed(Dialect::Postgres, error),
                other => Error::permanent("migration_failed", other.to_string()),
            })?;
        }
        let chain = Self {
            db,
            process: Ulid::generate(),
            signals: Mutex::default(),
            workers: Mutex::default(),
            hands: Mutex::default(),
            pushed: Mutex::default(),
            ghosts: Mutex::default(),
        };
        // What our own statements rely on: an upgrade that changes it fails here, loudly.
        let columns = format!(
            "SELECT j.id, job, job_type, status, attempts, max_attempts, run_at, lock_at, lock_by, priority, last_seen
             FROM {} j, {} w LIMIT 0",
            chain.jobs(),
            chain.workers_table()
        );
        chain.db.fetch(&columns, &[]).await.map_err(|error| Error::permanent("queue_unsupported", error.message()))?;
        Ok(Arc::new(chain))
    }

    fn jobs(&self) -> &'static str {
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
    pub async fn push(&self, tx: &mut Tx, jobs: &[Push<'_>]) -> Result<()> {
        let horizon = afterload_core::clock::now() + HORIZON.as_millis() as i64;
        for job in jobs.iter().filter(|job| job.due_at.is_none_or(|due| due <= horizon)) {
            let payload = serde_json::to_vec(&StepJob { step_run: job.step_run.to_owned() });
            let payload = payload.map_err(|error| Error::permanent("queue_error", error.to_string()))?;
            let id =
                Ulid::from_string(job.step_run).map_err(|error| Error::permanent("queue_error", error.to_string()))?;
            let mut task: TaskBuilder<Vec<u8>> = TaskBuilder::new(payload)
                .task_id(TaskId::from_ulid(id))
                .priority((job.priority + PRIORITY_SHIFT).max(0) as usize);
            if let Some(due) = job.due_at {
                task = task.run_at_timestamp(seconds(due) as u64);
            }
            let task: Task<Vec<u8>> = task.build();
            match tx {
                Tx::Sqlite(tx) => {
                    apalis_sqlite::queries::push_tasks(&mut **tx, job.queue, &[task]).await.map_err(queue_error)?;
                }
                Tx::Postgres(tx) => {
                    self.remember(job);
                    apalis_postgres::queries::push_tasks(&mut **tx, job.queue, vec![task])
                        .await
                        .map_err(queue_error)?;
                }
            }
        }
        Ok(())
    }

    /// Remembers that a job was pushed here, if PostgreSQL will tell of it.
    fn remember(&self, job: &Push<'_>) {
        let mut pushed = lock(&self.pushed);
        if let Some(pushed) = pushed.as_mut()
            && job.due_at.is_none_or(|due| due <= afterload_core::clock::now())
        {
            // Those of transactions that failed are never told of.
            if pushed.len() >= REMEMBERED {
                pushed.clear();
            }
            pushed.insert(job.step_run.to_owned());
        }
    }

    /// True if the job is one that this process has pushed and was not told of yet.
    fn recalls(&self, step_run: &str) -> bool {
        lock(&self.pushed).as_mut().is_some_and(|pushed| pushed.remove(step_run))
    }

    /// Locks the jobs of these steps until the end of the transaction, in an order that all follow.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lock(&self, tx: &mut Tx, steps: &[String]) -> Result<()> {
        if tx.dialect() == Dialect::Postgres && !steps.is_empty() {
            let sql =
                format!("SELECT id FROM {} WHERE id IN ({}) ORDER BY id FOR UPDATE", self.jobs(), places(steps.len()));
            tx.fetch(&sql, &steps.iter().map(Into::into).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Takes the job of a step out of the queue.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove(&self, tx: &mut Tx, step_run: &str) -> Result<()> {
        tx.execute(&format!("DELETE FROM {} WHERE id = $1", self.jobs()), &args![step_run]).await.map(drop)
    }

    /// True if the step has a job, whoever holds it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_job(&self, tx: &mut Tx, step_run: &str) -> Result<bool> {
        let sql = format!("SELECT id FROM {} WHERE id = $1", self.jobs());
        Ok(!tx.fetch(&sql, &args![step_run]).await?.is_empty())
    }

    /// Steps due by `until` that should have a job and have none; what is paused should have none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn missing(&self, until: Millis, limit: u32) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT s.id FROM step_runs s WHERE {IS_TO_PUSH}
             AND (s.due_at <= $1 OR s.due_at IS NULL AND s.status <> 'sleeping')
             AND NOT EXISTS (SELECT 1 FROM {} j WHERE j.id = s.id) AND {NOT_PAUSED} LIMIT $2",
            self.jobs()
        );
        self.db.fetch(&sql, &args![until, limit]).await?.iter().map(|row| row.text("id")).collect()
    }

    /// How many jobs there are, in the queue or with workers.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn depth(&self) -> Result<i64> {
        let row = self.db.fetch_one(&format!("SELECT COUNT(*) AS jobs FROM {}", self.jobs()), &[]).await?;
        row.map_or(Ok(0), |row| row.int("jobs"))
    }

    /// The jobs of each queue.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn depths(&self) -> Result<Vec<Depth>> {
        let sql =
            format!("SELECT job_type, COUNT(*) AS jobs, COUNT(lock_by) AS held FROM {} GROUP BY job_type", self.jobs());
        let depth = |row: &Row| {
            let held = row.int("held")?;
            Ok(Depth { queue: row.text("job_type")?, waiting: row.int("jobs")? - held, held })
        };
        self.db.fetch(&sql, &[]).await?.iter().map(depth).collect()
    }

    /// Wakes the workers of a queue in this process.
    pub fn wake(&self, queue: &str) {
        self.signal(queue).notify_one();
    }

    /// Wakes the workers of this process that have a job to take: those whose time has come, and those that nobody told of.
    /// One look that reads does for all of them, where each worker's own would begin a transaction that writes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn wake_due(&self) -> Result<()> {
        let queues: Vec<String> = lock(&self.workers).keys().cloned().collect();
        if queues.is_empty() {
            return Ok(());
        }
        let jobs = self.jobs();
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
        for row in self.db.fetch(&sql, &queues.iter().map(Arg::from).collect::<Vec<_>>()).await? {
            self.wake(&row.text("queue")?);
        }
        Ok(())
    }

    fn signal(&self, queue: &str) -> Arc<Notify> {
        lock(&self.signals).entry(queue.to_owned()).or_default().clone()
    }

    /// How often [`Chain::keep_alive`] wants to be called.
    pub const KEEP_ALIVE: Duration = HEARTBEAT;

    /// How often [`Chain::wake_due`] wants to be called.
    pub const WAKE_DUE: Duration = Duration::from_secs(1);
}

/// `$1, $2, …`
fn places(count: usize) -> String {
    (1..=count).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ")
}

/// Whole seconds, as the queue stores times; rounded up, so that nothing starts early.
fn seconds(millis: Millis) -> i64 {
    millis.div_euclid(1000) + i64::from(millis.rem_euclid(1000) > 0)
}

fn queue_error(error: impl std::fmt::Display) -> Error {
    Error::transient("queue_error", error.to_string())
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
            Error::permanent(
                "database_extension_missing",
                format!("PostgreSQL lacks the extension `{name}`, and creating it failed: {error}"),
            )
            .hint(format!("let an administrator run `{create};` in this database"))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn due_times_are_rounded_up_to_whole_seconds() {
        assert_eq!([seconds(0), seconds(1), seconds(1000), seconds(1001)], [0, 1, 1, 2]);
    }
}
