//! Deduplication: of many starts with the same dedup key, one starts a run.

use afterload_engine::{DedupKey, NewRun, StartOutcome};
use serde_json::{Value, json};
use ulid::Ulid;

use crate::support::{Database, TestApp, both};

both!(dedup_key_starts_one_run, steps_can_read_the_event);

const PIPELINE: &str = "name: p\ntriggers: [{ type: s3, bucket: uploads }]\nsteps:\n  - { id: one, uses: test.step, with: { give: \"${{ event.key }}\" } }\n";

fn new(key: &str, fingerprint: &str) -> NewRun {
    NewRun {
        id: Ulid::generate().to_string(),
        pipeline: "p".into(),
        origin: "test",
        event: Some(json!({ "key": key })),
        dedup_key: Some(DedupKey { source: "test", key: key.into(), fingerprint: Some(fingerprint.into()) }),
        ..NewRun::default()
    }
}

async fn dedup_key_starts_one_run(database: Database) {
    let app = TestApp::builder(database).pipeline("p", PIPELINE).start().await;
    let engine = &app.app.engine;
    let starts = (0..40).map(|number| engine.start_run(new("a", &number.to_string())));
    let (mut fresh, mut known) = (Vec::new(), Vec::new());
    for started in futures::future::join_all(starts).await {
        match started.unwrap() {
            StartOutcome::Created(run) => fresh.push(run.id),
            StartOutcome::Duplicate { run_id, fingerprint } => known.push((run_id, fingerprint.unwrap())),
        }
    }
    assert_eq!((fresh.len(), known.len()), (1, 39));
    assert!(known.iter().all(|(id, fingerprint)| *id == fresh[0] && *fingerprint == known[0].1));
    assert!(
        matches!(engine.start_run(new("b", "0")).await.unwrap(), StartOutcome::Created(_)),
        "another key is another run"
    );
    let runs: Value = app.get("/v1/runs?limit=100").await.json().await.unwrap();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 2);
    for run in runs["runs"].as_array().unwrap() {
        app.ended(run).await;
    }
    app.finish().await;
}

async fn steps_can_read_the_event(database: Database) {
    let app = TestApp::builder(database).pipeline("p", PIPELINE).start().await;
    let StartOutcome::Created(run) = app.app.engine.start_run(new("a b", "0")).await.unwrap() else {
        panic!("a new run")
    };
    let run = app.ended(&json!({ "id": run.id })).await;
    assert_eq!(run["steps"][0]["outputs"]["value"], "a b");
    app.finish().await;
}
