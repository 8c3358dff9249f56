//! `geo.lookup` that fills columns of a table.

use serde_json::{Value, json};

use super::{app, files, id, place};
use crate::support::{Database, Place, TestApp, both};

both!(
    known_rows_are_filled_and_others_stay,
    rows_are_matched_by_any_key_type,
    rows_are_filled_once_despite_kills,
    shipped_pipeline_fills_sign_ins,
);

const SIGN_INS: &str = "CREATE TABLE sign_ins (id BIGINT PRIMARY KEY, ip TEXT, country TEXT, city TEXT, lat DOUBLE PRECISION, asn BIGINT, extra JSON);
    INSERT INTO sign_ins (id, ip, country) VALUES (1, '89.160.20.113', NULL), (2, '10.0.0.1', NULL), (3, 'nonsense', NULL),
    (4, NULL, NULL), (5, '9.9.9.9', 'as it was'), (9007199254740993, '2a02:d000::9', NULL), (7, '89.160.20.113', NULL), (8, '8.8.8.8', 'done')";

const WITH: &str = "rows: { sql: \"SELECT id, ip FROM sign_ins WHERE country IS NULL OR country <> 'done'\", key: id, chunk: 2 }, \
    into: { table: sign_ins, columns: { country: country_code, city: city, lat: latitude, asn: asn, extra: city } }, \
    providers: ['mmdb:nested'], local: { country_code: ZZ }";

async fn known_rows_are_filled_and_others_stay(database: Database) {
    let app = app(database, WITH, &["nested"]).await;
    app.sql(SIGN_INS).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let outputs = &run["steps"][0]["outputs"];
    let counts = ["rows", "found", "missing", "invalid"].map(|name| outputs[name].as_i64().unwrap());
    assert_eq!(counts, [7, 4, 1, 2], "{run}");
    // PostgreSQL keeps the quotes of JSON text; SQLite has no JSON type.
    let quote = if database == Database::Postgres { "\"" } else { "" };
    let filled = format!(
        "SELECT COUNT(*) FROM sign_ins WHERE country = 'SE' AND city IN ('Linköping', 'Lund') AND lat = 58.4167 AND asn = 29518
         AND CAST(extra AS TEXT) = '{quote}' || city || '{quote}'"
    );
    assert_eq!(app.numbers(&filled).await, [3]);
    for (id, what) in [
        (2, "country = 'ZZ' AND city IS NULL AND lat IS NULL"),
        (3, "country IS NULL AND city IS NULL"),
        (5, "country = 'as it was' AND city IS NULL"),
        (8, "country = 'done' AND city IS NULL"),
        (9_007_199_254_740_993_i64, "city = 'Lund'"),
    ] {
        assert_eq!(
            app.numbers(&format!("SELECT COUNT(*) FROM sign_ins WHERE id = {id} AND {what}")).await,
            [1],
            "{id}"
        );
    }
    for (from, to, code) in [
        ("table: sign_ins", "table: nowhere", "table_not_found"),
        ("city: city", "town: city", "column_not_found"),
        ("SELECT id, ip FROM", "SELECT id FROM", "column_not_found"),
        ("table: sign_ins", "table: afterload_checkpoints", "table_reserved"),
    ] {
        app.publish("p", &super::yaml(&WITH.replace(from, to))).await;
        let run = app.run_to_end("p", json!({})).await;
        assert_eq!(run["steps"][0]["error"]["code"], code, "{to}: {run}");
    }
    app.finish().await;
}

/// The key of the last row equals that of another row, except for one column.
const VISITS: &str =
    "CREATE TABLE visits (seq BIGINT PRIMARY KEY, node UUID, day SMALLINT, name TEXT, ip TEXT, city TEXT);
    INSERT INTO visits (seq, node, day, name, ip) VALUES
    (1, 'f1000000-0000-4000-8000-000000000000', -7, 'b', '89.160.20.113'),
    (2, '0a000000-0000-4000-8000-000000000000', 300, 'a', '89.160.20.113'),
    (3, NULL, 4, NULL, '89.160.20.113'), (4, '0a000000-0000-4000-8000-000000000001', NULL, 'A', '89.160.20.113'),
    (5, '0a000000-0000-4000-8000-000000000000', 301, '10', NULL)";

async fn rows_are_matched_by_any_key_type(database: Database) {
    let with = |keys: &str| {
        format!(
            "rows: {{ sql: 'SELECT seq, node, day, name, ip FROM visits', key: seq, chunk: 3 }}, \
             into: {{ table: visits, keys: [{keys}], columns: {{ city: city }} }}, providers: ['mmdb:nested']"
        )
    };
    let app = app(database, &with("seq"), &["nested"]).await;
    app.sql(VISITS).await;
    for (keys, filled) in
        [("seq", 4), ("node", 4), ("day", 3), ("name", 3), ("node, day", 2), ("day, seq", 3), ("name, node", 3)]
    {
        app.sql("UPDATE visits SET city = NULL").await;
        app.publish("p", &super::yaml(&with(keys))).await;
        let run = app.run_to_end("p", json!({})).await;
        assert_eq!(run["steps"][0]["outputs"]["found"], 4, "{keys}: {run}");
        assert_eq!(app.numbers("SELECT COUNT(*) FROM visits WHERE city = 'Linköping'").await, [filled], "{keys}");
    }
    // By default it fills the columns whose names equal outputs: the city, but not the address.
    app.sql("UPDATE visits SET city = NULL").await;
    app.publish("p", &super::yaml(&with("seq").replace(", columns: { city: city }", ""))).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let filled = "SELECT COUNT(*), COUNT(DISTINCT ip) FROM visits WHERE city = 'Linköping'";
    assert_eq!(app.numbers(filled).await, [4, 1]);
    app.publish("p", &super::yaml(&with("city").replace(", columns: { city: city }", ""))).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["steps"][0]["error"]["code"], "column_not_found", "{run}");
    app.finish().await;
}

const ROWS: i64 = 20_000;

/// Makes updates slow, and logs them, so that a row that is filled twice is visible.
fn slow(database: Database) -> String {
    let slow = match database {
        Database::Sqlite => {
            "CREATE TRIGGER note AFTER UPDATE ON sign_ins BEGIN INSERT INTO made VALUES (NEW.id); END;
             CREATE TRIGGER slow AFTER UPDATE ON sign_ins WHEN NEW.id % 200 = 0 BEGIN
             SELECT COUNT(*) FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 200000) SELECT x FROM c);
             END"
        }
        Database::Postgres => {
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO made VALUES (NEW.id); IF NEW.id % 200 = 0 THEN PERFORM pg_sleep(0.03); END IF; RETURN NEW; END $$;
             CREATE TRIGGER note AFTER UPDATE ON sign_ins FOR EACH ROW EXECUTE FUNCTION note()"
        }
    };
    format!(
        "CREATE TABLE sign_ins (id BIGINT PRIMARY KEY, ip TEXT, country TEXT, city TEXT, lat DOUBLE PRECISION, asn BIGINT, extra JSON);
         CREATE TABLE made (id BIGINT NOT NULL);
         INSERT INTO sign_ins (id, ip) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {ROWS})
         SELECT x, '20.' || (x % 256) || '.' || (x % 200) || '.9' FROM c;
         {slow}"
    )
}

async fn rows_are_filled_once_despite_kills(database: Database) {
    let done = |run: &Value| run["steps"][0]["progress"]["done"].as_i64().unwrap_or(0);
    let there = Place::new(database).await;
    place(files().path(), "large", &there.dir.path().join("data/geo"), "large");
    there.sql(&slow(database)).await;
    let with = WITH.replace("chunk: 2", "chunk: 300").replace("mmdb:nested", "mmdb:large");
    // Already filled rows are processed too.
    there.pipeline("p", &super::yaml(&with));
    let mut process = there.start().await;
    let run = process.start_run("p", json!({})).await;
    let mut killed_at = Vec::new();
    for third in [1, 2, 3] {
        let look = |run: &Value| (done(run) >= ROWS * third / 5 || !run["finished_at"].is_null()).then(|| done(run));
        killed_at.push(process.until("progress", id(&run), look).await);
        process.kill().await;
        there.forget_the_dead().await;
        process = there.start().await;
    }
    assert!(killed_at[0] < ROWS, "the first kill came too late to prove anything: {killed_at:?}");
    let run = process.until("the end", id(&run), |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    assert_eq!(run["status"], "succeeded", "{run}\n{}", there.log());
    assert_eq!((done(&run), &run["steps"][0]["outputs"]["found"]), (ROWS, &json!(ROWS)), "{run}");
    let counts = "SELECT (SELECT COUNT(*) FROM sign_ins WHERE country = 'US' AND city = 'City ' || (id % 256)), COUNT(*), COUNT(DISTINCT id) FROM made";
    assert_eq!(there.numbers(counts).await, [ROWS; 3]);
    assert!(process.terminate().await.success());
}

async fn shipped_pipeline_fills_sign_ins(database: Database) {
    let read =
        |path: &str| std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let builder = TestApp::builder(database).pipeline("sign-in-geo", &read("pipelines/sign-in-geo.yaml"));
    place(files().path(), "nested", &builder.folder().join("data/geo"), "city");
    let app = builder.start().await;
    app.sql(&read("examples/app.sql")).await;
    app.sql(
        "INSERT INTO sign_ins (id, user_id, ip) VALUES (1, 4, '89.160.20.112'), (2, 4, '127.0.0.1'), (3, 4, '9.9.9.9')",
    )
    .await;
    let (status, heard) = app.post("/v1/events/user.signed_in", json!({ "sign_in_id": 1 })).await;
    assert_eq!(status, 202, "{heard}");
    let run = crate::support::eventually("the run", async || {
        let runs: Value = app.get("/v1/runs").await.json().await.expect("JSON");
        runs["runs"].get(0).cloned()
    })
    .await;
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let found = "SELECT COUNT(*) FROM sign_ins WHERE country = 'SE' AND city = 'Linköping'";
    assert_eq!(app.numbers(found).await, [1]);
    assert_eq!(app.numbers("SELECT COUNT(*) FROM sign_ins WHERE country IS NULL").await, [2]);
    app.finish().await;
}
