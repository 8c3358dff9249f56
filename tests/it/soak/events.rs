//! Figure 7: many objects, each reported in several ways at once.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{figure, size};
use crate::support::{Database, TestApp, both};

both!(figure_7_each_object_starts_one_run);

const MANY: &str = "name: many\ntriggers: [{ type: s3, bucket: uploads, prefix: in/, poll: 1s }]\n\
                    params: { file: { type: file } }\nsteps:\n  - { id: one, uses: test.step }\n";
const WRITERS: usize = 8;

/// Shuffles with a seed, so that every run uses the same order.
fn shuffled<T: Clone>(items: &[T], seed: u64) -> Vec<T> {
    let mut keyed: Vec<_> = items
        .iter()
        .enumerate()
        .map(|(at, item)| {
            ((at as u64 + 1).wrapping_mul(seed.wrapping_mul(2_654_435_761) | 1) % 1_000_003, item.clone())
        })
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, item)| item).collect()
}

/// The webhook, the store's own events and the poll all report each object; the webhook reports it three times.
async fn figure_7_each_object_starts_one_run(database: Database) {
    let objects = size(300, 1000);
    let app = TestApp::builder(database).pipeline("many", MANY).start().await;
    let writers = (0..WRITERS).map(|writer| {
        let app = &app;
        async move {
            let mut records = Vec::new();
            for number in (writer..objects).step_by(WRITERS) {
                let key = format!("in/{number}");
                let stored = app.put("uploads", &key, &number.to_string()).await;
                let object = json!({ "key": key.replace('/', "%2F"), "size": stored.size, "eTag": stored.etag });
                records.push(json!({ "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
                                     "s3": { "bucket": { "name": "uploads" }, "object": object } }));
                if records.len() == 25 || number + WRITERS >= objects {
                    let tellings = (1..=3).map(|seed| send_notification(app, shuffled(&records, seed + writer as u64)));
                    futures::future::join_all(tellings).await;
                    records.clear();
                }
            }
        }
    });
    futures::future::join_all(writers).await;
    app.until_no_events().await;
    let runs = app.until_runs(objects).await;
    let keys: BTreeSet<_> = runs.iter().map(|run| run.params["file"]["key"].as_str().unwrap().to_owned()).collect();
    let what = format!(
        "{objects} objects, each told of by the store, by a poll and three times by a webhook: runs, objects in them"
    );
    figure("7", database, &what, &[objects; 2], &[runs.len(), keys.len()]);
    app.finish().await;
}

async fn send_notification(app: &TestApp, records: Vec<Value>) {
    let count = records.len();
    let request = app.client.post(format!("{}/v1/hooks/s3", app.url)).bearer_auth(&app.admin_key);
    let response = request.json(&json!({ "Records": records })).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let told: Value = response.json().await.unwrap();
    let started = told["started"].as_array().unwrap().len() as u64;
    assert_eq!(started + told["known"].as_u64().unwrap(), count as u64, "{told}");
}
