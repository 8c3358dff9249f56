//! Everything that starts runs besides the API: schedules, application events, and new objects reported by the embedded
//! store, by notifications or by polling.
//!
//! All of them start a run at once, or add their event to a batch (`debounce`, `batch`) that becomes a run later. The
//! dedup key of an object lets it start one run, however often it is reported. An event is deleted at its source only
//! after it is on disk.

mod accept;
mod batch_runs;
mod batches;
mod cron;
mod embedded_events;
mod housekeeping;
mod notification_body;
mod notification_schema;
mod object_created;
mod poll;
mod publish_event;
mod s3_notification;
mod start_run;
mod trigger_event;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::housekeeping::EnsuredBuckets;
use afterload_core::error::Result;
use afterload_engine::Engine;
use afterload_engine::maintenance::PeriodicTask;
use afterload_s3_server::EmbeddedStore;

pub use housekeeping::{UPLOAD_GRACE, UPLOAD_SOURCE};
pub use notification_body::SnsSubscription;
pub use notification_schema::S3NotificationBody;
pub use publish_event::EventResult;
pub use s3_notification::NotificationResult;

/// The triggers of one process. Cheap to clone.
#[derive(Clone)]
pub struct Triggers(Arc<TriggerDeps>);

struct TriggerDeps {
    engine: Engine,
    /// The embedded store, if this process has one.
    embedded: Option<EmbeddedStore>,
    /// Identifies this process in the leases of polls.
    process_name: String,
    /// The buckets of triggers that were made already.
    buckets: EnsuredBuckets,
}

impl Triggers {
    /// Creates the triggers. They follow the live pipelines.
    pub fn new(engine: Engine, embedded: Option<EmbeddedStore>) -> Self {
        let process_name = ulid::Ulid::generate().to_string();
        Self(Arc::new(TriggerDeps { engine, embedded, process_name, buckets: EnsuredBuckets::default() }))
    }

    /// Creates the embedded buckets that triggers name, so that the first upload finds them.
    pub async fn prepare_buckets(&self) -> Result<()> {
        housekeeping::ensure_buckets(&self.0).await
    }

    /// What the triggers do again and again, for the scheduler of the process.
    pub fn maintenance_tasks(&self) -> Vec<PeriodicTask> {
        housekeeping::maintenance_tasks(&self.0)
    }

    /// Runs all triggers until `stop`. Failed work is retried.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        let mut tasks = JoinSet::new();
        if let Some(embedded) = self.0.embedded.clone() {
            tasks.spawn(embedded_events::run_embedded_events(self.0.clone(), embedded, stop.clone()));
        }
        tasks.spawn(cron::run_cron(self.0.clone(), stop.clone()));
        tasks.spawn(poll::run_polling(self.0.clone(), stop));
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}
