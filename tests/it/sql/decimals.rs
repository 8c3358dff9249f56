//! Whole numbers and decimals pass through rows, outputs, expressions, mails, params and SQL without a changed digit.

use serde_json::{Value, json};

use super::app;
use crate::support::{Database, TestApp, both};

both!(
    numbers_come_back_as_they_were,
    decimals_are_compared_and_calculated_in_pipelines,
    params_keep_every_digit,
    floats_and_json_keep_every_digit,
);

/// The literals of SQL with the values of outputs.
fn stored_values(database: Database) -> Vec<(&'static str, Value)> {
    let mut values = vec![
        ("'NaN'", json!("NaN")),
        ("0.5", json!(0.5)),
        ("-0.005", json!(-0.005)),
        ("1e-20", json!(1e-20)),
        ("42", json!(42)),
    ];
    match database {
        // A column without a type keeps what it is given.
        Database::Sqlite => values.extend([
            ("'19.90'", json!("19.90")),
            ("'123456789012345678.90'", json!("123456789012345678.90")),
            ("9007199254740993", json!(9_007_199_254_740_993_i64)),
            ("9223372036854775807", json!(i64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
        ]),
        Database::Postgres => values.extend([
            ("19.90", json!("19.90")),
            ("0.10", json!("0.10")),
            ("0.00", json!("0.00")),
            ("123456789012345678.90", json!("123456789012345678.90")),
            ("9007199254740993", json!("9007199254740993")),
            ("9223372036854775807", json!("9223372036854775807")),
            ("-9223372036854775808", json!("-9223372036854775808")),
        ]),
    }
    values
}

async fn numbers_come_back_as_they_were(database: Database) {
    let values = stored_values(database);
    let rows: Vec<String> = values.iter().enumerate().map(|(id, (literal, _))| format!("({id}, {literal})")).collect();
    let kind = if database == Database::Postgres { "NUMERIC" } else { "" };
    let ddl = format!(
        "CREATE TABLE amounts (id BIGINT PRIMARY KEY, value {kind}); INSERT INTO amounts VALUES {}",
        rows.join(", ")
    );
    let places: Vec<String> = (0..values.len()).map(|id| format!("(id = {id} AND value = :v{id})")).collect();
    let bind: Vec<String> =
        (0..values.len()).map(|id| format!("v{id}: '${{{{ steps.read.rows[{id}].value }}}}'")).collect();
    let steps = format!(
        "steps:
  - {{ id: read, uses: sql.execute, with: {{ sql: 'SELECT id, value FROM amounts ORDER BY id' }} }}
  - id: same
    uses: sql.execute
    with:
      sql: 'SELECT COUNT(*) AS n FROM amounts WHERE {}'
      bind: {{ {} }}
",
        places.join(" OR "),
        bind.join(", ")
    );
    let app = app(database, &steps, &ddl).await;
    let run = app.run_to_end("p", json!({})).await;
    let found = run["steps"][0]["outputs"]["rows"].as_array().unwrap_or_else(|| panic!("{run}"));
    for (row, (literal, value)) in found.iter().zip(&values) {
        assert_eq!(&row["value"], value, "{literal}");
    }
    assert_eq!(run["steps"][1]["outputs"]["rows"], json!([{ "n": values.len() }]), "{run}");
    app.finish().await;
}

async fn decimals_are_compared_and_calculated_in_pipelines(database: Database) {
    let select = match database {
        Database::Postgres => "SELECT CAST(19.90 AS NUMERIC(30, 2)) AS price, CAST(9007199254740993 AS BIGINT) AS big",
        Database::Sqlite => "SELECT '19.90' AS price, 9007199254740993 AS big",
    };
    let steps = r#"
steps:
  - { id: read, uses: sql.execute, with: { sql: "SELECT" } }
  - id: mail
    uses: email.send
    if: PRICE > 5 and PRICE < 100 and PRICE == 19.9 and LARGE != 9007199254740992
    with:
      to: a@example.com
      subject: ${{ PRICE }}
      body: Once ${{ PRICE }}, twice ${{ PRICE * 2 }}, ${{ LARGE }}.
  - { id: dear, uses: test.step, if: 'PRICE > 100', with: { give: 1 } }
"#;
    let steps = steps
        .replace("SELECT", select)
        .replace("PRICE", "steps.read.rows[0].price")
        .replace("LARGE", "steps.read.rows[0].big");
    let app = TestApp::builder(database).pipeline("p", &format!("name: p{steps}")).start().await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let statuses: Vec<_> = (0..3).map(|step| run["steps"][step]["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["succeeded", "succeeded", "skipped"], "{run}");
    let mails = app.mails();
    let mail = mailparse::parse_mail(mails[0].as_bytes()).unwrap();
    let text = mail.parts().find(|part| part.ctype.mimetype == "text/plain").unwrap().get_body().unwrap();
    assert!(text.contains("Once 19.90, twice 39.80, 9007199254740993."), "{text}");
    assert!(mails[0].contains("Subject: 19.90"), "{}", mails[0]);
    app.finish().await;
}

async fn params_keep_every_digit(database: Database) {
    let (whole, decimal) = match database {
        Database::Postgres => ("CAST(:whole AS BIGINT)", "CAST(:decimal AS NUMERIC)"),
        Database::Sqlite => (":whole", ":decimal"),
    };
    let steps = format!(
        "params: {{ whole: {{ type: integer }}, decimal: {{ type: number }} }}
steps:
  - id: read
    uses: sql.execute
    with:
      sql: 'SELECT {whole} AS whole, {decimal} AS decimal'
      bind: {{ whole: '${{{{ params.whole }}}}', decimal: '${{{{ params.decimal }}}}' }}
"
    );
    let app = TestApp::builder(database).pipeline("p", &format!("name: p\n{steps}")).start().await;
    for whole in [i64::MIN, i64::MAX, 9_007_199_254_740_993] {
        for decimal in [json!("123456789012345678.95"), json!(0.1)] {
            let run = app.run_to_end("p", json!({ "whole": whole, "decimal": decimal })).await;
            let rows = json!([{ "whole": whole, "decimal": decimal }]);
            assert_eq!(run["steps"][0]["outputs"]["rows"], rows, "{run}");
        }
    }
    app.finish().await;
}

async fn floats_and_json_keep_every_digit(database: Database) {
    let (infinity, others) = match database {
        Database::Postgres => (
            "CAST('Infinity' AS DOUBLE PRECISION)",
            r#"CAST('{"a": 123456789012345678.90}' AS JSONB) AS b, CAST('[1.50, 0.1]' AS JSON) AS j"#,
        ),
        Database::Sqlite => ("9e999", "0.1 AS b, 9007199254740993 AS j"),
    };
    let sql = format!("SELECT {infinity} AS up, -{infinity} AS down, {others}");
    let steps = format!("steps: [{{ id: read, uses: sql.execute, with: {{ sql: {} }} }}]\n", json!(sql));
    let app = TestApp::builder(database).pipeline("p", &format!("name: p\n{steps}")).start().await;
    let run = app.run_to_end("p", json!({})).await;
    let (b, j) = match database {
        Database::Postgres => (json!({ "a": "123456789012345678.90" }), json!([1.5, 0.1])),
        Database::Sqlite => (json!(0.1), json!(9_007_199_254_740_993_i64)),
    };
    let rows = json!([{ "up": "Infinity", "down": "-Infinity", "b": b, "j": j }]);
    assert_eq!(run["steps"][0]["outputs"]["rows"], rows, "{run}");
    app.finish().await;
}
