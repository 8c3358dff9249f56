//! Retention of files and runs: when they are deleted, and what keeps them.

use std::time::Duration;

use afterload_state::DbRow;
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually};

both!(
    file_is_deleted_with_its_last_run,
    active_link_keeps_its_file,
    pipeline_overrides_the_retention_of_runs,
    orphan_objects_are_deleted_after_a_while
);

const MAKER: &str = "name: maker\nsteps:\n  - { id: make, uses: test.step, with: { file: report.txt } }\n";

/// A pipeline that needs a file until the gate opens.
fn holder(app_dir: &std::path::Path) -> String {
    let gate = app_dir.join("gate");
    let wait = format!("  - {{ id: wait, uses: test.step, with: {{ until: \"{}\" }} }}\n", gate.display());
    format!("name: holder\nparams: {{ file: {{ type: file }} }}\nsteps:\n{wait}")
}

async fn run_sql(app: &TestApp, sql: &str) {
    app.app.engine.db().execute(sql, &[]).await.unwrap();
}

async fn count(app: &TestApp, sql: &str) -> i64 {
    app.app.engine.db().fetch_optional(sql, &[]).await.unwrap().map_or(0, |row: DbRow| row.get_int("n").unwrap())
}

async fn download(app: &TestApp, file: &Value) -> (u16, String) {
    let path = format!("/v1/artifacts/{}", file["artifact_id"].as_str().unwrap());
    let answer = app.get(&path).await;
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let code = serde_json::from_str::<Value>(&text).ok().and_then(|body| Some(body["code"].as_str()?.to_owned()));
    (status, code.unwrap_or(text))
}

async fn is_stored(app: &TestApp, file: &Value) -> bool {
    let (bucket, key) = (file["bucket"].as_str().unwrap(), file["key"].as_str().unwrap());
    app.app.engine.objects().head_object(bucket, key).await.is_ok()
}

async fn file_is_deleted_with_its_last_run(database: Database) {
    let builder = TestApp::builder(database).pipeline("maker", MAKER);
    let app = builder.start().await;
    std::fs::write(app.config.pipelines.join("holder.yaml"), holder(app.dir.path())).unwrap();
    eventually("both pipelines", async || (app.get("/v1/pipelines/holder").await.status() == 200).then_some(())).await;
    let made = app.run_to_end("maker", json!({})).await;
    let file = made["steps"][0]["outputs"]["file"].clone();
    let held = app.run("holder", json!({ "file": { "artifact_id": file["artifact_id"] } })).await;
    // The files of the first run expire at once, but the other run still needs them.
    run_sql(&app, "UPDATE runs SET retention_artifacts_ms = 0 WHERE pipeline = 'maker'").await;
    eventually("the first run to let go", async || {
        (count(&app, "SELECT COUNT(*) AS n FROM runs WHERE artifacts_released_at IS NOT NULL").await == 1).then_some(())
    })
    .await;
    assert_eq!(download(&app, &file).await, (200, "made by a test\n".into()));
    std::fs::write(app.dir.path().join("gate"), "").unwrap();
    app.ended(&held).await;
    assert_eq!(download(&app, &file).await.0, 200, "its own time begins with its end");
    run_sql(&app, "UPDATE runs SET retention_artifacts_ms = 0").await;
    eventually("the file to go", async || (!is_stored(&app, &file).await).then_some(())).await;
    assert_eq!(download(&app, &file).await, (410, "file_expired".into()));
    let shown = app.show(made["id"].as_str().unwrap()).await;
    assert!(shown["artifacts"][0]["expired_at"].is_string(), "{shown}");
    let again = app.client.post(format!("{}/v1/pipelines/holder/runs", app.url)).bearer_auth(&app.admin_key);
    let again =
        again.json(&json!({ "params": { "file": { "artifact_id": file["artifact_id"] } } })).send().await.unwrap();
    assert_eq!(again.json::<Value>().await.unwrap()["code"], "object_not_found");
    run_sql(&app, "UPDATE runs SET retention_runs_ms = 0").await;
    eventually("the runs to go", async || (count(&app, "SELECT COUNT(*) AS n FROM runs").await == 0).then_some(()))
        .await;
    for table in ["step_runs", "artifacts", "artifact_refs", "effect_log"] {
        assert_eq!(count(&app, &format!("SELECT COUNT(*) AS n FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(download(&app, &file).await, (404, "artifact_not_found".into()));
    app.finish().await;
}

async fn active_link_keeps_its_file(database: Database) {
    let yaml = r#"
name: report
retention: { artifacts: 0s }
steps:
  - { id: make, uses: test.step, with: { file: a.txt } }
  - id: mail
    uses: email.send
    with: { to: a@example.com, subject: S, body: B, links: { report: "${{ steps.make.file }}" } }
"#;
    let app = TestApp::builder(database).pipeline("report", yaml).start().await;
    let run = app.run_to_end("report", json!({})).await;
    let file = run["steps"][0]["outputs"]["file"].clone();
    eventually("the run to let go", async || {
        (count(&app, "SELECT COUNT(*) AS n FROM runs WHERE artifacts_released_at IS NOT NULL").await == 1).then_some(())
    })
    .await;
    let path = format!("/v1/artifacts/{}/links", file["artifact_id"].as_str().unwrap());
    let links: Value = app.get(&path).await.json().await.unwrap();
    let link = &links["links"][0];
    assert_eq!(app.client.get(link["url"].as_str().unwrap()).send().await.unwrap().status(), 200);
    let revoke = format!("{}/v1/links/{}/revoke", app.url, link["id"].as_str().unwrap());
    assert!(app.client.post(revoke).bearer_auth(&app.admin_key).send().await.unwrap().status().is_success());
    eventually("the file to go", async || (!is_stored(&app, &file).await).then_some(())).await;
    assert_eq!(download(&app, &file).await, (410, "file_expired".into()));
    app.finish().await;
}

async fn pipeline_overrides_the_retention_of_runs(database: Database) {
    let short = format!("{}retention: {{ runs: 0s, artifacts: 0s }}\n", MAKER.replace("maker", "short"));
    let app = TestApp::builder(database).pipeline("maker", MAKER).pipeline("short", &short).start().await;
    let kept = app.run_to_end("maker", json!({})).await;
    let run = app.run("short", json!({})).await;
    let path = format!("/v1/runs/{}", run["id"].as_str().unwrap());
    eventually("the run to go", async || (app.get(&path).await.status() == 404).then_some(())).await;
    assert_eq!(app.show(kept["id"].as_str().unwrap()).await["status"], "succeeded", "90 days are the default");
    app.finish().await;
}

async fn orphan_objects_are_deleted_after_a_while(database: Database) {
    let app = TestApp::builder(database).pipeline("maker", MAKER).start().await;
    let run = app.run_to_end("maker", json!({})).await;
    let file = run["steps"][0]["outputs"]["file"].clone();
    let (objects, bucket) = (app.app.engine.objects(), app.config.objects.artifacts.clone());
    let (nobody, id) = ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "01BX5ZZKBKACTAV9WEVGEMMVRZ");
    let orphans = [format!("uploads/{nobody}/{id}"), format!("runs/{}/make/7/{id}", run["id"].as_str().unwrap())];
    for key in orphans.iter().chain([&"uploads/notes.txt".to_owned()]) {
        objects.put_object(&bucket, key, "text/plain", "x".into()).await.unwrap();
    }
    assert_eq!(app.app.engine.delete_orphan_objects(Duration::from_secs(3600)).await.unwrap(), 0, "they are young");
    assert_eq!(app.app.engine.delete_orphan_objects(Duration::ZERO).await.unwrap(), 2);
    assert!(objects.head_object(&bucket, "uploads/notes.txt").await.is_ok(), "that is not one of our keys");
    assert_eq!(download(&app, &file).await.0, 200);
    app.finish().await;
}
