//! Hand-overs: the worker of a step takes the next step of the run, unless something else comes first.

use std::path::PathBuf;

use afterload::config::QueueConfig;
use serde_json::{Value, json};

use crate::support::{Builder, Database, TestApp, both, eventually, execute, log_of, numbers};

both!(
    chain_is_handed_over_and_asks_the_queue_now_and_then,
    paused_step_is_not_handed_over,
    rate_limited_step_is_not_handed_over,
    higher_priority_comes_first,
    cancelled_run_is_not_handed_over,
    stopping_process_hands_nothing_over,
    place_of_a_run_is_not_handed_over,
    crash_of_a_handed_step_is_healed,
    fetch_takes_only_what_has_a_slot,
);

/// Records each job that is pushed: whether it was born locked.
async fn record_pushes(app: &TestApp) {
    let sql = match app.server {
        None => {
            "CREATE TABLE pushes (handed BIGINT NOT NULL);
             CREATE TRIGGER record_push AFTER INSERT ON Jobs BEGIN
             INSERT INTO pushes VALUES (NEW.lock_by IS NOT NULL); END"
        }
        Some(_) => {
            "CREATE TABLE pushes (handed BIGINT NOT NULL);
             CREATE FUNCTION record_push() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.pushes VALUES (CASE WHEN NEW.lock_by IS NULL THEN 0 ELSE 1 END); RETURN NEW; END $$;
             CREATE TRIGGER record_push AFTER INSERT ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION record_push()"
        }
    };
    execute(&app.service(), sql).await;
}

/// How many jobs were fetched from the queue, and how many were handed over.
async fn pushes(app: &TestApp) -> Vec<i64> {
    let sql = "SELECT COUNT(*) - COALESCE(SUM(handed), 0), COALESCE(SUM(handed), 0) FROM pushes";
    let sql = sql.replace("COALESCE(SUM(handed), 0)", "CAST(COALESCE(SUM(handed), 0) AS BIGINT)");
    numbers(&app.service(), &sql).await
}

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

fn chain(steps: usize) -> String {
    let steps = (0..steps).map(|step| format!("  - {{ id: s{step}, uses: test.step }}\n")).collect::<String>();
    format!("name: p\nsteps:\n{steps}")
}

/// A pipeline of two steps; the first one waits for the gate.
fn gated(database: Database, second: &str) -> (Builder, PathBuf) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let yaml = format!(
        "name: p\nsteps:\n  - {{ id: one, uses: test.step, with: {{ until: \"{}\" }} }}\n  - {{ id: two, uses: test.step{second} }}\n",
        gate.display()
    );
    (builder.pipeline("p", &yaml), gate)
}

async fn chain_is_handed_over_and_asks_the_queue_now_and_then(database: Database) {
    let app = TestApp::builder(database)
        .pipeline("p", &chain(20))
        .pipeline(
            "other",
            "name: other\nsteps: [{ id: one, uses: test.step }, { id: two, uses: test.step, queue: other }]\n",
        )
        .start()
        .await;
    record_pushes(&app).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!((&run["status"], log_of(id(&run)).len()), (&json!("succeeded"), 20), "{run}");
    assert!(run["steps"].as_array().unwrap().iter().all(|step| step["attempt"] == 1), "{run}");
    // Sixteen steps in a row, then the queue, then the rest.
    assert_eq!(pushes(&app).await, [2, 18]);
    assert_eq!(numbers(&app.service(), "SELECT COUNT(*) FROM step_runs WHERE claims <> 1 OR crashes <> 0").await, [0]);
    // A step of another queue goes through that queue.
    assert_eq!(app.run_to_end("other", json!({})).await["status"], "succeeded");
    assert_eq!(pushes(&app).await, [4, 18]);
    app.finish().await;
}

async fn paused_step_is_not_handed_over(database: Database) {
    let (builder, gate) = gated(database, "");
    let app = builder.start().await;
    record_pushes(&app).await;
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "one", "running").await;
    assert_eq!(app.post("/v1/pipelines/p/pause", json!({})).await.0, 200);
    std::fs::write(&gate, "").unwrap();
    app.step_is(&run, "two", "queued").await;
    assert_eq!(log_of(id(&run)), ["one#1"]);
    app.post("/v1/pipelines/p/resume", json!({})).await;
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    assert_eq!(pushes(&app).await[1], 0);
    app.finish().await;
}

async fn rate_limited_step_is_not_handed_over(database: Database) {
    let yaml = "name: p\nsteps:\n  - { id: one, uses: test.step }\n  - { id: two, uses: test.step, rate_limit: { per_second: 1000 } }\n";
    let app = TestApp::builder(database).pipeline("p", yaml).start().await;
    record_pushes(&app).await;
    assert_eq!(app.run_to_end("p", json!({})).await["status"], "succeeded");
    assert_eq!(pushes(&app).await, [2, 0]);
    app.finish().await;
}

async fn higher_priority_comes_first(database: Database) {
    let (builder, gate) = gated(database, "");
    let app = builder
        .pipeline("urgent", "name: urgent\nsteps: [{ id: one, uses: test.step }]\n")
        .config(|config| {
            config.queues.insert("default".into(), QueueConfig { concurrency: 1 });
        })
        .start()
        .await;
    record_pushes(&app).await;
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "one", "running").await;
    let (_, urgent) = app.post("/v1/pipelines/urgent/runs", json!({ "priority": 9 })).await;
    std::fs::write(&gate, "").unwrap();
    let (urgent, run) = (app.ended(&urgent).await, app.ended(&run).await);
    assert!(urgent["finished_at"].as_str() <= run["steps"][1]["started_at"].as_str(), "{urgent} {run}");
    assert_eq!(pushes(&app).await, [3, 0]);
    app.finish().await;
}

async fn cancelled_run_is_not_handed_over(database: Database) {
    let (builder, _) = gated(database, "");
    let app = builder.start().await;
    record_pushes(&app).await;
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "one", "running").await;
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    let run = app.ended(&run).await;
    assert_eq!((&run["status"], &run["steps"][1]["status"]), (&json!("cancelled"), &json!("cancelled")), "{run}");
    assert_eq!((pushes(&app).await, log_of(id(&run))), (vec![1, 0], vec!["one#1".to_owned()]));
    app.finish().await;
}

async fn stopping_process_hands_nothing_over(database: Database) {
    let yaml = "name: p\nsteps:\n  - { id: one, uses: test.step, with: { ends_with_stop: true } }\n  - { id: two, uses: test.step }\n";
    let app = TestApp::builder(database).pipeline("p", yaml).start().await;
    record_pushes(&app).await;
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "one", "running").await;
    let app = app.restart().await;
    let run = app.ended(&run).await;
    assert_eq!(
        (&run["status"], log_of(id(&run))),
        (&json!("succeeded"), vec!["one#1".to_owned(), "two#1".to_owned()]),
        "{run}"
    );
    assert_eq!(pushes(&app).await, [2, 0]);
    app.finish().await;
}

async fn place_of_a_run_is_not_handed_over(database: Database) {
    let app = TestApp::builder(database)
        .pipeline("p", &format!("concurrency: {{ key: all, limit: 1 }}\n{}", chain(2)))
        .start()
        .await;
    record_pushes(&app).await;
    let runs = [app.run("p", json!({})).await, app.run("p", json!({})).await, app.run("p", json!({})).await];
    for run in &runs {
        assert_eq!(app.ended(run).await["status"], "succeeded");
    }
    // The first step of each run comes from the queue: the end of another run only admits it.
    assert_eq!(pushes(&app).await, [3, 3]);
    app.finish().await;
}

async fn crash_of_a_handed_step_is_healed(database: Database) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let yaml = format!(
        "name: p\nsteps:\n  - {{ id: one, uses: test.step }}\n  - {{ id: two, uses: test.step, with: {{ until: \"{}\" }} }}\n  - {{ id: three, uses: test.step }}\n",
        gate.display()
    );
    let app = builder.pipeline("p", &yaml).start().await;
    record_pushes(&app).await;
    let run = app.run("p", json!({})).await;
    eventually("the handed step", async || (log_of(id(&run)) == ["one#1", "two#1"]).then_some(())).await;
    assert_eq!(pushes(&app).await, [1, 1]);
    let app = app.crash().await;
    eventually("the step again", async || (log_of(id(&run)).len() == 3).then_some(())).await;
    std::fs::write(&gate, "").unwrap();
    let run = app.ended(&run).await;
    assert_eq!((&run["status"], log_of(id(&run)).pop().unwrap()), (&json!("succeeded"), "three#1".to_owned()), "{run}");
    let sql = "SELECT claims FROM step_runs ORDER BY position LIMIT 1 OFFSET 1";
    assert_eq!(
        numbers(&app.service(), sql).await,
        [2],
        "the lease of the dead worker ended, and the step was claimed again"
    );
    app.finish().await;
}

async fn fetch_takes_only_what_has_a_slot(database: Database) {
    let (builder, gate) = gated(database, "");
    let app = builder
        .config(|config| {
            config.queues.insert("default".into(), QueueConfig { concurrency: 3 });
        })
        .start()
        .await;
    let mut runs = Vec::new();
    for _ in 0..7 {
        runs.push(app.run("p", json!({})).await);
    }
    let steps = "SELECT COUNT(CASE WHEN status = 'running' THEN 1 END), COUNT(CASE WHEN status = 'queued' THEN 1 END) FROM step_runs";
    eventually("three steps", async || (numbers(&app.service(), steps).await == [3, 4]).then_some(())).await;
    let table = if app.server.is_some() { "apalis.jobs" } else { "Jobs" };
    let locked = format!("SELECT COUNT(lock_by) FROM {table}");
    assert_eq!(numbers(&app.service(), &locked).await, [3], "nothing waits in the process");
    // A pause leaves nothing locked behind.
    assert_eq!(app.post("/v1/queues/default/pause", json!({})).await.0, 200);
    std::fs::write(&gate, "").unwrap();
    eventually("no lease", async || (numbers(&app.service(), &locked).await == [0]).then_some(())).await;
    let ended = "SELECT COUNT(*) FROM step_runs WHERE status = 'succeeded'";
    assert_eq!(numbers(&app.service(), ended).await, [3]);
    assert_eq!(app.post("/v1/queues/default/resume", json!({})).await.0, 200);
    for run in &runs {
        assert_eq!(app.ended(run).await["status"], "succeeded");
    }
    assert_eq!(numbers(&app.service(), "SELECT COUNT(*) FROM step_runs WHERE claims <> 1").await, [0]);
    app.finish().await;
}

/// Only PostgreSQL sends notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_jobs_are_announced_outside_of_their_transactions() {
    let app = TestApp::builder(Database::Postgres).pipeline("p", &chain(1)).start().await;
    assert_eq!(numbers(&app.service(), "SELECT COUNT(*) FROM pg_trigger WHERE tgname = 'notify_workers'").await, [0]);
    let mut listener = sqlx::postgres::PgListener::connect(&app.service()).await.unwrap();
    listener.listen("afterload_jobs").await.unwrap();
    app.run_to_end("p", json!({})).await;
    let notice = tokio::time::timeout(std::time::Duration::from_secs(60), listener.recv()).await.unwrap().unwrap();
    let notice: Value = serde_json::from_str(notice.payload()).unwrap();
    assert_eq!(notice["queues"], json!(["default"]), "{notice}");
    // A process that hears of it asks for the job; see the unit tests of the queue.
    assert!(notice["process"].is_string(), "{notice}");
    app.finish().await;
}
