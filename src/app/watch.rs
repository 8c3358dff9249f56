//! Says when it is time to look at a folder: at once when the system tells of a change, and twice a second in any case,
//! for the mounts on which it does not (network file systems, folders shared with a virtual machine).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::debug;

use super::files::Stamp;
use afterload_fs_watch::Bell;

/// How often a folder is looked at when nothing was told.
pub(super) const POLL: Duration = Duration::from_millis(500);

/// Waits for changes of one folder.
pub(super) struct Events {
    folder: PathBuf,
    told: Arc<Notify>,
    bell: Option<Bell>,
    /// The folder that is watched; another one may stand in its place later.
    watched: Option<(u64, u64)>,
}

impl Events {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, told: Arc::new(Notify::new()), bell: None, watched: None }
    }

    /// Watches the folder that is there now, unless it does already. That it cannot be watched (there is a limit for each
    /// user) only means that changes are seen half a second later.
    pub(super) fn renew(&mut self) {
        let here = Stamp::of(&self.folder).map(|stamp| stamp.place());
        if here == self.watched {
            return;
        }
        (self.bell, self.watched) = (None, here);
        if here.is_some() {
            match Bell::hang(&self.folder, self.told.clone()) {
                Ok(bell) => self.bell = Some(bell),
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
