//! The statements of a worker on its queue: it registers, fetches jobs, and takes over those of dead workers.

use tokio_util::sync::CancellationToken;

use super::dialect::QueueDialect;
use super::{HEARTBEATS_PER_LEASE, JobQueue, Lease};
use crate::sql_args::{SqlArgs, args};
use afterload_core::error::Result;
use afterload_core::failpoint;

/// The name that the queue's table of workers shows.
const STORAGE_NAME: &str = "afterload";

impl JobQueue {
    /// Registers a worker. Its jobs refer to it.
    pub(super) async fn register_worker(&self, queue: &str, worker: &str) -> Result<()> {
        let (workers, now) = (self.dialect().workers, self.dialect().time_from_millis("$4"));
        let sql = format!(
            "INSERT INTO {workers} (id, worker_type, storage_name, layers, last_seen) VALUES ($1, $2, $3, '', {now})"
        );
        self.db.execute(&sql, &args![worker, queue, STORAGE_NAME, self.db.now()]).await.map(drop)
    }

    /// Fetches due jobs of a queue for a worker, at most `most` of them: locks them in one statement, those of a high
    /// priority first.
    pub(super) async fn fetch_jobs(&self, queue: &str, worker: &str, most: usize) -> Result<Vec<Lease>> {
        let sql = self.fetch_sql();
        let args = args![queue, worker, self.db.now(), i64::try_from(most).unwrap_or(i64::MAX)];
        let leases = self.db.change_unsynced(&sql, &args, |row| {
            let (step_run, attempts) = (row.get_text("id")?, row.get_int("attempts")?);
            Ok(Lease { step_run, worker: worker.to_owned(), attempts, lost: CancellationToken::new() })
        });
        let leases = leases.await?;
        if !leases.is_empty() {
            failpoint!("fetch.after_commit");
        }
        Ok(leases)
    }

    fn fetch_sql(&self) -> String {
        let QueueDialect { jobs, skip_locked, .. } = self.dialect();
        let (now, is_due) = (self.dialect().time_from_millis("$3"), self.dialect().job_is_due("$3"));
        format!(
            "WITH due AS (SELECT j.id AS due_id FROM {jobs} j
                WHERE j.job_type = $1 AND j.status = 'Pending' AND j.lock_by IS NULL AND {is_due}
                ORDER BY j.priority DESC, j.run_at LIMIT $4 {skip_locked})
             UPDATE {jobs} SET status = 'Queued', lock_by = $2, lock_at = {now} FROM due WHERE id = due_id
             RETURNING id, CAST(attempts AS BIGINT) AS attempts"
        )
    }

    /// Gives fetched jobs back that have not begun. Returns how many it gave back.
    pub(super) async fn give_back_jobs(&self, worker: &str, steps: &[String]) -> Result<u64> {
        let mut args = SqlArgs::default();
        let (worker, steps) = (args.add(worker), args.add_list(steps));
        let sql = format!(
            "UPDATE {} SET status = 'Pending', lock_by = NULL, lock_at = NULL, attempts = attempts + 1
             WHERE lock_by = {worker} AND id IN ({steps})",
            self.dialect().jobs
        );
        self.db.execute(&sql, args.as_slice()).await
    }

    /// Releases the jobs of a queue whose workers have not renewed their leases in time.
    pub(super) async fn reclaim_expired_leases(&self, queue: &str) -> Result<()> {
        let QueueDialect { jobs, workers, skip_locked, .. } = self.dialect();
        // Without `IS NOT NULL` a plan that PostgreSQL made for an empty table would read all jobs.
        let expired = format!(
            "SELECT j.id FROM {jobs} j JOIN {workers} w ON w.id = j.lock_by
             WHERE j.lock_by IS NOT NULL AND w.worker_type = $1 AND w.last_seen < {}",
            self.dialect().time_from_millis("$2")
        );
        let lease_ms = i64::try_from((self.heartbeat * HEARTBEATS_PER_LEASE).as_millis()).unwrap_or(i64::MAX);
        let args = args![queue, self.db.now() - lease_ms];
        // Most of the time there are none. Reading them takes no lock.
        if self.db.fetch_optional(&format!("{expired} LIMIT 1"), &args).await?.is_none() {
            return Ok(());
        }
        let sql = format!(
            "UPDATE {jobs} SET status = 'Pending', lock_by = NULL, lock_at = NULL, attempts = attempts + 1
             WHERE id IN ({expired} {skip_locked})"
        );
        let reclaimed = self.db.execute(&sql, &args).await?;
        if reclaimed > 0 {
            tracing::info!(queue, jobs = reclaimed, "took over the jobs of dead workers");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use ulid::Ulid;

    use super::super::NewJob;
    use super::*;
    use crate::Db;
    use afterload_core::clock::{Clock, ManualTime};

    /// 2100, far from the time of any machine.
    const START: i64 = 4_102_444_800_000;

    /// A queue with two workers and jobs of these priorities.
    async fn queue_with_jobs(
        folder: &tempfile::TempDir,
        priorities: &[i64],
    ) -> (Arc<JobQueue>, Vec<String>, ManualTime) {
        let url = format!("sqlite://{}", folder.path().join("afterload.db").display());
        let (clock, time) = Clock::manual(START);
        let queue = JobQueue::open(Db::open(&url, clock).await.unwrap(), Duration::from_secs(15)).await.unwrap();
        for worker in ["one", "two"] {
            queue.register_worker("default", worker).await.unwrap();
        }
        let mut ids = Vec::new();
        for priority in priorities {
            let id = Ulid::generate().to_string();
            let mut tx = queue.db.begin().await.unwrap();
            let job = NewJob { step_run: &id, queue: "default", priority: *priority, due_at: None };
            queue.enqueue_jobs(&mut tx, &[job]).await.unwrap();
            tx.commit().await.unwrap();
            ids.push(id);
        }
        (queue, ids, time)
    }

    async fn fetch(queue: &JobQueue, worker: &str, most: usize) -> BTreeSet<(String, i64)> {
        let leases = queue.fetch_jobs("default", worker, most).await.unwrap();
        leases.into_iter().map(|lease| (lease.step_run, lease.attempts)).collect()
    }

    fn jobs(ids: &[&String], attempts: i64) -> BTreeSet<(String, i64)> {
        ids.iter().map(|id| ((*id).clone(), attempts)).collect()
    }

    #[tokio::test]
    async fn a_fetch_takes_as_many_jobs_as_there_are_slots() {
        let folder = tempfile::tempdir().unwrap();
        let (queue, ids, _) = queue_with_jobs(&folder, &[0, 9, 0, 5]).await;
        assert_eq!(fetch(&queue, "one", 2).await, jobs(&[&ids[1], &ids[3]], 0), "the high priorities");
        assert_eq!(fetch(&queue, "two", 10).await, jobs(&[&ids[0], &ids[2]], 0));
        assert!(fetch(&queue, "one", 10).await.is_empty());
    }

    #[tokio::test]
    async fn a_fetch_reads_the_jobs_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let (queue, _, _) = queue_with_jobs(&folder, &[]).await;
        let plan = format!("EXPLAIN QUERY PLAN {}", queue.fetch_sql());
        let rows = queue.db.fetch(&plan, &args!["default", "one", START, 1_i64]).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get_text("detail").unwrap()).collect();
        assert!(plan.iter().any(|line| line.contains("idx_jobs_pending")), "{plan:?}");
        assert!(!plan.iter().any(|line| line.contains("ORDER BY")), "it sorts all jobs: {plan:?}");
    }

    #[tokio::test]
    async fn jobs_that_have_not_begun_are_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (queue, ids, _) = queue_with_jobs(&folder, &[0, 0, 0]).await;
        assert_eq!(fetch(&queue, "one", 3).await.len(), 3);
        assert_eq!(queue.give_back_jobs("two", &ids).await.unwrap(), 0, "it holds none of them");
        assert_eq!(queue.give_back_jobs("one", &ids[..2]).await.unwrap(), 2);
        assert_eq!(fetch(&queue, "two", 3).await, jobs(&[&ids[0], &ids[1]], 1));
    }

    #[tokio::test]
    async fn jobs_of_dead_workers_are_taken_over_when_their_lease_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (queue, ids, time) = queue_with_jobs(&folder, &[0]).await;
        assert_eq!(fetch(&queue, "one", 1).await.len(), 1);
        time.advance(Duration::from_secs(15));
        queue.reclaim_expired_leases("default").await.unwrap();
        assert!(fetch(&queue, "two", 1).await.is_empty(), "the lease lasts 15 seconds");
        time.advance(Duration::from_secs(1));
        queue.reclaim_expired_leases("another").await.unwrap();
        assert!(fetch(&queue, "two", 1).await.is_empty(), "another queue");
        queue.reclaim_expired_leases("default").await.unwrap();
        assert_eq!(fetch(&queue, "two", 1).await, jobs(&[&ids[0]], 1));
    }
}
