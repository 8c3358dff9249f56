//! Secrets that a database or a service returns are neither stored nor shown.

use serde_json::{Value, json};

use super::id;
use crate::support::{Database, TestApp, both, numbers};

both!(returned_secrets_are_hidden_everywhere, items_do_not_hold_secrets);

const CANARY: &str = "canary-7f3a9c-it's \"quoted\"";

async fn app(database: Database, yaml: &str) -> TestApp {
    let secret = |config: &mut afterload::config::Config| {
        config.secrets.insert("TOKEN".into(), afterload::config::Secret::new(CANARY));
    };
    TestApp::builder(database).config(secret).pipeline("p", yaml).start().await
}

/// All that the API shows of a run.
async fn shown(app: &TestApp, run: &Value, steps: &[&str]) -> String {
    let mut text = app.get(&format!("/v1/runs/{}", id(run))).await.text().await.unwrap();
    for step in steps {
        let items = app.get(&format!("/v1/runs/{}/steps/{step}/items", id(run))).await;
        text.push_str(&items.text().await.unwrap());
    }
    text
}

/// How many rows of the service's own tables hold a part of the secret.
async fn stored(app: &TestApp, database: Database) -> i64 {
    let columns = "COALESCE(outputs, '') || COALESCE(error, '') || COALESCE(item, '') || COALESCE(progress, '')";
    let columns = match database {
        Database::Sqlite => columns.to_owned(),
        Database::Postgres => "CAST(s AS text)".to_owned(),
    };
    let sql = format!("SELECT COUNT(*) FROM step_runs AS s WHERE {columns} LIKE '%canary%'");
    numbers(&app.service(), &sql).await[0]
}

async fn returned_secrets_are_hidden_everywhere(database: Database) {
    let yaml = r#"
name: p
steps:
  - id: rows
    uses: sql.execute
    with: { sql: "SELECT CAST(:s AS TEXT) AS plain, 'x ' || CAST(:s AS TEXT) AS part", bind: { s: "${{ secrets.TOKEN }}" } }
  - id: each
    uses: sql.execute
    for_each: { items: [1, 2] }
    with: { sql: "SELECT CAST(:s AS TEXT) AS plain, CAST(:n AS INTEGER) AS n", bind: { s: "${{ secrets.TOKEN }}", n: "${{ item }}" } }
  - id: fails
    uses: sql.execute
    needs: [rows, each]
    retry: { attempts: 1 }
    with: { sql: "SELECT * FROM t WHERE id = :s", bind: { s: "${{ secrets.TOKEN }}" } }
"#;
    let app = app(database, yaml).await;
    app.sql("CREATE TABLE t (id BIGINT)").await;
    let run = app.run_to_end("p", json!({})).await;
    let outputs = |step: usize| &run["steps"][step]["outputs"];
    assert_eq!(outputs(0)["rows"], json!([{ "plain": "***", "part": "x ***" }]), "{run}");
    assert_eq!(outputs(1)["items"][1]["rows"], json!([{ "plain": "***", "n": 2 }]), "{run}");
    // SQLite converts anything.
    if database == Database::Postgres {
        let error = &run["steps"][2]["error"];
        assert_eq!(error["code"], "sql_value_invalid", "{run}");
        assert!(error["message"].as_str().unwrap().contains("***"), "{run}");
    }
    let text = shown(&app, &run, &["each"]).await;
    assert!(!text.contains("canary"), "{text}");
    assert_eq!(stored(&app, database).await, 0);
    // The database got the value itself.
    app.sql("CREATE TABLE got (s TEXT)").await;
    let insert = "name: p\nsteps:\n  - { id: one, uses: sql.execute, with: { sql: 'INSERT INTO got VALUES (:s)', bind: { s: '${{ secrets.TOKEN }}' } } }\n";
    app.publish("p", insert).await;
    assert_eq!(app.run_to_end("p", json!({})).await["status"], "succeeded");
    let quoted = CANARY.replace('\'', "''");
    assert_eq!(app.numbers(&format!("SELECT COUNT(*) FROM got WHERE s = '{quoted}'")).await, [1]);
    app.finish().await;
}

async fn items_do_not_hold_secrets(database: Database) {
    let yaml = r#"
name: p
steps:
  - id: each
    uses: sql.execute
    for_each: { items: ["a", "b ${{ secrets.TOKEN }}"] }
    with: { sql: "SELECT CAST(:s AS TEXT) AS s", bind: { s: "${{ item }}" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["steps"][0]["error"]["code"], "items_invalid", "{run}");
    let text = shown(&app, &run, &["each"]).await;
    assert!(!text.contains("canary"), "{text}");
    assert_eq!(stored(&app, database).await, 0);
    app.finish().await;
}
