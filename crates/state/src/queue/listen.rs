//! Notices jobs that other processes push.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::JobQueue;
use super::notices::JOB_NOTICE_CHANNEL;
use afterload_core::error;
use afterload_fs_watch::FsWatcher;

/// How often the write-ahead log of SQLite is checked for writes.
const WAL_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// After this many checks without a change, the file system is asked to report the next one.
const MAX_IDLE_WAL_POLLS: u32 = 63;
/// If the file system cannot watch the log, the next try comes after this time.
const FS_WATCH_RETRY_AFTER: Duration = Duration::from_secs(60);

impl JobQueue {
    /// Wakes the workers of this process when another process has pushed a job. Returns after `stop`.
    ///
    /// # Errors
    /// An error of the connection. The caller calls again.
    pub async fn listen_for_jobs(&self, stop: &CancellationToken) -> error::Result<()> {
        match (self.db.postgres_pool(), self.db.path()) {
            (Some(pool), _) => self.listen_postgres(pool, stop).await,
            (None, Some(path)) => {
                self.watch_wal(path, stop).await;
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    async fn listen_postgres(&self, pool: &PgPool, stop: &CancellationToken) -> error::Result<()> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(JOB_NOTICE_CHANNEL).await?;
        loop {
            tokio::select! {
                notice = listener.recv() => self.receive_notice(notice?.payload()),
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// SQLite sends no notices, but each commit writes to the log file beside the database. The file is polled often
    /// while it changes, and watched otherwise.
    async fn watch_wal(&self, path: &Path, stop: &CancellationToken) {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log = Path::new(&log);
        let (mut before, mut quiet, mut watch_from) = (file_version(log), 0, Instant::now());
        while !stop.is_cancelled() {
            let changed = Arc::new(Notify::new());
            let watcher = (quiet > MAX_IDLE_WAL_POLLS && Instant::now() >= watch_from)
                .then(|| FsWatcher::new(log, changed.clone()));
            // The system limits the watches of each user.
            if let Some(Err(error)) = &watcher {
                tracing::debug!("cannot watch the write-ahead log of SQLite; polling it instead: {error}");
                watch_from = Instant::now() + FS_WATCH_RETRY_AFTER;
            }
            let watcher = watcher.and_then(Result::ok);
            // The watcher reports writes from here on. The version of the file shows earlier writes.
            if watcher.is_some() && file_version(log) == before {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = changed.notified() => quiet = 0,
                }
            } else {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(WAL_POLL_INTERVAL) => {}
                }
            }
            drop(watcher);
            let now = file_version(log);
            quiet = if now == before { quiet + 1 } else { 0 };
            // Poll again after a change, at growing intervals. The clock of files is coarse and may hide a second
            // write. A commit also becomes visible only after its sync, which a slow disk may finish long after the
            // write.
            let look_again = quiet < 2 || (quiet + 1).is_power_of_two();
            if look_again && let Err(error) = self.wake_due_queues().await {
                tracing::debug!("polling for jobs failed; the next poll comes in a second: {error}");
            }
            before = now;
        }
    }
}

/// The modification time and the length of a file.
fn file_version(path: &Path) -> Option<(SystemTime, u64)> {
    let facts = fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, facts.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::super::{JobQueue, lock_mutex};
    use crate::Db;
    use afterload_core::clock::Clock;

    async fn chain(folder: &tempfile::TempDir) -> Arc<JobQueue> {
        let url = format!("sqlite://{}", folder.path().join("afterload.db").display());
        JobQueue::open(Db::open(&url, Clock::system()).await.unwrap(), Duration::from_secs(15)).await.unwrap()
    }

    #[tokio::test]
    async fn jobs_pushed_by_another_process_wake_local_workers() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there, stop) = (chain(&folder).await, chain(&folder).await, CancellationToken::new());
        lock_mutex(&here.workers).insert("default".to_owned(), "a worker".to_owned());
        let signal = here.wake_signal("default");
        let writes = async {
            for _ in 0..20 {
                let id = ulid::Ulid::generate().to_string();
                let mut tx = there.db.begin().await.unwrap();
                let push = super::super::NewJob { step_run: &id, queue: "default", priority: 0, due_at: None };
                there.enqueue_jobs(&mut tx, &[push]).await.unwrap();
                tx.commit().await.unwrap();
                // Only the poll of the log can notice the job.
                signal.notified().await;
                let mut tx = there.db.begin().await.unwrap();
                there.delete_job(&mut tx, &id).await.unwrap();
                tx.commit().await.unwrap();
            }
            stop.cancel();
        };
        let (listened, ()) = tokio::join!(here.listen_for_jobs(&stop), writes);
        listened.unwrap();
    }
}
