//! Watches files and folders for changes.
//!
//! Not crate `notify-debouncer-full`: a folder without events (a network file system) is scanned anyway, and these scans
//! decide when files have settled.

use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Watches until it is dropped.
pub struct FsWatcher(#[expect(dead_code, reason = "dropping it ends the watch")] RecommendedWatcher);

impl FsWatcher {
    /// Notifies `changed` at every change of a file, or of the direct entries of a folder.
    ///
    /// # Errors
    /// Fails if the system cannot watch the path: it does not exist, or the user's watch limit is reached.
    pub fn new(path: &Path, changed: Arc<Notify>) -> notify::Result<Self> {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reads are not changes, and this process reads the files itself. Only writes count.
            let written = AccessKind::Close(AccessMode::Write);
            let is_change = event.map_or(true, |event| match event.kind {
                EventKind::Access(kind) => kind == written,
                _ => true,
            });
            if is_change {
                changed.notify_one();
            }
        })?;
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(Self(watcher))
    }
}
