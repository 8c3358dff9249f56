//! Paused queues and pipelines: no process starts their steps, and no step is lost.

use std::path::PathBuf;

use afterload::app::{Process, RunningService, WorkerOptions, start_worker};
use afterload_engine::QueueSelection;
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, kinds, log_of};

both!(
    paused_queue_starts_no_step_until_resumed,
    paused_pipeline_accepts_runs_but_starts_no_step,
    step_fetched_before_the_pause_does_not_start,
    other_processes_respect_a_pause,
    crash_during_a_pause_is_counted,
    paused_run_can_be_cancelled,
    suspended_step_resumes_after_the_pause,
    cli_pauses_and_resumes,
);

/// An application with a pipeline on two queues, whose first step waits for the gate, and two more pipelines on these
/// queues.
struct Stage {
    app: TestApp,
    gate: PathBuf,
}

async fn stage(database: Database) -> Stage {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let slow = format!(
        "name: slow\ntriggers: [{{ type: event, name: came }}]\nsteps:\n  - {{ id: one, uses: test.step, queue: slow, with: {{ until: \"{}\" }} }}\n",
        gate.display()
    );
    let quick = "name: quick\nsteps:\n  - { id: one, uses: test.step, queue: quick }\n";
    let mixed = "name: mixed\nsteps:\n  - { id: one, uses: test.step, queue: quick }\n  - { id: two, uses: test.step, queue: slow }\n";
    let builder = builder.pipeline("slow", &slow).pipeline("quick", quick).pipeline("mixed", mixed);
    Stage { app: builder.start().await, gate }
}

fn id(run: &Value) -> &str {
    run["id"].as_str().unwrap_or_else(|| panic!("no run: {run}"))
}

async fn change(app: &TestApp, path: &str) -> Value {
    let (status, body) = app.post(&format!("/v1/{path}"), json!({})).await;
    assert_eq!(status, 200, "{body}");
    body
}

async fn queue(app: &TestApp, name: &str) -> Value {
    let all: Value = app.get("/v1/queues").await.json().await.unwrap();
    all["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == name).cloned().unwrap_or_default()
}

/// Waits until all jobs that are not paused are done.
async fn jobs_are(app: &TestApp, count: i64) {
    eventually("the jobs", async || (app.app.engine.count_jobs().await.unwrap() == count).then_some(())).await;
}

/// Starts a second process on the same database, which works all queues.
async fn other(app: &TestApp) -> Process {
    let work = WorkerOptions { queues: QueueSelection::All, steps: kinds() };
    start_worker(app.config.clone(), work).await.expect("a second process")
}

async fn paused_queue_starts_no_step_until_resumed(database: Database) {
    let Stage { app, gate } = stage(database).await;
    let running = app.run("slow", json!({})).await;
    app.step_is(&running, "one", "running").await;
    let paused = change(&app, "queues/slow/pause").await;
    assert!(paused["paused_at"].is_string(), "{paused}");
    assert_eq!(change(&app, "queues/slow/pause").await["paused_at"], paused["paused_at"], "it is paused since then");
    let (waiting, mixed) = (app.run("slow", json!({})).await, app.run("mixed", json!({})).await);
    app.step_is(&mixed, "one", "succeeded").await;
    // A running step continues to its end.
    std::fs::write(&gate, "").unwrap();
    assert_eq!(app.ended(&running).await["status"], "succeeded");
    assert_eq!(app.run_to_end("quick", json!({})).await["status"], "succeeded");
    let state = queue(&app, "slow").await;
    assert_eq!((&state["waiting"], &state["running"]), (&json!(2), &json!(0)), "{state}");
    // A new process respects the pause too.
    let app = app.restart().await;
    assert_eq!(app.run_to_end("quick", json!({})).await["status"], "succeeded");
    app.step_is(&waiting, "one", "queued").await;
    app.step_is(&mixed, "two", "queued").await;
    assert_eq!(queue(&app, "slow").await["paused_at"], paused["paused_at"]);
    assert_eq!((log_of(id(&waiting)).len(), log_of(id(&mixed)).len()), (0, 1));
    let resumed = change(&app, "queues/slow/resume").await;
    assert_eq!(resumed["paused_at"], Value::Null);
    for run in [&waiting, &mixed] {
        assert_eq!(app.ended(run).await["status"], "succeeded");
    }
    assert_eq!(
        (log_of(id(&waiting)), log_of(id(&mixed))),
        (vec!["one#1".into()], vec!["one#1".into(), "two#1".into()])
    );
    change(&app, "queues/slow/resume").await;
    let (status, body) = app.post("/v1/queues/none/pause", json!({})).await;
    assert_eq!((status, &body["code"]), (404, &json!("queue_not_found")));
    app.finish().await;
}

async fn paused_pipeline_accepts_runs_but_starts_no_step(database: Database) {
    let Stage { app, gate } = stage(database).await;
    std::fs::write(&gate, "").unwrap();
    let paused = change(&app, "pipelines/slow/pause").await;
    let by_call = app.run("slow", json!({})).await;
    let (status, told) = app.post("/v1/events/came", json!({})).await;
    assert_eq!(status, 202, "{told}");
    // The paused jobs were returned, so another pipeline can use the whole queue.
    jobs_are(&app, 0).await;
    assert_eq!(app.run_to_end("mixed", json!({})).await["status"], "succeeded");
    let app = app.restart().await;
    let listed: Value = app.get("/v1/pipelines").await.json().await.unwrap();
    let shown: Value = app.get("/v1/pipelines/slow").await.json().await.unwrap();
    let of_list = |name: &str| {
        let all = listed["pipelines"].as_array().unwrap().iter();
        all.filter(|known| known["name"] == name).map(|known| known["paused_at"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of_list("slow"), [paused["paused_at"].clone()]);
    assert_eq!((of_list("quick"), &shown["paused_at"]), (vec![Value::Null], &paused["paused_at"]));
    assert_eq!(app.run_to_end("mixed", json!({})).await["status"], "succeeded");
    let runs: Value = app.get("/v1/runs?pipeline=slow").await.json().await.unwrap();
    let runs = runs["runs"].as_array().unwrap().clone();
    assert_eq!(runs.len(), 2);
    for run in &runs {
        assert_eq!((&run["status"], &run["started_at"]), (&json!("queued"), &Value::Null), "{run}");
        assert!(log_of(id(run)).is_empty());
    }
    change(&app, "pipelines/slow/resume").await;
    for run in &runs {
        assert_eq!(app.ended(run).await["status"], "succeeded");
        assert_eq!(log_of(id(run)), ["one#1"], "a pause counts as no attempt");
    }
    assert!(runs.iter().any(|run| run["id"] == by_call["id"]));
    let (status, body) = app.post("/v1/pipelines/none/pause", json!({})).await;
    assert_eq!((status, &body["code"]), (404, &json!("pipeline_not_found")));
    app.finish().await;
}

async fn step_fetched_before_the_pause_does_not_start(database: Database) {
    let Stage { app, gate } = stage(database).await;
    std::fs::write(&gate, "").unwrap();
    // Written as by another process. The workers of this process see it up to a second later, and still fetch jobs
    // until then.
    let db = app.app.engine.db();
    db.pauses().insert(afterload_state::PauseTarget::Queue, "slow").await.unwrap();
    let run = app.run("slow", json!({})).await;
    assert_eq!(app.run_to_end("quick", json!({})).await["status"], "succeeded");
    app.step_is(&run, "one", "queued").await;
    assert!(log_of(id(&run)).is_empty());
    change(&app, "queues/slow/resume").await;
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    assert_eq!(log_of(id(&run)), ["one#1"]);
    app.finish().await;
}

async fn other_processes_respect_a_pause(database: Database) {
    let Stage { app, gate } = stage(database).await;
    std::fs::write(&gate, "").unwrap();
    let TestApp { url, client, admin_key, dir, server, app: service, config } = app;
    service.stop().await;
    // From here on, the service runs no steps, and the other process does.
    let work = WorkerOptions { queues: "none".parse().unwrap(), steps: kinds() };
    let service = RunningService::serve(config.clone(), Some(admin_key.clone()), work).await.expect("a service");
    drop(url);
    let app = TestApp { url: service.url.clone(), client, admin_key, dir, server, app: service, config };
    let worker = other(&app).await;
    assert_eq!(app.run_to_end("quick", json!({})).await["status"], "succeeded");
    change(&app, "queues/slow/pause").await;
    change(&app, "pipelines/quick/pause").await;
    let (slow, quick) = (app.run("slow", json!({})).await, app.run("quick", json!({})).await);
    let mixed = app.run("mixed", json!({})).await;
    app.step_is(&mixed, "one", "succeeded").await;
    for (run, step) in [(&slow, "one"), (&quick, "one"), (&mixed, "two")] {
        app.step_is(run, step, "queued").await;
    }
    assert!(log_of(id(&slow)).is_empty() && log_of(id(&quick)).is_empty());
    change(&app, "queues/slow/resume").await;
    change(&app, "pipelines/quick/resume").await;
    for run in [&slow, &quick, &mixed] {
        assert_eq!(app.ended(run).await["status"], "succeeded");
    }
    worker.stop().await;
    app.finish().await;
}

async fn crash_during_a_pause_is_counted(database: Database) {
    let Stage { app, gate } = stage(database).await;
    let run = app.run("slow", json!({})).await;
    app.step_is(&run, "one", "running").await;
    change(&app, "pipelines/slow/pause").await;
    let app = app.crash().await;
    app.step_is(&run, "one", "queued").await;
    jobs_are(&app, 0).await;
    let step = app.app.engine.db().steps().list(id(&run)).await.unwrap().remove(0);
    assert_eq!((step.crashes, step.failures), (1, 0));
    std::fs::write(&gate, "").unwrap();
    change(&app, "pipelines/slow/resume").await;
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    app.finish().await;
}

async fn paused_run_can_be_cancelled(database: Database) {
    let Stage { app, .. } = stage(database).await;
    change(&app, "pipelines/slow/pause").await;
    let run = app.run("slow", json!({})).await;
    jobs_are(&app, 0).await;
    let (status, body) = app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    assert_eq!((status, &body["status"]), (200, &json!("cancelled")), "{body}");
    change(&app, "pipelines/slow/resume").await;
    assert_eq!(app.run_to_end("quick", json!({})).await["status"], "succeeded");
    assert!(log_of(id(&run)).is_empty());
    app.finish().await;
}

async fn suspended_step_resumes_after_the_pause(database: Database) {
    let yaml = "name: p\nsteps:\n  - { id: time, uses: wait, with: { for: 3s } }\n  - { id: event, uses: wait, needs: [], with: { event: came } }\n";
    let app = TestApp::builder(database).pipeline("p", yaml).start().await;
    let run = app.run("p", json!({})).await;
    for step in ["time", "event"] {
        app.step_is(&run, step, "suspended").await;
    }
    change(&app, "pipelines/p/pause").await;
    let (_, told) = app.post("/v1/events/came", json!({ "n": 1 })).await;
    assert_eq!(told["woken"], 1, "{told}");
    // Both steps were woken, and then returned to the queue.
    jobs_are(&app, 0).await;
    assert_eq!(app.show(id(&run)).await["finished_at"], Value::Null);
    change(&app, "pipelines/p/resume").await;
    let run = app.ended(&run).await;
    assert_eq!(run["steps"][1]["outputs"]["event"]["n"], 1, "{run}");
    assert_eq!((&run["status"], &run["steps"][0]["status"]), (&json!("succeeded"), &json!("succeeded")), "{run}");
    app.finish().await;
}

async fn cli_pauses_and_resumes(database: Database) {
    let Stage { app, .. } = stage(database).await;
    let call = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_afterload"));
        command.args(args).current_dir(app.dir.path()).kill_on_drop(true);
        let output =
            command.env("AFTERLOAD_URL", &app.url).env("AFTERLOAD_KEY", &app.admin_key).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let line = |text: &str, name: &str| {
        let mut lines = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let found = lines.find(|words| words.first().is_some_and(|word| word == name));
        found.unwrap_or_else(|| panic!("{name} is not in\n{text}"))
    };
    let (status, text, _) = call(&["queues", "pause", "slow"]).await;
    assert!(status == Some(0) && text.starts_with("the queue slow is paused since 2"), "{text}");
    let run = app.run("slow", json!({})).await;
    let (_, text, _) = call(&["queues"]).await;
    assert_eq!(line(&text, "quick"), ["quick", "0", "0"]);
    assert_eq!(line(&text, "slow")[..3], ["slow", "1", "0"]);
    assert_eq!(line(&text, "slow").len(), 4, "{text}");
    let (_, text, _) = call(&["queues", "resume", "slow"]).await;
    assert_eq!(text, "the queue slow goes on\n");
    let (_, text, _) = call(&["pipelines", "pause", "quick", "--json"]).await;
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&shown["name"], shown["paused_at"].is_string()), (&json!("quick"), true));
    let (_, text, _) = call(&["pipelines"]).await;
    assert_eq!((line(&text, "quick").len(), line(&text, "slow").len()), (2, 1), "{text}");
    let (_, text, _) = call(&["pipelines", "resume", "quick"]).await;
    assert_eq!(text, "the pipeline quick goes on\n");
    let (status, _, text) = call(&["queues", "pause", "nothing"]).await;
    assert!(status == Some(1) && text.contains("there is no queue `nothing` [queue_not_found]"), "{text}");
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    app.ended(&run).await;
    app.finish().await;
}
