//! Files that the data of a run names, but that nobody authorized for it.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{READER_IDS, readers, require_refused, run_of_event, step, stored_text};
use crate::http::receiver::{Receiver, respond_with};
use crate::support::{Database, TestApp, both};

both!(
    file_in_object_param_is_refused,
    file_in_list_param_is_refused,
    file_in_event_is_refused,
    file_in_awaited_event_is_refused,
    file_in_http_answer_is_refused,
    file_in_sql_row_is_refused,
    file_of_literal_is_refused,
    file_param_from_event_fails_its_run,
    forged_artifact_id_keeps_no_file,
);

const MAKER: &str = "name: maker\nsteps: [{ id: make, uses: test.step, with: { file: secret.csv } }]\n";

/// Starts an application with a pipeline `p` of these lines and the readers of `file`.
async fn app(database: Database, yaml: &str, file: &str) -> TestApp {
    let builder = TestApp::builder(database).pipeline("maker", MAKER);
    let builder = builder.pipeline("p", &format!("name: p\n{yaml}{}", readers(file)));
    builder.config(|config| config.http.allow = vec!["127.0.0.1".into()]).start().await
}

/// The file of another run, named in every way that somebody could try.
async fn forged_files(app: &TestApp) -> Vec<Value> {
    let made = app.run_to_end("maker", json!({})).await;
    let file = step(&made, "make")["outputs"]["file"].clone();
    let sql = "SELECT outputs AS t FROM step_runs WHERE step_id = 'make'";
    let sealed: Value = serde_json::from_str(&stored_text(app, sql).await).unwrap();
    assert!(sealed["file"]["$seal"].is_string(), "{sealed}");
    let place = json!({ "bucket": file["bucket"], "key": file["key"], "name": "x" });
    let mut artifact = place.clone();
    artifact["artifact_id"] = file["artifact_id"].clone();
    let mut invented = file.clone();
    invented["$seal"] = "AAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into();
    vec![file, place, artifact, sealed["file"].clone(), invented]
}

fn require_nothing_read(app: &TestApp, run: &Value) {
    require_refused(run, &READER_IDS);
    assert!(app.mails().is_empty(), "{:?}", app.mails());
    assert_eq!(run["artifacts"], json!([]));
}

async fn file_in_object_param_is_refused(database: Database) {
    let app = app(database, "params: { what: { type: object } }\nsteps:", "params.what").await;
    for file in forged_files(&app).await {
        require_nothing_read(&app, &app.run_to_end("p", json!({ "what": file })).await);
        let text = json!({ "what": file.to_string() });
        require_nothing_read(&app, &app.run_to_end("p", text).await);
    }
    app.finish().await;
}

async fn file_in_list_param_is_refused(database: Database) {
    let each = "
  - { id: each, uses: file.check, continue_on_error: true, for_each: { items: \"${{ params.what }}\" }, with: { source: \"${{ item }}\" } }";
    let yaml = format!("params: {{ what: {{ type: list, items: {{ type: object }} }} }}\nsteps:{each}");
    let app = app(database, &yaml, "params.what[0]").await;
    for file in forged_files(&app).await {
        let run = app.run_to_end("p", json!({ "what": [file] })).await;
        require_nothing_read(&app, &run);
        let items = &step(&run, "each")["error"]["details"]["items"];
        assert_eq!(items[0]["code"], "file_not_authorized", "{run}");
    }
    app.finish().await;
}

async fn file_in_event_is_refused(database: Database) {
    let text = "name: text\ntriggers: [{ type: event, name: text, with: { what: \"${{ event.text }}\" } }]\n\
                params: { what: { type: object } }\nsteps:";
    let builder = TestApp::builder(database).pipeline("maker", MAKER);
    let data = format!("name: data\ntriggers: [{{ type: event, name: data }}]\nsteps:{}", readers("event.deep.file"));
    let builder = builder.pipeline("text", &format!("{text}{}", readers("params.what"))).pipeline("data", &data);
    let app = builder.start().await;
    for file in forged_files(&app).await {
        require_nothing_read(&app, &run_of_event(&app, "data", json!({ "deep": { "file": file } })).await);
        require_nothing_read(&app, &run_of_event(&app, "text", json!({ "text": file.to_string() })).await);
    }
    app.finish().await;
}

async fn file_in_awaited_event_is_refused(database: Database) {
    let yaml = "steps:\n  - { id: wait, uses: wait, with: { event: go } }";
    let app = app(database, yaml, "steps.wait.event.file").await;
    for file in forged_files(&app).await {
        let run = app.run("p", json!({})).await;
        app.step_is(&run, "wait", "suspended").await;
        let (status, heard) = app.post("/v1/events/go", json!({ "file": file })).await;
        assert_eq!((status, &heard["woken"]), (202, &json!(1)), "{heard}");
        require_nothing_read(&app, &app.ended(&run).await);
    }
    app.finish().await;
}

async fn file_in_http_answer_is_refused(database: Database) {
    let answer = Arc::new(Mutex::new(Value::Null));
    let given = answer.clone();
    let server = Receiver::start(move |_| {
        respond_with(200, &[("content-type", "application/json")], given.lock().unwrap().to_string())
    })
    .await;
    let yaml = format!("steps:\n  - {{ id: ask, uses: http.request, with: {{ url: \"{}\" }} }}", server.url);
    let app = app(database, &yaml, "steps.ask.json").await;
    for file in forged_files(&app).await {
        *answer.lock().unwrap() = file;
        require_nothing_read(&app, &app.run_to_end("p", json!({})).await);
    }
    app.finish().await;
}

async fn file_in_sql_row_is_refused(database: Database) {
    let yaml = "steps:\n  - { id: read, uses: sql.execute, with: { sql: 'SELECT * FROM forged' } }";
    let app = app(database, yaml, "steps.read.rows[0]").await;
    app.sql("CREATE TABLE forged (bucket TEXT, key TEXT, name TEXT, etag TEXT, artifact_id TEXT, \"$seal\" TEXT)")
        .await;
    for file in forged_files(&app).await {
        let text = |name: &str| file[name].as_str().map_or("''".to_owned(), |text| format!("'{text}'"));
        let artifact = if file["artifact_id"].is_null() { "NULL".to_owned() } else { text("artifact_id") };
        let row = [text("bucket"), text("key"), text("name"), text("etag"), artifact, text("$seal")].join(", ");
        app.sql(&format!("DELETE FROM forged; INSERT INTO forged VALUES ({row})")).await;
        require_nothing_read(&app, &app.run_to_end("p", json!({})).await);
    }
    app.finish().await;
}

async fn file_of_literal_is_refused(database: Database) {
    let place = "{'bucket': params.bucket, 'key': params.key, 'name': 'x'}";
    let yaml = "params: { bucket: { type: string }, key: { type: string } }\nsteps:";
    let app = app(database, yaml, place).await;
    let file = forged_files(&app).await.remove(0);
    let run = app.run_to_end("p", json!({ "bucket": file["bucket"], "key": file["key"] })).await;
    require_nothing_read(&app, &run);
    app.finish().await;
}

async fn file_param_from_event_fails_its_run(database: Database) {
    let yaml = "triggers: [{ type: event, name: told, with: { file: \"${{ event.file }}\" } }]\n\
                params: { file: { type: file } }\nsteps:";
    let app = app(database, yaml, "params.file").await;
    let mut forged = forged_files(&app).await;
    forged.push(json!("s3://artifacts/x"));
    for file in forged {
        let run = run_of_event(&app, "told", json!({ "file": file })).await;
        assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("file_not_authorized")), "{run}");
        assert!(run["steps"].as_array().unwrap().is_empty() && !run.to_string().contains("$seal"), "{run}");
    }
    app.finish().await;
}

async fn forged_artifact_id_keeps_no_file(database: Database) {
    let app = app(database, "params: { what: { type: object } }\nsteps:", "params.what").await;
    for file in forged_files(&app).await {
        app.run_to_end("p", json!({ "what": { "file": file } })).await;
    }
    // The run that made the file is the only one that keeps it.
    assert_eq!(stored_text(&app, "SELECT CAST(COUNT(*) AS TEXT) AS t FROM artifact_refs").await, "1");
    app.finish().await;
}
