//! `sql.batch`: many rows in short transactions, each row exactly once.

use serde_json::{Value, json};

use super::{app, faults, id};
use crate::support::{Database, Place, both, eventually};

both!(
    rows_are_deleted_once_despite_kills,
    cancelled_batch_reports_its_work_and_resumes,
    cursor_visits_a_table_in_order,
    cursor_that_does_not_advance_is_an_error,
    long_pause_suspends_the_step,
);

const ROWS: i64 = 50_000;

const PURGE: &str = r#"
params: { account: { type: integer } }
steps:
  - id: purge
    uses: sql.batch
    with:
      sql: DELETE FROM clicks WHERE id IN (SELECT id FROM clicks WHERE account_id = :account LIMIT :limit)
      count: SELECT COUNT(*) FROM clicks WHERE account_id = :account
      bind: { account: "${{ params.account }}" }
      chunk: 1000
      pause: 1ms
"#;

/// Events of two accounts, and a log of deletions, in which a row that is deleted twice is visible. Every chunk takes a
/// while on any machine.
fn clicks(database: Database) -> String {
    let slow = match database {
        Database::Sqlite => {
            "CREATE TRIGGER note AFTER DELETE ON clicks BEGIN INSERT INTO gone VALUES (OLD.id); END;
             CREATE TRIGGER slow AFTER DELETE ON clicks WHEN OLD.id % 500 = 0 BEGIN
             SELECT COUNT(*) FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 200000) SELECT x FROM c);
             END"
        }
        Database::Postgres => {
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO gone VALUES (OLD.id); IF OLD.id % 500 = 0 THEN PERFORM pg_sleep(0.03); END IF; RETURN OLD; END $$;
             CREATE TRIGGER note AFTER DELETE ON clicks FOR EACH ROW EXECUTE FUNCTION note()"
        }
    };
    format!(
        "CREATE TABLE clicks (id BIGINT PRIMARY KEY, account_id BIGINT NOT NULL);
         CREATE TABLE gone (id BIGINT NOT NULL);
         INSERT INTO clicks WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {})
         SELECT x, CASE WHEN x <= {ROWS} THEN 1 ELSE 2 END FROM c;
         {slow}",
        ROWS + 100
    )
}

const COUNTS: &str = "SELECT (SELECT COUNT(*) FROM clicks WHERE account_id = 1), (SELECT COUNT(*) FROM clicks), \
    (SELECT COUNT(*) FROM gone), (SELECT COUNT(DISTINCT id) FROM gone)";

fn done(run: &Value) -> i64 {
    run["steps"][0]["progress"]["done"].as_i64().unwrap_or(0)
}

async fn rows_are_deleted_once_despite_kills(database: Database) {
    let place = Place::new(database).await;
    place.sql(&clicks(database)).await;
    place.pipeline("p", &format!("name: p\n{PURGE}"));
    let mut process = place.start().await;
    let run = process.start_run("p", json!({ "account": 1 })).await;
    let mut killed_at = Vec::new();
    for third in [1, 2, 3] {
        let look = |run: &Value| {
            let far = done(run) >= ROWS * third / 5 || !run["finished_at"].is_null();
            far.then(|| (done(run), run["steps"][0]["progress"]["total"].clone()))
        };
        killed_at.push(process.until("progress", id(&run), look).await);
        process.kill().await;
        place.forget_the_dead().await;
        process = place.start().await;
    }
    // The total is counted once at the start, also for later attempts.
    assert!(killed_at[0].0 < ROWS, "the first kill came too late to prove anything: {killed_at:?}");
    assert!(killed_at.iter().all(|(_, total)| *total == json!(ROWS)), "{killed_at:?}");
    let run = process.until("the end", id(&run), |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    assert_eq!(run["status"], "succeeded", "{run}\n{}", place.log());
    let outputs = &run["steps"][0]["outputs"];
    assert_eq!((&outputs["rows_affected"], &outputs["finished"]), (&json!(ROWS), &json!(true)));
    // A chunk has at most a thousand rows.
    assert!(outputs["chunks"].as_i64() >= Some(ROWS / 1000), "{outputs}");
    assert_eq!(done(&run), ROWS);
    assert_eq!(place.numbers(COUNTS).await, [0, 100, ROWS, ROWS]);
    assert!(process.terminate().await.success());
}

async fn cancelled_batch_reports_its_work_and_resumes(database: Database) {
    let app = app(database, PURGE, &clicks(database)).await;
    let run = app.run("p", json!({ "account": 1 })).await;
    eventually("progress", async || (done(&app.show(id(&run)).await) > 0).then_some(())).await;
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    let stopped = app.ended(&run).await;
    assert_eq!(stopped["status"], "cancelled", "{stopped}");
    let counts = app.numbers(COUNTS).await;
    assert!(counts[0] > 0 && counts[2] > 0, "{counts:?}");
    assert_eq!((counts[0] + counts[2], done(&stopped)), (ROWS, counts[2]), "{stopped}");
    app.post(&format!("/v1/runs/{}/retry", id(&run)), json!({})).await;
    let ended = app.ended(&run).await;
    assert_eq!(
        (&ended["status"], &ended["steps"][0]["outputs"]["finished"]),
        (&json!("succeeded"), &json!(true)),
        "{ended}"
    );
    assert_eq!(app.numbers(COUNTS).await, [0, 100, ROWS, ROWS]);
    app.finish().await;
}

fn in_order(rest: &str) -> String {
    format!(
        r#"
steps:
  - id: raise
    uses: sql.batch
    with:
      sql: UPDATE t SET n = n + 1 WHERE id IN (SELECT id FROM t WHERE id > :after ORDER BY id LIMIT :limit) RETURNING {rest}
"#
    )
}

const T: &str = "CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT NOT NULL);
    INSERT INTO t WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 1000) SELECT x, 0 FROM c";

async fn long_pause_suspends_the_step(database: Database) {
    let ddl = "CREATE TABLE clicks (id BIGINT PRIMARY KEY, account_id BIGINT NOT NULL);
         INSERT INTO clicks (id, account_id) VALUES (1, 1), (2, 1)";
    let app = app(database, &PURGE.replace("pause: 1ms", "pause: 1m"), ddl).await;
    let run = app.run("p", json!({ "account": 1 })).await;
    app.step_is(&run, "purge", "suspended").await;
    let shown = app.show(id(&run)).await;
    assert_eq!((done(&shown), &shown["steps"][0]["attempt"]), (2, &json!(1)), "{shown}");
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    assert_eq!(app.ended(&run).await["status"], "cancelled");
    app.finish().await;
}

async fn cursor_visits_a_table_in_order(database: Database) {
    let app = app(database, &in_order("id\n      bind: { after: 0 }"), T).await;
    let run = app.run_to_end("p", json!({})).await;
    let outputs = &run["steps"][0]["outputs"];
    assert_eq!((&outputs["rows_affected"], &outputs["finished"]), (&json!(1000), &json!(true)), "{run}");
    let counts = "SELECT COUNT(*), MIN(n), MAX(n) FROM t";
    assert_eq!(app.numbers(counts).await, [1000, 1, 1]);
    let some = in_order("id\n      bind: { after: 500 }\n      chunk: 10\n      max_chunks: 3");
    app.publish("p", &format!("name: p\n{some}")).await;
    let run = app.run_to_end("p", json!({})).await;
    // A slow machine makes later chunks smaller.
    let outputs = &run["steps"][0]["outputs"];
    assert_eq!((&outputs["chunks"], &outputs["finished"]), (&json!(3), &json!(false)), "{run}");
    let rows = outputs["rows_affected"].as_i64().unwrap();
    assert!((10..=30).contains(&rows), "{run}");
    assert_eq!(app.numbers("SELECT COUNT(*), MIN(id), MAX(id) FROM t WHERE n = 2").await, [rows, 501, 500 + rows]);
    app.finish().await;
}

async fn cursor_that_does_not_advance_is_an_error(database: Database) {
    let app = app(database, &in_order("id % 2\n      bind: { after: 1 }"), T).await;
    let run = app.run_to_end("p", json!({})).await;
    // `id % 2` has the type of the cursor, but it never grows.
    assert_eq!(run["steps"][0]["error"]["code"], "batch_cursor_invalid", "{run}");
    assert_eq!(app.numbers("SELECT MAX(n) FROM t").await, [0], "the chunk that told it is undone");
    app.finish().await;
}

#[test]
fn endless_batch_is_rejected() {
    let told = |with: &str| faults(&format!("steps: [{{ id: a, uses: sql.batch, with: {{ {with} }} }}]\n")).join("\n");
    for (with, fault) in [
        ("sql: DELETE FROM t", "the statement of a batch needs `:limit`"),
        ("sql: 'SELECT 1 LIMIT :limit'", "a statement that changes nothing would never end"),
        ("sql: 'DELETE FROM t WHERE id > :after AND id < :limit'", "`:after` needs a start"),
        ("sql: 'DELETE FROM t WHERE id < :limit', bind: { limit: 1 }", "`limit` is filled by the step"),
        ("sql: 'DELETE FROM t WHERE id < :limit', count: DELETE FROM t", "`count` must be a `SELECT`"),
        ("sql: 'DELETE FROM t WHERE id < :limit', chunk: 0", "`chunk` must be from 1 to 100000"),
        ("sql: 'DELETE FROM t WHERE id < :limit', max_chunks: 0", "`max_chunks` must be at least 1"),
        ("sql: 'DELETE FROM t WHERE id < :limit', pause: 1h", "`pause` must be at most 1m"),
    ] {
        assert!(told(with).contains(fault), "{with}: {}", told(with));
    }
    assert_eq!(told("sql: 'DELETE FROM t WHERE id < :limit'"), "");
}
