//! Waiting without a worker: delays, `wait` steps, events, schedules.

use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, log_of};

both!(
    delay_postpones_the_step,
    wrong_wait_error_names_expected_duration,
    wait_ends_on_time_and_holds_no_worker,
    matching_event_resumes_the_waiting_step,
    event_before_the_wait_counts,
    wait_times_out,
    waits_survive_a_crash,
    suspended_step_can_be_cancelled,
    idempotent_event_starts_one_run,
    event_numbers_fill_string_params,
    event_key_with_another_body_is_refused,
    event_racing_with_its_wait_is_not_lost,
    schedule_starts_one_run_per_tick,
);

async fn app(database: Database, steps: &str) -> TestApp {
    TestApp::builder(database).pipeline("p", &format!("name: p\n{steps}")).start().await
}

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

async fn publish_event(app: &TestApp, name: &str, body: Value) -> Value {
    let (status, heard) = app.post(&format!("/v1/events/{name}"), body).await;
    assert_eq!(status, 202, "{heard}");
    heard
}

/// Returns the milliseconds between two times of a run.
fn between(one: &Value, other: &Value) -> i64 {
    let time = |value: &Value| {
        chrono::DateTime::parse_from_rfc3339(value.as_str().expect("a time")).expect("a time").timestamp_millis()
    };
    time(other) - time(one)
}

async fn delay_postpones_the_step(database: Database) {
    let yaml = "
params: { pause: { type: string } }
steps:
  - { id: one, uses: test.step }
  - { id: two, uses: test.step, delay: \"${{ params.pause }}\" }
  - { id: far, uses: test.step, delay: 4w, needs: [] }
";
    let app = app(database, yaml).await;
    let run = app.run("p", json!({ "pause": "1200ms" })).await;
    app.step_is(&run, "two", "succeeded").await;
    let shown = app.show(id(&run)).await;
    let steps = &shown["steps"];
    assert!(between(&steps[0]["finished_at"], &steps[1]["started_at"]) >= 1200, "{steps}");
    assert_eq!((&steps[2]["status"], &steps[2]["started_at"]), (&json!("queued"), &Value::Null));
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    app.ended(&run).await;
    let run = app.run("p", json!({ "pause": "soon" })).await;
    app.step_is(&run, "two", "failed").await;
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    let error = app.ended(&run).await["steps"][1]["error"].clone();
    assert_eq!(error["code"], "delay_invalid");
    assert!(error["message"].as_str().unwrap().contains("expected a duration"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("`30s`"), "{error}");
    app.finish().await;
}

async fn wrong_wait_error_names_expected_duration(database: Database) {
    let yaml = "
params: { pause: { type: string } }
steps: [{ id: one, uses: wait, with: { for: \"${{ params.pause }}\" } }]
";
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({ "pause": "soon" })).await;
    let error = &run["steps"][0]["error"];
    assert_eq!(error["code"], "with_invalid", "{run}");
    assert!(error["message"].as_str().unwrap().contains("`for`: expected a duration, found text"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("`30s`, `10m`, `2h`, `7d` or `1w`"), "{error}");
    app.finish().await;
}

async fn wait_ends_on_time_and_holds_no_worker(database: Database) {
    let yaml = "
params: { pause: { type: string } }
steps:
  - { id: pause, uses: wait, with: { for: \"${{ params.pause }}\" } }
  - { id: after, uses: test.step, with: { give: \"${{ steps.pause.timed_out }}\" } }
";
    let app = TestApp::builder(database)
        .pipeline("p", &format!("name: p\n{yaml}"))
        .config(|config| {
            config.queues.insert("default".into(), afterload::config::QueueConfig { concurrency: 1 });
        })
        .start()
        .await;
    let mut runs = Vec::new();
    // Many more than there are workers: all are suspended at the same time.
    for _ in 0..12 {
        runs.push(app.run("p", json!({ "pause": "1h" })).await);
    }
    for run in &runs {
        app.step_is(run, "pause", "suspended").await;
    }
    let shown = app.show(id(&runs[0])).await;
    assert!(shown["steps"][0]["suspended_until"].is_string());
    let run = app.run_to_end("p", json!({ "pause": "1500ms" })).await;
    assert_eq!(run["steps"][1]["outputs"]["value"], false);
    assert!(between(&run["steps"][0]["started_at"], &run["steps"][0]["finished_at"]) >= 1500);
    app.finish().await;
}

const ORDER: &str = "
params: { order: { type: integer } }
steps:
  - { id: accepted, uses: wait, with: { event: order.accepted, match: { order_id: \"${{ params.order }}\" }, timeout: 1h } }
  - { id: done, uses: test.step, with: { give: \"${{ steps.accepted.event }}\" } }
";

async fn matching_event_resumes_the_waiting_step(database: Database) {
    let app = app(database, ORDER).await;
    let runs = [app.run("p", json!({ "order": 7 })).await, app.run("p", json!({ "order": 8 })).await];
    for run in &runs {
        app.step_is(run, "accepted", "suspended").await;
    }
    assert_eq!(publish_event(&app, "order.rejected", json!({ "order_id": 7 })).await["woken"], 0);
    assert_eq!(publish_event(&app, "order.accepted", json!({ "order_id": 9 })).await["woken"], 0);
    assert_eq!(publish_event(&app, "order.accepted", json!({ "order_id": "7", "by": "vendor" })).await["woken"], 1);
    let run = app.ended(&runs[0]).await;
    assert_eq!(run["steps"][0]["outputs"], json!({ "timed_out": false, "event": { "order_id": "7", "by": "vendor" } }));
    assert_eq!(run["steps"][1]["outputs"]["value"]["by"], "vendor");
    assert_eq!(app.show(id(&runs[1])).await["steps"][0]["status"], "suspended");
    publish_event(&app, "order.accepted", json!({ "order_id": 8 })).await;
    app.ended(&runs[1]).await;
    app.finish().await;
}

async fn event_before_the_wait_counts(database: Database) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let yaml = format!(
        "name: p\nsteps:\n  - {{ id: slow, uses: test.step, with: {{ until: \"{}\" }} }}\n  - {{ id: heard, uses: wait, with: {{ event: news }} }}\n",
        gate.display()
    );
    let app = builder.pipeline("p", &yaml).start().await;
    publish_event(&app, "news", json!({ "n": 0 })).await;
    // Events before the run do not count.
    eventually("another millisecond", async || {
        let now = chrono::Utc::now().timestamp_millis();
        (chrono::Utc::now().timestamp_millis() > now).then_some(())
    })
    .await;
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "slow", "running").await;
    publish_event(&app, "news", json!({ "n": 1 })).await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(app.ended(&run).await["steps"][1]["outputs"]["event"], json!({ "n": 1 }));
    app.finish().await;
}

async fn wait_times_out(database: Database) {
    let yaml = "
steps:
  - { id: accepted, uses: wait, with: { event: order.accepted, timeout: 1s } }
  - { id: reject, uses: test.step, if: steps.accepted.timed_out }
  - { id: past, uses: wait, with: { until: \"2001-01-01T00:00:00Z\" } }
";
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["steps"][0]["outputs"], json!({ "timed_out": true, "event": null }));
    assert_eq!(log_of(id(&run)), ["reject#1"]);
    assert_eq!(run["steps"][2]["outputs"]["timed_out"], false);
    app.finish().await;
}

async fn waits_survive_a_crash(database: Database) {
    let app = app(database, ORDER).await;
    let yaml = "name: q\nsteps: [{ id: pause, uses: wait, with: { for: 3s } }]\n";
    std::fs::write(app.config.pipelines.join("q.yaml"), yaml).unwrap();
    let pause = eventually("the new pipeline", async || {
        let (status, run) = app.post("/v1/pipelines/q/runs", json!({})).await;
        (status == 202).then_some(run)
    })
    .await;
    let order = app.run("p", json!({ "order": 7 })).await;
    app.step_is(&pause, "pause", "suspended").await;
    app.step_is(&order, "accepted", "suspended").await;
    let until = app.show(id(&pause)).await["steps"][0]["suspended_until"].clone();
    let app = app.crash().await;
    let shown = app.show(id(&pause)).await;
    if shown["steps"][0]["status"] == "suspended" {
        assert_eq!(shown["steps"][0]["suspended_until"], until);
    }
    publish_event(&app, "order.accepted", json!({ "order_id": 7 })).await;
    assert_eq!(app.ended(&order).await["status"], "succeeded");
    let pause = app.ended(&pause).await;
    assert!(between(&until, &pause["steps"][0]["finished_at"]) >= 0);
    app.finish().await;
}

async fn suspended_step_can_be_cancelled(database: Database) {
    let app = app(database, ORDER).await;
    let run = app.run("p", json!({ "order": 7 })).await;
    app.step_is(&run, "accepted", "suspended").await;
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    assert_eq!(app.ended(&run).await["status"], "cancelled");
    assert_eq!(publish_event(&app, "order.accepted", json!({ "order_id": 7 })).await["woken"], 0);
    // After a retry the step waits again. Events since the creation of the run count.
    app.post(&format!("/v1/runs/{}/retry", id(&run)), json!({})).await;
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    app.finish().await;
}

async fn idempotent_event_starts_one_run(database: Database) {
    let yaml = "
triggers: [{ type: event, name: user.signed_in, with: { user: \"${{ event.user.id }}\" } }]
params: { user: { type: integer } }
steps: [{ id: one, uses: test.step, with: { give: \"${{ event.user.name }} ${{ params.user }}\" } }]
";
    let app = app(database, yaml).await;
    let url = format!("{}/v1/events/user.signed_in", app.url);
    let body = json!({ "user": { "id": 5, "name": "Ana" } });
    let mut ids = Vec::new();
    for _ in 0..3 {
        let request = app.client.post(&url).bearer_auth(&app.admin_key).header("idempotency-key", "login-1");
        let heard: Value = request.json(&body).send().await.unwrap().json().await.unwrap();
        ids.push(heard["runs"][0].as_str().expect("a run").to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "told again, it is the same event");
    let run = app.ended(&json!({ "id": ids[0] })).await;
    assert_eq!((&run["origin"], &run["steps"][0]["outputs"]["value"]), (&json!("event"), &json!("Ana 5")));
    // An event with invalid params is not ignored: its run fails with the reason.
    let heard = publish_event(&app, "user.signed_in", json!({ "user": { "id": "x" } })).await;
    let run = app.ended(&json!({ "id": heard["runs"][0] })).await;
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("params_invalid")));
    let (status, problem) = app.post("/v1/events/no%20name", json!({})).await;
    assert_eq!((status, &problem["code"]), (422, &json!("event_invalid")));
    app.finish().await;
}

async fn event_numbers_fill_string_params(database: Database) {
    let yaml = "
triggers: [{ type: event, name: order.paid, with: { order: \"${{ event.order }}\" } }]
params: { order: { type: string, max_length: 4 } }
steps: [{ id: one, uses: test.step, with: { give: \"${{ params.order }}\" } }]
";
    let app = app(database, yaml).await;
    for (given, text) in [(json!(5), "5"), (json!("005"), "005"), (json!(1.5), "1.5"), (json!(true), "true")] {
        let heard = publish_event(&app, "order.paid", json!({ "order": given })).await;
        let told = app.ended(&json!({ "id": heard["runs"][0] })).await;
        // A call of the API follows the same rule.
        let called = app.run_to_end("p", json!({ "order": given })).await;
        for run in [told, called] {
            assert_eq!((&run["params"]["order"], &run["steps"][0]["outputs"]["value"]), (&json!(text), &json!(text)));
        }
    }
    let (status, problem) = app.post("/v1/pipelines/p/runs", json!({ "params": { "order": 1e20 } })).await;
    assert_eq!((status, &problem["details"][0]["code"]), (422, &json!("param_wrong_type")), "{problem}");
    app.finish().await;
}

async fn event_key_with_another_body_is_refused(database: Database) {
    let yaml = "
triggers: [{ type: event, name: order.paid, with: { order: \"${{ event.order }}\" } }]
params: { order: { type: integer } }
steps: [{ id: one, uses: test.step }]
";
    let app = app(database, yaml).await;
    let url = format!("{}/v1/events/order.paid", app.url);
    let send = async |key: &str, body: &'static str| {
        let request = app.client.post(&url).bearer_auth(&app.admin_key).header("idempotency-key", key);
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let first = send("pay-1", r#"{ "order": 7, "price": 0.1 }"#).await;
    assert_eq!(first.0, 202, "{}", first.1);
    for other in [r#"{ "order": 8, "price": 0.1 }"#, r#"{ "order": 7 }"#, "{}", ""] {
        let (status, problem) = send("pay-1", other).await;
        assert_eq!((status, &problem["code"]), (422, &json!("idempotency_key_reused")), "{other}: {problem}");
    }
    // The same values in another order and with other spaces are the same event.
    let again = send("pay-1", r#"{"price":0.10,"order":7}"#).await;
    assert_eq!((again.0, &again.1["id"], &again.1["runs"]), (202, &first.1["id"], &first.1["runs"]));
    // Keys count per event name, and other keys are other events.
    let other = send("pay-2", r#"{ "order": 8 }"#).await;
    assert_eq!(other.0, 202, "{}", other.1);
    assert_ne!(other.1["runs"], first.1["runs"]);
    for (_, heard) in [&first, &other] {
        app.ended(&json!({ "id": heard["runs"][0] })).await;
    }
    let page: Value = app.get("/v1/runs").await.json().await.unwrap();
    assert_eq!(page["runs"].as_array().unwrap().len(), 2, "a refused event starts no run");
    app.finish().await;
}

async fn event_racing_with_its_wait_is_not_lost(database: Database) {
    let app = app(database, ORDER).await;
    // Each event is published while its run is about to wait.
    let orders = (0..40).map(async |order| {
        let (run, _) = tokio::join!(app.run("p", json!({ "order": order })), tokio::task::yield_now());
        publish_event(&app, "order.accepted", json!({ "order_id": order })).await;
        run
    });
    for run in futures::future::join_all(orders).await {
        assert_eq!(app.ended(&run).await["steps"][0]["outputs"]["timed_out"], false);
    }
    app.finish().await;
}

async fn schedule_starts_one_run_per_tick(database: Database) {
    // The last missed tick is caught up, so the test need not wait for the clock.
    let yaml = "
triggers: [{ type: cron, schedule: \"* * * * *\", timezone: Europe/Paris, catch_up: last, with: { at: \"${{ event.time }}\" } }]
params: { at: { type: datetime } }
steps: [{ id: one, uses: test.step, with: { give: \"${{ params.at }}\" } }]
";
    let app = app(database, yaml).await;
    let listed: Value = app.get("/v1/pipelines/p").await.json().await.unwrap();
    assert_eq!(listed["triggers"][0]["timezone"], "Europe/Paris");
    // Same state as after three and a half minutes without a process.
    let (service, other) = (app.service(), app.another().await);
    eventually("the schedule", async || {
        (super::support::numbers(&service, "SELECT COUNT(*) FROM schedules").await == [1]).then_some(())
    })
    .await;
    super::support::execute(&service, "UPDATE schedules SET cursor = cursor - 210000").await;
    let run = eventually("a run", async || {
        let runs: Value = app.get("/v1/runs").await.json().await.unwrap();
        runs["runs"].as_array().unwrap().last().cloned()
    })
    .await;
    let run = app.ended(&run).await;
    assert_eq!((&run["status"], &run["origin"]), (&json!("succeeded"), &json!("cron")));
    other.stop().await;
    eventually("an empty queue", async || (app.app.engine.count_jobs().await.unwrap() == 0).then_some(())).await;
    let runs: Value = app.get("/v1/runs").await.json().await.unwrap();
    let mut moments: Vec<_> = runs["runs"].as_array().unwrap().iter().map(id).collect();
    moments.sort_unstable();
    let times =
        futures::future::join_all(moments.iter().map(async |id| app.show(id).await["params"]["at"].clone())).await;
    let distinct: std::collections::BTreeSet<String> = times.iter().map(Value::to_string).collect();
    assert_eq!(distinct.len(), times.len(), "one run for each moment: {times:?}");
    app.finish().await;
}
