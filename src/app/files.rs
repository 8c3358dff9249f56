//! The files of the pipelines as they are taken in: each one once it has been the same for a moment, so that nobody sees
//! half of what an editor or a copy is still writing.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use afterload_core::error::Result;
use afterload_pipeline::catalogue::{self, Folder, Judged};
use afterload_pipeline::{Kinds, Surroundings};

/// How long a file must have been the same.
pub(super) const SETTLE: Duration = Duration::from_millis(150);

/// What tells one state of a file from another. Not the content: reading everything twice a second would cost. The inode
/// shows a file that was renamed over another, the time of change one whose time of modification was set back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The device and the inode.
    pub(super) fn place(&self) -> (u64, u64) {
        self.place
    }

    /// Of what the path leads to; `None` if that is nothing.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            place: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// One path of the folder.
struct Known {
    /// Its last state, and since when. The outer `None`: it is not in the folder any more.
    seen: Option<Option<Stamp>>,
    since: Instant,
    /// Whether that state has been taken in.
    settled: bool,
    /// As it was last taken in.
    text: Option<std::result::Result<String, String>>,
    judged: Option<Judged>,
}

/// What a look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Something was taken in that is new.
    pub changed: bool,
    /// Something is still moving: look again soon.
    pub moving: bool,
}

/// The files of one folder.
pub(super) struct Files {
    folder: PathBuf,
    known: BTreeMap<PathBuf, Known>,
}

impl Files {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, known: BTreeMap::new() }
    }

    /// Looks at the folder and takes in what has been the same for `settle`. A folder that is not there changes nothing:
    /// a mount may come back, and taking a folder away is no way to say that each of its pipelines should end.
    ///
    /// # Errors
    /// `io_error` if the folder cannot be listed.
    pub(super) fn look(&mut self, now: Instant, settle: Duration) -> Result<Look> {
        let mut look = Look::default();
        if std::fs::metadata(&self.folder).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(look);
        }
        let listed: BTreeMap<PathBuf, Option<Stamp>> =
            catalogue::files(&self.folder)?.into_iter().map(|path| (path.clone(), Stamp::of(&path))).collect();
        for path in listed.keys().filter(|path| !self.known.contains_key(*path)).cloned().collect::<Vec<_>>() {
            self.known.insert(path, Known { seen: None, since: now, settled: false, text: None, judged: None });
        }
        self.known.retain(|path, known| {
            let state = listed.get(path).cloned();
            if known.seen != state {
                (known.seen, known.since, known.settled) = (state, now, false);
            }
            if known.settled {
                return true;
            }
            if now.duration_since(known.since) < settle {
                look.moving = true;
                return true;
            }
            let Some(state) = known.seen.clone() else {
                look.changed = true;
                return false;
            };
            let text = Some(catalogue::text(path));
            if Stamp::of(path) != state {
                look.moving = true;
                return true;
            }
            known.settled = true;
            if known.text != text {
                (known.text, known.judged, look.changed) = (text, None, true);
            }
            true
        });
        Ok(look)
    }

    /// Judges every file anew at the next [`Self::folder`].
    pub(super) fn reconsider(&mut self) {
        self.known.values_mut().for_each(|known| known.judged = None);
    }

    /// What the folder holds, as far as it has been taken in.
    pub(super) fn folder(&mut self, kinds: &Kinds, around: &Surroundings) -> Folder {
        Folder::of(self.known.iter_mut().filter_map(|(path, known)| {
            let text = known.text.clone()?;
            let judged = known.judged.get_or_insert_with(|| catalogue::judge(path, text, kinds, around));
            Some((path.as_path(), judged.clone()))
        }))
    }

    /// The names of all files, also of those that are still being written.
    pub(super) fn names(&self) -> Vec<String> {
        let stem = |path: &PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
        self.known.keys().filter_map(stem).collect()
    }
}

/// The states of all files two levels under a folder: enough for `templates/email/NAME/FILE`.
pub(super) fn stamps(folder: &Path) -> BTreeMap<PathBuf, Option<Stamp>> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let paths = list(folder).into_iter().flat_map(|path| {
        let mut inside = list(&path);
        inside.push(path);
        inside
    });
    paths.map(|path| (path.clone(), Stamp::of(&path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn a_file_is_taken_in_once_it_has_been_the_same_for_a_moment() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.yaml");
        let mut files = Files::new(folder.path().to_owned());
        let start = Instant::now();
        let moving = Look { changed: false, moving: true };
        let taken = Look { changed: true, moving: false };
        assert_eq!(files.look(start, SETTLE).expect("a look"), Look::default());
        std::fs::write(&path, "name: a").expect("half of it");
        assert_eq!(files.look(start, SETTLE).expect("a look"), moving);
        std::fs::write(&path, "name: a\nsteps: []").expect("more of it");
        assert_eq!(files.look(start + SETTLE, SETTLE).expect("a look"), moving, "it has changed since");
        assert_eq!(files.look(start + SETTLE * 2 - MOMENT, SETTLE).expect("a look"), moving);
        assert_eq!(files.look(start + SETTLE * 2, SETTLE).expect("a look"), taken);
        assert_eq!(files.look(start + SETTLE * 3, SETTLE).expect("a look"), Look::default());
        std::fs::remove_file(&path).expect("gone");
        assert_eq!(files.look(start + SETTLE * 4, SETTLE).expect("a look"), moving, "a rename may be under way");
        assert_eq!(files.look(start + SETTLE * 5, SETTLE).expect("a look"), taken);
    }

    #[test]
    fn a_folder_that_is_not_there_changes_nothing() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("pipelines");
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("a.yaml"), "name: a").expect("a file");
        let mut files = Files::new(folder.clone());
        let now = Instant::now();
        assert!(files.look(now, Duration::ZERO).expect("a look").changed);
        std::fs::remove_dir_all(&folder).expect("gone");
        assert_eq!(files.look(now + SETTLE, Duration::ZERO).expect("a look"), Look::default());
        std::fs::create_dir(&folder).expect("an empty folder");
        assert!(files.look(now + SETTLE * 2, Duration::ZERO).expect("a look").changed);
    }
}
