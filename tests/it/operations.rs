//! Metrics and logs for operators, and the data that must never be in them.

use std::collections::BTreeMap;

use afterload_core::clock::{Clock, format_rfc3339};
use regex::Regex;
use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, Database, Place, Process, TestApp, eventually};

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

/// Parses the Prometheus text format to a value per series. Every line must be valid.
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
async fn metrics_count_runs_steps_and_requests() {
    let app = TestApp::builder(Database::Sqlite).pipeline("greet", PIPELINE).pipeline("broken", BROKEN).start().await;
    for _ in 0..2 {
        let run = app.run_to_end("greet", json!({ "who": "ada@example.com" })).await;
        assert_eq!(run["status"], "succeeded", "{run}");
    }
    let broken: Value = app.run_to_end("broken", json!({ "who": "nobody" })).await;
    assert_eq!(broken["status"], "failed", "{broken}");
    assert_eq!(app.get("/nothing/here").await.status(), 404);

    // Loopback needs no API key.
    let answer = app.client.get(format!("{}/metrics", app.url)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let media = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(media, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text().await.unwrap();
    let series = series(&text);
    let value_of = |name: &str| *series.get(name).unwrap_or_else(|| panic!("there is no {name} in\n{text}"));
    assert_eq!(value_of(r#"afterload_runs_accepted_total{pipeline="greet",origin="api"}"#), 2.0);
    assert_eq!(value_of(r#"afterload_runs_ended_total{pipeline="greet",status="succeeded"}"#), 2.0);
    assert_eq!(value_of(r#"afterload_runs_ended_total{pipeline="broken",status="failed"}"#), 1.0);
    assert_eq!(value_of(r#"afterload_step_attempts_total{uses="email.send",outcome="succeeded"}"#), 2.0);
    assert_eq!(value_of(r#"afterload_step_attempts_total{uses="email.send",outcome="failed"}"#), 1.0);
    assert_eq!(value_of(r#"afterload_step_attempt_duration_seconds_count{uses="email.send"}"#), 3.0);
    assert_eq!(value_of(r#"afterload_mails_total{outcome="sent"}"#), 2.0);
    let started = r#"afterload_http_requests_total{method="POST",route="/v1/pipelines/{name}/runs",status="2xx"}"#;
    assert_eq!(value_of(started), 3.0);
    assert_eq!(value_of(r#"afterload_http_request_duration_seconds_count{route="/v1/pipelines/{name}/runs"}"#), 3.0);
    assert_eq!(value_of(r#"afterload_http_requests_total{method="GET",route="none",status="4xx"}"#), 1.0);
    if cfg!(target_os = "linux") {
        assert!(value_of("process_resident_memory_bytes") > 1e6 && value_of("process_open_fds") > 3.0, "{text}");
    }

    // A run that is scheduled for the near future waits in the queue.
    let soon = format_rfc3339(Clock::system().now() + 50_000);
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

async fn ended(process: &Process, run: &Value) -> Value {
    let id = run["id"].as_str().unwrap_or_else(|| panic!("no run: {run}"));
    process.until("the end", id, |run| (!run["finished_at"].is_null()).then(|| run.clone())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_carry_run_and_step_ids() {
    let mut place = Place::new(Database::Sqlite).await;
    place.env.push(("AFTERLOAD_LOG_FORMAT".into(), "json".into()));
    place.pipeline("greet", PIPELINE);
    let process = place.start().await;
    let run = ended(&process, &process.start_run("greet", json!({ "who": "ada@example.com" })).await).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    assert!(process.terminate().await.success());
    let log = place.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let line = |message: &str| {
        let found = lines.iter().find(|line| line["message"] == message);
        found.unwrap_or_else(|| panic!("no line says `{message}`:\n{log}"))
    };
    let (id, accepted) = (&run["id"], line("run accepted"));
    assert_eq!((&accepted["run.id"], &accepted["pipeline.name"]), (id, &json!("greet")), "{accepted}");
    assert!(accepted["span"]["request.id"].is_string(), "{accepted}");
    let request = lines
        .iter()
        .find(|line| line["span"]["request.id"] == accepted["span"]["request.id"] && line["duration_ms"].is_u64());
    assert!(request.is_some_and(|line| line["span"]["status"] == 202), "{log}");
    let step = line("step succeeded");
    let span = &step["span"];
    assert_eq!((&span["run.id"], &span["pipeline.name"]), (id, &json!("greet")), "{step}");
    assert_eq!((&span["step.id"], &span["step.uses"]), (&json!("mail"), &json!("email.send")), "{step}");
    assert!(step["duration_ms"].is_u64(), "{step}");
    let end = line("run ended");
    assert_eq!((&end["run.id"], &end["run.status"]), (id, &json!("succeeded")), "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_appear_in_no_response_and_no_log() {
    const CANARY: &str = "canary-of-a-secret-5e1f";
    const SMTP: &str = "canary-of-smtp-77aa";
    const DATABASE: &str = "canary-of-a-database-90cd";
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut place = Place::new(Database::Sqlite).await;
    let url = format!("postgres://app:{DATABASE}@{nowhere}/app");
    for (name, value) in [
        ("LOG", "debug"),
        ("SECRETS__CANARY", CANARY),
        ("CONNECTIONS__AWAY__URL", url.as_str()),
        ("MAIL__SMTP__HOST", "localhost"),
        ("MAIL__SMTP__PORT", &nowhere.port().to_string()),
        ("MAIL__SMTP__USER", "shop"),
        ("MAIL__SMTP__PASSWORD", SMTP),
    ] {
        place.env.push((format!("AFTERLOAD_{name}"), value.to_owned()));
    }
    let mail = "uses: email.send, retry: { attempts: 1 }, with: { subject: Hello, body: Hello, to: ";
    let to = |to: &str| format!("steps:\n  - {{ id: mail, {mail}{to} }} }}\n");
    place.pipeline("address", &format!("name: address\n{}", to("\"${{ secrets.canary }}\"")));
    place.pipeline("smtp", &format!("name: smtp\n{}", to("ada@example.com")));
    let late = "steps:\n  - { id: late, uses: wait, delay: \"${{ secrets.canary }}\", with: { for: 1s } }\n";
    place.pipeline("late", &format!("name: late\n{late}"));
    let import = "params: { file: { type: file } }\nsteps:\n  - id: import\n    uses: csv.import\n    timeout: 5s\n    \
                  retry: { attempts: 1 }\n    with:\n      source: \"${{ params.file }}\"\n      connection: away\n      \
                  into: { table: t }\n      columns: { a: { type: string } }\n";
    place.pipeline("import", &format!("name: import\n{import}"));
    std::fs::write(place.dir.path().join("a.csv"), "a\n1\n").unwrap();

    let process = place.start().await;
    let mut shown = String::new();
    for name in ["address", "smtp", "late", "import"] {
        let run = match name {
            "import" => process.upload(name, &place.dir.path().join("a.csv")).await,
            _ => process.start_run(name, json!({})).await,
        };
        let run = ended(&process, &run).await;
        assert_eq!(run["status"], "failed", "{run}");
        shown.push_str(&run.to_string());
    }
    assert!(shown.contains("`***` is not an e-mail address"), "the step quotes what it refuses: {shown}");
    let paths = [
        "/openapi.json",
        "/metrics",
        "/v1/pipelines",
        "/v1/pipelines/address",
        "/v1/runs",
        "/v1/runs/x",
        "/x",
        "/readyz",
    ];
    for path in paths {
        shown.push_str(&process.text(path).await);
    }
    assert!(process.terminate().await.success());
    shown.push_str(&place.log());
    for secret in [CANARY, SMTP, DATABASE, ADMIN_KEY] {
        let at = shown.find(secret).map(|at| &shown[at.saturating_sub(300)..(at + 100).min(shown.len())]);
        assert_eq!(at, None, "`{secret}` is shown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_allowed_origins_read_token_responses() {
    let named = TestApp::builder(Database::Sqlite).pipeline("greet", PIPELINE);
    let named = named.config(|config| config.cors = Some(vec!["https://shop.example".into()])).start().await;
    let all = TestApp::builder(Database::Sqlite).pipeline("greet", PIPELINE).start().await;
    for (app, origin, allowed) in [
        (&named, "https://shop.example", Some("https://shop.example")),
        (&named, "https://other.example", None),
        (&named, "null", None),
        (&all, "https://other.example", Some("*")),
    ] {
        let run = app.run("greet", json!({ "who": "ada@example.com" })).await;
        app.ended(&run).await;
        let run = app.client.get(run["watch_url"].as_str().unwrap());
        let preflight = app.client.request(reqwest::Method::OPTIONS, format!("{}/v1/uploads/x", app.url));
        for request in [run, preflight] {
            let answer = request.header("origin", origin).send().await.unwrap();
            let header = answer.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap());
            assert_eq!(header, allowed, "{origin}");
            let varies = answer.headers().get_all("vary").iter().any(|value| value == "origin");
            assert_eq!(varies, app.config.cors.is_some(), "{origin}");
        }
    }
    named.finish().await;
    all.finish().await;
}
