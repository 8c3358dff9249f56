//! Params of type `record`: the run stores a reference, and every step reads the current row.

use serde_json::json;

use super::{app, faults};
use crate::support::{Database, TestApp, both};

both!(every_step_reads_the_current_row, missing_row_fails_or_skips_the_step, record_keys_are_never_sql);

const TWEETS: &str = "CREATE TABLE tweets (id BIGINT NOT NULL, author TEXT, body TEXT);
    INSERT INTO tweets VALUES (1, 'ann', 'old'), (2, 'ann', 'other'), (3, '7'' OR ''1''=''1', 'odd')";

async fn every_step_reads_the_current_row(database: Database) {
    let yaml = r#"
params:
  tweet: { type: record, connection: app, table: tweets }
  other: { type: record, connection: app, table: tweets, required: false }
steps:
  - { id: before, uses: test.step, with: { give: "${{ params.tweet.body }} ${{ params.tweet.id + 1 }}" } }
  - id: change
    uses: sql.execute
    with: { sql: UPDATE tweets SET body = 'new' WHERE id = :id, bind: { id: "${{ params.tweet.id }}" } }
  - { id: after, uses: test.step, with: { give: "${{ params.tweet }}" }, if: params.tweet.id == 1 }
  - { id: none, uses: test.step, with: { give: "${{ params.other }}" } }
"#;
    let app = app(database, yaml, TWEETS).await;
    for given in [json!(1), json!("1"), json!("app/tweets/1")] {
        app.sql("UPDATE tweets SET body = 'old' WHERE id = 1").await;
        let run = app.run_to_end("p", json!({ "tweet": given })).await;
        assert_eq!(run["status"], "succeeded", "{run}");
        // The row itself is not stored with the run.
        assert_eq!(run["params"]["tweet"], "app/tweets/1");
        let given = |step: usize| &run["steps"][step]["outputs"]["value"];
        assert_eq!(given(0), "old 2");
        assert_eq!(given(2), &json!({ "id": 1, "author": "ann", "body": "new", "ref": "app/tweets/1" }));
        assert!(given(3).is_null());
    }
    let (status, refused) = app.post("/v1/pipelines/p/runs", json!({ "params": { "tweet": "app/users/1" } })).await;
    assert_eq!((status, &refused["code"]), (422, &json!("params_invalid")), "{refused}");
    app.finish().await;
}

async fn missing_row_fails_or_skips_the_step(database: Database) {
    let pipeline = |missing: &str| {
        format!(
            r#"
params: {{ tweet: {{ type: record, connection: app, table: tweets{missing} }} }}
steps:
  - {{ id: reference, uses: test.step, with: {{ give: "${{{{ params.tweet.ref }}}}" }} }}
  - {{ id: row, uses: test.step, with: {{ give: "${{{{ params.tweet.body }}}}" }}, retry: {{ attempts: 5 }} }}
"#
        )
    };
    let builder = TestApp::builder(database).pipeline("p", &format!("name: p\n{}", pipeline("")));
    let app = builder.pipeline("q", &format!("name: q\n{}", pipeline(", missing: skip"))).start().await;
    app.sql(TWEETS).await;
    let run = app.run_to_end("p", json!({ "tweet": 99 })).await;
    let steps = &run["steps"];
    assert_eq!((&run["status"], &steps[0]["status"]), (&json!("failed"), &json!("succeeded")), "{run}");
    // A missing row is a permanent error.
    assert_eq!((&steps[1]["error"]["code"], &steps[1]["attempt"]), (&json!("record_not_found"), &json!(1)), "{run}");
    let run = app.run_to_end("q", json!({ "tweet": 99 })).await;
    assert_eq!((&run["status"], &run["steps"][1]["status"]), (&json!("succeeded"), &json!("skipped")), "{run}");
    assert_eq!(run["steps"][0]["outputs"]["value"], "app/tweets/99");
    let run = app.run_to_end("q", json!({ "tweet": 1 })).await;
    assert_eq!(run["steps"][1]["outputs"]["value"], "old", "{run}");
    app.finish().await;
}

async fn record_keys_are_never_sql(database: Database) {
    let yaml = r#"
params: { tweet: { type: record, connection: app, table: tweets, key: author } }
steps: [{ id: row, uses: test.step, with: { give: "${{ params.tweet.body }}" } }]
"#;
    let app = app(database, yaml, TWEETS).await;
    let read = async |key: &str| {
        let run = app.run_to_end("p", json!({ "tweet": key })).await;
        let step = &run["steps"][0];
        step["error"]["code"].as_str().or(step["outputs"]["value"].as_str()).unwrap_or_default().to_owned()
    };
    assert_eq!(read("7' OR '1'='1").await, "odd");
    assert_eq!(read("x' OR '1'='1").await, "record_not_found");
    assert_eq!(read("x'; DROP TABLE tweets; --").await, "record_not_found");
    assert_eq!(read("ann").await, "record_ambiguous");
    app.publish("p", &format!("name: p\n{}", yaml.replace("author", "id"))).await;
    // A value of another type than the column matches no row.
    assert_eq!(read("1 OR 1=1").await, "record_not_found");
    assert_eq!(read("2").await, "other");
    assert_eq!(app.numbers("SELECT COUNT(*) FROM tweets").await, [3]);
    app.finish().await;
}

#[test]
fn row_fields_are_allowed_only_where_rows_are_read() {
    let with = |condition: &str, param: &str| {
        faults(&format!(
            "params: {{ tweet: {{ type: record, {param} }} }}\nsteps:\n  - {{ id: a, uses: wait, if: {condition}, with: {{ for: 1s }} }}\n"
        ))
    };
    let whole = "connection: app, table: crm.tweets";
    assert!(with("params.tweet.id == 1 and params.tweet.ref != ''", whole).is_empty());
    for condition in ["params.tweet.body == 'x'", "params.tweet == 1"] {
        assert_eq!(with(condition, whole), ["the row of `params.tweet` is read only for `with` and `output`"]);
    }
    for (param, fault) in [
        ("table: tweets", "a record needs `connection`"),
        ("connection: app", "a record needs `table`"),
        ("connection: app, table: 'tweets; --'", "`tweets; --` is not a name for a table"),
        ("connection: app, table: tweets, key: ref", "`ref` is not a name for the column of a key"),
        ("connection: app, table: tweets, min: 1", "`min`"),
    ] {
        let found = with("true", param);
        assert!(found.iter().any(|message| message.contains(fault)), "{param}: {found:?}");
    }
}
