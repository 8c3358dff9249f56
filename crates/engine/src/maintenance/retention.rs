//! What a process lets go of as time passes: links, files, runs, and objects that a crash left without an owner.

use afterload_core::failpoint;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};
use ulid::Ulid;

use crate::Engine;
use crate::config::EngineConfig;
use afterload_core::clock;
use afterload_core::error::Result;
use afterload_core::file::File;
use afterload_object_store::ObjectStore;
use afterload_state::Db;

/// How much one look does of each; the rest follows in the next.
const MAX_RETENTION_ROWS: u32 = 200;
/// An object younger than this may still find its owner.
const MIN_ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);

impl Engine {
    /// Deletes objects under our own keys that are older than `age` and no artifact. Workers do so by themselves twice a
    /// day, with an age of a day, in the embedded store; never call it on a bucket that another installation writes. Gives how many there were.
    ///
    /// # Errors
    /// Those of the store and of the database.
    pub async fn delete_orphan_objects(&self, age: Duration) -> Result<u64> {
        self.0.retention.delete_orphan_objects(age).await
    }
}

/// Deletes runs and files whose time is over.
#[derive(Clone)]
pub(crate) struct RetentionCleaner {
    pub(crate) db: Db,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) objects: ObjectStore,
}

impl RetentionCleaner {
    /// Lets go of what is over. Each part is bounded, and may be done by many processes at once.
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
            info!(runs = deleted, "runs whose time was over were deleted");
        }
        Ok(())
    }

    /// The object goes before its row says so: a crash between the two deletes it once more, which is nothing.
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

    /// Deletes old objects without an owner, in the embedded store only: a store elsewhere may be shared with another
    /// installation, whose files are no orphans.
    pub(crate) async fn clean_embedded_store(&self) -> Result<()> {
        if self.objects.is_embedded(&self.config.artifacts) {
            self.delete_orphan_objects(MIN_ORPHAN_AGE).await?;
        }
        Ok(())
    }

    /// Deletes objects under our own keys that are no artifact, such as what a crash left between the store and the
    /// database. Those of runs that go on are left to them.
    async fn delete_orphan_objects(&self, age: Duration) -> Result<u64> {
        let before = clock::now_millis().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let mut all = 0;
        let bucket = &self.config.artifacts;
        for prefix in ["runs/", "uploads/"] {
            let (mut from, mut deleted) = (None, 0_u64);
            loop {
                let page = self.objects.list_objects(bucket, prefix, from).await?;
                for object in &page.objects {
                    let Some((run, artifact)) = key_owners(&object.key) else { continue };
                    // Of one without a time nobody knows how old it is.
                    let old = object.modified_at > 0 && object.modified_at <= before;
                    if !old || self.db.retention().artifact_has_owner(artifact, run).await? {
                        continue;
                    }
                    self.objects.delete_object(bucket, &object.key).await?;
                    debug!(object.key = object.key, "an object without an owner was deleted");
                    deleted += 1;
                }
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
            if deleted > 0 {
                info!(objects = deleted, prefix, "objects without an owner were deleted");
            }
            all += deleted;
        }
        Ok(all)
    }
}

/// The run and the artifact of one of our keys, `uploads/RUN/ID` or `runs/RUN/STEP/CLAIM/ID`.
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
    fn our_own_keys_name_their_owners_and_others_do_not() {
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
