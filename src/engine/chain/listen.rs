//! Learning of the jobs that other processes push.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use super::{Chain, lock};
use crate::error::Result;

/// How often it is looked whether somebody has written to SQLite's log.
const GLANCE: Duration = Duration::from_millis(20);

impl Chain {
    /// Wakes the workers of this process when another one has pushed a job, until `stop`.
    ///
    /// # Errors
    /// Those of the connection; the caller calls again.
    pub async fn listen(&self, stop: &CancellationToken) -> Result<()> {
        match (self.db.postgres(), self.db.path()) {
            (Some(pool), _) => self.hear(pool, stop).await,
            (None, Some(path)) => {
                self.watch(path, stop).await;
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// PostgreSQL tells of new jobs itself.
    async fn hear(&self, pool: &PgPool, stop: &CancellationToken) -> Result<()> {
        #[derive(Deserialize)]
        struct Inserted {
            job_type: String,
        }
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen("apalis::job::insert").await?;
        loop {
            let notice = tokio::select! {
                notice = listener.recv() => notice?,
                () = stop.cancelled() => return Ok(()),
            };
            if let Ok(Inserted { job_type }) = serde_json::from_str(notice.payload()) {
                self.wake(&job_type);
            }
        }
    }

    /// SQLite tells nobody: every commit writes to the log beside the database, and its file shows when.
    async fn watch(&self, path: &Path, stop: &CancellationToken) {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let (mut before, mut again) = (written(Path::new(&log)), false);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(GLANCE) => {}
            }
            let now = written(Path::new(&log));
            let changed = now != before;
            // Once more after a change: the clock of files is coarse, and may hide what was written right behind it.
            if changed || again {
                lock(&self.signals).values().for_each(|signal| signal.notify_one());
            }
            (before, again) = (now, changed);
        }
    }
}

/// When a file was last written to, and how long it is.
fn written(path: &Path) -> Option<(SystemTime, u64)> {
    let facts = fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, facts.len()))
}
