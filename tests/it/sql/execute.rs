//! `sql.execute`: one statement takes effect once, with any bound values.

use afterload_core::clock::Clock;
use afterload_target_db::{BindValues, Checkpoint, Connections, Fence, ParsedStatement, ResultMode, StatementArgs};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{app, faults, id};
use crate::support::{Database, Place, both};

both!(
    rows_and_counts_are_outputs,
    statement_takes_effect_once_despite_kills,
    retry_returns_the_recorded_outputs,
    bound_values_are_never_sql,
    hidden_write_is_rejected_by_the_database,
    long_statement_can_be_cancelled,
);

const T: &str = "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT, code CHAR(3));
    INSERT INTO t VALUES (1, 'a', 'abc'), (2, 'b', 'abd'), (3, 'c', 'xyz')";

/// Returns the pipeline with one `sql.execute`.
fn one(sql: &str, bind: &str) -> String {
    let with = format!("{{ sql: {}, bind: {bind} }}", json!(sql));
    let params = "{ value: { type: string, required: false } }";
    format!("params: {params}\nsteps: [{{ id: one, uses: sql.execute, with: {with} }}]\n")
}

async fn rows_and_counts_are_outputs(database: Database) {
    let app = app(database, "steps: [{ id: one, uses: wait, with: { for: 1ms } }]\n", T).await;
    for (sql, bind, affected, rows) in [
        ("UPDATE t SET name = 'z' WHERE id < :id", "{ id: 3 }", 2, json!([])),
        (
            "DELETE FROM t WHERE id = :id RETURNING id, name AS who -- :no\n;",
            "{ id: '3' }",
            1,
            json!([{ "id": 3, "who": "c" }]),
        ),
        // A parameter gets the full type of its column.
        ("SELECT id FROM t WHERE code = :code", "{ code: abd }", 1, json!([{ "id": 2 }])),
        (
            "SELECT ':x' AS a, CAST(:n AS INTEGER) AS n, NULL AS z /* :y ; */",
            "{ n: 7 }",
            1,
            json!([{ "a": ":x", "n": 7, "z": null }]),
        ),
        ("SELECT id FROM t WHERE id > :id", "{ id: 99 }", 0, json!([])),
        ("CREATE TABLE made (id BIGINT)", "{}", 0, json!([])),
    ] {
        app.publish("p", &format!("name: p\n{}", one(sql, bind))).await;
        let run = app.run_to_end("p", json!({})).await;
        let outputs = &run["steps"][0]["outputs"];
        assert_eq!(outputs, &json!({ "rows_affected": affected, "rows": rows }), "{sql}: {run}");
    }
    if database == Database::Postgres {
        let sql = "SELECT :n::int AS n, $$ :x ; $$ AS x, ARRAY[1, 2]::int[] = :list AS same, 1.50 AS d";
        app.publish("p", &format!("name: p\n{}", one(sql, "{ n: 5, list: [1, 2] }"))).await;
        let run = app.run_to_end("p", json!({})).await;
        let row = json!([{ "n": 5, "x": " :x ; ", "same": true, "d": "1.50" }]);
        assert_eq!(run["steps"][0]["outputs"]["rows"], row, "{run}");
    }
    app.finish().await;
}

/// Thirty steps each add one, with kills in between. A step that takes effect twice changes the sum.
async fn statement_takes_effect_once_despite_kills(database: Database) {
    const STEPS: usize = 30;
    let place = Place::new(database).await;
    place.sql("CREATE TABLE counter (n BIGINT NOT NULL); INSERT INTO counter VALUES (0)").await;
    let step = |at: usize| {
        format!("  - {{ id: s{at}, uses: sql.execute, with: {{ sql: UPDATE counter SET n = n + 1 RETURNING n }} }}\n")
    };
    let steps: String = (0..STEPS).map(step).collect();
    place.pipeline("p", &format!("name: p\nsteps:\n{steps}"));
    let mut process = place.start().await;
    let run = process.start_run("p", json!({})).await;
    let done = |run: &Value| {
        let steps = run["steps"].as_array().expect("steps");
        steps.iter().filter(|step| step["status"] == "succeeded").count()
    };
    let mut killed_at = Vec::new();
    for quarter in [1, 2, 3] {
        let look = |run: &Value| Some(done(run)).filter(|done| *done >= STEPS * quarter / 4);
        killed_at.push(process.until("some steps", id(&run), look).await);
        process.kill().await;
        place.forget_the_dead().await;
        process = place.start().await;
    }
    assert!(killed_at[0] < STEPS, "the first kill came too late to prove anything: {killed_at:?}");
    let run = process.until("the end", id(&run), |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    assert_eq!(run["status"], "succeeded", "{run}\n{}", place.log());
    assert_eq!(place.numbers("SELECT n FROM counter").await, [STEPS as i64]);
    for (at, step) in run["steps"].as_array().expect("steps").iter().enumerate() {
        assert_eq!(step["outputs"]["rows"], json!([{ "n": at + 1 }]), "also what was given is that of the one time");
    }
    assert!(process.terminate().await.success());
}

async fn retry_returns_the_recorded_outputs(database: Database) {
    let app = app(database, "steps: [{ id: one, uses: wait, with: { for: 1ms } }]\n", T).await;
    let connection = Connections::new(&app.config.connections, &Clock::system()).get("app").await.unwrap();
    let command =
        ParsedStatement::parse("UPDATE t SET name = name || 'x' WHERE id = :id", connection.dialect()).unwrap();
    let write = async |fence: &Fence| {
        let values = BindValues::from([("id".to_owned(), json!(1)), ("not_named".to_owned(), json!(2))]);
        let call = StatementArgs { values, result_mode: ResultMode::Discard, stop: CancellationToken::new() };
        let note = Box::new(|effect: &afterload_target_db::StatementResult| {
            Ok(Checkpoint { cursor: effect.affected.to_string(), finished: true })
        });
        connection.write_statement(&command, call, Some(fence), note).await
    };
    let fences = [1, 2].map(|epoch| Fence { checkpoint_key: "run/one".into(), epoch });
    assert_eq!(connection.claim_checkpoint(&fences[0]).await.unwrap(), None);
    let (effect, saved) = write(&fences[0]).await.unwrap();
    assert_eq!((effect.affected, saved.cursor.as_str(), saved.finished), (1, "1", true));
    assert_eq!(connection.claim_checkpoint(&fences[1]).await.unwrap().as_deref(), Some("1"));
    // The stale attempt cannot write.
    assert_eq!(write(&fences[0]).await.unwrap_err().code().name(), "lease_lost");
    assert_eq!(app.numbers("SELECT COUNT(*) FROM t WHERE name = 'ax'").await, [1]);
    app.finish().await;
}

async fn bound_values_are_never_sql(database: Database) {
    let yaml = one("UPDATE t SET name = :value WHERE id = 1", "{ value: \"${{ params.value }}\" }");
    let app = app(database, &yaml, T).await;
    for text in
        ["'; DROP TABLE t; --", "x', code = 'bad", r"\'; DELETE FROM t; --", ":id $1 ?1", "$$;--", "\u{1f4a3}\n\t'\"`"]
    {
        let run = app.run_to_end("p", json!({ "value": text })).await;
        assert_eq!(run["status"], "succeeded", "{run}");
        let quoted = text.replace('\'', "''");
        let found = app.numbers(&format!("SELECT COUNT(*) FROM t WHERE name = '{quoted}' AND code = 'abc'")).await;
        assert_eq!(found, [1], "{text}");
        assert_eq!(app.numbers("SELECT COUNT(*) FROM t").await, [3]);
    }
    app.finish().await;
}

async fn hidden_write_is_rejected_by_the_database(database: Database) {
    let text = match database {
        // Inside a string of one dialect, and outside of it in the other.
        Database::Sqlite => r"SELECT E'\'; DELETE FROM t; --'",
        Database::Postgres => r"SELECT '\'; DELETE FROM t; --'",
    };
    let app = app(database, &one("SELECT 1 AS one", "{}"), T).await;
    app.publish("p", &format!("name: p\n{}", one("SELECT nothing FROM nowhere", "{}"))).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["status"], "failed", "{run}");
    let connection = Connections::new(&app.config.connections, &Clock::system()).get("app").await.unwrap();
    assert!(ParsedStatement::parse(text, connection.dialect()).is_err());
    // The text shows a query that changes or locks rows, or else the database detects it.
    let (shown, hidden) = match database {
        Database::Sqlite => {
            ("WITH x AS (SELECT 4 AS id) REPLACE INTO t SELECT id, 'd', 'x' FROM x", "SELECT load_extension('x')")
        }
        Database::Postgres => {
            app.sql("CREATE FUNCTION wipe() RETURNS bigint LANGUAGE sql AS 'DELETE FROM t RETURNING id'").await;
            ("SELECT id FROM t FOR UPDATE", "SELECT wipe()")
        }
    };
    for (text, reads) in [(shown, false), (hidden, true)] {
        let command = ParsedStatement::parse(text, connection.dialect()).unwrap();
        assert_eq!(command.is_read_only(), reads, "{text}");
        let (values, stop) = (BindValues::new(), CancellationToken::new());
        let call = StatementArgs { values, result_mode: ResultMode::Discard, stop };
        let error = connection.read_statement(&command, call).await.unwrap_err();
        assert_eq!(error.code().name(), "sql_refused", "{text}");
    }
    assert_eq!(app.numbers("SELECT COUNT(*) FROM t").await, [3]);
    app.finish().await;
}

async fn long_statement_can_be_cancelled(database: Database) {
    let sql = match database {
        Database::Sqlite => {
            "INSERT INTO t (id) WITH RECURSIVE c(x) AS (SELECT 10 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c WHERE x < 0"
        }
        Database::Postgres => "UPDATE t SET name = 'z' WHERE pg_sleep(600) IS NOT NULL",
    };
    let app = app(database, &one(sql, "{}"), T).await;
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "one", "running").await;
    app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    assert_eq!(app.ended(&run).await["status"], "cancelled");
    // Its transaction has ended, so its locks are free.
    app.sql("UPDATE t SET name = 'free'").await;
    app.finish().await;
}

#[test]
fn hostile_and_invalid_sql_is_rejected_by_check() {
    let told = |sql: &str, bind: &str| faults(&one(sql, bind)).join("\n");
    for (sql, bind, fault) in [
        ("DELETE FROM t; DROP TABLE t", "{}", "more than one statement"),
        ("DELETE FROM t WHERE id = ${{ params.value }}", "{}", "SQL cannot hold an expression"),
        ("DELETE FROM t WHERE id = :id", "{}", "nothing fills `:id`"),
        ("DELETE FROM t WHERE id = ':id'", "{ id: 1 }", "the SQL has no `:id`"),
        ("SELECT a::text -- :id", "{ id: 1 }", "the SQL has no `:id`"),
        ("COMMIT", "{}", "a statement cannot begin with `COMMIT`"),
        ("ATTACH 'other.db' AS o", "{}", "a statement cannot begin with `ATTACH`"),
        ("SELECT 'open", "{}", "a quote is opened and not closed"),
        ("", "{}", "the SQL is empty"),
    ] {
        assert!(told(sql, bind).contains(fault), "{sql}: {}", told(sql, bind));
    }
    assert_eq!(told("SELECT ':a', b::int, \":c\" /* ; */ FROM t WHERE x = :x;", "{ x: 1 }"), "");
}
