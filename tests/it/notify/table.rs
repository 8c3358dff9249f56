//! `notify.fanout` with rows of a table.

use afterload::config::CheckpointMode;
use serde_json::json;

use super::counts;
use crate::support::{Database, TestApp, both};

both!(
    each_recipient_gets_one_row_and_mention_wins,
    mentions_follow_the_pattern,
    existing_rows_are_kept,
    followers_that_change_during_the_run_are_counted_once,
    keys_of_any_type_are_paged,
    invalid_columns_and_keys_are_reported,
    error_code_does_not_depend_on_the_error_text,
    rows_are_unique_without_checkpoints,
);

/// All people follow account 1, and every tenth also follows account 2.
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

async fn each_recipient_gets_one_row_and_mention_wins(database: Database) {
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
    // A second run for the same post: everyone already has a row.
    let run = app.run_to_end("p", json!({ "post": 1, "text": text })).await;
    assert_eq!(counts(&run), [2, 1000, 0, 1002, 0], "{run}");
    // A post without mentions, in chunks whose last one is full.
    app.publish("p", &yaml("chunk: 250", WHOLE)).await;
    let run = app.run_to_end("p", json!({ "post": 2 })).await;
    assert_eq!(counts(&run), [0, 1000, 1000, 0, 0], "{run}");
    assert_eq!(app.numbers(&format!("{TIMELINE} 2")).await, [1000, 1000, 0, 1000]);
    // A post without followers.
    app.sql("DELETE FROM follows").await;
    let run = app.run_to_end("p", json!({ "post": 3 })).await;
    assert_eq!(counts(&run), [0; 5], "{run}");
    app.finish().await;
}

async fn mentions_follow_the_pattern(database: Database) {
    let app = app(database, &yaml("", WHOLE)).await;
    app.sql("DELETE FROM follows; INSERT INTO users VALUES (8, 'ann.smith')").await;
    let mentioned = async |post: i64, text: &str| {
        let run = app.run_to_end("p", json!({ "post": post, "text": text })).await;
        assert_eq!(run["status"], "succeeded", "{run}");
        let people = app.numbers(&format!("SELECT COUNT(*), MIN(person) FROM timeline WHERE post = {post}")).await;
        (counts(&run)[0], people)
    };
    assert_eq!(mentioned(1, "你好@ann，").await, (1, vec![1, 3]));
    assert_eq!(mentioned(2, "@bob様").await, (1, vec![1, 6]));
    assert_eq!(mentioned(3, "thanks @ann.smith.").await, (1, vec![1, 8]));
    app.publish("p", &yaml("", WHOLE).replace("mentions: {", "mentions: { pattern: '[a-z]+',")).await;
    assert_eq!(mentioned(4, "thanks @ann.smith.").await, (1, vec![1, 3]));
    app.finish().await;
}

/// The first chunk adds one follower to the second chunk and one after the last chunk, and removes one from the third.
async fn followers_that_change_during_the_run_are_counted_once(database: Database) {
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
    // On PostgreSQL, one writer finds chunks while it writes (SQLite always does), and two writers find all chunks
    // first.
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
        // A removed follower counts as skipped if the chunk was found before the removal.
        assert!((0..=1).contains(&skipped), "{run}");
        match (database, parallel) {
            // The other writer may be faster than the removal, but no follower after the last chunk gets a row.
            (Database::Postgres, 2) => assert_eq!(behind, 0),
            // The end may have been found before the new follower was added.
            _ => assert_eq!(left, 0),
        }
    }
    app.finish().await;
}

async fn existing_rows_are_kept(database: Database) {
    let app = app(database, &yaml("chunk: 64", WHOLE)).await;
    // In the middle, after chunks that met no existing row.
    app.sql(
        "INSERT INTO timeline VALUES (900, 1, 'before', 'fr'), (1500, 1, 'before', 'fr'), (3000, 1, 'before', 'fr')",
    )
    .await;
    let run = app.run_to_end("p", json!({ "post": 1 })).await;
    assert_eq!(counts(&run), [0, 1000, 997, 3, 0], "{run}");
    assert_eq!(app.numbers(&format!("{TIMELINE} 1")).await, [1000, 1000, 0, 997]);
    app.finish().await;
}

/// Texts in the order of the database, times to the microsecond, and UUIDs on PostgreSQL. The query returns some people
/// twice.
async fn keys_of_any_type_are_paged(database: Database) {
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

async fn invalid_columns_and_keys_are_reported(database: Database) {
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
        // Keys of bytes are returned as text, and text sorts before all bytes.
        let bytes = WHOLE.replace("copy: { lang: lang }, ", "");
        let yaml =
            yaml("", &bytes).replace("SELECT follower, lang FROM", "SELECT CAST(follower AS blob) AS follower FROM");
        app.publish("p", &yaml).await;
        let run = app.run_to_end("p", json!({ "post": 1 })).await;
        assert_eq!(run["steps"][0]["error"]["code"], "audience_key_invalid", "{run}");
    }
    // One writer finds chunks while it writes, several writers find them first.
    for parallel in [1, 2] {
        // The text does not say which columns there are, so only the run can tell.
        let yaml = yaml(&format!("parallel: {parallel}"), WHOLE)
            .replace("key: follower", "key: reader")
            .replace("SELECT follower, lang FROM", "SELECT * FROM")
            .replace("SELECT id AS follower, NULL AS lang FROM", "SELECT * FROM");
        app.publish("p", &yaml).await;
        let run = app.run_to_end("p", json!({ "post": 1 })).await;
        assert_eq!(run["steps"][0]["error"]["code"], "column_not_found", "{run}");
        let message = run["steps"][0]["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("the query gives no column `reader`"), "{run}");
    }
    assert_eq!(app.numbers("SELECT COUNT(*) FROM timeline").await, [0]);
    app.publish("p", &yaml("", WHOLE).replace("into: timeline", "into: afterload_checkpoints")).await;
    let run = app.run_to_end("p", json!({ "post": 1 })).await;
    assert_eq!(run["steps"][0]["error"]["code"], "table_reserved", "{run}");
    app.finish().await;
}

async fn error_code_does_not_depend_on_the_error_text(database: Database) {
    let app = app(database, &yaml("", WHOLE).replace("into: timeline", "into: picky")).await;
    app.sql(
        "CREATE TABLE picky (person BIGINT NOT NULL, post BIGINT NOT NULL, reason TEXT, lang TEXT, \
         PRIMARY KEY (person, post), CONSTRAINT \"ON CONFLICT clause\" CHECK (person < 0))",
    )
    .await;
    let run = app.run_to_end("p", json!({ "post": 1 })).await;
    assert_eq!(run["steps"][0]["error"]["code"], "database_error", "{run}");
    app.finish().await;
}

async fn rows_are_unique_without_checkpoints(database: Database) {
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
