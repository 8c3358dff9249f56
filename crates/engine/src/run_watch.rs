//! Watches runs for changes, in this process and in others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::Engine;
use afterload_core::error::Result;
use afterload_state::{Db, RunRecord};

/// The maximum number of runs per query.
const MAX_REVISION_QUERY_IDS: usize = 500;

/// The watched runs, each with its latest known revision.
pub(crate) struct RunWatches {
    db: Db,
    senders: Mutex<HashMap<String, watch::Sender<i64>>>,
}

/// A watch on a run. It sees changes of this process at once, and changes of other processes within half a second.
#[derive(Clone)]
pub struct RunWatch {
    revision: watch::Receiver<i64>,
    // Keeps the map alive, which holds the sender of this watch.
    _watches: Arc<RunWatches>,
}

impl RunWatch {
    /// The latest known revision of the run; 0 if it has not changed since somebody began to watch it.
    pub fn latest_revision(&self) -> i64 {
        *self.revision.borrow()
    }

    /// Waits until the run has a later revision than this. The wait may be given up at any time.
    pub async fn wait_past(&mut self, revision: i64) {
        if self.revision.wait_for(|latest| *latest > revision).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl RunWatches {
    pub(crate) fn new(db: Db) -> Self {
        Self { db, senders: Mutex::default() }
    }

    fn lock_senders(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<i64>>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_revision(&self, id: &str, revision: i64) {
        if let Some(sender) = self.lock_senders().get(id) {
            sender.send_if_modified(|last| std::mem::replace(last, revision.max(*last)) < revision);
        }
    }

    fn watched_runs(&self) -> Vec<String> {
        let mut map = self.lock_senders();
        map.retain(|_, sender| sender.receiver_count() > 0);
        map.keys().cloned().collect()
    }
}

impl Engine {
    /// Starts to watch a run. Read the run after this call, so that no change is missed.
    pub fn watch_run(&self, id: &str) -> RunWatch {
        let watches = self.0.watches.clone();
        let revision = watches.lock_senders().entry(id.to_owned()).or_insert_with(|| watch::channel(0).0).subscribe();
        RunWatch { revision, _watches: watches }
    }
}

impl RunWatches {
    /// Publishes a change of the run to its watchers. Call it after the commit.
    pub(super) fn publish_run_change(&self, run: &RunRecord) {
        self.publish_revision(&run.id, run.revision);
    }

    /// Polls for changes by other processes.
    pub(super) async fn poll_watched_runs(&self) -> Result<()> {
        for ids in self.watched_runs().chunks(MAX_REVISION_QUERY_IDS) {
            for (id, revision) in self.db.runs().list_revisions(ids).await? {
                self.publish_revision(&id, revision);
            }
        }
        Ok(())
    }
}
