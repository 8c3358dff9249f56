//! `rate_limit`: limits how often steps of a key start, across all processes.

use afterload_state::{StartRequest, TxOutcome};
use serde_json::{Value, json};

use crate::support::{Builder, Database, TestApp, both, eventually, log_of, numbers};

both!(
    rate_limit_holds_across_processes,
    waiting_for_a_slot_holds_no_worker,
    near_starts_hold_no_worker_either,
    several_starts_are_taken_at_once,
    each_attempt_takes_a_slot,
    crash_before_the_slot_keeps_the_slot,
    crash_after_the_start_takes_another_slot,
    each_key_has_its_own_slots,
    each_item_takes_a_slot,
    unused_keys_are_deleted,
);

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

fn time(value: &Value) -> i64 {
    chrono::DateTime::parse_from_rfc3339(value.as_str().expect("a time")).expect("a time").timestamp_millis()
}

async fn app(database: Database, steps: &str) -> TestApp {
    TestApp::builder(database).pipeline("p", &format!("name: p\n{steps}")).start().await
}

async fn rate_limit_holds_across_processes(database: Database) {
    // Two pipelines share one key.
    let yaml = |name: &str| {
        format!("name: {name}\nsteps: [{{ id: one, uses: test.step, rate_limit: {{ key: shared, per_second: 4 }} }}]\n")
    };
    let app = TestApp::builder(database).pipeline("p", &yaml("p")).pipeline("q", &yaml("q")).start().await;
    let other = app.another().await;
    let runs = (0..24).map(async |turn| {
        let url = if turn % 2 == 0 { &app.url } else { &other.url };
        let name = if turn % 3 == 0 { "p" } else { "q" };
        let request = app.client.post(format!("{url}/v1/pipelines/{name}/runs")).bearer_auth(&app.admin_key);
        request.json(&json!({})).send().await.unwrap().json::<Value>().await.unwrap()
    });
    let mut starts = Vec::new();
    for run in futures::future::join_all(runs).await {
        let run = app.ended(&run).await;
        assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("succeeded"), &json!(1)), "{run}");
        assert_eq!(log_of(id(&run)), ["one#1"]);
        starts.push(time(&run["steps"][0]["started_at"]));
    }
    starts.sort_unstable();
    let gaps: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap >= 250), "{gaps:?}");
    assert_eq!(
        numbers(&app.service(), "SELECT COUNT(*) FROM step_runs WHERE rate_limited_starts = 1 AND crashes = 0").await,
        [24]
    );
    other.stop().await;
    app.finish().await;
}

async fn waiting_for_a_slot_holds_no_worker(database: Database) {
    let limited = "name: p\nsteps: [{ id: one, uses: test.step, rate_limit: { per_second: 0.001 } }]\n";
    let app = TestApp::builder(database)
        .pipeline("p", limited)
        .pipeline("free", "name: free\nsteps: [{ id: one, uses: test.step }]\n")
        .config(|config| {
            config.queues.insert("default".into(), afterload::config::QueueConfig { concurrency: 1 });
        })
        .start()
        .await;
    let first = app.run_to_end("p", json!({})).await;
    assert_eq!(first["status"], "succeeded");
    let second = app.run("p", json!({})).await;
    let shown = eventually("the slot to be known", async || {
        Some(app.show(id(&second)).await).filter(|run| run["steps"][0]["starts_at"].is_string())
    })
    .await;
    let step = &shown["steps"][0];
    assert_eq!((&step["status"], &step["attempt"], &step["started_at"]), (&json!("queued"), &json!(0), &Value::Null));
    // The queue rounds start times down to a whole second.
    let gap = time(&step["starts_at"]) - time(&first["steps"][0]["started_at"]);
    assert!((999_001..=1_000_000).contains(&gap), "{gap}");
    assert_eq!(app.run_to_end("free", json!({})).await["status"], "succeeded");
    app.post(&format!("/v1/runs/{}/cancel", id(&second)), json!({})).await;
    assert_eq!(app.ended(&second).await["status"], "cancelled");
    assert_eq!(log_of(id(&second)), [""; 0]);
    app.finish().await;
}

/// One worker, and a pipeline without a limit on the same queue.
fn with_one_worker(database: Database, limited: &str) -> Builder {
    TestApp::builder(database)
        .pipeline("p", limited)
        .pipeline("free", "name: free\nsteps: [{ id: one, uses: test.step }, { id: two, uses: test.step }]\n")
        .config(|config| {
            config.queues.insert("default".into(), afterload::config::QueueConfig { concurrency: 1 });
        })
}

async fn near_starts_hold_no_worker_either(database: Database) {
    let limited = "name: p\nsteps: [{ id: one, uses: test.step, rate_limit: { per_second: 2 } }]\n";
    let app = with_one_worker(database, limited).start().await;
    let mut runs = Vec::new();
    for _ in 0..40 {
        runs.push(app.run("p", json!({})).await);
    }
    // The backlog takes 20 seconds. At each moment some of its steps wait in memory for a start within the next second.
    let free = app.run_to_end("free", json!({})).await;
    assert_eq!(free["status"], "succeeded", "{free}");
    let waiting = "SELECT COUNT(*) FROM step_runs WHERE uses = 'test.step' AND finished_at IS NULL";
    assert!(numbers(&app.service(), waiting).await[0] > 20, "the other work came after the backlog");
    eventually("some starts", async || {
        let started = "SELECT COUNT(*) FROM step_runs WHERE rate_limited_starts = 1";
        (numbers(&app.service(), started).await[0] >= 4).then_some(())
    })
    .await;
    for run in &runs {
        app.post(&format!("/v1/runs/{}/cancel", id(run)), json!({})).await;
    }
    for run in &runs {
        app.ended(run).await;
    }
    let gaps = "SELECT MIN(gap) FROM (SELECT started_at - LAG(started_at) OVER (ORDER BY started_at) AS gap
        FROM step_runs WHERE rate_limited_starts = 1) AS gaps";
    assert!(numbers(&app.service(), gaps).await[0] >= 500);
    app.finish().await;
}

async fn several_starts_are_taken_at_once(database: Database) {
    let app = app(database, "steps: [{ id: one, uses: test.step }]\n").await;
    let db = app.app.engine.db();
    let take = async |now: i64, count: u32, reserved: bool| {
        let starts = StartRequest { interval: 100, count, reserved };
        db.with_tx(async |tx| Ok(TxOutcome::Commit(tx.rate_limits().take_starts("mail:x", now, starts, 1_000).await?)))
            .await
            .unwrap()
    };
    let reserve = async |now: i64, count: u32| {
        db.with_tx(async |tx| Ok(TxOutcome::Commit(tx.rate_limits().reserve_starts("mail:x", now, 100, count).await?)))
            .await
            .unwrap()
    };
    assert_eq!((take(10_000, 3, false).await, take(10_000, 2, false).await), (Some(10_000), Some(10_300)));
    assert_eq!(reserve(10_000, 20).await, 10_500);
    assert_eq!(take(10_000, 1, false).await, None, "others have reserved what comes within a second");
    assert_eq!(take(10_000, 1, true).await, Some(10_500), "their own reservations come first");
    assert_eq!(take(12_000, 1, false).await, Some(12_500));
    assert_eq!(take(11_000, 1, true).await, None, "the last start is too far ahead");
    assert_eq!(take(20_000, 2, true).await, Some(20_000));
    assert_eq!(reserve(20_000, 1).await, 20_200);
    app.finish().await;
}

async fn each_attempt_takes_a_slot(database: Database) {
    let yaml = "
steps:
  - { id: one, uses: test.step, rate_limit: { per_second: 2 }, retry: { delay: 1ms, backoff: constant }, with: { fail: 2 } }
";
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    let step = &run["steps"][0];
    assert_eq!((&step["status"], &step["attempt"]), (&json!("succeeded"), &json!(3)));
    assert!(time(&step["finished_at"]) - time(&step["started_at"]) >= 1000, "{step}");
    assert_eq!(numbers(&app.service(), "SELECT rate_limited_starts, failures FROM step_runs").await, [3, 2]);
    app.finish().await;
}

async fn crash_before_the_slot_keeps_the_slot(database: Database) {
    let app = app(database, "steps: [{ id: one, uses: test.step, rate_limit: { per_second: 0.2 } }]\n").await;
    let first = app.run_to_end("p", json!({})).await;
    let second = app.run("p", json!({})).await;
    eventually("the slot to be known", async || {
        app.show(id(&second)).await["steps"][0]["starts_at"].is_string().then_some(())
    })
    .await;
    let app = app.crash().await;
    let second = app.ended(&second).await;
    assert_eq!(second["status"], "succeeded");
    assert!(time(&second["steps"][0]["started_at"]) - time(&first["steps"][0]["started_at"]) >= 5000, "{second}");
    let sql = "SELECT SUM(rate_limited_starts), SUM(crashes), SUM(failures) FROM step_runs";
    let sql = sql.replace("SUM(", "CAST(SUM(").replace("),", ") AS BIGINT),").replace(") FROM", ") AS BIGINT) FROM");
    assert_eq!(numbers(&app.service(), &sql).await, [2, 0, 0]);
    app.finish().await;
}

async fn crash_after_the_start_takes_another_slot(database: Database) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let yaml = format!(
        "name: p\nsteps: [{{ id: one, uses: test.step, rate_limit: {{ per_second: 1 }}, with: {{ until: \"{}\" }} }}]\n",
        gate.display()
    );
    let app = builder.pipeline("p", &yaml).start().await;
    let run = app.run("p", json!({})).await;
    eventually("the start", async || (log_of(id(&run)).len() == 1).then_some(())).await;
    let app = app.crash().await;
    eventually("the second start", async || (log_of(id(&run)).len() == 2).then_some(())).await;
    std::fs::write(&gate, "").unwrap();
    let run = app.ended(&run).await;
    assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("succeeded"), &json!(1)));
    assert_eq!(numbers(&app.service(), "SELECT rate_limited_starts FROM step_runs").await, [2]);
    app.finish().await;
}

async fn each_key_has_its_own_slots(database: Database) {
    let yaml = "
params: { shop: { type: object } }
steps: [{ id: one, uses: test.step, rate_limit: { key: \"shop-${{ params.shop.id }}\", per_second: 0.001 } }]
";
    let app = app(database, yaml).await;
    for shop in [1, 2, 3] {
        let run = app.run_to_end("p", json!({ "shop": { "id": shop } })).await;
        assert_eq!(run["status"], "succeeded");
    }
    let run = app.run_to_end("p", json!({ "shop": {} })).await;
    assert_eq!(run["steps"][0]["error"]["code"], "expression_failed", "{run}");
    app.finish().await;
}

async fn each_item_takes_a_slot(database: Database) {
    let yaml = "
steps:
  - id: one
    uses: test.step
    for_each: { items: [a, b, a, a] }
    rate_limit: { key: \"letter-${{ item }}\", per_second: 2 }
";
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    // The parent step only determines the items, so it takes no slot.
    assert_eq!(numbers(&app.service(), "SELECT rate_limited_starts FROM step_runs WHERE parent IS NULL").await, [0]);
    let sql = "SELECT COUNT(*), MAX(started_at) - MIN(started_at) FROM step_runs WHERE rate_limited_starts = 1 AND item_index <> 1";
    let found = numbers(&app.service(), sql).await;
    assert!(found[0] == 3 && found[1] >= 1000, "{found:?}");
    app.finish().await;
}

async fn unused_keys_are_deleted(database: Database) {
    let app = app(database, "steps: [{ id: one, uses: test.step, rate_limit: { per_second: 1 } }]\n").await;
    app.run_to_end("p", json!({})).await;
    let (db, now) = (app.app.engine.db(), chrono::Utc::now().timestamp_millis());
    assert_eq!(db.rate_limits().delete_unused(now - 86_400_000).await.unwrap(), 0);
    assert_eq!(db.rate_limits().delete_unused(now + 86_400_000).await.unwrap(), 1);
    app.finish().await;
}
