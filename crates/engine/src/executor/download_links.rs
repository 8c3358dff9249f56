//! Download links that a step creates for its files.

use afterload_core::failpoint;
use std::time::Duration;

use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::step_owner::StepOwner;
use crate::run_view::download_link_url;
use afterload_core::keyring::Keyring;
use afterload_state::{Db, DownloadLinkRecord};
use afterload_step_api::{BoxFuture, FileLinks, VerifiedFile};

/// The download links of one step, stored in the state database.
pub(super) struct DbFileLinks {
    db: Db,
    base_url: String,
    keyring: Keyring,
    run: String,
    step: String,
}

/// Creates the download links of steps.
pub(crate) struct StepLinks {
    pub(crate) db: Db,
    pub(crate) base_url: String,
    pub(crate) keyring: Keyring,
}

impl StepLinks {
    pub(super) fn for_step(&self, owner: StepOwner) -> DbFileLinks {
        let Self { db, base_url, keyring } = self;
        let StepOwner { run, step } = owner;
        DbFileLinks { db: db.clone(), base_url: base_url.clone(), keyring: keyring.clone(), run, step }
    }
}

/// The id depends only on stable values, so that a mail that is sent again contains the same link.
fn link_id(run: &str, step: &str, artifact: &str) -> Ulid {
    let digest = Sha256::digest(format!("{run}\n{step}\n{artifact}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Ulid::from_bytes(bytes)
}

impl FileLinks for DbFileLinks {
    fn create_link(&self, file: &VerifiedFile, lives: Duration) -> BoxFuture<Option<String>> {
        let Some(artifact) = &file.artifact_id else { return Box::pin(async { Ok(None) }) };
        let id = link_id(&self.run, &self.step, artifact);
        let url = download_link_url(&self.base_url, &self.keyring, id);
        let now = self.db.now();
        let record = DownloadLinkRecord {
            id: id.to_string(),
            artifact_id: artifact.clone(),
            run_id: self.run.clone(),
            step_id: self.step.clone(),
            created_at: now,
            expires_at: now.saturating_add(i64::try_from(lives.as_millis()).unwrap_or(i64::MAX)),
            revoked_at: None,
            downloads: 0,
            last_download_at: None,
        };
        let db = self.db.clone();
        Box::pin(async move {
            let mut tx = db.begin().await?;
            let kept = tx.download_links().upsert(&record).await?;
            failpoint!("link.before_commit");
            tx.commit().await?;
            failpoint!("link.after_commit");
            Ok(kept.then_some(url))
        })
    }
}
