//! What those who run the service see of it: counts, logs, and what must never be in either.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Value, json};

use crate::support::{Database, TestApp, eventually};

const PIPELINE: &str = r#"
name: greet
params:
  who: { type: email }
steps:
  - id: mail
    uses: email.send
    with: { to: "${{ params.who }}", subject: Hello, body: Hello }
"#;

const BROKEN: &str = r#"
name: broken
params:
  who: { type: string }
steps:
  - id: mail
    uses: email.send
    with: { to: "${{ params.who }}", subject: Hello, body: Hello }
"#;

/// Reads the text format: what each series says. Every line must be one that the format knows.
fn series(text: &str) -> BTreeMap<String, f64> {
    let label = r#"[a-z_]+="(?:[^"\\\n]|\\["\\n])*""#;
    let sample = Regex::new(&format!(r"^([a-z_]+(?:\{{(?:{label}(?:,{label})*)?\}})?) ([0-9.e+-]+|NaN)$")).unwrap();
    let told = Regex::new(r"^# (HELP|TYPE|UNIT) [a-z_]+ \S.*$").unwrap();
    let mut series = BTreeMap::new();
    let lines = text.strip_suffix("# EOF\n").expect("the end of the text");
    for line in lines.lines().filter(|line| !told.is_match(line)) {
        let found = sample.captures(line).unwrap_or_else(|| panic!("not a line of the format: {line}"));
        let before = series.insert(found[1].to_owned(), found[2].parse().unwrap());
        assert!(before.is_none(), "twice: {line}");
    }
    series
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_counted() {
    let app = TestApp::builder(Database::Sqlite).pipeline("greet", PIPELINE).pipeline("broken", BROKEN).start().await;
    for _ in 0..2 {
        let run = app.run_to_end("greet", json!({ "who": "ada@example.com" })).await;
        assert_eq!(run["status"], "succeeded", "{run}");
    }
    let broken: Value = app.run_to_end("broken", json!({ "who": "nobody" })).await;
    assert_eq!(broken["status"], "failed", "{broken}");
    assert_eq!(app.get("/nothing/here").await.status(), 404);

    // On loopback, nobody needs a key.
    let answer = app.client.get(format!("{}/metrics", app.url)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let media = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(media, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text().await.unwrap();
    let series = series(&text);
    let says = |name: &str| *series.get(name).unwrap_or_else(|| panic!("there is no {name} in\n{text}"));
    assert_eq!(says(r#"afterload_runs_accepted_total{pipeline="greet",origin="api"}"#), 2.0);
    assert_eq!(says(r#"afterload_runs_ended_total{pipeline="greet",status="succeeded"}"#), 2.0);
    assert_eq!(says(r#"afterload_runs_ended_total{pipeline="broken",status="failed"}"#), 1.0);
    assert_eq!(says(r#"afterload_step_attempts_total{uses="email.send",outcome="succeeded"}"#), 2.0);
    assert_eq!(says(r#"afterload_step_attempts_total{uses="email.send",outcome="failed"}"#), 1.0);
    assert_eq!(says(r#"afterload_step_attempt_duration_seconds_count{uses="email.send"}"#), 3.0);
    assert_eq!(says(r#"afterload_mails_total{outcome="sent"}"#), 2.0);
    let started = r#"afterload_http_requests_total{method="POST",route="/v1/pipelines/{name}/runs",status="2xx"}"#;
    assert_eq!(says(started), 3.0);
    assert_eq!(says(r#"afterload_http_request_duration_seconds_count{route="/v1/pipelines/{name}/runs"}"#), 3.0);
    assert_eq!(says(r#"afterload_http_requests_total{method="GET",route="none",status="4xx"}"#), 1.0);
    if cfg!(target_os = "linux") {
        assert!(says("process_resident_memory_bytes") > 1e6 && says("process_open_fds") > 3.0, "{text}");
    }

    // A run of the near future waits in the queue.
    let soon = afterload::clock::rfc3339(afterload::clock::now() + 50_000);
    let body = json!({ "params": { "who": "ada@example.com" }, "run_at": soon });
    let (status, run) = app.post("/v1/pipelines/greet/runs", body).await;
    assert_eq!(status, 202, "{run}");
    eventually("the depth of the queue", async || {
        let text = app.client.get(format!("{}/metrics", app.url)).send().await.unwrap().text().await.unwrap();
        text.contains("afterload_queue_jobs{queue=\"default\",state=\"waiting\"} 1\n").then_some(())
    })
    .await;
    let id = run["id"].as_str().unwrap();
    assert_eq!(app.post(&format!("/v1/runs/{id}/cancel"), json!({})).await.0, 200);
    app.finish().await;
}
