//! Rows for everybody.

use afterload::config::CheckpointMode;
use serde_json::json;

use super::counts;
use crate::support::{Database, TestApp, both};

both!(
    everybody_gets_one_row_and_the_mention_wins,
    who_has_a_row_already_keeps_it,
    who_comes_or_leaves_meanwhile_is_counted_once,
    keys_of_any_order_are_paged,
    what_does_not_fit_is_told,
    without_checkpoints_the_rows_are_single_too,
);

/// Everybody follows 1, and every tenth is followed by 2 too.
pub const FOLLOWS: &str = "
    CREATE TABLE follows (author BIGINT NOT NULL, follower BIGINT NOT NULL, lang TEXT, PRIMARY KEY (author, follower));
    CREATE TABLE users (id BIGINT PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE timeline (person BIGINT NOT NULL, post BIGINT NOT NULL, reason TEXT, lang TEXT, PRIMARY KEY (person, post));
    INSERT INTO follows WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 1000)
        SELECT 1, x * 3, 'en' FROM c UNION ALL SELECT 2, x * 3, 'de' FROM c WHERE x % 10 = 0;
    INSERT INTO users VALUES (3, 'ann'), (6, 'bob'), (7, 'stranger')";

pub fn yaml(rest: &str, row: &str) -> String {
    format!(
        r#"name: p
params: {{ post: {{ type: integer }}, text: {{ type: string, default: "" }} }}
steps:
  - id: tell
    uses: notify.fanout
    with:
      audience:
        followers:
          sql: SELECT follower, lang FROM follows WHERE author = :author -- all of them
          key: follower
          bind: {{ author: 1 }}
        mentions: {{ text: "${{{{ params.text }}}}", sql: 'SELECT id AS follower, NULL AS lang FROM users WHERE name = LOWER(:name)' }}
      deliver: {{ table: {{ into: timeline, person: person, values: {{ post: "${{{{ params.post }}}}" }}, {row} }} }}
      {rest}
"#
    )
}

pub const WHOLE: &str = "reason: reason, copy: { lang: lang }, keys: [person, post]";

async fn app(database: Database, yaml: &str) -> TestApp {
    let app = TestApp::builder(database).pipeline("p", yaml).start().await;
    app.sql(FOLLOWS).await;
    app
}

pub const TIMELINE: &str = "SELECT COUNT(*), COUNT(DISTINCT person), SUM(CASE WHEN reason = 'mention' THEN 1 ELSE 0 END), \
    SUM(CASE WHEN lang = 'en' THEN 1 ELSE 0 END) FROM timeline WHERE post = ";

async fn everybody_gets_one_row_and_the_mention_wins(database: Database) {
    let app = app(database, &yaml("chunk: 64", WHOLE)).await;
    let text = "@Ann, @ann and @stranger, `@bob` and @nobody";
    let run = app.run_to_end("p", json!({ "post": 1, "text": text })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(counts(&run), [2, 1000, 1001, 1, 0], "{run}");
    assert_eq!(app.numbers(&format!("{TIMELINE} 1")).await, [1001, 1001, 2, 999]);
    let progress = &run["steps"][0]["progress"];
    assert_eq!(
        (&progress["done"], &progress["total"], &progress["unit"]),
        (&json!(1002), &json!(1002), &json!("people"))
    );
    // Once more for the same post: everybody has a row.
    let run = app.run_to_end("p", json!({ "post": 1, "text": text })).await;
    assert_eq!(counts(&run), [2, 1000, 0, 1002, 0], "{run}");
    // A post that nobody is named in, in chunks that end with the last follower.
    app.publish("p", &yaml("chunk: 250", WHOLE)).await;
    let run = app.run_to_end("p", json!({ "post": 2 })).await;
    assert_eq!(counts(&run), [0, 1000, 1000, 0, 0], "{run}");
    assert_eq!(app.numbers(&format!("{TIMELINE} 2")).await, [1000, 1000, 0, 1000]);
    // And one that nobody follows.
    app.sql("DELETE FROM follows").await;
    let run = app.run_to_end("p", json!({ "post": 3 })).await;
    assert_eq!(counts(&run), [0; 5], "{run}");
    app.finish().await;
}

/// The first chunk brings somebody into the second one and behind the last one, and takes somebody out of the third.
async fn who_comes_or_leaves_meanwhile_is_counted_once(database: Database) {
    let app = app(database, &yaml("", WHOLE)).await;
    let change = "INSERT INTO follows VALUES (1, 1000, 'en'), (1, 4000, 'en'); DELETE FROM follows WHERE author = 1 AND follower = 2100;";
    app.sql(&match database {
        Database::Sqlite => {
            format!("CREATE TRIGGER moved AFTER INSERT ON timeline WHEN NEW.person = 3 BEGIN {change} END")
        }
        Database::Postgres => format!(
            "CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {change} RETURN NEW; END $$;
             CREATE TRIGGER moved AFTER INSERT ON timeline FOR EACH ROW WHEN (NEW.person = 3) EXECUTE FUNCTION moved()"
        ),
    })
    .await;
    // On PostgreSQL 1 finds chunks while it writes, as SQLite always does, and 2 before.
    for parallel in [1, 2] {
        app.sql("DELETE FROM timeline; DELETE FROM follows WHERE follower IN (1000, 2100, 4000)").await;
        app.sql("INSERT INTO follows VALUES (1, 2100, 'en')").await;
        app.publish("p", &yaml(&format!("chunk: 250\n      parallel: {parallel}"), WHOLE)).await;
        let run = app.run_to_end("p", json!({ "post": 1 })).await;
        assert_eq!(run["status"], "succeeded", "{run}");
        let [_, followers, delivered, skipped, _] = counts(&run);
        let told = "SELECT COUNT(*), SUM(CASE WHEN person = 1000 THEN 1 ELSE 0 END), SUM(CASE WHEN person = 2100 THEN 1 ELSE 0 END), \
            SUM(CASE WHEN person = 4000 THEN 1 ELSE 0 END) FROM timeline";
        let [rows, middle, left, behind] = app.numbers(told).await[..] else { panic!("four numbers") };
        assert_eq!((rows, middle), (1000 + left + behind, 1));
        assert_eq!((delivered, followers - delivered), (rows, skipped), "{run}");
        // Who left counts as skipped if the chunk had been found with them.
        assert!((0..=1).contains(&skipped), "{run}");
        match (database, parallel) {
            // The other writer may be faster than who leaves, but nobody is told behind the end.
            (Database::Postgres, 2) => assert_eq!(behind, 0),
            // The end may have been found before somebody came behind it.
            _ => assert_eq!(left, 0),
        }
    }
    app.finish().await;
}

async fn who_has_a_row_already_keeps_it(database: Database) {
    let app = app(database, &yaml("chunk: 64", WHOLE)).await;
    // In the middle, after parts in which nobody had one.
    app.sql(
        "INSERT INTO timeline VALUES (900, 1, 'before', 'fr'), (1500, 1, 'before', 'fr'), (3000, 1, 'before', 'fr')",
    )
    .await;
    let run = app.run_to_end("p", json!({ "post": 1 })).await;
    assert_eq!(counts(&run), [0, 1000, 997, 3, 0], "{run}");
    assert_eq!(app.numbers(&format!("{TIMELINE} 1")).await, [1000, 1000, 0, 997]);
    app.finish().await;
}

/// Texts in the order that the database gives them, times to the microsecond, and UUIDs where there are some; also when
/// the query finds people twice.
async fn keys_of_any_order_are_paged(database: Database) {
    let app = app(database, &yaml("", WHOLE)).await;
    let mut keys = vec![("texts", "CASE x % 4 WHEN 0 THEN 'a' WHEN 1 THEN 'B' WHEN 2 THEN 'é' ELSE '_' END || x")];
    match database {
        Database::Sqlite => keys.extend([("halves", "x / 2.0"), ("hexes", "hex(CAST(x AS blob))")]),
        Database::Postgres => keys.extend([
            ("uuids", "CAST(MD5(CAST(x AS text)) AS uuid)"),
            ("times", "TIMESTAMPTZ '2024-01-01' + x * INTERVAL '1 microsecond'"),
        ]),
    }
    for (table, key) in keys {
        let numbers = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 300)";
        app.sql(&format!("CREATE TABLE {table} AS {numbers} SELECT {key} AS k FROM c")).await;
        app.sql(&format!("CREATE TABLE to_{table} AS SELECT * FROM {table} WHERE 1 = 0; CREATE UNIQUE INDEX one_{table} ON to_{table} (k)")).await;
        let yaml = format!(
            "name: p\nsteps:\n  - id: tell\n    uses: notify.fanout\n    with:\n      audience: {{ followers: {{ sql: SELECT k FROM {table} UNION ALL SELECT k FROM {table}, key: k }} }}\n      \
             deliver: {{ table: {{ into: to_{table}, person: k, keys: [k] }} }}\n      chunk: 7\n"
        );
        app.publish("p", &yaml).await;
        let run = app.run_to_end("p", json!({})).await;
        assert_eq!(run["status"], "succeeded", "{table}: {run}");
        assert_eq!(run["steps"][0]["outputs"]["delivered"], 300, "{table}: {run}");
        assert_eq!(app.numbers(&format!("SELECT COUNT(*), COUNT(DISTINCT k) FROM to_{table}")).await, [300, 300]);
    }
    app.finish().await;
}

async fn what_does_not_fit_is_told(database: Database) {
    let app = app(database, &yaml("", "keys: [person, post, lang], copy: { lang: lang }")).await;
    let refused = if database == Database::Sqlite { "database_error" } else { "sql_invalid" };
    for (row, code) in [
        ("keys: [person, post, lang], copy: { lang: lang }", "conflict_keys_not_unique"),
        ("keys: [person, post], copy: { language: lang }", "column_not_found"),
        ("keys: [person, post], copy: { lang: language }", refused),
    ] {
        app.publish("p", &yaml("", row)).await;
        let run = app.run_to_end("p", json!({ "post": 1 })).await;
        assert_eq!(run["steps"][0]["error"]["code"], code, "{row}: {run}");
    }
    if database == Database::Sqlite {
        // Bytes come as text, which is less than all of them.
        let bytes = WHOLE.replace("copy: { lang: lang }, ", "");
        let yaml =
            yaml("", &bytes).replace("SELECT follower, lang FROM", "SELECT CAST(follower AS blob) AS follower FROM");
        app.publish("p", &yaml).await;
        let run = app.run_to_end("p", json!({ "post": 1 })).await;
        assert_eq!(run["steps"][0]["error"]["code"], "audience_key_invalid", "{run}");
    }
    // Whether chunks are found ahead of one writer or before several.
    for parallel in [1, 2] {
        let yaml = yaml(&format!("parallel: {parallel}"), WHOLE).replace("key: follower", "key: reader");
        app.publish("p", &yaml).await;
        let run = app.run_to_end("p", json!({ "post": 1 })).await;
        assert_eq!(run["steps"][0]["error"]["code"], refused, "{run}");
    }
    assert_eq!(app.numbers("SELECT COUNT(*) FROM timeline").await, [0]);
    app.publish("p", &yaml("", WHOLE).replace("into: timeline", "into: afterload_checkpoints")).await;
    let run = app.run_to_end("p", json!({ "post": 1 })).await;
    assert_eq!(run["steps"][0]["error"]["code"], "table_reserved", "{run}");
    app.finish().await;
}

async fn without_checkpoints_the_rows_are_single_too(database: Database) {
    let mut app = app(database, &yaml("chunk: 100", WHOLE)).await;
    app.config.connections.get_mut("app").expect("the connection").checkpoints = CheckpointMode::None;
    let app = app.restart().await;
    let run = app.run_to_end("p", json!({ "post": 1, "text": "@ann @stranger" })).await;
    assert_eq!(counts(&run), [2, 1000, 1001, 1, 0], "{run}");
    let run = app.run_to_end("p", json!({ "post": 1, "text": "@ann @stranger" })).await;
    assert_eq!(counts(&run), [2, 1000, 0, 1002, 0], "{run}");
    assert_eq!(app.numbers(&format!("{TIMELINE} 1")).await, [1001, 1001, 2, 999]);
    app.finish().await;
}
