//! The HTTP API end to end: a file is uploaded, a run processes it, and its files are downloaded.

use std::time::Duration;

use reqwest::multipart::{Form, Part};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, http_client};

both!(upload_starts_a_run_that_creates_files, rejected_request_leaves_no_run_and_no_file, live_pipelines_are_listed);

/// A wait longer than this fails the test.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);

const IMPORT: &str = r#"
name: people-import
params:
  file: { type: file, accept: [text/csv], max_size: 1mb }
  note: { type: string, default: none }
steps:
  - id: import
    uses: csv.import
    with:
      source: "${{ params.file }}"
      connection: app
      into: { table: people }
      columns:
        email: { match: [Email], type: email, required: true }
        name: { match: [Name], type: string }
"#;

const CSV: &str = "Email,Name\na@example.com,Ada\nnot-an-address,Bob\nc@example.com,Cleo\n";

async fn get(app: &TestApp, path: &str) -> Response {
    let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", app.url) };
    app.client.get(url).bearer_auth(&app.admin_key).send().await.unwrap()
}

async fn upload(app: &TestApp, csv: &str) -> Response {
    let file = Part::bytes(csv.as_bytes().to_vec()).file_name("people.csv").mime_str("text/csv").unwrap();
    let url = format!("{}/v1/pipelines/people-import/runs", app.url);
    app.client.post(url).bearer_auth(&app.admin_key).multipart(Form::new().part("file", file)).send().await.unwrap()
}

/// Follows a run by its `watch_url` until it ends, as a page does. Revision and progress must never decrease.
async fn followed(app: &TestApp, run: &Value) -> Value {
    let page = http_client();
    let url = run["watch_url"].as_str().unwrap().to_owned();
    let following = async {
        let (mut revision, mut done) = (0, 0);
        loop {
            let seen: Value = page.get(&url).send().await.unwrap().json().await.unwrap();
            let (next, steps) = (seen["revision"].as_i64().unwrap(), seen["progress"]["done"].as_u64().unwrap());
            assert!(next >= revision && steps >= done, "{seen}");
            assert!(steps <= seen["progress"]["total"].as_u64().unwrap(), "{seen}");
            (revision, done) = (next, steps);
            if !seen["finished_at"].is_null() {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(RUN_TIMEOUT, following).await.unwrap_or_else(|_| panic!("the run at {} does not end", app.url))
}

/// Replaces values that differ from run to run.
fn filters() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"token=[A-Za-z0-9_-]{43}", "token=[token]");
    settings.add_filter(r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b", "[ulid]");
    settings.add_filter(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "[time]");
    settings.add_filter(r"http://127\.0\.0\.1:\d+", "[url]");
    // A quick step may end before its last progress is stored, which would be a revision of its own.
    settings.add_filter(r#""(etag|rate|eta_seconds|revision)": [^,\n]+"#, r#""$1": "[varies]""#);
    settings
}

async fn importing(database: Database) -> TestApp {
    let app = TestApp::builder(database).pipeline("people-import", IMPORT).start().await;
    app.sql("CREATE TABLE people (email TEXT NOT NULL, name TEXT)").await;
    app
}

async fn upload_starts_a_run_that_creates_files(database: Database) {
    let app = importing(database).await;
    let accepted = upload(&app, CSV).await;
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let location = accepted.headers()["location"].to_str().unwrap().to_owned();
    let run: Value = accepted.json().await.unwrap();
    let ended = followed(&app, &run).await;
    assert!(ended["revision"].as_i64() >= Some(4), "{ended}");
    filters().bind(|| insta::assert_snapshot!("run", serde_json::to_string_pretty(&ended).unwrap()));

    let by_key: Value = get(&app, &location).await.json().await.unwrap();
    let mut without_tokens = ended.clone();
    for artifact in without_tokens["artifacts"].as_array_mut().unwrap() {
        let link = artifact["url"].as_str().unwrap().to_owned();
        let file = http_client().get(&link).send().await.unwrap();
        assert_eq!(file.status(), StatusCode::OK, "who may watch a run may have its files");
        artifact["url"] = link.split_once('?').unwrap().0.into();
    }
    assert_eq!(by_key, without_tokens, "a key and a token see the same");
    let listed: Value = get(&app, "/v1/runs?status=succeeded").await.json().await.unwrap();
    assert_eq!((listed["runs"].as_array().unwrap().len(), &listed["runs"][0]["id"]), (1, &ended["id"]));

    let sent = &ended["params"]["file"];
    let back = get(&app, sent["url"].as_str().unwrap()).await;
    assert_eq!(back.headers()["x-content-type-options"], "nosniff");
    assert!(back.headers()["content-disposition"].to_str().unwrap().starts_with("attachment; "));
    assert_eq!(back.text().await.unwrap(), CSV);
    let rejected = ended["artifacts"].as_array().unwrap().iter().find(|artifact| artifact["step"] == "import");
    let rejected = get(&app, rejected.expect("a file of rejected rows")["url"].as_str().unwrap()).await;
    assert!(rejected.text().await.unwrap().contains("not-an-address"));
    app.finish().await;
}

async fn rejected_request_leaves_no_run_and_no_file(database: Database) {
    let app = importing(database).await;
    let url = format!("{}/v1/pipelines/people-import/runs", app.url);
    for (body, code) in [
        (json!({ "params": {} }), "params_invalid"),
        (json!({ "params": { "file": "s3://uploads/none.csv" } }), "object_not_found"),
        (json!({ "params": { "colour": "red" } }), "params_invalid"),
    ] {
        let refused = app.client.post(&url).bearer_auth(&app.admin_key).json(&body).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["code"], code, "{problem}");
    }
    let large = "x".repeat((1 << 20) + 1);
    assert_eq!(upload(&app, &large).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let file = Part::bytes(CSV.as_bytes().to_vec()).file_name("people.csv");
    let form = Form::new().part("file", file).text("colour", "red");
    let refused = app.client.post(&url).bearer_auth(&app.admin_key).multipart(form).send().await.unwrap();
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "params_invalid");
    let runs: Value = get(&app, "/v1/runs").await.json().await.unwrap();
    assert_eq!(runs["runs"], json!([]));
}

async fn live_pipelines_are_listed(database: Database) {
    let app = importing(database).await;
    let listed: Value = get(&app, "/v1/pipelines").await.json().await.unwrap();
    assert_eq!(listed["pipelines"][0]["name"], "people-import");
    assert_eq!(listed["pipelines"][0]["params"]["file"]["type"], "file", "the form knows files by this");
    assert_eq!(
        listed["pipelines"][0]["steps"][0],
        json!({ "id": "import", "uses": "csv.import", "mode": "background" })
    );
    let one: Value = get(&app, "/v1/pipelines/people-import").await.json().await.unwrap();
    assert_eq!(one["source"], IMPORT);
    let schema: Value = get(&app, "/v1/schema").await.json().await.unwrap();
    assert!(schema["properties"]["steps"].is_object(), "{schema}");
}
