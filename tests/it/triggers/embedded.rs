//! Objects in the embedded store.

use serde_json::Value;

use super::UP;
use crate::support::{Database, TestApp, both};

both!(
    upload_starts_a_run,
    unchanged_object_starts_no_second_run,
    invalid_object_gives_a_failed_run,
    one_object_starts_runs_of_two_pipelines,
);

async fn upload_starts_a_run(database: Database) {
    let app = TestApp::builder(database).pipeline("up", UP).start().await;
    for other in ["in/a.txt", "out/a.csv", "in/"] {
        app.put("uploads", other, "").await;
    }
    let stored = app.put("uploads", "in/a b+ü%2B.csv", "name\nAda\n").await;
    let run = app.until_runs(1).await.remove(0);
    assert_eq!(run.origin, "s3");
    let shown = app.show(&run.id).await;
    assert_eq!(shown["status"], "succeeded", "{shown}");
    assert_eq!(shown["steps"][0]["outputs"]["value"], "in/a b+ü%2B.csv 9");
    let event = &shown["event"];
    assert_eq!((event["etag"].as_str(), &event["file"]), (Some(&*stored.etag), &shown["params"]["file"]));
    insta::allow_duplicates! {
        insta::assert_json_snapshot!("event", event, { ".time" => "[time]" });
    }
    let listed: Value = app.get("/v1/pipelines").await.json().await.unwrap();
    let triggers = &listed["pipelines"][0]["triggers"];
    let expected = serde_json::json!([{ "type": "s3", "bucket": "uploads", "prefix": "in/", "suffix": ".csv" }]);
    assert_eq!(*triggers, expected);
    app.finish().await;
}

async fn unchanged_object_starts_no_second_run(database: Database) {
    let app = TestApp::builder(database).pipeline("up", UP).start().await;
    for _ in 0..3 {
        app.put("uploads", "in/a.csv", "one").await;
    }
    app.until_runs(1).await;
    app.put("uploads", "in/a.csv", "two").await;
    app.until_runs(2).await;
    app.put("uploads", "in/a.csv", "one").await;
    app.put("uploads", "in/b.csv", "one").await;
    let keys: Vec<_> = app.until_runs(3).await.iter().map(|run| run.params["file"]["key"].clone()).collect();
    assert_eq!(keys, ["in/a.csv", "in/a.csv", "in/b.csv"]);
    let app = app.restart().await;
    app.put("uploads", "in/c.csv", "one").await;
    app.until_runs(4).await;
    app.finish().await;
}

async fn invalid_object_gives_a_failed_run(database: Database) {
    let app = TestApp::builder(database).pipeline("up", UP).start().await;
    app.put("uploads", "in/large.csv", &"x".repeat(2000)).await;
    let run = app.until_runs(1).await.remove(0);
    let shown = app.show(&run.id).await;
    assert_eq!((&shown["status"], &shown["error"]["code"]), (&"failed".into(), &"params_invalid".into()));
    assert_eq!(shown["error"]["details"][0]["code"], "param_file_too_large");
    assert_eq!(shown["event"]["key"], "in/large.csv");
    assert!(shown["steps"].as_array().unwrap().is_empty());
    let retry = app.client.post(format!("{}/v1/runs/{}/retry", app.url, run.id)).bearer_auth(&app.admin_key);
    let refused: Value = retry.send().await.unwrap().json().await.unwrap();
    assert_eq!(refused["code"], "run_never_began", "what never began is not done when it is tried again");
    app.finish().await;
}

async fn one_object_starts_runs_of_two_pipelines(database: Database) {
    let second = "name: second\ntriggers: [{ type: s3, bucket: uploads }, { type: s3, bucket: uploads, prefix: in }]\n\
                  steps:\n  - { id: one, uses: test.step, if: event.size > 1 }\n";
    let app = TestApp::builder(database).pipeline("up", UP).pipeline("second", second).start().await;
    app.put("uploads", "in/a.csv", "one").await;
    let mut names: Vec<_> = app.until_runs(2).await.into_iter().map(|run| run.pipeline).collect();
    names.sort();
    assert_eq!(names, ["second", "up"]);
    let run = app.run_to_end("second", serde_json::json!({})).await;
    let error = &run["steps"][0]["error"];
    assert_eq!((&run["status"], &error["code"]), (&"failed".into(), &"expression_failed".into()));
    assert!(error["message"].as_str().unwrap().contains("no trigger started it"), "{error}");
    app.finish().await;
}
