//! The bytes of each report format, read by other programs.

use serde_json::{Value, json};

use super::{app, failure, file, read};
use crate::support::{Database, both};

both!(
    each_format_is_read_correctly_by_other_programs,
    column_titles_and_formats_are_applied,
    compressed_reports_are_readable,
    same_rows_give_same_bytes,
    values_are_bound_not_interpolated,
    values_a_format_cannot_hold_fail_the_step
);

const TEXTS: [&str; 10] = [
    "plain",
    "",
    "a,\"b\"\nc\r\nd\te",
    "=1+1",
    "-12.5",
    "@x 'é' ü€😀",
    "\\N",
    " <b> & _x0041_ ",
    "{\"a\": [1, 2]}",
    "back\\slash\u{1}",
];

fn table() -> String {
    let mut sql =
        String::from("CREATE TABLE t (id BIGINT PRIMARY KEY, a TEXT, n BIGINT, d NUMERIC(30, 4), f DOUBLE PRECISION);");
    for (id, text) in TEXTS.iter().enumerate() {
        let text = text.replace('\'', "''");
        sql.push_str(&format!("INSERT INTO t VALUES ({id}, '{text}', {}, {}.25, 0.1);", id as i64 - 5, id * 1000));
    }
    sql.push_str("INSERT INTO t VALUES (10, NULL, 9007199254740993, NULL, 1e300), (11, 'last', NULL, -1, NULL);");
    sql
}

const ALL: &str = "SELECT id, a, n, d, f FROM t ORDER BY id";

async fn each_format_is_read_correctly_by_other_programs(database: Database) {
    let app = app(database, &table()).await;
    // SQLite stores a whole number in a decimal column as an integer; PostgreSQL prints all digits of the column.
    let decimal = |id: usize| match database {
        Database::Sqlite => format!("{}.25", id * 1000),
        Database::Postgres => format!("{}.2500", id * 1000),
    };
    let minus_one = if database == Database::Sqlite { "-1" } else { "-1.0000" };

    let (outputs, bytes) = file(&app, json!({ "sql": ALL, "format": "csv", "name": "all" })).await;
    assert_eq!((&outputs["rows"], &outputs["file"]["name"]), (&json!(12), &json!("all.csv")));
    assert_eq!(outputs["file"]["content_type"], "text/csv");
    let rows = read("csv", &bytes);
    assert_eq!(rows[0], json!(["id", "a", "n", "d", "f"]));
    for (id, text) in TEXTS.iter().enumerate() {
        let guarded = if *text == "=1+1" || text.starts_with('@') { format!("'{text}") } else { (*text).to_owned() };
        let expected = json!([id.to_string(), guarded, (id as i64 - 5).to_string(), decimal(id), "0.1"]);
        assert_eq!(rows[id + 1], expected);
    }
    assert_eq!(rows[11], json!(["10", "", "9007199254740993", "", "1e+300"]));
    assert_eq!(rows[12], json!(["11", "last", "", minus_one, ""]));
    // An empty text differs from null.
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("\n1,\"\",-4,") && text.contains("\n10,,9007"), "{text}");

    let (outputs, bytes) = file(&app, json!({ "sql": ALL, "format": "jsonl" })).await;
    assert_eq!(outputs["file"]["name"], "report.jsonl");
    let rows = read("jsonl", &bytes);
    for (id, text) in TEXTS.iter().enumerate() {
        let d: Value = serde_json::from_str(&decimal(id)).unwrap();
        assert_eq!(rows[id], json!({ "id": id, "a": text, "n": id as i64 - 5, "d": d, "f": 0.1 }));
    }
    assert_eq!(rows[10], json!({ "id": 10, "a": null, "n": 9_007_199_254_740_993_i64, "d": null, "f": 1e300 }));

    let (outputs, bytes) = file(&app, json!({ "sql": ALL, "format": "xlsx" })).await;
    assert_eq!(outputs["file"]["name"], "report.xlsx");
    let book = read("xlsx", &bytes);
    assert_eq!(book["Sheet1"][0], json!(["id", "a", "n", "d", "f"]));
    for (id, text) in TEXTS.iter().enumerate() {
        let row = &book["Sheet1"][id + 1];
        let (a, numbers) = (row[1].as_str().unwrap_or_default(), [&row[0], &row[2], &row[3], &row[4]]);
        // Spreadsheets decode these escapes, but the reading library does not.
        let unescaped = a.replace("_x005F_", "_").replace("_x0001_", "\u{1}").replace("_x000D_", "\r");
        assert_eq!(unescaped, *text);
        assert_eq!(
            numbers.map(|number| number.as_f64().unwrap()),
            [id as f64, id as f64 - 5.0, id as f64 * 1000.0 + 0.25, 0.1]
        );
    }
    // Whole numbers with more digits than a spreadsheet keeps become text, because they may be IDs.
    assert_eq!(book["Sheet1"][11], json!([10, null, "9007199254740993", null, 1e300]));
    if database == Database::Postgres {
        let sql = "SELECT avg(x) AS average, sum(x) AS total, sum(x) / 3 AS third, 100.0 * sum(x) / 7 AS pct \
                   FROM (VALUES (10.10::numeric), (20.20), (30.05)) v(x)";
        let columns = json!({ "pct": { "format": "0.00" } });
        let (_, bytes) = file(&app, json!({ "sql": sql, "format": "xlsx", "columns": columns })).await;
        let row = &read("xlsx", &bytes)["Sheet1"][1];
        assert_eq!(
            *row,
            json!([20.116_666_666_666_7, 60.35, 20.116_666_666_666_7, { "value": 862.142_857_142_857, "format": "0.00" }])
        );
    }
    let (_, bytes) = file(&app, json!({ "sql": ALL, "format": "csv", "formulas": "keep" })).await;
    assert_eq!((&read("csv", &bytes)[4][1], &read("csv", &bytes)[6][1]), (&json!("=1+1"), &json!("@x 'é' ü€😀")));
    app.finish().await;
}

async fn column_titles_and_formats_are_applied(database: Database) {
    let app = app(
        database,
        "CREATE TABLE t (id BIGINT, day DATE, at TIMESTAMP, total NUMERIC(12, 4), share DOUBLE PRECISION);
         INSERT INTO t VALUES (1, '2024-02-29', '2024-02-29 12:30:05', 1234567.125, 0.125), (2, '1801-01-02', NULL, -0.005, NULL)",
    )
    .await;
    let columns = json!({
        "day": { "title": "Tag, day", "format": "dd.mm.yyyy" },
        "at": { "format": "yyyy-mm-dd hh:mm" },
        "total": { "title": "=Total", "format": "#,##0.00" },
        "share": { "format": "0.0%" },
    });
    let with = |format: &str| json!({ "sql": "SELECT * FROM t ORDER BY id", "format": format, "columns": columns });
    let (_, bytes) = file(&app, with("csv")).await;
    let expected = json!([
        ["id", "Tag, day", "at", "'=Total", "share"],
        ["1", "29.02.2024", "2024-02-29 12:30", "1,234,567.13", "12.5%"],
        ["2", "02.01.1801", "", "-0.01", ""],
    ]);
    assert_eq!(read("csv", &bytes), expected);
    let (_, bytes) = file(&app, with("xlsx")).await;
    let sheet = &read("xlsx", &bytes)["Sheet1"];
    assert_eq!(sheet[0], json!(["id", "Tag, day", "at", "=Total", "share"]));
    assert_eq!(sheet[1][1], json!({ "date": "2024-02-29T00:00:00", "format": "dd.mm.yyyy" }));
    assert_eq!(sheet[1][2], json!({ "date": "2024-02-29T12:30:05", "format": "yyyy-mm-dd hh:mm" }));
    assert_eq!(sheet[1][3], json!({ "value": 1_234_567.125, "format": "#,##0.00" }));
    assert_eq!(sheet[1][4], json!({ "value": 0.125, "format": "0.0%" }));
    assert_eq!(
        sheet[2][1],
        json!({ "value": "1801-01-02", "format": "dd.mm.yyyy" }),
        "no spreadsheet counts such days"
    );
    if database == Database::Postgres {
        let sql = "SELECT true AS yes, DATE '2024-02-29' AS day, TIMESTAMPTZ '2024-02-29 12:30:05.5+02' AS at, \
                   '{\"a\":\n 1}'::json AS j, 'NaN'::numeric AS n, ARRAY[1, 2] AS l, '-infinity'::timestamp AS i";
        let (_, bytes) = file(&app, json!({ "sql": sql, "format": "jsonl" })).await;
        let row = json!({
            "yes": true, "day": "2024-02-29", "at": "2024-02-29T10:30:05.5Z", "j": { "a": 1 }, "n": "NaN", "l": "{1,2}", "i": "-infinity"
        });
        assert_eq!(read("jsonl", &bytes), json!([row]));
        let (_, bytes) = file(&app, json!({ "sql": sql, "format": "xlsx" })).await;
        let sheet = &read("xlsx", &bytes)["Sheet1"];
        assert_eq!(sheet[1][0], true);
        assert_eq!(sheet[1][1], json!({ "date": "2024-02-29T00:00:00", "format": "yyyy-mm-dd" }));
        assert_eq!(sheet[1][2]["date"], "2024-02-29T10:30:05.500000");
        assert_eq!(sheet[1][6], "-infinity");
        let (_, bytes) = file(&app, json!({ "sql": sql, "format": "csv" })).await;
        assert_eq!(read("csv", &bytes)[1][0], "true");
    }
    app.finish().await;
}

async fn compressed_reports_are_readable(database: Database) {
    let app = app(database, &table()).await;
    let (_, plain) = file(&app, json!({ "sql": ALL, "format": "csv" })).await;
    let rows = read("csv", &plain);
    let (outputs, bytes) =
        file(&app, json!({ "sql": ALL, "format": "csv", "compress": "gzip", "name": "a.csv" })).await;
    assert_eq!(
        (&outputs["file"]["name"], &outputs["file"]["content_type"]),
        (&json!("a.csv.gz"), &json!("application/gzip"))
    );
    assert_eq!(read("gzip", &bytes), rows);
    let (outputs, bytes) = file(&app, json!({ "sql": ALL, "format": "csv", "compress": "zip", "name": "a.csv" })).await;
    assert_eq!(
        (&outputs["file"]["name"], &outputs["file"]["content_type"]),
        (&json!("a.csv.zip"), &json!("application/zip"))
    );
    assert_eq!(read("zip", &bytes), json!({ "a.csv": rows }));
    app.finish().await;
}

/// Enough rows for several buffers and several parts of the upload.
async fn same_rows_give_same_bytes(database: Database) {
    let app = app(database, "").await;
    let sql = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 30000) \
               SELECT x, x * 7919 % 10007 AS y, 'row ' || x || ' with some text' AS t FROM c ORDER BY x";
    for (format, compress) in [("csv", "none"), ("csv", "gzip"), ("jsonl", "zip"), ("xlsx", "none")] {
        let with = json!({ "sql": sql, "format": format, "compress": compress });
        let (first, second) = (file(&app, with.clone()).await, file(&app, with).await);
        assert!(first.1 == second.1 && first.0["rows"] == 30_000, "{format} {compress}");
        assert_ne!(first.0["file"]["artifact_id"], second.0["file"]["artifact_id"]);
    }
    app.finish().await;
}

async fn values_are_bound_not_interpolated(database: Database) {
    let app = app(database, &table()).await;
    let sql = "SELECT CAST(:value AS TEXT) AS v, id FROM t WHERE id = :id AND (CAST(:none AS TEXT) IS NULL OR a = :none) -- :no";
    let with =
        json!({ "sql": sql, "format": "jsonl", "bind": { "value": "${{ params.value }}", "id": 3, "none": null } });
    let (_, bytes) = file(&app, with).await;
    assert_eq!(read("jsonl", &bytes), json!([{ "v": "it's \\ :x", "id": 3 }]));
    for text in [
        "'; DROP TABLE t; --",
        "x') TO STDOUT; --",
        r"\'; DELETE FROM t; --",
        ":id $1 ?1",
        "$$;--",
        "\u{1f4a3}\n\t'\"`",
    ] {
        let with = json!({ "sql": "SELECT CAST(:value AS TEXT) AS v", "format": "jsonl", "bind": { "value": text } });
        let (_, bytes) = file(&app, with).await;
        assert_eq!(read("jsonl", &bytes), json!([{ "v": text }]));
    }
    assert_eq!(app.numbers("SELECT COUNT(*) FROM t").await, [12]);
    app.finish().await;
}

async fn values_a_format_cannot_hold_fail_the_step(database: Database) {
    let app = app(database, "CREATE TABLE t (a TEXT)").await;
    app.sql(&format!("INSERT INTO t VALUES ('{}')", "x".repeat(32_768))).await;
    for (with, code) in [
        (json!({ "sql": "SELECT a FROM t", "format": "xlsx" }), "report_cell_too_large"),
        (json!({ "sql": "SELECT 1 AS a, 2 AS a", "format": "jsonl" }), "report_columns_repeated"),
        (
            json!({ "sql": "SELECT 1 AS a", "format": "csv", "columns": { "b": { "title": "B" } } }),
            "report_column_unknown",
        ),
    ] {
        assert_eq!(failure(&app, with).await, code);
    }
    let (_, bytes) = file(&app, json!({ "sql": "SELECT substr(a, 2) AS a FROM t", "format": "xlsx" })).await;
    assert_eq!(read("xlsx", &bytes)["Sheet1"][1][0].as_str().unwrap().len(), 32_767);
    app.finish().await;
}
