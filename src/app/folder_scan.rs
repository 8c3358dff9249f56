//! The files of the pipelines as they are taken in: each one once it has been the same for a moment, so that nobody sees
//! half of what an editor or a copy is still writing.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use afterload_core::error::Result;
use afterload_pipeline::folder::{self, CompileResult, PipelineFolder};
use afterload_pipeline::{StepCatalog, ValidationContext};

/// How long a file must have been the same.
pub(super) const MIN_STABLE_TIME: Duration = Duration::from_millis(150);

/// What tells one state of a file from another. Not the content: reading everything twice a second would cost. The inode
/// shows a file that was renamed over another, the time of change one whose time of modification was set back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileStamp {
    device_inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// The device and the inode.
    pub(super) fn file_identity(&self) -> (u64, u64) {
        self.device_inode
    }

    /// Of what the path leads to; `None` if that is nothing.
    pub(super) fn from_path(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            device_inode: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// One path of the folder.
struct TrackedFile {
    /// Its last state, and since when. The outer `None`: it is not in the folder any more.
    last_stamp: Option<Option<FileStamp>>,
    since: Instant,
    /// Whether that state has been taken in.
    settled: bool,
    /// As it was last taken in.
    text: Option<std::result::Result<String, String>>,
    compiled: Option<CompileResult>,
}

/// What a look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScanResult {
    /// Something was taken in that is new.
    pub changed: bool,
    /// Something is still moving: look again soon.
    pub moving: bool,
}

/// The files of one folder.
pub(super) struct FolderScan {
    folder: PathBuf,
    tracked: BTreeMap<PathBuf, TrackedFile>,
}

impl FolderScan {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, tracked: BTreeMap::new() }
    }

    /// Looks at the folder and takes in what has been the same for `settle`. A folder that is not there changes nothing:
    /// a mount may come back, and taking a folder away is no way to say that each of its pipelines should end.
    ///
    /// # Errors
    /// `io_error` if the folder cannot be listed.
    pub(super) fn scan_folder(&mut self, now: Instant, settle: Duration) -> Result<ScanResult> {
        let mut look = ScanResult::default();
        if std::fs::metadata(&self.folder).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(look);
        }
        let listed: BTreeMap<PathBuf, Option<FileStamp>> = folder::list_pipeline_files(&self.folder)?
            .into_iter()
            .map(|path| (path.clone(), FileStamp::from_path(&path)))
            .collect();
        for path in listed.keys().filter(|path| !self.tracked.contains_key(*path)).cloned().collect::<Vec<_>>() {
            self.tracked
                .insert(path, TrackedFile { last_stamp: None, since: now, settled: false, text: None, compiled: None });
        }
        self.tracked.retain(|path, known| {
            let state = listed.get(path).cloned();
            if known.last_stamp != state {
                (known.last_stamp, known.since, known.settled) = (state, now, false);
            }
            if known.settled {
                return true;
            }
            if now.duration_since(known.since) < settle {
                look.moving = true;
                return true;
            }
            let Some(state) = known.last_stamp.clone() else {
                look.changed = true;
                return false;
            };
            let text = Some(folder::read_definition(path));
            if FileStamp::from_path(path) != state {
                look.moving = true;
                return true;
            }
            known.settled = true;
            if known.text != text {
                (known.text, known.compiled, look.changed) = (text, None, true);
            }
            true
        });
        Ok(look)
    }

    /// Judges every file anew at the next [`Self::folder`].
    pub(super) fn invalidate_compiled(&mut self) {
        self.tracked.values_mut().for_each(|known| known.compiled = None);
    }

    /// What the folder holds, as far as it has been taken in.
    pub(super) fn compile_folder(&mut self, kinds: &StepCatalog, around: &ValidationContext) -> PipelineFolder {
        PipelineFolder::from_results(self.tracked.iter_mut().filter_map(|(path, known)| {
            let text = known.text.clone()?;
            let judged = known.compiled.get_or_insert_with(|| folder::compile_file(path, text, kinds, around));
            Some((path.as_path(), judged.clone()))
        }))
    }

    /// The names of all files, also of those that are still being written.
    pub(super) fn file_names(&self) -> Vec<String> {
        let stem = |path: &PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
        self.tracked.keys().filter_map(stem).collect()
    }
}

/// The states of all files two levels under a folder: enough for `templates/email/NAME/FILE`.
pub(super) fn scan_stamps(folder: &Path) -> BTreeMap<PathBuf, Option<FileStamp>> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let paths = list(folder).into_iter().flat_map(|path| {
        let mut inside = list(&path);
        inside.push(path);
        inside
    });
    paths.map(|path| (path.clone(), FileStamp::from_path(&path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn a_file_is_taken_in_once_it_has_been_the_same_for_a_moment() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.yaml");
        let mut files = FolderScan::new(folder.path().to_owned());
        let start = Instant::now();
        let moving = ScanResult { changed: false, moving: true };
        let taken = ScanResult { changed: true, moving: false };
        assert_eq!(files.scan_folder(start, MIN_STABLE_TIME).expect("a look"), ScanResult::default());
        std::fs::write(&path, "name: a").expect("half of it");
        assert_eq!(files.scan_folder(start, MIN_STABLE_TIME).expect("a look"), moving);
        std::fs::write(&path, "name: a\nsteps: []").expect("more of it");
        assert_eq!(
            files.scan_folder(start + MIN_STABLE_TIME, MIN_STABLE_TIME).expect("a look"),
            moving,
            "it has changed since"
        );
        assert_eq!(files.scan_folder(start + MIN_STABLE_TIME * 2 - MOMENT, MIN_STABLE_TIME).expect("a look"), moving);
        assert_eq!(files.scan_folder(start + MIN_STABLE_TIME * 2, MIN_STABLE_TIME).expect("a look"), taken);
        assert_eq!(
            files.scan_folder(start + MIN_STABLE_TIME * 3, MIN_STABLE_TIME).expect("a look"),
            ScanResult::default()
        );
        std::fs::remove_file(&path).expect("gone");
        assert_eq!(
            files.scan_folder(start + MIN_STABLE_TIME * 4, MIN_STABLE_TIME).expect("a look"),
            moving,
            "a rename may be under way"
        );
        assert_eq!(files.scan_folder(start + MIN_STABLE_TIME * 5, MIN_STABLE_TIME).expect("a look"), taken);
    }

    #[test]
    fn a_folder_that_is_not_there_changes_nothing() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("pipelines");
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("a.yaml"), "name: a").expect("a file");
        let mut files = FolderScan::new(folder.clone());
        let now = Instant::now();
        assert!(files.scan_folder(now, Duration::ZERO).expect("a look").changed);
        std::fs::remove_dir_all(&folder).expect("gone");
        assert_eq!(files.scan_folder(now + MIN_STABLE_TIME, Duration::ZERO).expect("a look"), ScanResult::default());
        std::fs::create_dir(&folder).expect("an empty folder");
        assert!(files.scan_folder(now + MIN_STABLE_TIME * 2, Duration::ZERO).expect("a look").changed);
    }
}
