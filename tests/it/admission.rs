//! `concurrency`: limits the concurrent runs per key, across all processes.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, execute, log_of};

both!(
    runs_over_the_limit_wait_in_order,
    limit_holds_across_two_processes,
    skip_cancels_run_over_the_limit_with_reason,
    cancel_previous_keeps_only_the_latest_run,
    cancel_previous_keeps_as_many_runs_as_the_limit,
    crash_before_cancelling_previous_run_is_recovered,
    waiting_runs_survive_a_crash,
    waiting_run_can_be_cancelled,
    retry_waits_for_a_slot,
    scheduled_run_takes_no_slot_before_run_at,
    missing_key_value_rejects_the_run,
    leaked_slot_is_released,
);

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

fn time(value: &Value) -> i64 {
    chrono::DateTime::parse_from_rfc3339(value.as_str().expect("a time")).expect("a time").timestamp_millis()
}

/// Starts an application whose pipeline waits in its first step until the file at the returned path exists.
async fn gated(database: Database, concurrency: &str) -> (TestApp, PathBuf) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let yaml = format!(
        "name: p
params: {{ key: {{ type: string, default: a }}, path: {{ type: string, default: / }} }}
concurrency: {concurrency}
steps:
  - {{ id: one, uses: test.step, with: {{ until: \"{}\" }} }}
  - {{ id: two, uses: test.step, with: {{ needs_file: \"${{{{ params.path }}}}\" }} }}
finally:
  - {{ id: clean, uses: test.step }}
",
        gate.display()
    );
    (builder.pipeline("p", &yaml).start().await, gate)
}

/// Starts a run and waits until its first step runs.
async fn under_way(app: &TestApp, params: Value) -> Value {
    let run = app.run("p", params).await;
    app.step_is(&run, "one", "running").await;
    run
}

async fn is_held(app: &TestApp, run: &Value) {
    let run = app.show(id(run)).await;
    assert_eq!((&run["status"], &run["started_at"]), (&json!("queued"), &Value::Null));
    assert!(run["waiting_since"].is_string(), "{run}");
    let steps = run["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["status"] == "waiting"), "{run}");
}

async fn cancel(app: &TestApp, run: &Value) -> Value {
    let (_, body) = app.post(&format!("/v1/runs/{}/cancel", id(run)), json!({})).await;
    body
}

async fn runs_over_the_limit_wait_in_order(database: Database) {
    let (app, gate) = gated(database, "{ key: \"${{ params.key }}\", limit: 2 }").await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        runs.push(under_way(&app, json!({})).await);
    }
    for _ in 0..3 {
        runs.push(app.run("p", json!({})).await);
    }
    // Another key has slots of its own.
    let other = under_way(&app, json!({ "key": "b" })).await;
    for run in &runs[2..] {
        is_held(&app, run).await;
    }
    std::fs::write(&gate, "").unwrap();
    let mut ended = Vec::new();
    for run in &runs {
        let run = app.ended(run).await;
        assert_eq!((&run["status"], &run["waiting_since"]), (&json!("succeeded"), &Value::Null));
        ended.push((time(&run["started_at"]), time(&run["finished_at"])));
    }
    assert_eq!(app.ended(&other).await["status"], "succeeded");
    let first_end = ended[..2].iter().map(|(_, end)| *end).min().unwrap();
    assert!(ended[2..].iter().all(|(start, _)| *start >= first_end), "{ended:?}");
    // Both slots may become free at once, so the first two that wait may start together.
    assert!(ended[2].0.max(ended[3].0) <= ended[4].0, "who came first goes first: {ended:?}");
    app.finish().await;
}

async fn limit_holds_across_two_processes(database: Database) {
    let yaml = "
name: p
concurrency: { limit: 2 }
steps:
  - { id: one, uses: test.step }
  - { id: two, uses: test.step }
";
    let app = TestApp::builder(database).pipeline("p", yaml).start().await;
    let other = app.another().await;
    let runs = (0..50).map(async |turn| {
        let url = if turn % 2 == 0 { &app.url } else { &other.url };
        let request = app.client.post(format!("{url}/v1/pipelines/p/runs")).bearer_auth(&app.admin_key);
        let answer = request.json(&json!({})).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        answer.json::<Value>().await.unwrap()
    });
    let runs = futures::future::join_all(runs).await;
    let mut moments = Vec::new();
    for run in &runs {
        let run = app.ended(run).await;
        assert_eq!(run["status"], "succeeded", "{run}");
        assert_eq!(log_of(id(&run)), ["one#1", "two#1"]);
        // Within one millisecond, count an end before a start.
        moments.extend([(time(&run["started_at"]), 1), (time(&run["finished_at"]), -1)]);
    }
    moments.sort_unstable();
    let mut now = 0;
    for (at, change) in moments {
        now += change;
        // In this order, a run shorter than a millisecond ends before it starts.
        assert!(now <= 2, "{now} runs are under way at {at}");
    }
    other.stop().await;
    app.finish().await;
}

async fn skip_cancels_run_over_the_limit_with_reason(database: Database) {
    let (app, gate) = gated(database, "{ on_conflict: skip }").await;
    let first = under_way(&app, json!({})).await;
    let second = app.run("p", json!({})).await;
    assert_eq!((&second["status"], &second["error"]["code"]), (&json!("cancelled"), &json!("concurrency_skipped")));
    assert_eq!(second["error"]["details"]["run"], first["id"]);
    let shown = app.show(id(&second)).await;
    assert!(shown["steps"].as_array().unwrap().iter().all(|step| step["status"] == "cancelled"), "{shown}");
    assert_eq!(log_of(id(&second)), [""; 0]);
    // A retry of the skipped run waits for a slot.
    let (status, _) = app.post(&format!("/v1/runs/{}/retry", id(&second)), json!({})).await;
    assert_eq!(status, 202);
    is_held(&app, &second).await;
    std::fs::write(&gate, "").unwrap();
    for run in [&first, &second] {
        let run = app.ended(run).await;
        assert_eq!((&run["status"], &run["error"]), (&json!("succeeded"), &Value::Null));
    }
    app.finish().await;
}

async fn cancel_previous_keeps_only_the_latest_run(database: Database) {
    let (app, gate) = gated(database, "{ on_conflict: cancel_previous }").await;
    let mut runs = vec![under_way(&app, json!({})).await];
    for _ in 0..4 {
        runs.push(app.run("p", json!({})).await);
    }
    for (place, run) in runs[..4].iter().enumerate() {
        let run = app.ended(run).await;
        assert_eq!(run["status"], "cancelled");
        let began = !log_of(id(&run)).is_empty();
        assert!(began || place > 0, "the first was under way");
        // A run that has started runs `finally`; a run that never started does nothing.
        let cleaned = log_of(id(&run)).contains(&"clean#1".to_owned());
        assert_eq!(cleaned, began, "{:?}", log_of(id(&run)));
    }
    app.step_is(&runs[4], "one", "running").await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(app.ended(&runs[4]).await["status"], "succeeded");
    app.finish().await;
}

async fn cancel_previous_keeps_as_many_runs_as_the_limit(database: Database) {
    let (app, gate) = gated(database, "{ limit: 2, on_conflict: cancel_previous }").await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(under_way(&app, json!({})).await);
    }
    std::fs::write(&gate, "").unwrap();
    let mut statuses = Vec::new();
    for run in &runs {
        statuses.push(app.ended(run).await["status"].clone());
    }
    assert_eq!(statuses, ["cancelled", "succeeded", "succeeded"]);
    app.finish().await;
}

async fn crash_before_cancelling_previous_run_is_recovered(database: Database) {
    let (app, gate) = gated(database, "{ limit: 1 }").await;
    let first = under_way(&app, json!({})).await;
    let second = app.run("p", json!({})).await;
    is_held(&app, &second).await;
    // Same state as after a crash right after the commit that accepted the second run.
    execute(&app.service(), &format!("UPDATE runs SET supersedes = 1 WHERE id = '{}'", id(&second))).await;
    assert_eq!(app.ended(&first).await["status"], "cancelled");
    app.step_is(&second, "one", "running").await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(app.ended(&second).await["status"], "succeeded");
    app.finish().await;
}

async fn waiting_runs_survive_a_crash(database: Database) {
    let (app, gate) = gated(database, "{ limit: 1 }").await;
    let mut runs = vec![under_way(&app, json!({})).await];
    for _ in 0..2 {
        runs.push(app.run("p", json!({})).await);
    }
    let app = app.crash().await;
    for run in &runs[1..] {
        is_held(&app, run).await;
    }
    std::fs::write(&gate, "").unwrap();
    for run in &runs {
        assert_eq!(app.ended(run).await["status"], "succeeded");
        assert_eq!(log_of(id(run)).iter().filter(|line| *line == "two#1").count(), 1);
    }
    app.finish().await;
}

async fn waiting_run_can_be_cancelled(database: Database) {
    let (app, gate) = gated(database, "{ limit: 1 }").await;
    let first = under_way(&app, json!({})).await;
    let (second, third) = (app.run("p", json!({})).await, app.run("p", json!({})).await);
    let body = cancel(&app, &second).await;
    assert_eq!((&body["status"], &body["waiting_since"]), (&json!("cancelled"), &Value::Null), "{body}");
    assert_eq!(log_of(id(&second)), [""; 0], "not even `finally`: there is nothing to clean up");
    is_held(&app, &third).await;
    // A cancelled run frees its slot too.
    cancel(&app, &first).await;
    app.step_is(&third, "one", "running").await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(app.ended(&third).await["status"], "succeeded");
    assert_eq!(app.ended(&first).await["status"], "cancelled");
    app.finish().await;
}

async fn retry_waits_for_a_slot(database: Database) {
    let (app, gate) = gated(database, "{ limit: 1 }").await;
    let path = app.dir.path().join("there");
    std::fs::write(&gate, "").unwrap();
    let first = app.run_to_end("p", json!({ "path": path })).await;
    assert_eq!(first["status"], "failed");
    std::fs::remove_file(&gate).unwrap();
    std::fs::write(&path, "").unwrap();
    let second = under_way(&app, json!({})).await;
    app.post(&format!("/v1/runs/{}/retry", id(&first)), json!({})).await;
    let shown = app.show(id(&first)).await;
    assert_eq!((&shown["status"], &shown["steps"][1]["status"]), (&json!("queued"), &json!("waiting")));
    assert!(shown["waiting_since"].is_string());
    std::fs::write(&gate, "").unwrap();
    let (first, second) = (app.ended(&first).await, app.ended(&second).await);
    assert_eq!((&first["status"], &second["status"]), (&json!("succeeded"), &json!("succeeded")));
    assert!(time(&first["steps"][1]["started_at"]) >= time(&second["finished_at"]));
    app.finish().await;
}

async fn scheduled_run_takes_no_slot_before_run_at(database: Database) {
    let (app, gate) = gated(database, "{ limit: 1 }").await;
    std::fs::write(&gate, "").unwrap();
    let at = |wait: i64| {
        let due = chrono::Utc::now() + chrono::Duration::milliseconds(wait);
        due.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    };
    let (_, later) = app.post("/v1/pipelines/p/runs", json!({ "run_at": at(3_600_000) })).await;
    is_held(&app, &later).await;
    assert_eq!(app.run_to_end("p", json!({})).await["status"], "succeeded");
    assert_eq!(cancel(&app, &later).await["status"], "cancelled");
    let due = at(1500);
    let (_, soon) = app.post("/v1/pipelines/p/runs", json!({ "run_at": due })).await;
    let soon = app.ended(&soon).await;
    assert_eq!(soon["status"], "succeeded");
    assert!(soon["started_at"].as_str().unwrap() >= due.as_str(), "{soon}");
    app.finish().await;
}

async fn missing_key_value_rejects_the_run(database: Database) {
    let yaml = "
name: p
triggers: [{ type: event, name: order.made, with: { order: \"${{ event }}\" } }]
params: { order: { type: object } }
concurrency: { key: \"${{ params.order.shop }}\" }
steps: [{ id: one, uses: test.step }]
";
    let app = TestApp::builder(database).pipeline("p", yaml).start().await;
    let (status, problem) = app.post("/v1/pipelines/p/runs", json!({ "params": { "order": {} } })).await;
    assert_eq!((status, &problem["code"]), (422, &json!("concurrency_key_invalid")), "{problem}");
    // The sender of an event gets no error response, so the error is recorded in a run.
    let (_, heard) = app.post("/v1/events/order.made", json!({ "n": 1 })).await;
    let run = app.ended(&json!({ "id": heard["runs"][0] })).await;
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("concurrency_key_invalid")));
    let run = app.run_to_end("p", json!({ "order": { "shop": 7 } })).await;
    assert_eq!(run["status"], "succeeded");
    app.finish().await;
}

async fn leaked_slot_is_released(database: Database) {
    let yaml = "
name: p
concurrency: { limit: 1 }
steps: [{ id: pause, uses: wait, with: { for: 2h } }]
";
    let app = TestApp::builder(database).pipeline("p", yaml).start().await;
    let first = app.run("p", json!({})).await;
    app.step_is(&first, "pause", "suspended").await;
    let second = app.run("p", json!({})).await;
    is_held(&app, &second).await;
    execute(&app.service(), &format!("DELETE FROM runs WHERE id = '{}'", id(&first))).await;
    app.step_is(&second, "pause", "suspended").await;
    cancel(&app, &second).await;
    eventually("an empty queue", async || (app.app.engine.count_jobs().await.unwrap() == 0).then_some(())).await;
    app.finish().await;
}
