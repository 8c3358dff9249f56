//! Reports: their bytes as others read them, what SQL they refuse, their limits, and what is left when they fail.

mod formats;
mod guard;
mod limits;
mod moment;
mod sales;
mod silence;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Database, TestApp, python};

/// How many reports PostgreSQL is sending from this database.
const RUNNING_COPIES: &str = "SELECT COUNT(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'COPY%' AND state = 'active'";

/// A pipeline with one report.
fn pipeline(with: &Value) -> String {
    format!(
        "name: p\nparams: {{ value: {{ type: string, required: false }} }}\nsteps: [{{ id: report, uses: report.query, retry: {{ attempts: 1 }}, with: {with} }}]\n"
    )
}

/// An application with these tables, and a report yet to be said.
async fn app(database: Database, ddl: &str) -> TestApp {
    let start = pipeline(&json!({ "sql": "SELECT 1 AS one", "format": "csv" }));
    let app = TestApp::builder(database).pipeline("p", &start).start().await;
    app.sql(ddl).await;
    app
}

/// The run of a report.
async fn run(app: &TestApp, with: Value) -> Value {
    app.publish("p", &pipeline(&with)).await;
    app.run_to_end("p", json!({ "value": "it's \\ :x" })).await
}

/// The file of a report that succeeds.
async fn file(app: &TestApp, with: Value) -> (Value, Vec<u8>) {
    let run = run(app, with.clone()).await;
    assert_eq!(run["status"], "succeeded", "{with}: {run}");
    let outputs = run["steps"][0]["outputs"].clone();
    let url = outputs["file"]["url"].as_str().unwrap();
    let answer = app.client.get(url).bearer_auth(&app.admin_key).send().await.unwrap().error_for_status().unwrap();
    let bytes = answer.bytes().await.unwrap().to_vec();
    assert_eq!(outputs["size"], bytes.len());
    (outputs, bytes)
}

/// What another program reads in a report.
fn read(format: &str, bytes: &[u8]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/report_query/read.py");
    let mut command = Command::new(python());
    command.args([script, format]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("Python starts");
    // The program reads all of it before it writes.
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the report cannot be read: pip install -r scripts/test-requirements.txt?");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The code with which a report fails. Nothing is left of it.
async fn failure(app: &TestApp, with: Value) -> String {
    let run = run(app, with.clone()).await;
    assert_eq!(run["status"], "failed", "{with}: {run}");
    assert_eq!((&run["artifacts"], stored(app).await), (&json!([]), Vec::new()), "{with}");
    run["steps"][0]["error"]["code"].as_str().unwrap().to_owned()
}

/// The keys of all files of the service.
async fn stored(app: &TestApp) -> Vec<String> {
    let page = app.app.engine.objects().list_objects(&app.config.objects.artifacts, "", None).await.unwrap();
    page.objects.into_iter().map(|object| object.key).collect()
}

/// Rows without an end.
const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x, 'a text of some length, so that there are many bytes' AS t FROM c";
/// The same, and no row ever comes out.
const SILENT: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c WHERE x < 0";
