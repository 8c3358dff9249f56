//! Actions on runs: cancel, retry, schedule, prioritize, and idempotent requests.

use afterload::app::RunningService;
use afterload::config::QueueConfig;
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, kinds, log_of};

both!(
    cancel_stops_running_steps_and_runs_only_finally,
    cancel_reaches_steps_of_other_processes,
    cancel_ends_a_scheduled_run,
    ended_run_cannot_be_cancelled,
    cancelled_step_leaves_no_files,
    retry_resumes_at_the_failed_step,
    retry_of_a_failed_handler_runs_only_that_handler,
    cancelled_run_can_be_retried,
    retry_of_a_cancelled_run_runs_its_remaining_handlers,
    run_starts_not_before_run_at,
    run_options_set_queue_and_priority,
    higher_priority_run_overtakes_queued_runs,
    idempotency_key_starts_one_run,
    output_writes_files_to_the_bucket,
);

fn statuses(run: &Value) -> Vec<String> {
    let steps = run["steps"].as_array().expect("steps").iter();
    steps.map(|step| format!("{}:{}", step["id"].as_str().unwrap(), step["status"].as_str().unwrap())).collect()
}

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

async fn app(database: Database, steps: &str) -> TestApp {
    TestApp::builder(database).pipeline("p", &format!("name: p\n{steps}")).start().await
}

async fn cancel_stops_running_steps_and_runs_only_finally(database: Database) {
    let yaml = "
steps:
  - { id: polite, uses: test.step, with: { wait: true } }
  - { id: deaf, uses: test.step, needs: [], with: { hang: true } }
  - { id: again, uses: test.step, needs: [], retry: { delay: 1h, backoff: constant }, with: { fail: 3 } }
  - { id: after, uses: test.step, needs: [polite] }
on_failure:
  - { id: alarm, uses: test.step }
finally:
  - { id: clean, uses: test.step, with: { give: \"${{ run.status }}\" } }
";
    let app = app(database, yaml).await;
    let run = app.run("p", json!({})).await;
    for (step, status) in [("polite", "running"), ("deaf", "running"), ("again", "retrying")] {
        app.step_is(&run, step, status).await;
    }
    let (status, body) = app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    assert_eq!(status, 202, "{body}");
    assert!(body["cancel_requested_at"].is_string());
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "cancelled");
    let ended = [
        "polite:cancelled",
        "deaf:cancelled",
        "again:cancelled",
        "after:cancelled",
        "alarm:skipped",
        "clean:succeeded",
    ];
    assert_eq!(statuses(&run), ended);
    assert_eq!(run["steps"][0]["error"]["code"], "run_cancelled");
    assert_eq!(run["steps"][5]["outputs"]["value"], "cancelled");
    assert_eq!(run["error"], Value::Null);
    // A second cancel succeeds and changes nothing.
    let (status, body) = app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    assert_eq!((status, &body["status"]), (200, &json!("cancelled")));
    app.finish().await;
}

async fn cancel_reaches_steps_of_other_processes(database: Database) {
    let app = app(database, "steps: [{ id: one, uses: test.step, with: { hang: true } }]\n").await;
    let (config, key) = (app.config.clone(), Some(app.admin_key.clone()));
    let other = RunningService::start_with_steps(config, key, kinds()).await.expect("a second process");
    let mut runs = Vec::new();
    for _ in 0..8 {
        let run = app.run("p", json!({})).await;
        app.step_is(&run, "one", "running").await;
        runs.push(run);
    }
    for run in &runs {
        other.engine.cancel_run(id(run)).await.expect("cancelled");
    }
    for run in &runs {
        assert_eq!(app.ended(run).await["status"], "cancelled");
    }
    other.stop().await;
    app.finish().await;
}

async fn cancel_ends_a_scheduled_run(database: Database) {
    let app = app(database, "steps: [{ id: one, uses: test.step }]\n").await;
    let (status, run) = app.post("/v1/pipelines/p/runs", json!({ "run_at": "2999-01-01T00:00:00+02:00" })).await;
    assert_eq!((status, &run["status"], &run["run_at"]), (202, &json!("queued"), &json!("2998-12-31T22:00:00.000Z")));
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    let run = app.ended(&run).await;
    assert_eq!((&run["status"], statuses(&run)), (&json!("cancelled"), vec!["one:cancelled".to_owned()]));
    assert!(log_of(id(&run)).is_empty());
    app.finish().await;
}

async fn ended_run_cannot_be_cancelled(database: Database) {
    let app = app(database, "steps: [{ id: one, uses: test.step }]\n").await;
    let run = app.run_to_end("p", json!({})).await;
    for (path, status, code) in [("cancel", 409, "run_ended"), ("retry", 409, "run_succeeded")] {
        let (found, body) = app.post(&format!("/v1/runs/{}/{path}", id(&run)), json!({})).await;
        assert_eq!((found, &body["code"]), (status, &json!(code)), "{body}");
    }
    for unknown in ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "nothing"] {
        let (status, body) = app.post(&format!("/v1/runs/{unknown}/cancel"), json!({})).await;
        assert_eq!((status, &body["code"]), (404, &json!("run_not_found")));
    }
    app.finish().await;
}

async fn cancelled_step_leaves_no_files(database: Database) {
    let yaml = "
steps:
  - { id: own, uses: test.step, with: { file: a.txt, wait: true } }
  - { id: shared, uses: test.step, needs: [], output: { bucket: public, key: \"x/${{ file.name }}\" }, with: { file: b.txt, second_file: c.txt, wait: true } }
";
    let app = app(database, yaml).await;
    let objects = app.app.engine.objects().clone();
    objects.ensure_bucket("public").await.unwrap();
    objects.put_object("public", "x/c.txt", "text/plain", "from before".into()).await.unwrap();
    let run = app.run("p", json!({})).await;
    eventually("the files", async || objects.head_object("public", "x/b.txt").await.ok()).await;
    app.step_is(&run, "own", "running").await;
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    let run = app.ended(&run).await;
    assert_eq!((&run["status"], &run["artifacts"]), (&json!("cancelled"), &json!([])));
    // The cancelled step's own object is deleted; older objects stay.
    eventually("the file to go", async || objects.head_object("public", "x/b.txt").await.err()).await;
    assert!(objects.head_object("public", "x/c.txt").await.is_ok());
    app.finish().await;
}

const TWO_ROUNDS: &str = "
params:
  path: { type: string }
steps:
  - { id: first, uses: test.step }
  - { id: second, uses: test.step, with: { needs_file: \"${{ params.path }}\" } }
  - { id: third, uses: test.step }
on_success:
  - { id: cheer, uses: test.step }
on_failure:
  - { id: alarm, uses: test.step, with: { file: alarm.txt } }
finally:
  - { id: clean, uses: test.step, with: { file: log.txt } }
";

async fn retry_resumes_at_the_failed_step(database: Database) {
    let app = app(database, TWO_ROUNDS).await;
    let path = app.dir.path().join("there");
    let run = app.run_to_end("p", json!({ "path": path })).await;
    assert_eq!(run["status"], "failed");
    let (status, body) = app.post(&format!("/v1/runs/{}/retry", id(&run)), json!({})).await;
    assert_eq!((status, &body["error"], &body["finished_at"]), (202, &Value::Null, &Value::Null), "{body}");
    let again = app.ended(&run).await;
    assert_eq!(again["error"]["step"], "second", "it fails as before");
    std::fs::write(&path, "").unwrap();
    app.post(&format!("/v1/runs/{}/retry", id(&run)), json!({})).await;
    let run = app.ended(&run).await;
    assert_eq!((&run["status"], &run["error"]), (&json!("succeeded"), &Value::Null));
    let ended = [
        "first:succeeded",
        "second:succeeded",
        "third:succeeded",
        "cheer:succeeded",
        "alarm:skipped",
        "clean:succeeded",
    ];
    assert_eq!(statuses(&run), ended);
    let count = |step: &str| log_of(id(&run)).iter().filter(|line| line.starts_with(&format!("{step}#"))).count();
    assert_eq!(["first", "second", "third", "cheer", "alarm", "clean"].map(count), [1, 3, 1, 1, 2, 3]);
    // Each round of a handler has its own files, and the files of earlier rounds stay.
    let artifacts = run["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 5, "{artifacts:?}");
    for artifact in artifacts {
        let answer = app.get(artifact["url"].as_str().unwrap().strip_prefix(&app.url).unwrap()).await;
        assert_eq!(answer.status(), 200);
    }
    app.finish().await;
}

async fn retry_of_a_failed_handler_runs_only_that_handler(database: Database) {
    let yaml = "
params:
  path: { type: string }
steps:
  - { id: one, uses: test.step }
on_success:
  - { id: cheer, uses: test.step }
  - { id: tell, uses: test.step, needs: [], with: { needs_file: \"${{ params.path }}\" } }
";
    let app = app(database, yaml).await;
    let path = app.dir.path().join("there");
    let run = app.run_to_end("p", json!({ "path": path })).await;
    assert_eq!(run["status"], "failed");
    std::fs::write(&path, "").unwrap();
    app.post(&format!("/v1/runs/{}/retry", id(&run)), json!({})).await;
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded");
    let mut log = log_of(id(&run));
    log.sort();
    assert_eq!(log, ["cheer#1", "one#1", "tell#1", "tell#1"]);
    app.finish().await;
}

async fn cancelled_run_can_be_retried(database: Database) {
    let app = app(
        database,
        "params: { path: { type: string } }\nsteps: [{ id: one, uses: test.step, with: { until: there } }]\n",
    )
    .await;
    let path = app.dir.path().join("there");
    let yaml = format!("name: q\nsteps: [{{ id: one, uses: test.step, with: {{ until: \"{}\" }} }}]\n", path.display());
    let app = {
        std::fs::write(app.config.pipelines.join("q.yaml"), yaml).unwrap();
        app.restart().await
    };
    let run = app.run("q", json!({})).await;
    app.step_is(&run, "one", "running").await;
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    assert_eq!(app.ended(&run).await["status"], "cancelled");
    std::fs::write(&path, "").unwrap();
    app.post(&format!("/v1/runs/{}/retry", id(&run)), json!({})).await;
    let run = app.ended(&run).await;
    assert_eq!((&run["status"], &run["cancel_requested_at"]), (&json!("succeeded"), &Value::Null));
    app.finish().await;
}

async fn retry_of_a_cancelled_run_runs_its_remaining_handlers(database: Database) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let yaml = format!(
        "name: p\nsteps: [{{ id: one, uses: test.step }}]\non_success:\n  - {{ id: slow, uses: test.step, with: {{ until: \"{}\" }} }}\n  \
         - {{ id: cheer, uses: test.step }}\n",
        gate.display()
    );
    let app = builder.pipeline("p", &yaml).start().await;
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "slow", "running").await;
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    assert_eq!(statuses(&app.ended(&run).await), ["one:succeeded", "slow:cancelled", "cheer:skipped"]);
    std::fs::write(&gate, "").unwrap();
    app.post(&format!("/v1/runs/{}/retry", id(&run)), json!({})).await;
    assert_eq!(statuses(&app.ended(&run).await), ["one:succeeded", "slow:succeeded", "cheer:succeeded"]);
    app.finish().await;
}

async fn run_starts_not_before_run_at(database: Database) {
    let app = app(database, "steps: [{ id: one, uses: test.step }, { id: two, uses: test.step }]\n").await;
    let due = chrono::Utc::now() + chrono::Duration::milliseconds(1500);
    let due = due.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let (status, run) = app.post("/v1/pipelines/p/runs", json!({ "run_at": due })).await;
    assert_eq!((status, &run["run_at"], &run["started_at"]), (202, &json!(due), &Value::Null));
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded");
    assert!(run["started_at"].as_str().unwrap() >= due.as_str(), "{} is before {due}", run["started_at"]);
    // A `run_at` in the past means now.
    let (_, run) = app.post("/v1/pipelines/p/runs?run_at=2001-01-01T00:00:00Z", json!({})).await;
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    app.finish().await;
}

async fn run_options_set_queue_and_priority(database: Database) {
    let app = TestApp::builder(database)
        .pipeline("p", "name: p\nsteps: [{ id: one, uses: test.step }]\n")
        .config(|config| {
            config.queues.insert("special".into(), QueueConfig::default());
        })
        .start()
        .await;
    let (_, run) = app.post("/v1/pipelines/p/runs", json!({ "queue": "special", "priority": 7 })).await;
    let steps = app.app.engine.db().steps().list(id(&run)).await.unwrap();
    assert_eq!((steps[0].queue.as_str(), steps[0].priority), ("special", 7));
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    for body in [json!({ "queue": "No Queue" }), json!({ "priority": 101 }), json!({ "run_at": "tomorrow" })] {
        let (status, problem) = app.post("/v1/pipelines/p/runs", body).await;
        assert_eq!((status, &problem["code"]), (422, &json!("run_options_invalid")), "{problem}");
    }
    app.finish().await;
}

async fn higher_priority_run_overtakes_queued_runs(database: Database) {
    let yaml = "
name: p
params: { mode: { type: string, default: go } }
steps:
  - { id: hold, uses: test.step, if: \"params.mode == 'hold'\", with: { wait: true } }
  - { id: one, uses: test.step }
";
    let app = TestApp::builder(database).pipeline("p", yaml);
    let app = app
        .config(|config| {
            config.queues.insert("default".into(), QueueConfig { concurrency: 1 });
        })
        .start()
        .await;
    let first = app.run("p", json!({ "mode": "hold" })).await;
    app.step_is(&first, "hold", "running").await;
    let mut others = Vec::new();
    for priority in [0, 0, 0, 0, 0, 0, 9] {
        let (_, run) = app.post("/v1/pipelines/p/runs", json!({ "priority": priority })).await;
        others.push(run);
    }
    app.post(&format!("/v1/runs/{}/cancel", id(&first)), json!({})).await;
    let mut started = Vec::new();
    for run in &others {
        started.push(app.ended(run).await["steps"][1]["started_at"].as_str().expect("a time").to_owned());
    }
    // The worker had already claimed a few of them.
    let last = started.pop().expect("the last");
    let overtaken = started.iter().filter(|other| **other > last).count();
    assert!(overtaken >= 2, "{last} after {started:?}");
    app.finish().await;
}

async fn idempotency_key_starts_one_run(database: Database) {
    let yaml = "params: { file: { type: file, required: false }, n: { type: integer, default: 0 } }\n\
                steps: [{ id: one, uses: test.step }]\n";
    let app = app(database, yaml).await;
    let url = format!("{}/v1/pipelines/p/runs", app.url);
    let request = |key: &str| app.client.post(&url).bearer_auth(&app.admin_key).header("idempotency-key", key);
    let all = (0..100).map(|_| request("a").json(&json!({ "params": { "n": 1 } })).send());
    let mut ids = Vec::new();
    let mut fresh = 0;
    for answer in futures::future::join_all(all).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 202);
        fresh += usize::from(!answer.headers().contains_key("idempotency-replayed"));
        let run: Value = answer.json().await.unwrap();
        assert!(run["watch_url"].as_str().unwrap().contains(id(&run)));
        ids.push(id(&run).to_owned());
    }
    ids.dedup();
    assert_eq!((ids.len(), fresh), (1, 1));
    let other = request("a").json(&json!({ "params": { "n": 2 } })).send().await.unwrap();
    assert_eq!(other.status(), 422);
    assert_eq!(other.json::<Value>().await.unwrap()["code"], "idempotency_key_reused");
    // With files, the bytes count too, and the files of replayed requests are not kept.
    let form = |text: &'static str| {
        let file = reqwest::multipart::Part::text(text).file_name("a.txt").mime_str("text/plain").unwrap();
        reqwest::multipart::Form::new().part("file", file)
    };
    let all = (0..10).map(|_| request("b").multipart(form("same")).send());
    let mut ids = Vec::new();
    for answer in futures::future::join_all(all).await {
        let run: Value = answer.unwrap().json().await.unwrap();
        ids.push(id(&run).to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let other = request("b").multipart(form("different")).send().await.unwrap();
    assert_eq!(other.json::<Value>().await.unwrap()["code"], "idempotency_key_reused");
    let run = app.ended(&json!({ "id": ids[0] })).await;
    assert_eq!(run["artifacts"].as_array().unwrap().len(), 1);
    let bodies = walk(&app.config.data.join("objects").join("bodies"));
    assert_eq!(bodies, 1, "only the file of the run is kept");
    eventually("the other run", async || (app.app.engine.count_jobs().await.unwrap() == 0).then_some(())).await;
    app.finish().await;
}

/// Counts the files below a folder.
fn walk(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

async fn output_writes_files_to_the_bucket(database: Database) {
    let yaml = "
params: { user: { type: string } }
steps:
  - id: made
    uses: test.step
    output: { bucket: public, key: \"avatars/${{ params.user }}/${{ file.stem }}-x.${{ file.extension }}\", cache_control: \"public, max-age=60\" }
    with: { file: a.b.txt, second_file: c.txt }
  - id: plain
    uses: test.step
    output: { bucket: public }
    with: { file: d.txt }
  - id: clash
    uses: test.step
    needs: []
    output: { bucket: public, key: same }
    with: { file: e.txt, second_file: f.txt }
";
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({ "user": "7 \u{fc}" })).await;
    assert_eq!(statuses(&run), ["made:succeeded", "plain:succeeded", "clash:failed"]);
    assert_eq!(run["steps"][2]["error"]["code"], "output_key_repeated");
    assert_eq!(run["artifacts"], json!([]), "they are the user's");
    let file = &run["steps"][0]["outputs"]["file"];
    assert_eq!((&file["key"], &file["artifact_id"]), (&json!("avatars/7 \u{fc}/a.b-x.txt"), &Value::Null));
    assert!(file["url"].as_str().unwrap().ends_with("/public/avatars/7%20%C3%BC/a.b-x.txt"), "{file}");
    let plain = run["steps"][1]["outputs"]["file"]["key"].as_str().unwrap();
    assert_eq!(plain, format!("p/{}/plain/d.txt", id(&run)));
    let objects = app.app.engine.objects();
    let stored = objects.head_object("public", "avatars/7 \u{fc}/c-x.txt").await.unwrap();
    assert_eq!((stored.content_type.as_str(), stored.size), ("text/plain", 15));
    assert!(objects.head_object("public", "same").await.is_err(), "a failed step takes back what it wrote");
    app.finish().await;
}
