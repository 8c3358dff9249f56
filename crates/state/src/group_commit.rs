//! Group commit on SQLite: callers that wait for the one write connection share a commit, and so one sync of the disk.
//!
//! The first caller begins a transaction and queues a commit behind all callers that wait already. Each caller before
//! that commit runs its work in the same transaction, in a savepoint of its own, and waits for the commit. So no
//! caller waits for others to join: without them, the commit follows the work at once.

use crate::codes;
use afterload_core::failpoint;
use std::sync::Arc;

use sqlx::SqlitePool;
use tokio::sync::{Mutex, watch};
use tokio_util::task::TaskTracker;

use super::tx::{BackendTx, DbTx};
use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result, Retryability};

/// The outcome of the work in a transaction.
#[derive(Debug)]
pub enum TxOutcome<T> {
    /// Commit the work.
    Commit(T),
    /// Roll the work back.
    Rollback(T),
}

/// The open transaction that callers can join, if there is one.
#[derive(Clone, Default)]
pub(super) struct GroupCommit {
    open: Arc<Mutex<Option<SharedTx>>>,
    closing: TaskTracker,
}

struct SharedTx {
    tx: DbTx,
    /// A savepoint is still open. Its caller was dropped before it ended.
    savepoint_open: bool,
    commit_result: watch::Sender<Option<Result<()>>>,
}

/// The whole transaction failed, so it ends for all its callers.
struct TxAborted(Error);

impl SharedTx {
    async fn run_in_savepoint<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut DbTx) -> Result<TxOutcome<T>>,
    ) -> std::result::Result<Result<TxOutcome<T>>, TxAborted> {
        if self.savepoint_open {
            self.rollback_savepoint().await.map_err(TxAborted)?;
        }
        self.tx.execute("SAVEPOINT work", &[]).await.map_err(TxAborted)?;
        self.savepoint_open = true;
        let outcome = work(&mut self.tx).await;
        // An error such as a full disk ends the whole transaction. The other callers should see that error.
        let failed = outcome.as_ref().err().cloned();
        match outcome {
            Ok(TxOutcome::Commit(_)) => {
                self.tx.execute("RELEASE work", &[]).await.map_err(TxAborted)?;
                self.savepoint_open = false;
            }
            Ok(TxOutcome::Rollback(_)) | Err(_) => {
                self.rollback_savepoint().await.map_err(|error| TxAborted(failed.unwrap_or(error)))?;
            }
        }
        Ok(outcome)
    }

    async fn rollback_savepoint(&mut self) -> Result<()> {
        self.tx.execute("ROLLBACK TO work", &[]).await?;
        self.tx.execute("RELEASE work", &[]).await?;
        self.savepoint_open = false;
        Ok(())
    }

    async fn commit(mut self) {
        let whole = if self.savepoint_open { self.rollback_savepoint().await } else { Ok(()) };
        let Self { tx, commit_result: done, .. } = self;
        failpoint!("write.before_commit");
        let committed = match whole {
            Ok(()) => tx.commit().await,
            Err(error) => Err(error),
        };
        failpoint!("write.after_commit");
        done.send_replace(Some(committed));
    }
}

impl GroupCommit {
    /// Runs `work` in a transaction that it may share. A committed value is on disk when this returns.
    pub async fn with_tx<T>(
        &self,
        pool: &SqlitePool,
        clock: &Clock,
        work: impl AsyncFnOnce(&mut DbTx) -> Result<TxOutcome<T>>,
    ) -> Result<T> {
        let mut line = self.open.clone().lock_owned().await;
        let batch = match &mut *line {
            Some(batch) => batch,
            empty => {
                let tx = DbTx::new(BackendTx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?), clock);
                self.schedule_commit();
                empty.insert(SharedTx { tx, savepoint_open: false, commit_result: watch::channel(None).0 })
            }
        };
        let outcome = match batch.run_in_savepoint(work).await {
            Ok(outcome) => outcome?,
            Err(TxAborted(error)) => {
                // The work of the other callers is lost with the transaction. They get the error and try again.
                batch.commit_result.send_replace(Some(Err(error.clone())));
                *line = None;
                return Err(error);
            }
        };
        let value = match outcome {
            TxOutcome::Commit(value) => value,
            TxOutcome::Rollback(value) => return Ok(value),
        };
        let mut done = batch.commit_result.subscribe();
        drop(line);
        let committed = done.wait_for(Option::is_some).await.ok().and_then(|committed| committed.clone());
        let lost = || {
            Error::new(codes::DATABASE_ERROR, "the transaction was lost before its commit")
                .with_retryability(Retryability::Transient)
        };
        committed.unwrap_or_else(|| Err(lost())).map(|()| value)
    }

    /// Queues a commit behind all callers that wait now, so that it includes their work.
    fn schedule_commit(&self) {
        let line = self.open.clone();
        self.closing.spawn(async move {
            let batch = line.lock_owned().await.take();
            if let Some(batch) = batch {
                batch.commit().await;
            }
        });
    }

    /// Waits until no transaction is open.
    pub async fn close(&self) {
        self.closing.close();
        self.closing.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::TxOutcome;
    use crate::Db;
    use crate::sql_args::args;
    use afterload_core::clock::Clock;
    use afterload_core::error::Error;

    use afterload_core::error::ErrorCode;

    const TEST_FAILED: ErrorCode = ErrorCode::permanent("test_failed", "The test makes it fail");

    async fn db(folder: &std::path::Path) -> Db {
        let db = Db::open(&format!("sqlite://{}", folder.join("a.db").display()), Clock::system()).await.unwrap();
        db.execute("CREATE TABLE notes (id BIGINT NOT NULL PRIMARY KEY)", &[]).await.unwrap();
        db
    }

    async fn ids(db: &Db) -> Vec<i64> {
        let rows = db.fetch("SELECT id FROM notes ORDER BY id", &[]).await.unwrap();
        rows.iter().map(|row| row.get_int("id").unwrap()).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rollbacks_and_errors_do_not_affect_other_callers() {
        let folder = tempfile::tempdir().unwrap();
        let db = db(folder.path()).await;
        let work = async |id: i64| {
            db.with_tx(async |tx| {
                tx.execute("INSERT INTO notes (id) VALUES ($1)", &args![id]).await?;
                match id % 3 {
                    0 => Ok(TxOutcome::Commit(id)),
                    1 => Ok(TxOutcome::Rollback(id)),
                    _ => Err(Error::new(TEST_FAILED, "no")),
                }
            })
            .await
        };
        let outcomes = futures::future::join_all((0..60).map(work)).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 20);
        assert_eq!(ids(&db).await, (0..60).filter(|id| id % 3 == 0).collect::<Vec<_>>());
        db.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn dropped_work_is_rolled_back_and_blocks_no_caller() {
        let folder = tempfile::tempdir().unwrap();
        let db = db(folder.path()).await;
        let dropped = db.with_tx(async |tx| {
            tx.execute("INSERT INTO notes (id) VALUES ($1)", &args![1_i64]).await?;
            std::future::pending::<()>().await;
            Ok(TxOutcome::Commit(()))
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), dropped).await.is_err());
        db.execute("INSERT INTO notes (id) VALUES ($1)", &args![2_i64]).await.unwrap();
        assert_eq!(ids(&db).await, [2]);
        db.close().await;
    }

    /// `OR ROLLBACK` acts like a full disk: SQLite ends the transaction by itself.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_transaction_ended_by_sqlite_blocks_no_caller() {
        let folder = tempfile::tempdir().unwrap();
        let db = db(folder.path()).await;
        let insert = "INSERT OR ROLLBACK INTO notes (id) VALUES (1)";
        db.execute(insert, &[]).await.unwrap();
        let ended = db.execute(insert, &[]).await.unwrap_err();
        assert!(ended.message().contains("UNIQUE"), "{ended}");
        db.execute("INSERT INTO notes (id) VALUES (2)", &[]).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        tx.execute(insert, &[]).await.unwrap_err();
        drop(tx);
        db.execute("INSERT INTO notes (id) VALUES (3)", &[]).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        tx.execute("INSERT INTO notes (id) VALUES (4)", &[]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(ids(&db).await, [1, 2, 3, 4]);
        db.close().await;
    }
}
