//! Names of queues: only those that something names are worked, however many callers invent.

use std::time::Duration;

use afterload::config::QueueConfig;
use afterload_core::clock::Clock;
use afterload_state::Db;
use afterload_state::queue::{JobQueue, NewJob};
use serde_json::{Value, json};

use crate::support::{Database, Server, TestApp, both, eventually};

both!(
    run_names_only_existing_queues,
    worker_ends_when_nothing_names_its_queue,
    due_jobs_are_found_in_any_number_of_queues,
);

const PIPELINE: &str = "name: p\nsteps: [{ id: one, uses: test.step, queue: images }]\n";

async fn app(database: Database) -> TestApp {
    let builder = TestApp::builder(database).pipeline("p", PIPELINE);
    builder
        .config(|config| {
            config.queues.insert("imports".into(), QueueConfig::default());
        })
        .start()
        .await
}

async fn run_names_only_existing_queues(database: Database) {
    let app = app(database).await;
    let before = app.app.engine.list_queues().await.unwrap().len();
    for number in 0..50 {
        let (status, problem) = app.post(&format!("/v1/pipelines/p/runs?queue=new-{number}"), json!({})).await;
        assert_eq!((status, &problem["code"]), (422, &json!("queue_unknown")), "{problem}");
    }
    let (_, problem) = app.post("/v1/pipelines/p/runs", json!({ "queue": "image" })).await;
    assert_eq!((&problem["code"], &problem["hint"]), (&json!("queue_unknown"), &json!("did you mean `images`?")));
    let (_, problem) = app.post("/v1/pipelines/p/runs", json!({ "queue": "nothing-of-ours" })).await;
    assert_eq!(problem["hint"], "expected one of `images`, `imports`");
    let runs: Value = app.get("/v1/runs").await.json().await.unwrap();
    assert_eq!(runs["runs"], json!([]));
    assert_eq!(app.app.engine.list_queues().await.unwrap().len(), before);
    for queue in ["images", "imports"] {
        let (status, run) = app.post("/v1/pipelines/p/runs", json!({ "queue": queue })).await;
        assert_eq!(status, 202, "{run}");
        assert_eq!(app.ended(&run).await["status"], "succeeded");
    }
    app.finish().await;
}

/// Waits until this process works these queues and no others.
async fn assert_worked(app: &TestApp, expected: &[&str]) {
    eventually("the workers", async || (app.app.engine.worked_queues() == expected).then_some(())).await;
}

async fn worker_ends_when_nothing_names_its_queue(database: Database) {
    let app = app(database).await;
    assert_worked(&app, &["images", "imports"]).await;
    let file = app.config.pipelines.join("p.yaml");
    let gate = app.dir.path().join("gate");
    let with_gate = format!(
        "name: p\nsteps: [{{ id: one, uses: test.step, queue: photos, with: {{ until: \"{}\" }} }}]\n",
        gate.display()
    );
    std::fs::write(&file, with_gate).unwrap();
    assert_worked(&app, &["imports", "photos"]).await;
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "one", "running").await;
    std::fs::write(&file, PIPELINE).unwrap();
    // The run under way still names its queue, and its step runs to its end.
    assert_worked(&app, &["images", "imports", "photos"]).await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    assert_worked(&app, &["images", "imports"]).await;
    // A queue that is named again is worked again.
    std::fs::write(&file, PIPELINE.replace("images", "photos")).unwrap();
    assert_worked(&app, &["imports", "photos"]).await;
    assert_eq!(app.run_to_end("p", json!({})).await["status"], "succeeded");
    app.finish().await;
}

async fn due_jobs_are_found_in_any_number_of_queues(database: Database) {
    let dir = tempfile::tempdir().unwrap();
    let server = match database {
        Database::Sqlite => None,
        Database::Postgres => Some(Server::start().await),
    };
    let url = server.as_ref().map_or_else(|| format!("sqlite://{}", dir.path().join("s.db").display()), Server::url);
    let db = Db::open(&url, Clock::system()).await.unwrap();
    let queue = JobQueue::open(db.clone(), Duration::from_secs(15)).await.unwrap();
    let names: Vec<String> = (0..40_000).map(|number| format!("queue-{number}")).collect();
    assert_eq!(queue.find_due_queues(&names).await.unwrap(), [""; 0]);
    let mut tx = db.begin().await.unwrap();
    let job = |step_run, queue, due_at| NewJob { step_run, queue, priority: 0, due_at };
    let soon = chrono::Utc::now().timestamp_millis() + 50_000;
    let jobs = [
        job("01J0000000000000000000000A", "queue-39999", None),
        job("01J0000000000000000000000B", "queue-7", None),
        job("01J0000000000000000000000C", "queue-7", None),
        job("01J0000000000000000000000D", "queue-8", Some(soon)),
        job("01J0000000000000000000000E", "elsewhere", None),
    ];
    queue.enqueue_jobs(&mut tx, &jobs).await.unwrap();
    tx.commit().await.unwrap();
    let mut due = queue.find_due_queues(&names).await.unwrap();
    due.sort_unstable();
    assert_eq!(due, ["queue-39999", "queue-7"]);
    assert_eq!(queue.find_due_queues(&[]).await.unwrap(), [""; 0]);
    db.close().await;
}
