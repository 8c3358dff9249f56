//! Notices of new jobs, which processes on PostgreSQL send to one another.
//!
//! PostgreSQL holds a global lock while a transaction that notifies commits. So no transaction that pushes jobs notifies.
//! After its commit the process wakes its own workers, and gathers the names of the queues for the others: one statement
//! sends them, at most every few milliseconds. A lost notice costs only the time until the next poll.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio_util::task::TaskTracker;
use ulid::Ulid;

use super::{JobQueue, lock_mutex};

/// The channel of the notices.
pub(super) const JOB_NOTICE_CHANNEL: &str = "afterload_jobs";
/// The least time between two notices of a process.
const NOTICE_INTERVAL: Duration = Duration::from_millis(5);
/// How many queues one notice names at most. PostgreSQL limits its size to 8000 bytes.
const MAX_NOTICE_QUEUES: usize = 100;

/// What a notice says.
#[derive(Debug, Serialize, Deserialize)]
struct JobNotice {
    /// The process that sends it.
    process: String,
    /// The queues that have got jobs.
    queues: Vec<String>,
}

/// Sends the notices of a process.
#[derive(Default)]
pub(super) struct NoticeSender {
    pending: Arc<Mutex<PendingNotices>>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct PendingNotices {
    queues: BTreeSet<String>,
    /// True while a task sends notices.
    is_sending: bool,
}

impl NoticeSender {
    fn add(&self, queue: &str, pool: &PgPool, process: Ulid) {
        {
            let mut pending = lock_mutex(&self.pending);
            pending.queues.insert(queue.to_owned());
            if std::mem::replace(&mut pending.is_sending, true) {
                return;
            }
        }
        let (pending, pool) = (self.pending.clone(), pool.clone());
        self.tasks.spawn(async move { send_notices(&pending, &pool, process).await });
    }
}

/// Sends notices until no queue is left.
async fn send_notices(pending: &Mutex<PendingNotices>, pool: &PgPool, process: Ulid) {
    while let Some(queues) = take_queues(pending) {
        for names in queues.chunks(MAX_NOTICE_QUEUES) {
            let notice = JobNotice { process: process.to_string(), queues: names.to_vec() };
            let payload = serde_json::to_string(&notice).unwrap_or_default();
            let sent = sqlx::query("SELECT pg_notify($1, $2)").bind(JOB_NOTICE_CHANNEL).bind(payload).execute(pool);
            if let Err(error) = sent.await {
                tracing::debug!("other processes got no notice of new jobs; they poll for them: {error}");
            }
        }
        tokio::time::sleep(NOTICE_INTERVAL).await;
    }
}

/// Takes the queues to name. `None`: there are none, and the task ends.
fn take_queues(pending: &Mutex<PendingNotices>) -> Option<Vec<String>> {
    let mut pending = lock_mutex(pending);
    pending.is_sending = !pending.queues.is_empty();
    pending.is_sending.then(|| std::mem::take(&mut pending.queues).into_iter().collect())
}

impl JobQueue {
    /// Wakes the workers of a queue that has got jobs, in this process and in others. Call it after the commit. On SQLite
    /// other processes see the commit in the log file.
    pub fn announce_jobs(&self, queue: &str) {
        self.wake_queue(queue);
        // The commits of this pool do not wait for the disk.
        if let Some(pool) = self.db.fetch_pool() {
            self.notices.add(queue, pool, self.process);
        }
    }

    /// Wakes the workers that a notice of another process concerns.
    pub(super) fn receive_notice(&self, payload: &str) {
        // The workers know the jobs of their own process already. Another poll would only load the server.
        if let Ok(JobNotice { process, queues }) = serde_json::from_str(payload)
            && process != self.process.to_string()
        {
            queues.iter().for_each(|queue| self.wake_queue(queue));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use serde_json::json;

    use super::*;
    use crate::Db;
    use afterload_core::clock::Clock;

    #[test]
    fn a_notice_gathers_the_queues_since_the_last_one() {
        let pending = Mutex::new(PendingNotices::default());
        assert_eq!(take_queues(&pending), None);
        for queue in ["b", "a", "b"] {
            lock_mutex(&pending).queues.insert(queue.to_owned());
        }
        assert_eq!(take_queues(&pending), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert!(lock_mutex(&pending).is_sending);
        assert_eq!((take_queues(&pending), lock_mutex(&pending).is_sending), (None, false));
    }

    #[tokio::test]
    async fn notices_of_other_processes_wake_the_workers() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("afterload.db").display());
        let db = Db::open(&url, Clock::system()).await.unwrap();
        let queue = JobQueue::open(db, Duration::from_secs(15)).await.unwrap();
        let signal = queue.wake_signal("default");
        let is_woken = |process: &str, queues: &[&str]| {
            queue.receive_notice(&json!({ "process": process, "queues": queues }).to_string());
            signal.notified().now_or_never().is_some()
        };
        assert!(is_woken("another", &["images", "default"]));
        assert!(!is_woken("another", &["images"]), "another queue");
        assert!(!is_woken(&queue.process.to_string(), &["default"]), "its own notice");
        queue.receive_notice("no notice");
        queue.announce_jobs("default");
        assert!(signal.notified().now_or_never().is_some());
    }
}
