//! A report that is imported again gives the same values.

use serde_json::json;

use super::app;
use crate::support::{Database, both};

both!(report_that_is_imported_again_gives_the_same_values);

/// Texts that a spreadsheet would run, that begin with a guard, and that need quotes.
const TEXTS: [&str; 9] =
    ["+49 30 123", "@bob", "- todo", "'quoted", "''", "a;b,\"c\"\td|e", "x\ny", "=1+1", "é😀\u{200d}x"];

async fn report_that_is_imported_again_gives_the_same_values(database: Database) {
    let columns = "id BIGINT PRIMARY KEY, a TEXT, n NUMERIC(14, 2), day DATE, at TIMESTAMP";
    let mut ddl = format!("CREATE TABLE t ({columns}); CREATE TABLE copy ({columns});");
    for (id, text) in TEXTS.iter().enumerate() {
        let text = text.replace('\'', "''");
        ddl.push_str(&format!(
            "INSERT INTO t VALUES ({id}, '{text}', {}.25, '2024-02-{:02}', '2024-02-29 12:30:05');",
            id as i64 * 1_234_567 - 5,
            id + 20
        ));
    }
    ddl.push_str("INSERT INTO t VALUES (100, NULL, NULL, NULL, NULL)");
    let app = app(database, &ddl).await;
    for style in [
        json!({}),
        json!({ "bom": true, "delimiter": ";", "line_ending": "crlf" }),
        json!({ "delimiter": "tab", "compress": "none" }),
        json!({ "delimiter": "|", "timezone": "Europe/Paris" }),
    ] {
        app.sql("DELETE FROM copy").await;
        let mut report = json!({ "sql": "SELECT id, a, n, day, at FROM t ORDER BY id", "format": "csv" });
        report.as_object_mut().unwrap().extend(style.as_object().unwrap().clone());
        let import = json!({
            "source": "${{ steps.report.file }}", "into": { "table": "copy" },
            "columns": {
                "id": { "type": "integer" }, "a": {}, "n": { "type": "decimal" }, "day": { "type": "date" },
                "at": { "type": "datetime" },
            },
        });
        let yaml = format!(
            "name: p\nsteps:\n  - {{ id: report, uses: report.query, with: {report} }}\n  \
             - {{ id: import, uses: csv.import, with: {import} }}\n"
        );
        app.publish("p", &yaml).await;
        let run = app.run_to_end("p", json!({})).await;
        assert_eq!(run["status"], "succeeded", "{style}: {run}");
        assert_eq!(run["steps"][1]["outputs"]["inserted"], TEXTS.len() + 1, "{style}: {run}");
        let difference =
            "SELECT COUNT(*) FROM (SELECT id, a, n, day FROM t EXCEPT SELECT id, a, n, day FROM copy) AS d";
        assert_eq!(app.numbers(difference).await, [0], "{style}");
        let times = "SELECT COUNT(*) FROM t JOIN copy ON copy.id = t.id WHERE copy.at IS NULL AND t.at IS NOT NULL";
        assert_eq!(app.numbers(times).await, [0], "{style}");
    }
    app.finish().await;
}
