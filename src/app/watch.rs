//! Says when it is time to look at a folder: at once when the system tells of a change, and twice a second in any case,
//! for the mounts on which it does not (network file systems, folders shared with a virtual machine).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tracing::debug;

use super::files::Stamp;

/// How often a folder is looked at when nothing was told.
pub(super) const POLL: Duration = Duration::from_millis(500);

/// Waits for changes of one folder.
pub(super) struct Events {
    folder: PathBuf,
    told: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// The folder that is watched; another one may stand in its place later.
    watched: Option<(u64, u64)>,
}

impl Events {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, told: Arc::new(Notify::new()), watcher: None, watched: None }
    }

    /// Watches the folder that is there now, unless it does already. That it cannot be watched (there is a limit for each
    /// user) only means that changes are seen half a second later.
    pub(super) fn renew(&mut self) {
        let here = Stamp::of(&self.folder).map(|stamp| stamp.place());
        if here == self.watched {
            return;
        }
        (self.watcher, self.watched) = (None, here);
        if here.is_some() {
            match watch(&self.folder, self.told.clone()) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => debug!("the folder of the pipelines is only looked at twice a second: {error}"),
            }
        }
    }

    /// Until something was told, or until `period` is over.
    pub(super) async fn wait(&self, period: Duration) {
        tokio::select! {
            () = self.told.notified() => {}
            () = tokio::time::sleep(period) => {}
        }
    }
}

fn watch(folder: &Path, told: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // That somebody reads is no news: we do so ourselves.
        let written = AccessKind::Close(AccessMode::Write);
        let news = event.map_or(true, |event| match event.kind {
            EventKind::Access(kind) => kind == written,
            _ => true,
        });
        if news {
            told.notify_one();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
