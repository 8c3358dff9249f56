//! Reports when to scan a folder: at once after a file system event, and twice a second in any case, for mounts without
//! events (network file systems, folders shared with a virtual machine).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::debug;

use super::folder_scan::FileStamp;
use afterload_fs_watch::FsWatcher;

/// How often a folder is scanned without an event.
pub(super) const FOLDER_POLL_INTERVAL: Duration = Duration::from_millis(500);

pub(super) struct FolderEvents {
    folder: PathBuf,
    changed: Arc<Notify>,
    watcher: Option<FsWatcher>,
    /// The device and inode of the watched folder; another folder may replace it later.
    watched_inode: Option<(u64, u64)>,
}

impl FolderEvents {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, changed: Arc::new(Notify::new()), watcher: None, watched_inode: None }
    }

    /// Watches the current folder, unless it is watched already. If it cannot be watched (each user has a limit),
    /// changes are only noticed half a second later.
    pub(super) fn watch_current_folder(&mut self) {
        let here = FileStamp::from_path(&self.folder).map(|stamp| stamp.file_identity());
        if here == self.watched_inode {
            return;
        }
        (self.watcher, self.watched_inode) = (None, here);
        if here.is_some() {
            match FsWatcher::new(&self.folder, self.changed.clone()) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => debug!("the folder of the pipelines is only looked at twice a second: {error}"),
            }
        }
    }

    /// Waits for an event, at most for `period`.
    pub(super) async fn wait_for_change(&self, period: Duration) {
        tokio::select! {
            () = self.changed.notified() => {}
            () = tokio::time::sleep(period) => {}
        }
    }
}
