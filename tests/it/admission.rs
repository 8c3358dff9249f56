//! `concurrency`: how many runs of a key may be under way, whichever process accepts and runs them.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, execute, log_of};

both!(
    runs_too_many_wait_and_go_one_after_another,
    fifty_runs_race_for_two_places_in_two_processes,
    a_run_too_many_is_skipped_and_says_why,
    the_latest_run_ends_those_before_it,
    with_more_places_the_latest_few_remain,
    a_crash_between_accepting_and_cancelling_is_made_up_for,
    a_crash_while_runs_wait_changes_nothing,
    a_run_that_waits_can_be_cancelled,
    a_retry_waits_for_its_place,
    a_run_for_later_takes_no_place_before_its_time,
    a_key_without_a_value_refuses_the_run,
    a_place_that_nobody_gave_back_is_found_free,
);

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

fn time(value: &Value) -> i64 {
    chrono::DateTime::parse_from_rfc3339(value.as_str().expect("a time")).expect("a time").timestamp_millis()
}

/// An application with a pipeline whose first step waits until the file at the returned path exists.
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

async fn runs_too_many_wait_and_go_one_after_another(database: Database) {
    let (app, gate) = gated(database, "{ key: \"${{ params.key }}\", limit: 2 }").await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        runs.push(under_way(&app, json!({})).await);
    }
    for _ in 0..3 {
        runs.push(app.run("p", json!({})).await);
    }
    // Another key has places of its own.
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
    assert!(ended[2].0 <= ended[3].0 && ended[3].0 <= ended[4].0, "who came first goes first: {ended:?}");
    app.finish().await;
}

async fn fifty_runs_race_for_two_places_in_two_processes(database: Database) {
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
        // An end of the same millisecond comes before a start.
        moments.extend([(time(&run["started_at"]), 1), (time(&run["finished_at"]), -1)]);
    }
    moments.sort_unstable();
    let mut now = 0;
    for (at, change) in moments {
        now += change;
        // A run shorter than a millisecond ends before it starts in this order.
        assert!(now <= 2, "{now} runs are under way at {at}");
    }
    other.stop().await;
    app.finish().await;
}

async fn a_run_too_many_is_skipped_and_says_why(database: Database) {
    let (app, gate) = gated(database, "{ on_conflict: skip }").await;
    let first = under_way(&app, json!({})).await;
    let second = app.run("p", json!({})).await;
    assert_eq!((&second["status"], &second["error"]["code"]), (&json!("cancelled"), &json!("concurrency_skipped")));
    assert_eq!(second["error"]["details"]["run"], first["id"]);
    let shown = app.show(id(&second)).await;
    assert!(shown["steps"].as_array().unwrap().iter().all(|step| step["status"] == "cancelled"), "{shown}");
    assert_eq!(log_of(id(&second)), [""; 0]);
    // Who wants it all the same waits for the place.
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

async fn the_latest_run_ends_those_before_it(database: Database) {
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
        // What has begun cleans up; what never began does nothing at all.
        let cleaned = log_of(id(&run)).contains(&"clean#1".to_owned());
        assert_eq!(cleaned, began, "{:?}", log_of(id(&run)));
    }
    app.step_is(&runs[4], "one", "running").await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(app.ended(&runs[4]).await["status"], "succeeded");
    app.finish().await;
}

async fn with_more_places_the_latest_few_remain(database: Database) {
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

async fn a_crash_between_accepting_and_cancelling_is_made_up_for(database: Database) {
    let (app, gate) = gated(database, "{ limit: 1 }").await;
    let first = under_way(&app, json!({})).await;
    let second = app.run("p", json!({})).await;
    is_held(&app, &second).await;
    // As a crash leaves it right after the commit that accepted the second run.
    execute(&app.service(), &format!("UPDATE runs SET supersedes = 1 WHERE id = '{}'", id(&second))).await;
    assert_eq!(app.ended(&first).await["status"], "cancelled");
    app.step_is(&second, "one", "running").await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(app.ended(&second).await["status"], "succeeded");
    app.finish().await;
}

async fn a_crash_while_runs_wait_changes_nothing(database: Database) {
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

async fn a_run_that_waits_can_be_cancelled(database: Database) {
    let (app, gate) = gated(database, "{ limit: 1 }").await;
    let first = under_way(&app, json!({})).await;
    let (second, third) = (app.run("p", json!({})).await, app.run("p", json!({})).await);
    let body = cancel(&app, &second).await;
    assert_eq!((&body["status"], &body["waiting_since"]), (&json!("cancelled"), &Value::Null), "{body}");
    assert_eq!(log_of(id(&second)), [""; 0], "not even `finally`: there is nothing to clean up");
    is_held(&app, &third).await;
    // The end of the one under way by a cancel makes room as any end does.
    cancel(&app, &first).await;
    app.step_is(&third, "one", "running").await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(app.ended(&third).await["status"], "succeeded");
    assert_eq!(app.ended(&first).await["status"], "cancelled");
    app.finish().await;
}

async fn a_retry_waits_for_its_place(database: Database) {
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

async fn a_run_for_later_takes_no_place_before_its_time(database: Database) {
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

async fn a_key_without_a_value_refuses_the_run(database: Database) {
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
    // Nobody waits for an answer to an event, so a run says what is wrong.
    let (_, heard) = app.post("/v1/events/order.made", json!({ "n": 1 })).await;
    let run = app.ended(&json!({ "id": heard["runs"][0] })).await;
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("concurrency_key_invalid")));
    let run = app.run_to_end("p", json!({ "order": { "shop": 7 } })).await;
    assert_eq!(run["status"], "succeeded");
    app.finish().await;
}

async fn a_place_that_nobody_gave_back_is_found_free(database: Database) {
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
