//! `report.query`: the bytes of reports, the SQL that is rejected, the limits, and the cleanup after failures.

mod consistent_snapshot;
mod formats;
mod groups;
mod guard;
mod limits;
mod options;
mod round_trip;
mod sales;
mod silent_server;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Database, TestApp, python};

/// Counts the reports that PostgreSQL is sending from this database.
const RUNNING_COPIES: &str = "SELECT COUNT(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'COPY%' AND state = 'active'";

/// Returns a pipeline with one report.
fn pipeline(with: &Value) -> String {
    format!(
        "name: p\nparams: {{ value: {{ type: string, required: false }} }}\nsteps: [{{ id: report, uses: report.query, retry: {{ attempts: 1 }}, with: {with} }}]\n"
    )
}

/// Starts an application with these tables. The report is set later.
async fn app(database: Database, ddl: &str) -> TestApp {
    let start = pipeline(&json!({ "sql": "SELECT 1 AS one", "format": "csv" }));
    let app = TestApp::builder(database).pipeline("p", &start).start().await;
    app.sql(ddl).await;
    app
}

/// Runs a report to its end.
async fn run(app: &TestApp, with: Value) -> Value {
    app.publish("p", &pipeline(&with)).await;
    app.run_to_end("p", json!({ "value": "it's \\ :x" })).await
}

/// Returns the outputs and the file of a successful report.
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

/// Returns the content of a report as another program reads it.
fn read(format: &str, bytes: &[u8]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/report_query/read.py");
    let mut command = Command::new(python());
    command.args([script, format]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("Python starts");
    // The program reads all of its input before it writes.
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the report cannot be read: pip install -r scripts/test-requirements.txt?");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the error code of a failing report, and checks that no file is left.
async fn failure(app: &TestApp, with: Value) -> String {
    let run = run(app, with.clone()).await;
    assert_eq!(run["status"], "failed", "{with}: {run}");
    assert_eq!((&run["artifacts"], stored(app).await), (&json!([]), Vec::new()), "{with}");
    run["steps"][0]["error"]["code"].as_str().unwrap().to_owned()
}

/// Returns the keys of all files of the service.
async fn stored(app: &TestApp) -> Vec<String> {
    let page = app.app.engine.objects().list_objects(&app.config.objects.artifacts, "", None).await.unwrap();
    page.objects.into_iter().map(|object| object.key).collect()
}

/// Endless rows.
const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x, 'a text of some length, so that there are many bytes' AS t FROM c";
/// An endless query that returns no row.
const SILENT: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c WHERE x < 0";
