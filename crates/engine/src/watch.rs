//! Waiting for a run to change, whichever process changes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{Engine, Inner};
use afterload_core::error::Result;
use afterload_state::RunRecord;

/// How many runs are asked for in one statement.
const BATCH: usize = 500;

/// The runs that somebody waits for, each with the last revision seen.
#[derive(Default)]
pub(super) struct Watches(Mutex<HashMap<String, watch::Sender<i64>>>);

/// A run that is being waited for. It learns of changes made in this process at once, of those made in others within
/// half a second.
pub struct Watch {
    revision: watch::Receiver<i64>,
    // Keeps the sender, which a look for those that nobody waits for may have dropped.
    _inner: Arc<Inner>,
}

impl Watch {
    /// Waits until the run has changed since the last call.
    pub async fn changed(&mut self) {
        if self.revision.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Watches {
    fn map(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<i64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, id: &str, revision: i64) {
        if let Some(sender) = self.map().get(id) {
            sender.send_if_modified(|last| std::mem::replace(last, revision.max(*last)) < revision);
        }
    }

    fn wanted(&self) -> Vec<String> {
        let mut map = self.map();
        map.retain(|_, sender| sender.receiver_count() > 0);
        map.keys().cloned().collect()
    }
}

impl Engine {
    /// Begins to wait for a run. Read the run after this, not before, so that no change is missed.
    pub fn watch(&self, id: &str) -> Watch {
        let revision = self.0.watches.map().entry(id.to_owned()).or_insert_with(|| watch::channel(0).0).subscribe();
        Watch { revision, _inner: self.0.clone() }
    }
}

impl Inner {
    /// Tells those who wait for the run; after the commit.
    pub(super) fn changed(&self, run: &RunRecord) {
        self.watches.tell(&run.id, run.revision);
    }

    /// Looks for what other processes have changed.
    pub(super) async fn look_at_watched(&self) -> Result<()> {
        for ids in self.watches.wanted().chunks(BATCH) {
            for (id, revision) in self.db.revisions(ids).await? {
                self.watches.tell(&id, revision);
            }
        }
        Ok(())
    }
}
