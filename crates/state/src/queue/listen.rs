//! Learning of the jobs that other processes push.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Chain, lock};
use afterload_core::error;
use afterload_fs_watch::Bell;

/// How often it is looked whether somebody has written to SQLite's log.
const GLANCE: Duration = Duration::from_millis(20);
/// After so many looks in vain the system is asked to say when there is something to see.
const QUIET: u32 = 5;
/// When it cannot, it is asked again after so long.
const NO_BELL: Duration = Duration::from_secs(60);

impl Chain {
    /// Wakes the workers of this process when another one has pushed a job, until `stop`.
    ///
    /// # Errors
    /// Those of the connection; the caller calls again.
    pub async fn listen(&self, stop: &CancellationToken) -> error::Result<()> {
        match (self.db.postgres(), self.db.path()) {
            (Some(pool), _) => {
                let heard = self.hear(pool, stop).await;
                *lock(&self.pushed) = None;
                heard
            }
            (None, Some(path)) => {
                self.watch(path, stop).await;
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// PostgreSQL tells of new jobs itself.
    async fn hear(&self, pool: &PgPool, stop: &CancellationToken) -> error::Result<()> {
        #[derive(Deserialize)]
        struct Inserted {
            id: String,
            job_type: String,
        }
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen("apalis::job::insert").await?;
        *lock(&self.pushed) = Some(HashSet::new());
        loop {
            let notice = tokio::select! {
                notice = listener.recv() => notice?,
                () = stop.cancelled() => return Ok(()),
            };
            // Of what this process pushed its workers know already; to look once more would only cost the server.
            if let Ok(Inserted { id, job_type }) = serde_json::from_str(notice.payload())
                && !self.recalls(&id)
            {
                self.wake(&job_type);
            }
        }
    }

    /// SQLite tells nobody: every commit writes to the log beside the database, and its file shows when. While something is
    /// written it is looked at often; else the system says when to begin.
    async fn watch(&self, path: &Path, stop: &CancellationToken) {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log = Path::new(&log);
        let (mut before, mut quiet, mut bells_from) = (written(log), 0, Instant::now());
        while !stop.is_cancelled() {
            let told = Arc::new(Notify::new());
            let bell = (quiet > QUIET && Instant::now() >= bells_from).then(|| Bell::hang(log, told.clone()));
            // There is a limit for each user.
            if let Some(Err(error)) = &bell {
                tracing::debug!("the log of SQLite is looked at fifty times a second: {error}");
                bells_from = Instant::now() + NO_BELL;
            }
            let bell = bell.and_then(Result::ok);
            // What is written from here on rings; what was written just before shows in the file.
            if bell.is_some() && written(log) == before {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = told.notified() => quiet = 0,
                }
            } else {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(GLANCE) => {}
                }
            }
            drop(bell);
            let now = written(log);
            quiet = if now == before { quiet + 1 } else { 0 };
            // Once more after a change: the clock of files is coarse, and may hide what was written right behind it.
            if quiet < 2
                && let Err(error) = self.wake_due().await
            {
                tracing::debug!("looking for jobs failed; the next look comes in a second: {error}");
            }
            before = now;
        }
    }
}

/// When a file was last written to, and how long it is.
fn written(path: &Path) -> Option<(SystemTime, u64)> {
    let facts = fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, facts.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::super::{Chain, lock};
    use crate::Db;

    async fn chain(folder: &tempfile::TempDir) -> Arc<Chain> {
        let url = format!("sqlite://{}", folder.path().join("afterload.db").display());
        Chain::open(Db::open(&url).await.unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn what_another_process_writes_wakes_the_workers_of_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there, stop) = (chain(&folder).await, chain(&folder).await, CancellationToken::new());
        lock(&here.workers).insert("default".to_owned(), "a worker".to_owned());
        let signal = here.signal("default");
        let writes = async {
            for _ in 0..20 {
                let id = ulid::Ulid::generate().to_string();
                let mut tx = there.db.begin().await.unwrap();
                let push = super::super::Push { step_run: &id, queue: "default", priority: 0, due_at: None };
                there.push(&mut tx, &[push]).await.unwrap();
                tx.commit().await.unwrap();
                // Nothing but a look at the log tells of it.
                signal.notified().await;
                let mut tx = there.db.begin().await.unwrap();
                there.remove(&mut tx, &id).await.unwrap();
                tx.commit().await.unwrap();
            }
            stop.cancel();
        };
        let (listened, ()) = tokio::join!(here.listen(&stop), writes);
        listened.unwrap();
    }

    #[tokio::test]
    async fn only_what_was_pushed_here_and_not_told_of_is_recalled() {
        let folder = tempfile::tempdir().unwrap();
        let chain = chain(&folder).await;
        let push = super::super::Push { step_run: "a", queue: "default", priority: 0, due_at: None };
        chain.remember(&push);
        assert!(!chain.recalls("a"), "nobody listens");
        *lock(&chain.pushed) = Some(std::collections::HashSet::new());
        chain.remember(&push);
        chain.remember(&super::super::Push { step_run: "later", due_at: Some(i64::MAX), ..push });
        assert_eq!(["a", "a", "later", "b"].map(|id| chain.recalls(id)), [true, false, false, false]);
    }
}
