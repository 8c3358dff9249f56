//! What starts runs beside the API: new objects, told by the embedded store, by webhooks, or found by looking.
//!
//! Every way ends in `accept`: whatever tells of an object, and however often, the inbox lets it start one run. A
//! happening is forgotten by whoever told it only after the run is on disk.

mod accept;
mod begin;
mod cron;
mod drain;
mod event;
mod hook;
mod poll;
mod tell;
mod watch;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use afterload_core::error::Result;
use afterload_engine::Engine;
use afterload_s3_server::EmbeddedStore;

pub use hook::{NotificationResult, SnsSubscription};
pub use tell::EventResult;
pub use watch::{UPLOAD_GRACE, UPLOAD_SOURCE};

/// The triggers of one process. Cheap to clone.
#[derive(Clone)]
pub struct Triggers(Arc<TriggerDeps>);

struct TriggerDeps {
    engine: Engine,
    /// The embedded store, if this process has one.
    embedded: Option<EmbeddedStore>,
    /// Names this process where processes take turns.
    process_name: String,
}

impl Triggers {
    /// The triggers of the pipelines that are live, whichever they are at the time.
    pub fn new(engine: Engine, embedded: Option<EmbeddedStore>) -> Self {
        Self(Arc::new(TriggerDeps { engine, embedded, process_name: ulid::Ulid::generate().to_string() }))
    }

    /// Makes the embedded buckets that triggers name, so that the first upload finds them.
    ///
    /// # Errors
    /// Those of the database and of the store.
    pub async fn prepare_buckets(&self) -> Result<()> {
        watch::ensure_buckets(&self.0, &mut watch::EnsuredBuckets::default()).await
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// None so far: what fails is tried again.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        let mut tasks = JoinSet::new();
        if let Some(embedded) = self.0.embedded.clone() {
            tasks.spawn(drain::run_embedded_events(self.0.clone(), embedded, stop.clone()));
        }
        tasks.spawn(watch::run_housekeeping(self.0.clone(), stop.clone()));
        tasks.spawn(cron::run_cron(self.0.clone(), stop.clone()));
        tasks.spawn(poll::run_polling(self.0.clone(), stop));
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}
