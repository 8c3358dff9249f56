//! SQL that is not a report: rejected when the pipeline is loaded, by the database, or by the timeout.

use afterload_core::dialect::Dialect;
use afterload_pipeline::{ValidationContext, compile_definition, compile_with_sql_files};
use serde_json::{Value, json};

use super::{ENDLESS, RUNNING_COPIES, SILENT, app, failure, pipeline};
use crate::support::{Database, both, eventually};

both!(hidden_write_is_rejected_by_the_database, endless_query_times_out, sql_file_is_read_and_reloaded);

/// Returns the code and the message of each problem.
fn problems(with: &Value, dialect: Option<Dialect>) -> Vec<(&'static str, String)> {
    let kinds = afterload::registry::step_kinds().catalog();
    let dialects = dialect.map(|dialect| ("app".to_owned(), dialect)).into_iter().collect();
    let around = ValidationContext { dialects, ..ValidationContext::default() };
    match compile_definition(Some("p.yaml"), &pipeline(with), &kinds, &around) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|problem| (problem.code.name(), problem.message)).collect(),
    }
}

#[test]
fn hostile_sql_is_rejected_at_load() {
    for sql in [
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE t",
        "DELETE FROM t",
        "UPDATE t SET a = 1",
        "INSERT INTO t VALUES (1)",
        "DROP TABLE t",
        "CREATE TABLE u AS SELECT * FROM t",
        "ATTACH 'other.db' AS o",
        "PRAGMA journal_mode = DELETE",
        "VACUUM INTO 'copy.db'",
        "BEGIN",
        "COPY t TO PROGRAM 'sh'",
        "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone",
        "SELECT * INTO u FROM t",
        "SELECT load_extension('x')",
        "SELECT pg_terminate_backend(1)",
    ] {
        for dialect in [None, Some(Dialect::Sqlite), Some(Dialect::Postgres)] {
            let told = problems(&json!({ "sql": sql, "format": "csv" }), dialect);
            assert_eq!(told.len(), 1, "{sql}: {told:?}");
            assert_eq!(told[0].0, "report_sql_refused", "{sql}: {told:?}");
        }
    }
}

#[test]
fn mistakes_are_reported_at_load() {
    for (with, expected) in [
        (json!({ "sql": "SELECT ${{ params.value }}", "format": "csv" }), "SQL cannot hold an expression"),
        (json!({ "sql": "SELECT :a", "format": "csv" }), "nothing fills `:a`"),
        (json!({ "sql": "SELECT 1", "bind": { "a": 1 }, "format": "csv" }), "the SQL has no `:a`"),
        (json!({ "format": "csv" }), "a report needs `sql` or `sql_file`"),
        (
            json!({ "sql": "SELECT 1", "sql_file": "a.sql", "format": "csv" }),
            "a report has only one of `sql` and `sql_file`",
        ),
        (json!({ "sql": "SELECT 1", "format": "xlsx", "compress": "zip" }), "an `xlsx` file is packed already"),
        (json!({ "sql": "SELECT 1", "format": "pdf" }), "unknown value `pdf`"),
        (json!({ "sql": "SELECT 1", "format": "csv", "max_rows": 0 }), "`max_rows` must be at least 1"),
        (json!({ "sql": "SELECT 1", "format": "csv", "timeout": "0s" }), "`timeout` must be more than 0"),
        (
            json!({ "sql": "SELECT 1 AS a", "format": "csv", "columns": { "a": { "format": "[Red]0" } } }),
            "`[Red]0` is a format that a CSV cannot show",
        ),
    ] {
        let told = problems(&with, None);
        assert_eq!(told.iter().map(|(_, message)| message.as_str()).collect::<Vec<_>>(), [expected], "{with}");
    }
    let fine = json!({ "sql": "SELECT 1 AS a", "format": "xlsx", "columns": { "a": { "format": "[Red]0" } } });
    assert!(problems(&fine, None).is_empty());
}

async fn hidden_write_is_rejected_by_the_database(database: Database) {
    let app = app(database, "CREATE TABLE t (a BIGINT)").await;
    let hidden = match database {
        // A missing table is a permanent error.
        Database::Sqlite => ("SELECT * FROM nowhere", "database_error"),
        Database::Postgres => {
            app.sql("CREATE FUNCTION wipe() RETURNS bigint LANGUAGE sql AS 'INSERT INTO t VALUES (1) RETURNING a'")
                .await;
            ("SELECT wipe() AS gone", "report_sql_refused")
        }
    };
    assert_eq!(failure(&app, json!({ "sql": hidden.0, "format": "csv" })).await, hidden.1);
    assert_eq!(app.numbers("SELECT COUNT(*) FROM t").await, [0]);
    app.finish().await;
}

async fn endless_query_times_out(database: Database) {
    let app = app(database, "").await;
    for sql in [ENDLESS, SILENT] {
        let with = json!({ "sql": sql, "format": "csv", "timeout": "700ms" });
        assert_eq!(failure(&app, with).await, "report_timeout", "{sql}");
    }
    if database == Database::Postgres {
        eventually("the queries to end", async || (app.numbers(RUNNING_COPIES).await == [0]).then_some(())).await;
    }
    app.finish().await;
}

async fn sql_file_is_read_and_reloaded(database: Database) {
    let app = app(database, "").await;
    let path = app.config.pipelines.join("reports/one.sql");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "-- one\nSELECT 1 AS \"first\"\n").unwrap();
    let with = json!({ "sql_file": "reports/one.sql", "format": "jsonl" });
    let digest = async || app.get("/v1/pipelines/p").await.json::<Value>().await.unwrap()["digest"].clone();
    let report = async || {
        let run = app.run_to_end("p", json!({})).await;
        let url = run["artifacts"][0]["url"].as_str().unwrap().to_owned();
        app.client.get(url).bearer_auth(&app.admin_key).send().await.unwrap().text().await.unwrap()
    };
    let mut before = digest().await;
    assert!(before.is_string());
    std::fs::write(app.config.pipelines.join("p.yaml"), pipeline(&with)).unwrap();
    eventually("the new definition", async || (digest().await != before).then_some(())).await;
    assert_eq!(report().await, "{\"first\":1}\n");
    // A change of the SQL file alone goes live too.
    before = digest().await;
    std::fs::write(&path, "SELECT 2 AS second").unwrap();
    eventually("the new version", async || (digest().await != before).then_some(())).await;
    assert_eq!(report().await, "{\"second\":2}\n");
    // An invalid SQL file leaves the old version live.
    std::fs::write(&path, "DROP TABLE t").unwrap();
    eventually("the refusal", async || {
        let told: Value = app.get("/v1/pipelines").await.json().await.unwrap();
        (told["refused"][0]["problems"][0]["code"] == "report_sql_refused").then_some(())
    })
    .await;
    assert_eq!(app.run_to_end("p", json!({})).await["status"], "succeeded");
    let kinds = afterload::registry::step_kinds().catalog();
    let text = pipeline(&with);
    assert!(compile_with_sql_files(None, &text, &app.config.pipelines, &kinds, &ValidationContext::default()).is_err());
    app.finish().await;
}
