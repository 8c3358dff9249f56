//! Waiting for a run to change, whichever process changes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::{Engine, EngineCore};
use afterload_core::error::Result;
use afterload_state::RunRecord;

/// How many runs are asked for in one statement.
const MAX_REVISION_QUERY_IDS: usize = 500;

/// The runs that somebody waits for, each with the last revision seen.
#[derive(Default)]
pub(super) struct RunWatches(Mutex<HashMap<String, watch::Sender<i64>>>);

/// A run that is being waited for. It learns of changes made in this process at once, of those made in others within
/// half a second.
pub struct RunWatch {
    revision: watch::Receiver<i64>,
    // Keeps the sender, which a look for those that nobody waits for may have dropped.
    _inner: Arc<EngineCore>,
}

impl RunWatch {
    /// Waits until the run has changed since the last call.
    pub async fn wait_for_change(&mut self) {
        if self.revision.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl RunWatches {
    fn lock_senders(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<i64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Begins to wait for a run. Read the run after this, not before, so that no change is missed.
    pub fn watch_run(&self, id: &str) -> RunWatch {
        let revision =
            self.0.run_watches.lock_senders().entry(id.to_owned()).or_insert_with(|| watch::channel(0).0).subscribe();
        RunWatch { revision, _inner: self.0.clone() }
    }
}

impl EngineCore {
    /// Tells those who wait for the run; after the commit.
    pub(super) fn publish_run_change(&self, run: &RunRecord) {
        self.run_watches.publish_revision(&run.id, run.revision);
    }

    /// Looks for what other processes have changed.
    pub(super) async fn poll_watched_runs(&self) -> Result<()> {
        for ids in self.run_watches.watched_runs().chunks(MAX_REVISION_QUERY_IDS) {
            for (id, revision) in self.db.list_revisions(ids).await? {
                self.run_watches.publish_revision(&id, revision);
            }
        }
        Ok(())
    }
}
