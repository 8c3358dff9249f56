//! Validates `/openapi.json`, and the responses of the service against it, with third-party validators.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::{Database, TestApp, python};

const PIPELINE: &str = r#"
name: greet
triggers:
  - { type: event, name: user.came, with: { who: "${{ event.who }}" } }
params:
  who: { type: string }
  file: { type: file, required: false }
steps:
  - id: mail
    uses: email.send
    with: { to: "${{ params.who }}", subject: Hello, body: Hello }
"#;

/// Calls the service and records the responses, each with its route template.
struct Calls<'a> {
    app: &'a TestApp,
    answers: Vec<Value>,
}

impl Calls<'_> {
    async fn call(&mut self, method: &str, template: &str, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}{path}", self.app.url);
        let mut request = self.app.client.request(method.to_uppercase().parse().unwrap(), url);
        request = request.bearer_auth(&self.app.admin_key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let media = answer.headers()["content-type"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let body: Value = answer.json().await.unwrap();
        self.answers.push(
            json!({ "method": method, "template": template, "status": status, "media": media, "body": body.clone() }),
        );
        body
    }

    async fn get(&mut self, template: &str, path: &str) -> Value {
        self.call("get", template, path, None).await
    }

    async fn post(&mut self, template: &str, path: &str, body: Value) -> Value {
        self.call("post", template, path, Some(body)).await
    }
}

async fn checked(said: &Value) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/openapi.py");
    let mut command = Command::new(python());
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("Python starts");
    let mut stdin = child.stdin.take().unwrap();
    // A script that fails to start reads no input; its output shows the reason.
    drop(stdin.write_all(said.to_string().as_bytes()).await);
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}\nits packages: pip install -r scripts/test-requirements.txt",
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_match_the_openapi_document() {
    const RUNS: &str = "/v1/pipelines/{name}/runs";
    let app =
        TestApp::builder(Database::Sqlite).pipeline("greet", PIPELINE).pipeline("bad", "name: bad\n").start().await;
    let mut calls = Calls { app: &app, answers: Vec::new() };
    for path in ["/healthz", "/readyz", "/v1/pipelines", "/v1/schema"] {
        calls.get(path, path).await;
    }
    calls.get("/v1/pipelines/{name}", "/v1/pipelines/greet").await;
    calls.get("/v1/pipelines/{name}", "/v1/pipelines/none").await;
    for (what, name) in [("queues", "default"), ("pipelines", "greet"), ("queues", "none"), ("pipelines", "none")] {
        for change in ["pause", "resume"] {
            let (template, path) = (format!("/v1/{what}/{{name}}/{change}"), format!("/v1/{what}/{name}/{change}"));
            calls.post(&template, &path, json!({})).await;
            calls.get(&format!("/v1/{what}"), &format!("/v1/{what}")).await;
        }
    }

    let runs = "/v1/pipelines/greet/runs";
    let good = calls.post(RUNS, runs, json!({ "params": { "who": "ada@example.com" } })).await;
    let failed = calls.post(RUNS, runs, json!({ "params": { "who": "nobody" } })).await;
    let later = json!({ "params": { "who": "ada@example.com" }, "run_at": "2999-01-01T00:00:00Z",
                        "notify_url": "http://127.0.0.1:1/" });
    let later = calls.post(RUNS, runs, later).await;
    calls.post(RUNS, runs, json!({ "params": { "whom": 1 } })).await;
    calls.post(RUNS, runs, json!({ "parameters": {} })).await;
    let path = |run: &Value, rest: &str| format!("/v1/runs/{}{rest}", run["id"].as_str().unwrap());
    for run in [&good, &failed] {
        app.ended(run).await;
        calls.get("/v1/runs/{id}", &path(run, "")).await;
    }
    calls.post("/v1/runs/{id}/cancel", &path(&later, "/cancel"), json!({})).await;
    calls.post("/v1/runs/{id}/cancel", &path(&good, "/cancel"), json!({})).await;
    calls.post("/v1/runs/{id}/retry", &path(&good, "/retry"), json!({})).await;
    calls.post("/v1/runs/{id}/retry", &path(&failed, "/retry"), json!({})).await;
    app.ended(&failed).await;
    calls.post("/v1/runs/{id}/retry", &path(&failed, "/retry?definition=live"), json!({})).await;
    app.ended(&failed).await;
    let replay = calls.post("/v1/runs/{id}/replay", &path(&good, "/replay"), json!({})).await;
    app.ended(&replay).await;
    calls.post("/v1/runs/{id}/replay", &path(&good, "/replay"), json!({ "params": { "whom": 1 } })).await;
    let event = calls.post("/v1/events/{name}", "/v1/events/user.came", json!({ "who": "ada@example.com" })).await;
    assert_eq!(event["woken"], 0, "{event}");
    calls.post("/v1/events/{name}", "/v1/events/user%20came", json!({})).await;
    let upload = json!({ "pipeline": "greet", "filename": "a.txt", "size": 3, "params": { "who": "ada@example.com" } });
    calls.post("/v1/uploads", "/v1/uploads", upload).await;
    calls.post("/v1/hooks/s3", "/v1/hooks/s3", json!({ "Records": [] })).await;
    let suppressions = "/v1/mail/suppressions";
    let gone = calls.post(suppressions, suppressions, json!({ "address": "gone@example.com", "list": "news" })).await;
    for body in [json!({ "address": "gone@example.com", "list": "news" }), json!({ "address": "nobody" }), json!({})] {
        calls.post(suppressions, suppressions, body).await;
    }
    calls.get(suppressions, "/v1/mail/suppressions?list=news").await;
    calls.get(suppressions, "/v1/mail/suppressions?list=NEWS").await;
    let gone_path = format!("{suppressions}/{}", gone["id"].as_str().unwrap());
    for _ in 0..2 {
        calls.call("delete", "/v1/mail/suppressions/{id}", &gone_path, None).await;
    }
    for body in [json!([{ "event": "bounce", "email": "gone@example.com" }]), json!({ "provider": "unknown" })] {
        calls.post("/v1/mail/bounces", "/v1/mail/bounces", body).await;
    }
    calls.get("/u/{token}", "/u/none").await;
    calls.get("/v1/runs", "/v1/runs?limit=2").await;
    calls.get("/v1/runs", "/v1/runs?limits=2").await;
    calls.get("/v1/artifacts/{id}/links", "/v1/artifacts/none/links").await;

    // Each event of a followed run holds the run.
    let told = app.get(&path(&good, "/events")).await.text().await.unwrap();
    for line in told.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let Ok(body) = serde_json::from_str::<Value>(line) else { panic!("not JSON: {line}") };
        if body["steps"].is_array() {
            let media = "application/json";
            calls.answers.push(
                json!({ "method": "get", "template": "/v1/runs/{id}", "status": 200, "media": media, "body": body }),
            );
        }
    }
    let answers = calls.answers;
    let statuses: std::collections::BTreeSet<_> =
        answers.iter().filter_map(|answer| answer["status"].as_u64()).collect();
    assert!([200, 201, 202, 400, 404, 409].iter().all(|status| statuses.contains(status)), "{statuses:?}");
    let document: Value = app.get("/openapi.json").await.json().await.unwrap();
    checked(&json!({ "document": document, "answers": answers })).await;
}
