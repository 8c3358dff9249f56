//! Objects in the embedded store.

use afterload_state::RunRecord;
use serde_json::Value;

use super::UP;
use crate::support::{Database, TestApp, both};

both!(
    upload_starts_a_run,
    each_write_of_a_key_starts_a_run,
    suffix_fits_in_any_case_and_may_be_a_list,
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

async fn each_write_of_a_key_starts_a_run(database: Database) {
    let app = TestApp::builder(database).pipeline("up", UP).start().await;
    for (count, bytes) in [(1, "one"), (2, "two"), (3, "one"), (4, "one")] {
        app.put("uploads", "in/a.csv", bytes).await;
        app.until_runs(count).await;
    }
    app.app.engine.objects().delete_object("uploads", "in/a.csv").await.unwrap();
    app.put("uploads", "in/a.csv", "one").await;
    let keys: Vec<_> = app.until_runs(5).await.iter().map(|run| run.params["file"]["key"].clone()).collect();
    assert_eq!(keys, ["in/a.csv"; 5]);
    // Nothing that was reported before is new to another process.
    let app = app.restart().await;
    app.put("uploads", "in/c.csv", "one").await;
    app.until_no_events().await;
    app.until_runs(6).await;
    app.finish().await;
}

async fn suffix_fits_in_any_case_and_may_be_a_list(database: Database) {
    let photos = "name: photos\ntriggers: [{ type: s3, bucket: uploads, suffix: [.jpg, .png] }]\n\
                  steps:\n  - { id: one, uses: test.step, with: { give: \"${{ event.key }}\" } }\n";
    let app = TestApp::builder(database).pipeline("photos", photos).start().await;
    for key in ["notes.txt", "IMG.JPG", "b.Png", "jpg"] {
        app.put("uploads", key, "one").await;
    }
    app.until_no_events().await;
    let key = |run: &RunRecord| run.event.as_ref().unwrap()["key"].as_str().unwrap().to_owned();
    let mut keys: Vec<_> = app.until_runs(2).await.iter().map(key).collect();
    keys.sort();
    assert_eq!(keys, ["IMG.JPG", "b.Png"]);
    let listed: Value = app.get("/v1/pipelines").await.json().await.unwrap();
    assert_eq!(listed["pipelines"][0]["triggers"][0]["suffix"], serde_json::json!([".jpg", ".png"]));
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
