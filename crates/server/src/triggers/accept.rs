//! From an object that somebody tells of to the runs that it starts.

use super::Inner;
use super::event::{self, Told, event, is_folder};
use afterload_core::clock::Millis;
use afterload_core::error::{Error, Result};
use afterload_engine::{Inbox, Started};
use afterload_object_store::Stored;
use afterload_pipeline::{S3Trigger, Trigger};

/// Who counts the identities of objects in the inbox.
pub const SOURCE: &str = "s3";

/// A trigger of a live pipeline.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pipeline's name.
    pub pipeline: String,
    /// The trigger.
    pub trigger: S3Trigger,
    /// When its pipeline went live.
    pub published_at: Millis,
}

/// What became of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The runs that it started.
    pub started: Vec<String>,
    /// How many pipelines knew it already.
    pub known: usize,
    /// Under which identity, if it is there.
    pub identity: Option<String>,
}

/// What the store says of an object.
enum Look {
    There(Stored),
    Gone,
    /// It will not say; the run will meet the same error and say so.
    Refused,
}

impl Inner {
    /// The s3 triggers that are live at this moment.
    pub async fn targets(&self) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        for live in self.engine.live().await? {
            for trigger in live.plan.triggers.iter().filter_map(Trigger::as_s3) {
                let (pipeline, trigger) = (live.plan.name.clone(), trigger.clone());
                targets.push(Target { pipeline, trigger, published_at: live.published_at });
            }
        }
        Ok(targets)
    }

    /// Starts a run of each pipeline that waits for the object and has not had it. When this returns, they are on disk.
    ///
    /// # Errors
    /// Those of the database and of the store that may pass: tell of the object again.
    pub async fn accept(&self, targets: &[Target], told: &Told) -> Result<Accepted> {
        for key in told.keys.iter().filter(|key| !is_folder(key, told.size)) {
            let wanted = wanted(targets, &told.bucket, key);
            if wanted.is_empty() {
                continue;
            }
            if let Some(identity) = told.identity(key)
                && self.all_know(&wanted, &identity).await?
            {
                return Ok(Accepted { known: wanted.len(), identity: Some(identity), ..Accepted::default() });
            }
            let stored = match self.look(told, key).await? {
                Look::There(stored) => stored,
                Look::Refused => told.stored(key),
                Look::Gone => continue,
            };
            return self.start(&wanted, stored, told.at).await;
        }
        Ok(Accepted::default())
    }

    async fn all_know(&self, wanted: &[&Target], identity: &str) -> Result<bool> {
        for target in wanted {
            if self.engine.db().inbox(&target.pipeline, SOURCE, identity).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// An object that was replaced before anybody could look is what is there now: the bytes before are gone.
    async fn look(&self, told: &Told, key: &str) -> Result<Look> {
        match self.engine.objects().head_version(&told.bucket, key, told.version.as_deref()).await {
            Ok(stored) => Ok(Look::There(stored)),
            Err(error) if error.is_transient() => Err(error),
            Err(error) if error.code() == "object_not_found" => {
                tracing::info!(object.bucket = told.bucket, object.key = key, "a new object was gone before its run");
                Ok(Look::Gone)
            }
            Err(_) => Ok(Look::Refused),
        }
    }

    async fn start(&self, wanted: &[&Target], stored: Stored, at: Option<Millis>) -> Result<Accepted> {
        let Stored { bucket, key, version, etag, size, .. } = &stored;
        let identity = event::identity(bucket, key, version.as_deref(), etag, *size);
        let event = event(stored, at);
        let mut accepted = Accepted { identity: Some(identity.clone()), ..Accepted::default() };
        for target in wanted {
            let inbox = Inbox { source: SOURCE, key: identity.clone(), fingerprint: None };
            match self.begin(&target.pipeline, &target.trigger.with, &event, inbox).await {
                Ok(Started::New(run)) => accepted.started.push(run.id),
                Ok(Started::Known { .. }) => accepted.known += 1,
                // It went away a moment ago.
                Err(error) if error.code() == "pipeline_not_found" => {}
                Err(error) => return Err(error),
            }
        }
        Ok(accepted)
    }
}

/// The first trigger of each pipeline that waits for such an object.
fn wanted<'a>(targets: &'a [Target], bucket: &str, key: &str) -> Vec<&'a Target> {
    let mut wanted: Vec<&Target> = Vec::new();
    for target in targets.iter().filter(|target| target.trigger.matches(bucket, key)) {
        if wanted.iter().all(|known| known.pipeline != target.pipeline) {
            wanted.push(target);
        }
    }
    wanted
}

/// Whether what failed may succeed later. A database that fails in a way that nobody foresaw is waited for, too: the
/// alternative is to forget the object.
pub fn may_pass(error: &Error) -> bool {
    error.is_transient() || error.code().starts_with("database")
}
