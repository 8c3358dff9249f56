//! Polling of a store that sends no notifications.

use afterload::config::{BucketConfig, Config, ObjectStoreConfig, Secret};
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};

use crate::support::{Database, Moto, TestApp, both};

both!(
    polled_prefix_starts_one_run_per_object,
    polled_bytes_that_are_written_again_are_new,
    missing_bucket_is_polled_again
);

const POLL: &str = "name: poll\ntriggers: [{ type: s3, bucket: foreign, prefix: in/, suffix: .csv, poll: 1s }]\n\
                    params: { file: { type: file } }\nsteps:\n  \
                    - { id: one, uses: test.step, with: { give: \"${{ event.version }}\" } }\n";

fn lies_in(moto: &Moto) -> impl FnOnce(&mut Config) {
    let store = ObjectStoreConfig {
        endpoint: Some(moto.endpoint.clone()),
        access_key: Some(Secret::new("key")),
        secret_key: Some(Secret::new("secret")),
        path_style: true,
        ..ObjectStoreConfig::default()
    };
    |config| {
        config.objects.stores.insert("foreign".into(), store);
        config
            .objects
            .buckets
            .insert("foreign".into(), BucketConfig { store: Some("foreign".into()), ..Default::default() });
    }
}

fn sdk(moto: &Moto) -> Client {
    crate::objects::sdk(&moto.endpoint, "key", "secret")
}

async fn polled_prefix_starts_one_run_per_object(database: Database) {
    let moto = Moto::start().await;
    let sdk = sdk(&moto);
    sdk.create_bucket().bucket("foreign").send().await.unwrap();
    let app = TestApp::builder(database).config(lies_in(&moto)).pipeline("poll", POLL).start().await;
    for key in ["in/a b+ü%2B.csv", "in/b.csv", "in/c.txt", "out/d.csv"] {
        app.put("foreign", key, "one").await;
    }
    let runs = app.until_runs(2).await;
    assert_eq!(runs[0].params["file"]["key"], "in/a b+ü%2B.csv");
    // Another process continues from the state in the database.
    let app = app.restart().await;
    app.put("foreign", "in/b.csv", "two").await;
    app.until_runs(3).await;
    // A listing shows no versions. Only clients that see versions treat the same bytes under a new version as a new
    // object.
    let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    sdk.put_bucket_versioning().bucket("foreign").versioning_configuration(versions).send().await.unwrap();
    app.put("foreign", "in/e.csv", "one").await;
    let run = app.until_runs(4).await.remove(3);
    assert!(run.event.as_ref().unwrap()["version"].is_string(), "{:?}", run.event);
    let app = app.restart().await;
    app.put("foreign", "in/f.csv", "one").await;
    app.until_runs(5).await;
    app.finish().await;
}

async fn polled_bytes_that_are_written_again_are_new(database: Database) {
    let moto = Moto::start().await;
    sdk(&moto).create_bucket().bucket("foreign").send().await.unwrap();
    let app = TestApp::builder(database).config(lies_in(&moto)).pipeline("poll", POLL).start().await;
    let objects = app.app.engine.objects();
    app.put("foreign", "in/a.csv", "one").await;
    app.until_runs(1).await;
    let written = objects.head_version("foreign", "in/a.csv", None).await.unwrap().modified_at;
    assert!(written.is_some());
    // The store dates writes to the second, so the same bytes are another write from the next second on.
    crate::support::eventually("a later second", async || {
        app.put("foreign", "in/a.csv", "one").await;
        let again = objects.head_version("foreign", "in/a.csv", None).await.unwrap();
        (again.modified_at != written).then_some(())
    })
    .await;
    app.until_runs(2).await;
    let app = app.restart().await;
    app.put("foreign", "in/b.csv", "one").await;
    app.until_runs(3).await;
    app.finish().await;
}

async fn missing_bucket_is_polled_again(database: Database) {
    let moto = Moto::start().await;
    let app = TestApp::builder(database).config(lies_in(&moto)).pipeline("poll", POLL).start().await;
    // The first poll has found no bucket.
    let db = app.app.engine.db();
    crate::support::eventually("a look", async || db.poll_claims().find_oldest_scan().await.unwrap()).await;
    sdk(&moto).create_bucket().bucket("foreign").send().await.unwrap();
    app.put("foreign", "in/a.csv", "one").await;
    app.until_runs(1).await;
    app.finish().await;
}
