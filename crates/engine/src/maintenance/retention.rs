//! Retention: deletes expired links, files and runs, and objects that a crash left without an owner.

use afterload_core::failpoint;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};
use ulid::Ulid;

use crate::Engine;
use crate::config::EngineConfig;
use afterload_core::error::Result;
use afterload_core::file::File;
use afterload_object_store::ObjectStore;
use afterload_state::Db;

/// The maximum number of rows of each kind per pass. The next pass continues.
const MAX_RETENTION_ROWS: u32 = 200;
/// A younger object may still get its owner.
const MIN_ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);

impl Engine {
    /// Deletes objects under the keys of the service that are older than `age` and belong to no artifact. Workers do so
    /// twice a day in the embedded store, with an age of a day. Never call it on a bucket that another installation
    /// writes. Returns the number of deleted objects.
    ///
    /// # Errors
    /// An error of the object store or of the database.
    pub async fn delete_orphan_objects(&self, age: Duration) -> Result<u64> {
        self.0.retention.delete_orphan_objects(age).await
    }
}

#[derive(Clone)]
pub(crate) struct RetentionCleaner {
    pub(crate) db: Db,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) objects: ObjectStore,
}

impl RetentionCleaner {
    /// Deletes what has expired. Each part is bounded and may run in several processes at once.
    pub(crate) async fn apply_retention(&self) -> Result<()> {
        for (artifact, holder) in self.db.retention().list_links_to_release(MAX_RETENTION_ROWS).await? {
            let mut tx = self.db.begin().await?;
            tx.retention().release_link_artifact(&artifact, &holder).await?;
            failpoint!("retention.before_unlink");
            tx.commit().await?;
            failpoint!("retention.unlinked");
        }
        let retention = &self.config.retention;
        for run in self.db.retention().list_runs_to_release(retention.artifacts.as_millis(), MAX_RETENTION_ROWS).await?
        {
            let mut tx = self.db.begin().await?;
            tx.retention().release_run_artifacts(&run).await?;
            failpoint!("retention.before_release");
            tx.commit().await?;
            failpoint!("retention.released");
        }
        self.purge_expired_artifacts().await?;
        let mut deleted = 0;
        for run in self.db.retention().list_runs_to_delete(retention.runs.as_millis(), MAX_RETENTION_ROWS).await? {
            failpoint!("retention.before_delete");
            deleted += u32::from(self.db.retention().delete_run(&run).await?);
            failpoint!("retention.deleted");
        }
        if deleted > 0 {
            info!(runs = deleted, "expired runs deleted");
        }
        Ok(())
    }

    /// The object is deleted before its row is marked. After a crash in between, deleting it again is harmless.
    async fn purge_expired_artifacts(&self) -> Result<()> {
        for (id, file) in self.db.retention().list_artifacts_to_purge(MAX_RETENTION_ROWS).await? {
            let gone = match serde_json::from_value::<File>(file) {
                Ok(file) => self.objects.delete_object(&file.bucket, &file.key).await,
                Err(_) => Ok(()),
            };
            match gone {
                Ok(()) => {
                    failpoint!("retention.object_deleted");
                    self.db.retention().mark_purged(&id).await?;
                    failpoint!("retention.purged");
                }
                Err(error) => {
                    warn!(
                        artifact.id = id,
                        error.code = error.code().name(),
                        "an expired file was not deleted yet: {error}"
                    );
                    if error.is_transient() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Deletes old orphaned objects, in the embedded store only. An external store may be shared with another
    /// installation, whose files are not orphans.
    pub(crate) async fn clean_embedded_store(&self) -> Result<()> {
        if self.objects.is_embedded(&self.config.artifacts) {
            self.delete_orphan_objects(MIN_ORPHAN_AGE).await?;
        }
        Ok(())
    }

    /// Deletes objects under the keys of the service that belong to no artifact. A crash between the object store and
    /// the database leaves such objects. Objects of active runs are kept.
    async fn delete_orphan_objects(&self, age: Duration) -> Result<u64> {
        let before = self.db.now().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let mut all = 0;
        let bucket = &self.config.artifacts;
        for prefix in ["runs/", "uploads/"] {
            let (mut from, mut deleted) = (None, 0_u64);
            loop {
                let page = self.objects.list_objects(bucket, prefix, from).await?;
                for object in &page.objects {
                    let Some((run, artifact)) = key_owners(&object.key) else { continue };
                    // The age of an object without a time is unknown, so it is kept.
                    let old = object.modified_at > 0 && object.modified_at <= before;
                    if !old || self.db.retention().artifact_has_owner(artifact, run).await? {
                        continue;
                    }
                    self.objects.delete_object(bucket, &object.key).await?;
                    debug!(object.key = object.key, "orphaned object deleted");
                    deleted += 1;
                }
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
            if deleted > 0 {
                info!(objects = deleted, prefix, "orphaned objects deleted");
            }
            all += deleted;
        }
        Ok(all)
    }
}

/// The ids of run and artifact in a key: `uploads/RUN/ID` or `runs/RUN/STEP/CLAIM/ID`.
fn key_owners(key: &str) -> Option<(&str, &str)> {
    let mut parts = key.split('/').skip(1);
    let (run, artifact) = (parts.next()?, parts.last()?);
    let is_id = |text: &str| Ulid::from_string(text).is_ok();
    (is_id(run) && is_id(artifact)).then_some((run, artifact))
}

#[cfg(test)]
mod tests {
    use super::key_owners;

    #[test]
    fn only_artifact_keys_have_owners() {
        let (run, id) = ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "01BX5ZZKBKACTAV9WEVGEMMVRZ");
        assert_eq!(key_owners(&format!("uploads/{run}/{id}")), Some((run, id)));
        assert_eq!(key_owners(&format!("runs/{run}/import/3/{id}")), Some((run, id)));
        for other in
            ["uploads/", "uploads/a.csv", "runs/x/y", &format!("uploads/{run}"), &format!("runs/{run}/notes.txt")]
        {
            assert_eq!(key_owners(other), None, "{other}");
        }
    }
}
