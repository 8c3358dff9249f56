//! `timeout` and `queue_timeout` of runs. The tests move the stored deadlines into the past instead of waiting.

use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, execute, log_of, numbers};

both!(
    run_timeout_stops_the_steps_and_runs_on_failure_once,
    run_in_time_keeps_its_outcome,
    queue_timeout_ends_a_run_that_waits,
    deadline_that_passes_during_a_crash_ends_the_run,
);

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

fn statuses(run: &Value) -> Vec<String> {
    let steps = run["steps"].as_array().expect("steps").iter();
    steps.map(|step| format!("{}:{}", step["id"].as_str().unwrap(), step["status"].as_str().unwrap())).collect()
}

fn time(value: &Value) -> i64 {
    chrono::DateTime::parse_from_rfc3339(value.as_str().expect("a time")).expect("a time").timestamp_millis()
}

/// Moves a deadline of a run into the past.
async fn pass(app: &TestApp, run: &Value, deadline: &str) {
    let sql = format!("UPDATE runs SET {deadline} = 1, deadline_check_at = 1 WHERE id = '{}'", id(run));
    execute(&app.service(), &sql).await;
}

async fn cancel(app: &TestApp, run: &Value) {
    app.post(&format!("/v1/runs/{}/cancel", id(run)), json!({})).await;
    app.ended(run).await;
}

const HANDLERS: &str = "
on_success:
  - { id: cheer, uses: test.step }
on_failure:
  - { id: alarm, uses: test.step, with: { give: \"${{ run.status }}: ${{ run.error.code }} in ${{ run.error.step }}\" } }
finally:
  - { id: clean, uses: test.step, with: { give: \"${{ run.status }}\" } }
";

async fn run_timeout_stops_the_steps_and_runs_on_failure_once(database: Database) {
    let yaml = format!(
        "name: p
timeout: 2h
steps:
  - {{ id: polite, uses: test.step, with: {{ wait: true }} }}
  - {{ id: deaf, uses: test.step, needs: [], with: {{ hang: true }} }}
  - {{ id: again, uses: test.step, needs: [], retry: {{ delay: 1h, backoff: constant }}, with: {{ fail: 3 }} }}
  - {{ id: asleep, uses: wait, needs: [], with: {{ for: 1h }} }}
  - {{ id: after, uses: test.step, needs: [polite] }}{HANDLERS}"
    );
    let app = TestApp::builder(database).pipeline("p", &yaml).start().await;
    let other = app.another().await;
    let run = app.run("p", json!({})).await;
    assert_eq!(time(&run["deadline"]) - time(&run["created_at"]), 7_200_000);
    assert_eq!(run["queue_deadline"], Value::Null);
    for (step, status) in [("polite", "running"), ("deaf", "running"), ("again", "retrying"), ("asleep", "suspended")] {
        app.step_is(&run, step, status).await;
    }
    pass(&app, &run, "deadline_at").await;
    let ended = app.ended(&run).await;
    let expected = [
        "polite:cancelled",
        "deaf:cancelled",
        "again:cancelled",
        "asleep:cancelled",
        "after:cancelled",
        "cheer:skipped",
        "alarm:succeeded",
        "clean:succeeded",
    ];
    assert_eq!((&ended["status"], statuses(&ended)), (&json!("failed"), expected.map(str::to_owned).to_vec()));
    assert_eq!((&ended["error"]["code"], &ended["error"]["step"]), (&json!("run_timed_out"), &json!("polite")));
    assert_eq!(ended["steps"][1]["error"]["code"], "run_timed_out");
    assert_eq!(ended["steps"][6]["outputs"]["value"], "failed: run_timed_out in polite");
    assert_eq!(ended["steps"][7]["outputs"]["value"], "failed");
    assert_eq!(ended["cancel_requested_at"], Value::Null);
    let alarms = log_of(id(&run)).iter().filter(|line| line.starts_with("alarm#")).count();
    assert_eq!(alarms, 1, "both processes look at the deadlines");
    // A retry has a new deadline.
    let (status, again) = app.post(&format!("/v1/runs/{}/retry", id(&run)), json!({})).await;
    assert_eq!((status, &again["error"]), (202, &Value::Null), "{again}");
    assert!(time(&again["deadline"]) > time(&ended["finished_at"]) + 7_000_000, "{again}");
    app.step_is(&run, "polite", "running").await;
    cancel(&app, &run).await;
    other.stop().await;
    app.finish().await;
}

async fn run_in_time_keeps_its_outcome(database: Database) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let yaml = format!(
        "name: p
timeout: 1h
steps:
  - {{ id: one, uses: test.step, with: {{ refuse: never }} }}
on_failure:
  - {{ id: alarm, uses: test.step, with: {{ until: \"{}\" }} }}
",
        gate.display()
    );
    let quick = "name: quick\ntimeout: 1h\nqueue_timeout: 1m\nsteps: [{ id: one, uses: test.step }]\n";
    let app = builder.pipeline("p", &yaml).pipeline("quick", quick).start().await;
    assert_eq!(app.run_to_end("quick", json!({})).await["status"], "succeeded");
    // The outcome is decided, so that the handlers go on.
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "alarm", "running").await;
    pass(&app, &run, "deadline_at").await;
    let checks = format!("SELECT COUNT(deadline_check_at) FROM runs WHERE id = '{}'", id(&run));
    eventually("the check", async || (numbers(&app.service(), &checks).await == [0]).then_some(())).await;
    std::fs::write(&gate, "").unwrap();
    let run = app.ended(&run).await;
    assert_eq!(statuses(&run), ["one:failed", "alarm:succeeded"]);
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("test_refused")));
    app.finish().await;
}

async fn queue_timeout_ends_a_run_that_waits(database: Database) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let yaml = format!(
        "name: p
queue_timeout: 1h
concurrency: {{ limit: 1 }}
steps:
  - {{ id: one, uses: test.step, with: {{ until: \"{}\" }} }}{HANDLERS}",
        gate.display()
    );
    let app = builder.pipeline("p", &yaml).start().await;
    let first = app.run("p", json!({})).await;
    app.step_is(&first, "one", "running").await;
    let (late, patient) = (app.run("p", json!({})).await, app.run("p", json!({})).await);
    assert_eq!(time(&late["queue_deadline"]) - time(&late["created_at"]), 3_600_000);
    // A run that has started no longer waits.
    pass(&app, &first, "queue_deadline_at").await;
    pass(&app, &late, "queue_deadline_at").await;
    let late = app.ended(&late).await;
    assert_eq!(statuses(&late), ["one:cancelled", "cheer:skipped", "alarm:succeeded", "clean:succeeded"]);
    assert_eq!(late["steps"][2]["outputs"]["value"], "failed: queue_timed_out in one");
    assert_eq!((&late["status"], &late["waiting_since"]), (&json!("failed"), &Value::Null));
    assert_eq!(app.show(id(&patient)).await["status"], "queued", "the first run still has the slot");
    std::fs::write(&gate, "").unwrap();
    for run in [&first, &patient] {
        assert_eq!(app.ended(run).await["status"], "succeeded");
    }
    // A paused pipeline starts nothing, and its runs wait.
    app.post("/v1/pipelines/p/pause", json!({})).await;
    let paused = app.run("p", json!({})).await;
    app.step_is(&paused, "one", "queued").await;
    pass(&app, &paused, "queue_deadline_at").await;
    app.step_is(&paused, "one", "cancelled").await;
    app.post("/v1/pipelines/p/resume", json!({})).await;
    assert_eq!(app.ended(&paused).await["error"]["code"], "queue_timed_out");
    app.finish().await;
}

async fn deadline_that_passes_during_a_crash_ends_the_run(database: Database) {
    let yaml = format!(
        "name: p
timeout: 1h
steps:
  - {{ id: one, uses: test.step, with: {{ hang: true }} }}
  - {{ id: broken, uses: test.step, needs: [], with: {{ refuse: never }} }}{HANDLERS}"
    );
    let yaml =
        yaml.replace("id: clean, uses: test.step, with: {", "id: clean, uses: test.step, with: { refuse: never,");
    let app = TestApp::builder(database).pipeline("p", &yaml).start().await;
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "one", "running").await;
    app.step_is(&run, "broken", "failed").await;
    let app = app.crash().await;
    pass(&app, &run, "deadline_at").await;
    let run = app.ended(&run).await;
    let expected = ["one:cancelled", "broken:failed", "cheer:skipped", "alarm:succeeded", "clean:failed"];
    assert_eq!(statuses(&run), expected);
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("run_timed_out")), "{run}");
    assert_eq!(run["steps"][3]["outputs"]["value"], "failed: run_timed_out in one", "{run}");
    app.finish().await;
}
