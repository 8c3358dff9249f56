//! Triggers: each event starts one run, however often and in however many ways it is reported.

mod batches;
mod clients;
mod crash;
mod dedup;
mod embedded;
mod loops;
mod poll;
mod s3_notifications;
mod uploads;

use afterload_core::clock::Clock;
use afterload_object_store::ObjectMeta;
use afterload_s3_server::{EmbeddedStore, load_or_create_credentials};
use afterload_state::{RunFilter, RunRecord};
use bytes::Bytes;

use crate::support::{TestApp, eventually};

/// A pipeline that runs for new `.csv` objects under `in/`.
const UP: &str = r#"
name: up
triggers:
  - { type: s3, bucket: uploads, prefix: in/, suffix: .csv }
params:
  file: { type: file, accept: [text/csv], max_size: 1kb }
steps:
  - { id: one, uses: test.step, with: { give: "${{ event.key }} ${{ params.file.size }}" } }
"#;

impl TestApp {
    /// Writes an object to a bucket, as any S3 client does.
    pub async fn put(&self, bucket: &str, key: &str, bytes: &str) -> ObjectMeta {
        let bytes = Bytes::from(bytes.to_owned());
        self.app.engine.objects().put_object(bucket, key, "text/csv", bytes).await.expect("the object is written")
    }

    /// Publishes a pipeline, as another process of the same database would.
    pub(crate) async fn publish(&self, name: &str, yaml: &str) {
        let digest = afterload_pipeline::plan::definition_digest(yaml);
        let definition = afterload_state::DefinitionRecord { name: name.into(), digest, source: yaml.into() };
        self.app.engine.db().definitions().replace_live(&[definition], &[]).await.expect("published");
    }

    /// Waits until all events of the embedded store are processed.
    pub async fn until_no_events(&self) {
        let credentials = load_or_create_credentials(&self.config.data).expect("credentials");
        let store =
            EmbeddedStore::open(&self.config.data.join("objects"), credentials, Clock::system()).expect("the store");
        eventually("the events", async || store.events_after(0, 1).await.expect("events").is_empty().then_some(()))
            .await;
    }

    /// Returns all runs, oldest first.
    async fn runs(&self) -> Vec<RunRecord> {
        let filter = RunFilter { limit: 10_000, ..RunFilter::default() };
        let mut runs = self.app.engine.db().runs().list(&filter).await.expect("the runs");
        runs.reverse();
        runs
    }

    /// Waits until this many runs have ended and no event of the store is left.
    pub async fn until_runs(&self, count: usize) -> Vec<RunRecord> {
        eventually("the ends of the runs", async || {
            // Reading all of them at each look would take longer than what they do.
            let counts = "SELECT COUNT(*) AS found, COUNT(finished_at) AS ended FROM runs";
            let row = self.app.engine.db().fetch_optional(counts, &[]).await.expect("the runs").expect("a row");
            let [found, ended] = ["found", "ended"].map(|name| row.get_int(name).expect("a count") as usize);
            assert!(found <= count, "{found} runs, more than {count}");
            (found == count && ended == count).then_some(())
        })
        .await;
        self.runs().await
    }
}
