//! SQL that must only read: what the databases accept runs, and what does more than read is refused before it runs.

use std::time::Duration;

use afterload_core::clock::Clock;
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;
use afterload_pipeline::{ValidationContext, compile_definition};
use afterload_target_db::{
    BindValues, CellType, Connection, Connections, ParsedStatement, QueryOptions, ResultMode, RowVisitor, SelectQuery,
    StatementArgs,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{app, faults};
use crate::support::{Database, TestApp, both, eventually};

both!(
    legal_statements_run_and_others_are_refused,
    recipients_are_guarded_before_rows_are_written,
    connected_check_asks_the_database,
    file_with_sql_that_the_database_refuses_is_refused,
);

/// Runs on both databases.
const LEGAL: &[&str] = &[
    "SELECT id, edit FROM t WHERE edit = 'load_extension(1)' AND t.edit IS NOT NULL",
    "VALUES (1, 'a'), (2, 'b')",
    "WITH a AS (SELECT 1 AS x), b AS (SELECT x + 1 AS y FROM a) SELECT x, y FROM a, b",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 10) SELECT sum(x) FROM c",
    "SELECT id, row_number() OVER w, sum(id) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE TIES) FROM t WINDOW w AS (ORDER BY id GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING)",
    "SELECT count(*) FILTER (WHERE id > 1), coalesce(max(edit), '-') FROM t GROUP BY id HAVING count(*) > 0",
    "SELECT CASE WHEN random() >= 2 THEN 1 ELSE 0 END AS dice, lower(edit) AS small FROM t",
    "SELECT a.id FROM t AS a FULL JOIN t AS b ON a.id = b.id + 1 WHERE a.id IS NOT DISTINCT FROM b.id OR 1 = 1",
    "SELECT id FROM t UNION ALL SELECT 2 EXCEPT SELECT 3 ORDER BY 1 LIMIT 2 OFFSET 0 -- the end",
    "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM t AS u WHERE u.id >= t.id) AND id IN (1, 2) AND (id, edit) IN (SELECT id, edit FROM t)",
];
/// Refused on both databases.
const REFUSED: &[&str] = &[
    "DELETE FROM t",
    "INSERT INTO t VALUES (9, 'x') RETURNING id",
    "UPDATE t SET edit = 'x' RETURNING id",
    "WITH x AS (SELECT 9 AS id) INSERT INTO t SELECT id, 'x' FROM x RETURNING id",
    "DROP TABLE t",
    "BEGIN",
    "EXPLAIN SELECT 1",
    "SELECT 1; DELETE FROM t",
    "SELECT id FROM t) AS x, (SELECT 1",
];
const LEGAL_SQLITE: &[&str] = &[
    "SELECT [id], `edit` FROM \"t\" WHERE edit GLOB '*' OR edit LIKE 'a%'",
    "SELECT j.value, j.\"key\" FROM json_each('{\"a\": 1}') AS j WHERE '[1,2]' ->> 1 = 2",
    "SELECT name FROM pragma_table_info('t')",
    "SELECT strftime('%Y', 'now'), printf('%d', 1), iif(1, 2, 3), unixepoch(), hex(randomblob(2)), changes()",
    "SELECT group_concat(edit, ',') FROM t",
];
const REFUSED_SQLITE: &[&str] = &[
    "WITH x AS (SELECT 9 AS id) REPLACE INTO t SELECT id, 'x' FROM x RETURNING id",
    "SELECT load_extension('x')",
    "SELECT id FROM t WHERE LOAD_EXTENSION ( 'x', 'y' )",
    "SELECT \"load_extension\"('x')",
    "SELECT sqlite_log(1, 'x')",
    "SELECT * FROM pragma_optimize",
    "ATTACH 'other.db' AS o",
    "PRAGMA user_version = 7",
    "VACUUM INTO 'copy.db'",
];
/// Functions and operators for PostgreSQL. `app` allows `mine.pure`.
const POSTGRES_DDL: &str = r#"
    CREATE SCHEMA mine;
    CREATE TABLE hits (n BIGINT);
    CREATE SEQUENCE ids;
    CREATE FUNCTION wipe() RETURNS bigint LANGUAGE sql AS 'DELETE FROM t RETURNING id';
    CREATE FUNCTION wipe_row(t) RETURNS bigint LANGUAGE sql AS 'DELETE FROM t RETURNING id';
    CREATE FUNCTION sneaky(bigint) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT $1';
    CREATE FUNCTION mine."Odd ""Name"(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1';
    CREATE FUNCTION mine.pure(bigint) RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT $1';
    CREATE FUNCTION tell(text, text) RETURNS boolean LANGUAGE sql VOLATILE AS 'SELECT true';
    CREATE OPERATOR #!# (LEFTARG = text, RIGHTARG = text, FUNCTION = tell)
"#;
const LEGAL_POSTGRES: &[&str] = &[
    "TABLE t",
    "(SELECT id FROM t) UNION (SELECT 2) ORDER BY 1",
    "SELECT a, b, n FROM ROWS FROM (generate_series(1, 3), generate_series(4, 5)) WITH ORDINALITY AS x(a, b, n)",
    "WITH RECURSIVE c(id, up) AS (SELECT 1, 0 UNION ALL SELECT id + 1, id FROM c WHERE id < 3) SEARCH DEPTH FIRST BY id SET place SELECT id FROM c ORDER BY place",
    "WITH RECURSIVE c(id, up) AS (SELECT 1, 0 UNION ALL SELECT id % 3 + 1, id FROM c) CYCLE id SET again TO 'y' DEFAULT 'n' USING path SELECT id, again FROM c",
    "WITH delete AS (SELECT 1 AS update) SELECT update FROM delete",
    "WITH wipe(n) AS MATERIALIZED (SELECT 1) SELECT n, CAST(2.5 AS numeric(3, 1)) FROM wipe",
    "SELECT (ARRAY[1, 2, 3])[1 : 2], (ARRAY[1, 2, 3])[: 2], (ARRAY[[1, 2]])[1 :][1]",
    "SELECT DISTINCT ON (edit) edit, id FROM t, LATERAL (SELECT id + 1 AS more) AS x(more) ORDER BY edit, more DESC NULLS LAST FETCH FIRST 1 ROW WITH TIES",
    "SELECT id, grouping(id) FROM t GROUP BY GROUPING SETS ((id), ()), ROLLUP (id)",
    "SELECT now(), clock_timestamp(), gen_random_uuid(), random(), current_setting('TimeZone'), pg_size_pretty(pg_total_relation_size('t'))",
    "SELECT extract(year FROM now()), substring('abc' FROM 2 FOR 1), overlay('abc' PLACING 'x' FROM 1), position('b' IN 'abc'), trim(BOTH FROM ' a ')",
    "SELECT make_interval(days => 3), 1 OPERATOR(pg_catalog.+) 2, pg_catalog . \"upper\" ('a'), 'wipe()', $$ wipe() $$ /* wipe() */",
    "SELECT (r).a, (r).b FROM (SELECT x AS r FROM (SELECT 1 AS a, 2 AS b) AS x) AS y",
    "SELECT string_agg(edit, ',' ORDER BY id), percentile_cont(0.5) WITHIN GROUP (ORDER BY id), to_tsvector('english', 'cats') @@ to_tsquery('cat') FROM t",
    "SELECT j.value ->> 'a', xmlelement(name b, 'c') FROM jsonb_array_elements('[{\"a\": 1}]') AS j",
    "SELECT mine.pure(id) AS into FROM t",
    "SELECT count(*) FROM information_schema.tables, t TABLESAMPLE system (10)",
];
const REFUSED_POSTGRES: &[&str] = &[
    "WITH x AS (DELETE FROM t RETURNING id) SELECT * FROM x",
    "WITH RECURSIVE c(id) AS (SELECT 1 UNION ALL SELECT id % 3 + 1 FROM c) CYCLE id SET again USING path, x AS (DELETE FROM t RETURNING id) SELECT * FROM x",
    "SELECT * INTO made FROM t",
    "SELECT n INTO made FROM ROWS FROM (generate_series(1, 2)) AS x(n)",
    "SELECT * FROM t FOR UPDATE",
    "SELECT t.id FROM t, ROWS FROM (generate_series(1, 2)) AS x(n) FOR NO KEY UPDATE OF t SKIP LOCKED",
    "SELECT wipe()",
    "SELECT public . \"wipe\" /* a comment */ ( )",
    "SELECT DISTINCT ON (id) wipe() FROM t",
    "SELECT t.wipe_row FROM t",
    "SELECT (t).wipe_row FROM t",
    "SELECT sneaky(id) FROM t",
    "SELECT mine.\"Odd \"\"Name\"(1)",
    "SELECT 'a'::text #!# 'b'::text",
    "SELECT pg_temp.wipe()",
    "SELECT nextval('ids')",
    "SELECT query_to_xml_and_xmlschema('DELETE FROM t', true, true, '')",
    "SELECT table_to_xml('t', true, true, '')",
    "SELECT * FROM ts_stat('SELECT NULL::tsvector')",
    "SELECT ('SELECT NULL::tsvector'::text).ts_stat",
    "SELECT (:word).ts_stat",
    "SELECT * FROM ROWS FROM (pg_ls_dir('.')) AS x(a)",
    "SELECT pg_advisory_lock(1), pg_advisory_xact_lock(2)",
    "SELECT pg_sleep(0)",
    "SELECT set_config('search_path', 'x', false)",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT lo_get(1)",
    "SELECT pg_cancel_backend(0)",
    "COPY t TO STDOUT",
    "DO $$ BEGIN DELETE FROM t; END $$",
];

struct Nobody;

impl RowVisitor for Nobody {
    fn visit_columns(&mut self, _: &[String], _: Option<u64>) -> Result<()> {
        Ok(())
    }

    fn visit_cell(&mut self, _: Option<(CellType, &[u8])>) {}

    fn end_row(&mut self) -> Result<()> {
        Ok(())
    }
}

fn values(sql: &str) -> BindValues {
    let word = sql.contains(":word").then(|| ("word".to_owned(), json!("SELECT NULL::tsvector")));
    word.into_iter().collect()
}

async fn report(connection: &Connection, sql: &str) -> Result<()> {
    let select = SelectQuery::parse(sql, connection.dialect())?;
    let (values, timeout) = (values(sql), Duration::from_secs(60));
    let options = QueryOptions { values, timeout, stop: CancellationToken::new() };
    connection.select_rows(&select, options, Nobody).await.map(|_| ())
}

async fn read(connection: &Connection, sql: &str) -> Result<()> {
    let statement = ParsedStatement::parse(sql, connection.dialect())?;
    let args = StatementArgs { values: values(sql), result_mode: ResultMode::Discard, stop: CancellationToken::new() };
    connection.read_statement(&statement, args).await.map(|_| ())
}

async fn guarded_app(database: Database) -> (TestApp, Connection) {
    let tables = "CREATE TABLE t (id BIGINT PRIMARY KEY, edit TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b')";
    let mut app = app(database, "steps: [{ id: one, uses: wait, with: { for: 1ms } }]\n", tables).await;
    if database == Database::Postgres {
        app.sql(POSTGRES_DDL).await;
    }
    app.config.connections.get_mut("app").unwrap().functions = vec!["mine.pure".into()];
    let connection = Connections::new(&app.config.connections, &Clock::system()).get("app").await.unwrap();
    (app, connection)
}

async fn legal_statements_run_and_others_are_refused(database: Database) {
    let (app, connection) = guarded_app(database).await;
    let (legal, refused) = match database {
        Database::Sqlite => (LEGAL_SQLITE, REFUSED_SQLITE),
        Database::Postgres => (LEGAL_POSTGRES, REFUSED_POSTGRES),
    };
    for sql in LEGAL.iter().chain(legal) {
        report(&connection, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        read(&connection, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    for sql in REFUSED.iter().chain(refused) {
        let code = report(&connection, sql).await.expect_err(sql).code().name();
        assert_eq!(code, "report_sql_refused", "{sql}");
        let code = read(&connection, sql).await.expect_err(sql).code().name();
        assert!(["sql_refused", "sql_invalid"].contains(&code), "{sql}: {code}");
    }
    assert_eq!(app.numbers("SELECT COUNT(*) FROM t WHERE edit IN ('a', 'b')").await, [2]);
    app.finish().await;
}

/// The query of the recipients is a part of the statement that writes their rows, where no read-only transaction protects.
async fn recipients_are_guarded_before_rows_are_written(database: Database) {
    let (app, _) = guarded_app(database).await;
    app.sql("CREATE TABLE inbox (person BIGINT PRIMARY KEY)").await;
    let fan_out = |sql: &str| {
        format!(
            "name: p\nsteps:\n  - id: tell\n    uses: notify.fanout\n    retry: {{ attempts: 1 }}\n    with:\n      audience: {{ followers: {{ sql: {}, key: id }} }}\n      deliver: {{ table: {{ into: inbox, person: person, keys: [person] }} }}\n",
            json!(sql)
        )
    };
    let refused: &[&str] = match database {
        Database::Sqlite => &["SELECT 1 AS id FROM pragma_optimize"],
        Database::Postgres => &["SELECT id FROM t WHERE sneaky(id) > 0", "SELECT wipe() AS id"],
    };
    for sql in refused {
        app.publish("p", &fan_out(sql)).await;
        let run = app.run_to_end("p", json!({})).await;
        assert_eq!(run["steps"][0]["error"]["code"], "sql_refused", "{sql}: {run}");
    }
    app.publish("p", &fan_out("SELECT id FROM t AS edit WHERE edit.edit <> 'edit'")).await;
    assert_eq!(app.run_to_end("p", json!({})).await["status"], "succeeded");
    assert_eq!(app.numbers("SELECT COUNT(*), (SELECT COUNT(*) FROM t) FROM inbox").await, [2, 2]);
    app.finish().await;
}

/// Each problem stands at its SQL, and text that is fine alone is not reported.
async fn connected_check_asks_the_database(database: Database) {
    let (app, _) = guarded_app(database).await;
    let dialect = if database == Database::Sqlite { Dialect::Sqlite } else { Dialect::Postgres };
    let context = ValidationContext {
        dialects: [("app".to_owned(), dialect)].into(),
        query_verifier: Some(afterload::app::query_verifier(Connections::new(
            &app.config.connections,
            &Clock::system(),
        ))),
        ..ValidationContext::default()
    };
    let kinds = afterload::registry::step_kinds().catalog();
    let problems = |sql: &str| {
        let steps = json!([
            { "id": "a", "uses": "report.query", "with": { "sql": sql, "format": "csv", "bind": { "id": 1 } } },
            {
                "id": "b",
                "uses": "notify.fanout",
                "with": {
                    "audience": { "followers": { "sql": sql, "key": "id", "bind": { "id": 1 } } },
                    "deliver": { "table": { "into": "t", "person": "p", "keys": ["p"] } },
                },
            },
        ]);
        let compiled = compile_definition(Some("p.yaml"), &format!("name: p\nsteps: {steps}\n"), &kinds, &context);
        let problems = compiled.err().unwrap_or_default();
        problems.into_iter().map(|problem| (problem.code.name(), problem.message)).collect::<Vec<_>>()
    };
    let none = problems("SELECT id FROM t WHERE id = :id AND t.edit <> ''");
    assert!(none.is_empty(), "{none:?}");
    let keyless = problems("SELECT * FROM (SELECT edit FROM t WHERE id = :id) AS u");
    assert_eq!(keyless, [("column_not_found", "the query gives no column `id`".to_owned())]);
    let missing = problems("SELECT id FROM nowhere WHERE id = :id");
    assert!(missing.len() == 2 && missing.iter().all(|(_, message)| message.contains("nowhere")), "{missing:?}");
    let refused = match database {
        Database::Sqlite => "SELECT :id AS id FROM pragma_optimize",
        Database::Postgres => "SELECT sneaky(:id) AS id",
    };
    let refused = problems(refused);
    assert!(refused.len() == 2 && refused.iter().all(|(code, _)| *code == "sql_refused"), "{refused:?}");
    app.finish().await;
}

/// A table may be made later, so SQL that cannot be judged yet is accepted.
async fn file_with_sql_that_the_database_refuses_is_refused(database: Database) {
    let (app, _) = guarded_app(database).await;
    let path = app.config.pipelines.join("q.yaml");
    let write = |sql: &str| {
        let steps = json!([{ "id": "a", "uses": "report.query", "with": { "sql": sql, "format": "csv" } }]);
        std::fs::write(&path, format!("name: q\nsteps: {steps}\n")).unwrap();
    };
    let refused = match database {
        Database::Sqlite => "SELECT 1 AS id FROM pragma_optimize",
        Database::Postgres => "SELECT sneaky(id) AS id FROM t",
    };
    write(refused);
    eventually("the refusal", async || {
        let shown: Value = app.get("/v1/pipelines").await.json().await.unwrap();
        (shown["refused"][0]["problems"][0]["code"] == "sql_refused").then_some(())
    })
    .await;
    assert_eq!(app.get("/v1/pipelines/q").await.status(), 404, "it was never live");
    write("SELECT id FROM not_yet");
    eventually("the mended file", async || (app.get("/v1/pipelines/q").await.status() == 200).then_some(())).await;
    app.finish().await;
}

#[test]
fn check_refuses_only_what_is_certain() {
    let fan_out = |sql: &str| {
        let with = json!({
            "audience": { "followers": { "sql": sql, "key": "id" } },
            "deliver": { "table": { "into": "t", "person": "p", "keys": ["p"] } },
        });
        faults(&format!("steps: [{{ id: a, uses: notify.fanout, with: {with} }}]\n"))
    };
    for sql in [
        "SELECT id, edit, nextval FROM t",
        "SELECT id FROM ROWS FROM (generate_series(1, 3)) AS t(id)",
        "SELECT mine.edit(id) AS id FROM t",
        "WITH a AS (SELECT id AS delete FROM t) SELECT delete AS id FROM a",
    ] {
        assert_eq!(fan_out(sql), [""; 0], "{sql}");
    }
    for (sql, fault) in [
        ("WITH a AS (SELECT 1) DELETE FROM t", "people are found by a `SELECT`"),
        ("WITH a AS (DELETE FROM t RETURNING id) SELECT id FROM a", "people are found by a `SELECT`"),
        ("SELECT pg_advisory_lock(id) AS id FROM t", "the function `pg_advisory_lock` does more than read"),
    ] {
        assert!(fan_out(sql).join(" ").contains(fault), "{sql}: {:?}", fan_out(sql));
    }
}
