//! Being told by the system that a file or a folder changes.

use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Rings until dropped.
pub struct FsWatcher(#[expect(dead_code, reason = "it ends what it watches with itself")] RecommendedWatcher);

impl FsWatcher {
    /// Rings `told` at every change of a file, or of what lies directly in a folder.
    ///
    /// # Errors
    /// That the system cannot watch it: it is not there, or a limit of the user is reached.
    pub fn new(path: &Path, told: Arc<Notify>) -> notify::Result<Self> {
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
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(Self(watcher))
    }
}
