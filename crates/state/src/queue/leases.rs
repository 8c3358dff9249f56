//! Leases: their renewal, the notice of lost leases, and the release of orphans.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::dialect::QueueDialect;
use super::{JobQueue, Lease, lock_mutex};
use crate::sql_args::{SqlArg, SqlArgs, args};
use afterload_core::error::Result;

/// How long ended workers are kept, in milliseconds.
const WORKER_RETENTION_MS: i64 = 3_600_000;

/// An active lease: a task works under it until this is dropped.
pub struct ActiveLease(Arc<JobQueue>, Lease);

impl ActiveLease {
    /// Returns `None` if a task works under this same lease. PostgreSQL can crash after an unsynced fetch and then hand out
    /// the same job to the same worker again.
    pub(super) fn register(queue: &Arc<JobQueue>, lease: &Lease) -> Option<Self> {
        let mut active = lock_mutex(&queue.active_leases);
        if active.get(&lease.step_run).is_some_and(|held| held.is_same_lease(lease)) {
            return None;
        }
        active.insert(lease.step_run.clone(), lease.clone());
        Some(Self(queue.clone(), lease.clone()))
    }

    /// The id of the step.
    pub(super) fn step_run(&self) -> &str {
        &self.1.step_run
    }
}

impl Drop for ActiveLease {
    fn drop(&mut self) {
        let mut active = lock_mutex(&self.0.active_leases);
        if active.get(&self.1.step_run).is_some_and(|held| held.is_same_lease(&self.1)) {
            active.remove(&self.1.step_run);
        }
    }
}

impl JobQueue {
    /// Renews the leases of this process, in one statement for all its workers. So a renewal does not depend on the
    /// polls of the queue. An ended worker stays alive only while its jobs go on. Then this cancels the tokens of lost
    /// leases.
    pub async fn renew_leases(&self) -> Result<()> {
        let hands: Vec<Lease> = lock_mutex(&self.active_leases).values().cloned().collect();
        let mut workers: BTreeSet<String> = lock_mutex(&self.workers).values().cloned().collect();
        workers.extend(hands.iter().map(|lease| lease.worker.clone()));
        if workers.is_empty() {
            return Ok(());
        }
        let table = self.dialect().workers;
        let mut args = SqlArgs::default();
        let now = self.dialect().time_from_millis(&args.add(self.db.now()));
        let sql = format!("UPDATE {table} SET last_seen = {now} WHERE id IN ({})", args.add_list(workers));
        self.db.execute(&sql, args.as_slice()).await?;
        if hands.is_empty() {
            return Ok(());
        }
        let mut args = SqlArgs::default();
        let ids = args.add_list(hands.iter().map(|lease| &lease.step_run));
        let sql = format!("{} WHERE id IN ({ids})", self.select_leases_sql());
        let held = self.fetch_lease_tokens(&sql, args.as_slice()).await?;
        for lease in hands {
            if !held.contains(&lease.lease_token()) {
                lease.lost.cancel();
            }
        }
        Ok(())
    }

    /// Releases orphans: jobs that this process has locked but no task works on, because the reply of a fetch or of a
    /// hand-over was lost. This releases only orphans that the last check found as well, because a job is locked a moment
    /// before its task starts.
    pub async fn release_orphans(&self) -> Result<()> {
        let sql = format!("{} WHERE lock_by LIKE $1", self.select_leases_sql());
        let mut locked = self.fetch_lease_tokens(&sql, &args![format!("{}-%", self.process)]).await?;
        self.remove_used_leases(&mut locked);
        let before = std::mem::replace(&mut *lock_mutex(&self.orphans), locked.clone());
        for ghost in locked.intersection(&before) {
            self.release_job(ghost).await?;
        }
        Ok(())
    }

    /// Releases the jobs that an ended worker had fetched and not started. [`Self::release_orphans`] releases those
    /// for which this fails.
    pub(super) async fn release_fetched_jobs(&self, worker: &str) {
        let sql = format!("{} WHERE lock_by = $1", self.select_leases_sql());
        let freed = async {
            let mut locked = self.fetch_lease_tokens(&sql, &args![worker]).await?;
            self.remove_used_leases(&mut locked);
            for ghost in &locked {
                self.release_job(ghost).await?;
            }
            Ok::<_, afterload_core::error::Error>(())
        };
        if let Err(error) = freed.await {
            tracing::warn!(
                error.code = error.code().name(),
                "cannot release the jobs that a worker had fetched; trying again later: {error}"
            );
        }
    }

    /// Removes the leases under which tasks work, or will work after a commit.
    fn remove_used_leases(&self, tokens: &mut HashSet<(String, String, i64)>) {
        for lease in lock_mutex(&self.active_leases).values() {
            tokens.remove(&lease.lease_token());
        }
        for token in lock_mutex(&self.handing_over).iter() {
            tokens.remove(token);
        }
    }

    async fn release_job(&self, (id, worker, attempts): &(String, String, i64)) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET status = 'Pending', lock_by = NULL, lock_at = NULL, attempts = attempts + 1
             WHERE id = $1 AND lock_by = $2 AND attempts = $3",
            self.dialect().jobs
        );
        self.db.execute(&sql, &args![id, worker, *attempts]).await.map(drop)
    }

    fn select_leases_sql(&self) -> String {
        // The queue's `attempts` is a narrower integer on PostgreSQL.
        format!(
            "SELECT id, COALESCE(lock_by, '') AS lock_by, CAST(attempts AS BIGINT) AS attempts FROM {}",
            self.dialect().jobs
        )
    }

    async fn fetch_lease_tokens(&self, sql: &str, args: &[SqlArg]) -> Result<HashSet<(String, String, i64)>> {
        let rows = self.db.fetch(sql, args).await?;
        rows.iter().map(|row| Ok((row.get_text("id")?, row.get_text("lock_by")?, row.get_int("attempts")?))).collect()
    }

    /// Releases every lease. Call this only if no other process uses the database.
    pub async fn reclaim_all_leases(&self) -> Result<u64> {
        let sql = format!(
            "UPDATE {} SET status = 'Pending', lock_by = NULL, lock_at = NULL, attempts = attempts + 1 WHERE lock_by IS NOT NULL",
            self.dialect().jobs
        );
        self.db.execute(&sql, &[]).await
    }

    /// Deletes workers that ended long ago and hold no jobs.
    pub async fn prune_workers(&self) -> Result<u64> {
        let QueueDialect { workers, jobs, .. } = self.dialect();
        let ended_before = self.dialect().time_from_millis("$1");
        let sql = format!(
            "DELETE FROM {workers} WHERE last_seen < {ended_before}
             AND NOT EXISTS (SELECT 1 FROM {jobs} j WHERE j.lock_by = {workers}.id)"
        );
        self.db.execute(&sql, &args![self.db.now() - WORKER_RETENTION_MS]).await
    }
}

impl Lease {
    pub(super) fn to_sql_args(&self) -> [SqlArg; 3] {
        args![&self.step_run, &self.worker, self.attempts]
    }

    pub(super) fn lease_token(&self) -> (String, String, i64) {
        (self.step_run.clone(), self.worker.clone(), self.attempts)
    }

    pub(super) fn is_same_lease(&self, other: &Self) -> bool {
        self.lease_token() == other.lease_token()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use tokio_util::sync::CancellationToken;
    use ulid::Ulid;

    use super::super::{JobQueue, Lease, NewJob, lock_mutex};
    use super::ActiveLease;
    use crate::Db;
    use afterload_core::clock::Clock;

    /// 2100, far from the time of any machine.
    const START: i64 = 4_102_444_800_000;

    #[tokio::test]
    async fn leases_and_due_jobs_follow_the_clock() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("afterload.db").display());
        let (clock, time) = Clock::manual(START);
        let queue = JobQueue::open(Db::open(&url, clock).await.unwrap(), Duration::from_secs(15)).await.unwrap();
        let insert =
            "INSERT INTO Workers (id, worker_type, storage_name, layers, last_seen) VALUES ('w', 'q', 's', '', 0)";
        queue.db.execute(insert, &[]).await.unwrap();
        lock_mutex(&queue.workers).insert("default".to_owned(), "w".to_owned());
        queue.renew_leases().await.unwrap();
        let row = queue.db.fetch_optional("SELECT last_seen FROM Workers", &[]).await.unwrap().unwrap();
        assert_eq!(row.get_int("last_seen").unwrap(), START / 1000);

        let id = Ulid::generate().to_string();
        let mut tx = queue.db.begin().await.unwrap();
        let job = NewJob { step_run: &id, queue: "default", priority: 0, due_at: Some(START + 30_000) };
        queue.enqueue_jobs(&mut tx, &[job]).await.unwrap();
        tx.commit().await.unwrap();
        let signal = queue.wake_signal("default");
        let is_woken = async || {
            queue.wake_due_queues().await.unwrap();
            signal.notified().now_or_never().is_some()
        };
        time.advance(Duration::from_secs(29));
        assert!(!is_woken().await);
        time.advance(Duration::from_secs(1));
        assert!(is_woken().await);
    }

    #[tokio::test]
    async fn a_lease_is_registered_once() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("afterload.db").display());
        let queue =
            JobQueue::open(Db::open(&url, Clock::system()).await.unwrap(), Duration::from_secs(15)).await.unwrap();
        let lease = |attempts| {
            let (step_run, worker, lost) = ("step".to_owned(), "worker".to_owned(), CancellationToken::new());
            Lease { step_run, worker, attempts, lost }
        };
        let first = ActiveLease::register(&queue, &lease(0));
        assert!(first.is_some() && ActiveLease::register(&queue, &lease(0)).is_none());
        // Another attempt is another lease.
        assert!(ActiveLease::register(&queue, &lease(1)).is_some());
        drop(first);
        assert!(ActiveLease::register(&queue, &lease(0)).is_some());
    }
}
