//! The options of the file: how a CSV is written, time zones, and lists of JSON.

use serde_json::{Value, json};

use super::{app, file, read};
use crate::support::{Database, both};

both!(options_of_a_file_are_applied, workbook_has_totals_filters_and_a_name, each_query_of_a_workbook_has_its_sheet);

async fn options_of_a_file_are_applied(database: Database) {
    let app = app(
        database,
        "CREATE TABLE t (id BIGINT PRIMARY KEY, a TEXT, n NUMERIC(12, 2), day DATE);
         INSERT INTO t VALUES (1, 'a;b', 1234.25, '2024-02-29'), (2, 'NULL', NULL, NULL), (3, '=1+1', -0.75, NULL)",
    )
    .await;
    let sql = "SELECT id, a, n, day FROM t ORDER BY id";
    let with = json!({
        "sql": sql, "format": "csv", "bom": true, "delimiter": ";", "decimal": ",", "line_ending": "crlf",
        "null": "NULL", "formulas": "keep", "columns": { "n": { "format": "#,##0.00" } },
    });
    let (_, bytes) = file(&app, with).await;
    let expected =
        "\u{feff}id;a;n;day\r\n1;\"a;b\";1.234,25;2024-02-29\r\n2;\"NULL\";NULL;NULL\r\n3;=1+1;-0,75;NULL\r\n";
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    let with = json!({ "sql": sql, "format": "csv", "delimiter": "tab", "header": false });
    let (outputs, bytes) = file(&app, with).await;
    assert_eq!(outputs["rows"], 3);
    assert_eq!(String::from_utf8(bytes).unwrap(), "1\ta;b\t1234.25\t2024-02-29\n2\tNULL\t\t\n3\t'=1+1\t-0.75\t\n");
    // A file may be empty.
    let none = json!({ "sql": "SELECT id FROM t WHERE id < 0", "format": "csv", "header": false });
    let (outputs, bytes) = file(&app, none).await;
    assert_eq!((outputs["file"].is_object(), bytes.len()), (true, 0));

    let (outputs, bytes) = file(&app, json!({ "sql": sql, "format": "json", "name": "rows" })).await;
    assert_eq!(
        (&outputs["file"]["name"], &outputs["file"]["content_type"]),
        (&json!("rows.json"), &json!("application/json"))
    );
    let rows: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["a"], &rows[1]["n"]), (3, &json!("a;b"), &Value::Null));
    let (_, bytes) = file(&app, json!({ "sql": "SELECT id FROM t WHERE id < 0", "format": "json" })).await;
    assert_eq!(bytes, b"[\n]\n");

    let time = match database {
        Database::Sqlite => "SELECT '2024-07-01T12:00:00Z' AS at, '2024-07-01T12:00:00Z' AS plain",
        Database::Postgres => {
            "SELECT TIMESTAMPTZ '2024-07-01 12:00:00+00' AS at, TIMESTAMP '2024-07-01 12:00:00' AS plain"
        }
    };
    let with = |format: &str| {
        let columns = json!({ "at": { "format": "dd.mm.yyyy hh:mm" } });
        json!({ "sql": time, "format": format, "timezone": "Europe/Paris", "columns": columns })
    };
    let (_, bytes) = file(&app, with("csv")).await;
    let rows = read("csv", &bytes);
    let plain = if database == Database::Sqlite { "2024-07-01T12:00:00Z" } else { "2024-07-01 12:00:00" };
    assert_eq!(rows[1], json!(["01.07.2024 14:00", plain]));
    let (_, bytes) = file(&app, with("xlsx")).await;
    assert_eq!(read("xlsx", &bytes)["Sheet1"][1][0]["date"], "2024-07-01T14:00:00");
    if database == Database::Postgres {
        let with = json!({ "sql": time, "format": "jsonl", "timezone": "Europe/Paris" });
        let (_, bytes) = file(&app, with).await;
        assert_eq!(read("jsonl", &bytes)[0]["at"], "2024-07-01T14:00:00+02:00");
    }
    app.finish().await;
}

async fn workbook_has_totals_filters_and_a_name(database: Database) {
    let app = app(
        database,
        "CREATE TABLE t (id BIGINT PRIMARY KEY, a TEXT, n NUMERIC(12, 2), day DATE);
         INSERT INTO t VALUES (1, 'x', 1.25, '2024-02-29'), (2, 'y', 2.5, '2024-03-01'), (3, NULL, NULL, NULL)",
    )
    .await;
    app.sql(&format!("INSERT INTO t VALUES (4, '{}', -0.05, NULL)", "é".repeat(40_000))).await;
    let columns = json!({
        "a": { "total": "count" }, "n": { "format": "0.00", "total": "sum", "width": 30 },
        "day": { "format": "yyyy-mm-dd", "total": "max" },
    });
    let with = json!({
        "sql": "SELECT id, a, n, day FROM t ORDER BY id", "format": "xlsx", "columns": columns, "sheet": "Q1 'sales",
        "autofilter": true, "long_texts": "cut",
    });
    let (outputs, bytes) = file(&app, with.clone()).await;
    assert_eq!((&outputs["rows"], &outputs["cut_cells"]), (&json!(4), &json!(1)));
    let sheet = read("xlsx", &bytes)["Q1 'sales"].clone();
    assert_eq!(sheet[5][0], "Total");
    assert_eq!(sheet[5][1], "=SUBTOTAL(103,B2:B5)");
    assert_eq!(sheet[5][2], json!({ "value": "=SUBTOTAL(109,C2:C5)", "format": "0.00" }));
    assert_eq!(sheet[5][3], "=SUBTOTAL(104,D2:D5)");
    assert_eq!(sheet[4][1].as_str().unwrap().chars().count(), 32_767);
    // The values stand in the file too, for programs that calculate nothing.
    let shown = read("xlsx-values", &bytes);
    assert_eq!(shown["filters"], json!({ "Q1 'sales": "A1:D5" }));
    assert_eq!(shown["last"], json!(["Total", 3, 3.7, "2024-03-01T00:00:00"]));
    app.finish().await;
}

async fn each_query_of_a_workbook_has_its_sheet(database: Database) {
    let app = app(
        database,
        "CREATE TABLE t (id BIGINT PRIMARY KEY, a TEXT); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'x')",
    )
    .await;
    let all = json!({ "name": "All", "sql": "SELECT id, a FROM t ORDER BY id", "columns": { "a": { "title": "A" } } });
    let some = json!({
        "name": "all", "sql": "SELECT id FROM t WHERE a = :a ORDER BY id", "bind": { "a": "x" },
        "columns": { "id": { "total": "sum" } },
    });
    let none = json!({ "name": "${{ 'no/ne' }}", "sql": "SELECT id AS none FROM t WHERE id < 0" });
    let with = json!({ "format": "xlsx", "sheets": [all, some, none], "name": "book" });
    let (outputs, bytes) = file(&app, with.clone()).await;
    assert_eq!((&outputs["rows"], &outputs["file"]["name"]), (&json!(5), &json!("book.xlsx")));
    let book = read("xlsx", &bytes);
    assert_eq!(book["All"], json!([["id", "A"], [1, "x"], [2, "y"], [3, "x"]]));
    assert_eq!(book["all (2)"], json!([["id"], [1], [3], ["=SUBTOTAL(109,A2:A3)"]]));
    assert_eq!((&book["no-ne"], book.as_object().unwrap().len()), (&json!([["none"]]), 3));
    assert!(file(&app, with).await.1 == bytes, "the same rows give the same bytes");
    app.finish().await;
}
