//! Removes the leftovers of crashes: unfinished blobs, and blobs that the index does not name.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::OptionalExtension;

use super::S3Backend;
use super::error::S3ServerError;

/// Younger files may belong to another process. The index names a blob within seconds after its last byte.
const MIN_GARBAGE_AGE: Duration = Duration::from_secs(3600);

/// Collects garbage once, in a background thread.
pub(super) fn spawn_gc(store: &Arc<S3Backend>) {
    let store = Arc::downgrade(store);
    let work = move || {
        let Some(store) = store.upgrade() else { return };
        match collect_garbage(&store, MIN_GARBAGE_AGE) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed leftovers of a crash from the object store"),
            Err(error) => tracing::warn!("garbage collection of the object store failed: {error}"),
        }
    };
    if let Err(error) = std::thread::Builder::new().name("objects-sweep".to_owned()).spawn(work) {
        tracing::warn!("garbage collection of the object store failed: {error}");
    }
}

/// Removes leftovers older than `age`, and returns their number.
fn collect_garbage(store: &S3Backend, age: Duration) -> Result<u64, S3ServerError> {
    // The times of files are those of this machine, which no correction applies to.
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(store.clock.uncorrected_now().unsigned_abs());
    let before = now - age;
    let mut removed = 0;
    for path in files_older_than(store.blobs.incoming_dir(), before)? {
        removed += remove_if_exists(&path)?;
    }
    for shard in fs::read_dir(store.blobs.blobs_dir())? {
        let shard = shard?.path();
        if !shard.is_dir() {
            continue;
        }
        let old = files_older_than(&shard, before)?;
        let unnamed = store.read_index_blocking(|sql| {
            let mut named = sql.prepare_cached("SELECT 1 FROM bodies WHERE body = ?1")?;
            let mut unnamed = Vec::new();
            for path in old {
                let Some(id) = path.file_name().and_then(|name| name.to_str()) else { continue };
                if named.query_row([id], |_| Ok(())).optional()?.is_none() {
                    unnamed.push(path);
                }
            }
            Ok(unnamed)
        })?;
        for path in unnamed {
            removed += remove_if_exists(&path)?;
        }
    }
    Ok(removed)
}

/// Another process on the same directory may remove the file first.
fn remove_if_exists(path: &Path) -> std::io::Result<u64> {
    match fs::remove_file(path) {
        Ok(()) => Ok(1),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

fn files_older_than(dir: &Path, before: SystemTime) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut old = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Another process may have removed the file since.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() && metadata.modified()? < before {
            old.push(entry.path());
        }
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::blobs::BlobDir;
    use super::super::digest::BodyExpectation;
    use super::super::index::objects::{self, ObjectDetails, WriteConditions};
    use super::super::index::{ObjectIndex, buckets};
    use super::*;
    use afterload_core::clock::Clock;

    #[tokio::test]
    async fn gc_removes_only_old_unreferenced_files() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = BlobDir::open(dir.path()).unwrap();
        let index = ObjectIndex::open(&dir.path().join("index.db")).unwrap();
        let store = Arc::new(S3Backend::new(index, bodies, Clock::system()));
        let sealed = || {
            let mut incoming = store.blobs.create_writer(BodyExpectation::default().start_digests()).unwrap();
            incoming.write(b"bytes").unwrap();
            incoming.finish().unwrap()
        };
        let kept = sealed();
        let put = store.write_index(move |tx| {
            buckets::insert_bucket(tx, "uploads")?;
            objects::insert_object(
                tx,
                "uploads",
                "kept",
                String::new(),
                ObjectDetails::default(),
                &WriteConditions::default(),
                kept,
            )
        });
        put.await.unwrap();
        sealed().mark_referenced();
        let half = store.blobs.create_writer(BodyExpectation::default().start_digests()).unwrap();
        #[expect(clippy::mem_forget, reason = "as a crash would leave it")]
        std::mem::forget(half);
        assert_eq!(collect_garbage(&store, MIN_GARBAGE_AGE).unwrap(), 0, "young files may be at work");

        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(store.clock.uncorrected_now().unsigned_abs());
        let old = now - 2 * MIN_GARBAGE_AGE;
        for entry in glob(dir.path()) {
            File::options().write(true).open(entry).unwrap().set_modified(old).unwrap();
        }
        assert_eq!(collect_garbage(&store, MIN_GARBAGE_AGE).unwrap(), 2);
        assert_eq!(glob(dir.path()).len(), 1, "the object is still there");
    }

    fn glob(dir: &Path) -> Vec<std::path::PathBuf> {
        let shards = fs::read_dir(dir.join("bodies")).unwrap().map(|shard| shard.unwrap().path());
        let files = shards.chain([dir.join("incoming")]).flat_map(|dir| fs::read_dir(dir).unwrap());
        files.map(|file| file.unwrap().path()).collect()
    }
}
