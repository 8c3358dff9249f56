//! Says when it is time to look at a folder: at once when the system tells of a change, and twice a second in any case,
//! for the mounts on which it does not (network file systems, folders shared with a virtual machine).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::debug;

use super::folder_scan::FileStamp;
use afterload_fs_watch::FsWatcher;

/// How often a folder is looked at when nothing was told.
pub(super) const FOLDER_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Waits for changes of one folder.
pub(super) struct FolderEvents {
    folder: PathBuf,
    changed: Arc<Notify>,
    watcher: Option<FsWatcher>,
    /// The folder that is watched; another one may stand in its place later.
    watched_inode: Option<(u64, u64)>,
}

impl FolderEvents {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, changed: Arc::new(Notify::new()), watcher: None, watched_inode: None }
    }

    /// Watches the folder that is there now, unless it does already. That it cannot be watched (there is a limit for each
    /// user) only means that changes are seen half a second later.
    pub(super) fn watch_current_folder(&mut self) {
        let here = FileStamp::from_path(&self.folder).map(|stamp| stamp.file_identity());
        if here == self.watched_inode {
            return;
        }
        (self.watcher, self.watched_inode) = (None, here);
        if here.is_some() {
            match FsWatcher::new(&self.folder, self.changed.clone()) {
                Ok(bell) => self.watcher = Some(bell),
                Err(error) => debug!("the folder of the pipelines is only looked at twice a second: {error}"),
            }
        }
    }

    /// Until something was told, or until `period` is over.
    pub(super) async fn wait_for_change(&self, period: Duration) {
        tokio::select! {
            () = self.changed.notified() => {}
            () = tokio::time::sleep(period) => {}
        }
    }
}
