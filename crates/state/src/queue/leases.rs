//! Leases while somebody works under them: kept alive, missed when lost, freed when nobody does.

use std::collections::{BTreeSet, HashSet};

use super::{Chain, Lease, lock, places};
use crate::{Arg, args};
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;

impl Chain {
    /// Keeps the leases of this process alive, in one statement for all its workers, so that nothing depends on the
    /// queue polling while its slots are busy. A worker that ended is kept alive only while its jobs go on. Then tells
    /// those whose lease is gone all the same.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn keep_alive(&self) -> Result<()> {
        let hands: Vec<Lease> = lock(&self.hands).values().cloned().collect();
        let mut workers: BTreeSet<String> = lock(&self.workers).values().cloned().collect();
        workers.extend(hands.iter().map(|lease| lease.worker.clone()));
        if workers.is_empty() {
            return Ok(());
        }
        let now = match self.db.dialect() {
            Dialect::Sqlite => "unixepoch()",
            Dialect::Postgres => "now()",
        };
        let sql =
            format!("UPDATE {} SET last_seen = {now} WHERE id IN ({})", self.workers_table(), places(workers.len()));
        self.db.execute(&sql, &workers.into_iter().map(Into::into).collect::<Vec<_>>()).await?;
        if hands.is_empty() {
            return Ok(());
        }
        let sql = format!("SELECT id, lock_by, attempts FROM {} WHERE id IN ({})", self.jobs(), places(hands.len()));
        let ids: Vec<_> = hands.iter().map(|lease| (&lease.step_run).into()).collect();
        let held = self.locks(&sql, &ids).await?;
        for lease in hands {
            if !held.contains(&lease.token()) {
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
    pub async fn free_ghosts(&self) -> Result<()> {
        let sql = format!("SELECT id, lock_by, attempts FROM {} WHERE lock_by LIKE $1", self.jobs());
        let mut locked = self.locks(&sql, &args![format!("{}-%", self.process)]).await?;
        for lease in lock(&self.hands).values() {
            locked.remove(&lease.token());
        }
        let before = std::mem::replace(&mut *lock(&self.ghosts), locked.clone());
        for ghost in locked.intersection(&before) {
            self.free(ghost).await?;
        }
        Ok(())
    }

    /// Frees what a worker that has ended had fetched and not begun. What fails is left to [`Self::free_ghosts`].
    pub(super) async fn free_fetched(&self, worker: &str) {
        let sql = format!("SELECT id, lock_by, attempts FROM {} WHERE lock_by = $1", self.jobs());
        let freed = async {
            let mut locked = self.locks(&sql, &args![worker]).await?;
            for lease in lock(&self.hands).values() {
                locked.remove(&lease.token());
            }
            for ghost in &locked {
                self.free(ghost).await?;
            }
            Ok::<_, afterload_core::error::Error>(())
        };
        if let Err(error) = freed.await {
            tracing::warn!(error.code = error.code(), "what a worker had fetched is freed later: {error}");
        }
    }

    async fn free(&self, (id, worker, attempts): &(String, String, i64)) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET status = 'Pending', lock_by = NULL, lock_at = NULL, attempts = attempts + 1
             WHERE id = $1 AND lock_by = $2 AND attempts = $3",
            self.jobs()
        );
        self.db.execute(&sql, &args![id, worker, *attempts]).await.map(drop)
    }

    async fn locks(&self, sql: &str, args: &[Arg]) -> Result<HashSet<(String, String, i64)>> {
        // The queue's attempts are a narrower number on PostgreSQL.
        let sql = sql.replace(
            "SELECT id, lock_by, attempts",
            "SELECT id, COALESCE(lock_by, '') AS lock_by, CAST(attempts AS BIGINT) AS attempts",
        );
        let rows = self.db.fetch(&sql, args).await?;
        rows.iter().map(|row| Ok((row.text("id")?, row.text("lock_by")?, row.int("attempts")?))).collect()
    }

    /// Takes back every lease. Only for a process that knows it is alone on its database.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reclaim_all(&self) -> Result<u64> {
        let sql = format!(
            "UPDATE {} SET status = 'Pending', lock_by = NULL, lock_at = NULL, attempts = attempts + 1 WHERE lock_by IS NOT NULL",
            self.jobs()
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
        let (workers, jobs) = (self.workers_table(), self.jobs());
        let sql = format!(
            "DELETE FROM {workers} WHERE {old} AND NOT EXISTS (SELECT 1 FROM {jobs} j WHERE j.lock_by = {workers}.id)"
        );
        self.db.execute(&sql, &[]).await
    }
}

impl Lease {
    pub(super) fn args(&self) -> [Arg; 3] {
        args![&self.step_run, &self.worker, self.attempts]
    }

    pub(super) fn token(&self) -> (String, String, i64) {
        (self.step_run.clone(), self.worker.clone(), self.attempts)
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.token() == other.token()
    }
}
