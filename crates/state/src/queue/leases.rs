//! Leases while somebody works under them: kept alive, missed when lost, freed when nobody does.

use std::collections::{BTreeSet, HashSet};

use super::{JobQueue, Lease, lock_mutex, sql_placeholders};
use crate::{SqlArg, args};
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;

impl JobQueue {
    /// Keeps the leases of this process alive, in one statement for all its workers, so that nothing depends on the
    /// queue polling while its slots are busy. A worker that ended is kept alive only while its jobs go on. Then tells
    /// those whose lease is gone all the same.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn renew_leases(&self) -> Result<()> {
        let hands: Vec<Lease> = lock_mutex(&self.active_leases).values().cloned().collect();
        let mut workers: BTreeSet<String> = lock_mutex(&self.workers).values().cloned().collect();
        workers.extend(hands.iter().map(|lease| lease.worker.clone()));
        if workers.is_empty() {
            return Ok(());
        }
        let now = match self.db.dialect() {
            Dialect::Sqlite => "unixepoch()",
            Dialect::Postgres => "now()",
        };
        let sql = format!(
            "UPDATE {} SET last_seen = {now} WHERE id IN ({})",
            self.workers_table(),
            sql_placeholders(workers.len())
        );
        self.db.execute(&sql, &workers.into_iter().map(Into::into).collect::<Vec<_>>()).await?;
        if hands.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "SELECT id, lock_by, attempts FROM {} WHERE id IN ({})",
            self.jobs_table(),
            sql_placeholders(hands.len())
        );
        let ids: Vec<_> = hands.iter().map(|lease| (&lease.step_run).into()).collect();
        let held = self.fetch_lease_tokens(&sql, &ids).await?;
        for lease in hands {
            if !held.contains(&lease.lease_token()) {
                lease.lost.cancel();
            }
        }
        Ok(())
    }

    /// Frees jobs that are locked by this process but that nobody in it works on: a fetch whose answer was lost, or a
    /// job that waits behind long ones. Only what was so at two looks is freed, for a job is locked a moment before it
    /// is handed out.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_orphans(&self) -> Result<()> {
        let sql = format!("SELECT id, lock_by, attempts FROM {} WHERE lock_by LIKE $1", self.jobs_table());
        let mut locked = self.fetch_lease_tokens(&sql, &args![format!("{}-%", self.process)]).await?;
        for lease in lock_mutex(&self.active_leases).values() {
            locked.remove(&lease.lease_token());
        }
        let before = std::mem::replace(&mut *lock_mutex(&self.orphans), locked.clone());
        for ghost in locked.intersection(&before) {
            self.release_job(ghost).await?;
        }
        Ok(())
    }

    /// Frees what a worker that has ended had fetched and not begun. What fails is left to [`Self::free_ghosts`].
    pub(super) async fn release_fetched_jobs(&self, worker: &str) {
        let sql = format!("SELECT id, lock_by, attempts FROM {} WHERE lock_by = $1", self.jobs_table());
        let freed = async {
            let mut locked = self.fetch_lease_tokens(&sql, &args![worker]).await?;
            for lease in lock_mutex(&self.active_leases).values() {
                locked.remove(&lease.lease_token());
            }
            for ghost in &locked {
                self.release_job(ghost).await?;
            }
            Ok::<_, afterload_core::error::Error>(())
        };
        if let Err(error) = freed.await {
            tracing::warn!(error.code = error.code().name(), "what a worker had fetched is freed later: {error}");
        }
    }

    async fn release_job(&self, (id, worker, attempts): &(String, String, i64)) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET status = 'Pending', lock_by = NULL, lock_at = NULL, attempts = attempts + 1
             WHERE id = $1 AND lock_by = $2 AND attempts = $3",
            self.jobs_table()
        );
        self.db.execute(&sql, &args![id, worker, *attempts]).await.map(drop)
    }

    async fn fetch_lease_tokens(&self, sql: &str, args: &[SqlArg]) -> Result<HashSet<(String, String, i64)>> {
        // The queue's attempts are a narrower number on PostgreSQL.
        let sql = sql.replace(
            "SELECT id, lock_by, attempts",
            "SELECT id, COALESCE(lock_by, '') AS lock_by, CAST(attempts AS BIGINT) AS attempts",
        );
        let rows = self.db.fetch(&sql, args).await?;
        rows.iter().map(|row| Ok((row.get_text("id")?, row.get_text("lock_by")?, row.get_int("attempts")?))).collect()
    }

    /// Takes back every lease. Only for a process that knows it is alone on its database.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reclaim_all_leases(&self) -> Result<u64> {
        let sql = format!(
            "UPDATE {} SET status = 'Pending', lock_by = NULL, lock_at = NULL, attempts = attempts + 1 WHERE lock_by IS NOT NULL",
            self.jobs_table()
        );
        self.db.execute(&sql, &[]).await
    }

    /// Forgets workers that are long gone and hold nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn prune_workers(&self) -> Result<u64> {
        let old = match self.db.dialect() {
            Dialect::Sqlite => "last_seen < unixepoch() - 3600",
            Dialect::Postgres => "last_seen < now() - interval '1 hour'",
        };
        let (workers, jobs) = (self.workers_table(), self.jobs_table());
        let sql = format!(
            "DELETE FROM {workers} WHERE {old} AND NOT EXISTS (SELECT 1 FROM {jobs} j WHERE j.lock_by = {workers}.id)"
        );
        self.db.execute(&sql, &[]).await
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
