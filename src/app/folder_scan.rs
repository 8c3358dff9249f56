//! Reads the files of the pipelines folder. A file is read only after it has been stable for a moment, so that nobody
//! sees half of what an editor or a copy is still writing.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use afterload_core::error::Result;
use afterload_pipeline::folder::{self, CompileResult, PipelineFolder, UnreadableDefinition};
use afterload_pipeline::{StepCatalog, ValidationContext};

/// How long a file must be unchanged before it is read.
pub(super) const MIN_STABLE_TIME: Duration = Duration::from_millis(150);

/// Identifies one state of a file. Its content is left out, because reading all files twice a second is too expensive.
/// The inode detects a rename over the file, and the change time detects a modification time that was set back.
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

    /// The state of the file at `path`; `None` if there is none.
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

/// The state of one path in the folder.
struct TrackedFile {
    /// The last state. The outer `None`: the file is not in the folder. The inner `None`: it has no readable metadata.
    last_stamp: Option<Option<FileStamp>>,
    since: Instant,
    /// True if that state has been read.
    settled: bool,
    /// The text when it was last read.
    text: Option<std::result::Result<String, UnreadableDefinition>>,
    compiled: Option<CompileResult>,
}

/// The result of a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScanResult {
    /// A file was read, added or removed.
    pub changed: bool,
    /// A file is still changing, so the next scan should be soon.
    pub moving: bool,
}

pub(super) struct FolderScan {
    folder: PathBuf,
    tracked: BTreeMap<PathBuf, TrackedFile>,
}

impl FolderScan {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, tracked: BTreeMap::new() }
    }

    /// Scans the folder and reads the files that have been unchanged for `settle`. A missing folder changes nothing: it
    /// may be a mount that comes back, and removing a folder must not end all of its pipelines.
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
            // The file changed while it was read, so the text may be half of it.
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

    /// Compiles every file again at the next [`Self::compile_folder`].
    pub(super) fn invalidate_compiled(&mut self) {
        self.tracked.values_mut().for_each(|known| known.compiled = None);
    }

    /// Compiles the files that have been read and are not compiled yet. `before_file` is called before each of them.
    pub(super) fn compile_folder(
        &mut self,
        kinds: &StepCatalog,
        around: &ValidationContext,
        before_file: impl Fn(&Path),
    ) -> PipelineFolder {
        PipelineFolder::from_results(self.tracked.iter_mut().filter_map(|(path, known)| {
            let text = known.text.clone()?;
            let compiled = known.compiled.get_or_insert_with(|| {
                before_file(path);
                folder::compile_file(path, text, kinds, around)
            });
            Some((path.as_path(), compiled.clone()))
        }))
    }

    /// True if the file is in the folder.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        self.tracked.contains_key(path)
    }

    /// The names of all files, including those that are still changing.
    pub(super) fn file_names(&self) -> Vec<String> {
        let stem = |path: &PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
        self.tracked.keys().filter_map(stem).collect()
    }
}

/// The states of all files up to two levels below a folder, as in `templates/email/NAME/FILE`.
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
    fn a_file_is_read_after_it_has_been_stable() {
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
    fn a_missing_folder_changes_nothing() {
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
