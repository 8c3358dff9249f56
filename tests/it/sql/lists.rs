//! A list that is bound to a parameter alone in `IN (…)` stands for its items.

use std::time::Duration;

use afterload_core::clock::Clock;
use afterload_core::error::Result;
use afterload_target_db::{
    BindValues, CellType, Connection, Connections, ParsedStatement, QueryOptions, ResultMode, RowVisitor, SelectQuery,
    StatementArgs,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::app;
use crate::support::{Database, both};

both!(list_stands_for_its_items_everywhere, list_of_many_items_is_bound, batch_takes_the_items_of_a_list);

const TABLES: &str = "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT, code CHAR(3), price NUMERIC, day DATE);
    INSERT INTO t VALUES (1, '5', 'abc', 1.5, '2024-01-01'), (2, 'it''s', 'abd', 2, '2024-02-01'), (3, NULL, 'xyz', 3, NULL)";

/// Collects the first cell of each row.
#[derive(Default)]
struct FirstCells(Vec<String>, bool);

impl RowVisitor for FirstCells {
    fn visit_columns(&mut self, _: &[String], _: Option<u64>) -> Result<()> {
        Ok(())
    }

    fn visit_cell(&mut self, cell: Option<(CellType, &[u8])>) {
        if !std::mem::replace(&mut self.1, true) {
            self.0.push(cell.map(|(_, text)| String::from_utf8_lossy(text).into_owned()).unwrap_or_default());
        }
    }

    fn end_row(&mut self) -> Result<()> {
        self.1 = false;
        Ok(())
    }
}

fn bind(value: &Value) -> BindValues {
    serde_json::from_value(value.clone()).unwrap()
}

/// The ids that a report gives.
async fn report(connection: &Connection, sql: &str, values: &Value) -> String {
    let select = SelectQuery::parse(sql, connection.dialect()).unwrap();
    let (values, timeout) = (bind(values), Duration::from_secs(60));
    let options = QueryOptions { values, timeout, stop: CancellationToken::new() };
    let cells = connection.select_rows(&select, options, FirstCells::default()).await;
    cells.unwrap_or_else(|error| panic!("{sql}: {error}")).0.join(" ")
}

/// The ids that a statement gives.
async fn read(connection: &Connection, sql: &str, values: &Value) -> String {
    let statement = ParsedStatement::parse(sql, connection.dialect()).unwrap();
    let result_mode = ResultMode::All { rows: 100, bytes: 1 << 20 };
    let args = StatementArgs { values: bind(values), result_mode, stop: CancellationToken::new() };
    let result = connection.read_statement(&statement, args).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let rows = result.rows;
    (0..rows.len()).map(|row| rows.value_at(row, 0).to_string()).collect::<Vec<_>>().join(" ")
}

async fn list_stands_for_its_items_everywhere(database: Database) {
    let app = app(database, "steps: [{ id: one, uses: wait, with: { for: 1ms } }]\n", TABLES).await;
    let connection = Connections::new(&app.config.connections, &Clock::system()).get("app").await.unwrap();
    let mut cases = vec![
        ("id IN (:v)", json!({ "v": [1, 3] }), "1 3"),
        ("id in ( /* these */ :v )", json!({ "v": ["1", "3", "7"] }), "1 3"),
        ("id NOT IN (:v)", json!({ "v": [1, 3] }), "2"),
        ("id IN (:v)", json!({ "v": [] }), ""),
        ("id NOT IN (:v)", json!({ "v": [] }), "1 2 3"),
        ("id IN (:v)", json!({ "v": [null, 2] }), "2"),
        ("id NOT IN (:v)", json!({ "v": [null, 2] }), ""),
        ("id IN (:v)", json!({ "v": 2 }), "2"),
        ("id IN (:v, 3)", json!({ "v": 2 }), "2 3"),
        ("name IN (:v)", json!({ "v": ["it's", "\"}{,\\"] }), "2"),
        // As alone, a value is compared as the type of the column wants it.
        ("name IN (:v)", json!({ "v": [5, 6] }), "1"),
        ("code IN (:v)", json!({ "v": ["abc", "xyz"] }), "1 3"),
        ("price IN (:v)", json!({ "v": [1.5, 3] }), "1 3"),
        ("id IN (:v) OR name IN (:w)", json!({ "v": [3], "w": ["5"] }), "1 3"),
        ("id IN (:v) AND :n = 1 AND id IN (:v)", json!({ "v": [2, 3], "n": 1 }), "2 3"),
    ];
    match database {
        Database::Sqlite => {
            cases.push(("id IN (:v) AND id = (SELECT max(value) FROM json_each(:v))", json!({ "v": [1, 2] }), "2"));
        }
        Database::Postgres => {
            cases.push(("day IN (:v)", json!({ "v": ["2024-02-01"] }), "2"));
            cases.push(("id IN (:v) AND id = ANY(:w)", json!({ "v": [1, 2], "w": [2, 3] }), "2"));
            cases.push(("ARRAY[id, 5::bigint] IN (:v)", json!({ "v": [2, 5] }), "2"));
        }
    }
    for (condition, values, expected) in cases {
        let sql = format!("SELECT id FROM t WHERE {condition} ORDER BY id");
        assert_eq!(report(&connection, &sql, &values).await, expected, "{sql} {values}");
        assert_eq!(read(&connection, &sql, &values).await, expected, "{sql} {values}");
    }
    let yaml = "name: p\nparams: { ids: { type: list } }\nsteps:\n  - id: one\n    uses: sql.execute\n    with: { sql: 'UPDATE t SET name = NULL WHERE id IN (:ids) RETURNING id', bind: { ids: '${{ params.ids }}' } }\n";
    app.publish("p", yaml).await;
    for (ids, affected) in [(json!([1, 2, 9]), 2), (json!([]), 0)] {
        let run = app.run_to_end("p", json!({ "ids": ids })).await;
        assert_eq!(run["steps"][0]["outputs"]["rows_affected"], affected, "{run}");
    }
    app.finish().await;
}

/// More items than either database takes parameters.
async fn list_of_many_items_is_bound(database: Database) {
    let app = app(database, "steps: [{ id: one, uses: wait, with: { for: 1ms } }]\n", TABLES).await;
    let connection = Connections::new(&app.config.connections, &Clock::system()).get("app").await.unwrap();
    let values = json!({ "v": (2..100_000).collect::<Vec<i64>>() });
    let sql = "SELECT id FROM t WHERE id IN (:v) ORDER BY id";
    assert_eq!(report(&connection, sql, &values).await, "2 3");
    assert_eq!(read(&connection, sql, &values).await, "2 3");
    app.finish().await;
}

async fn batch_takes_the_items_of_a_list(database: Database) {
    let yaml = "params: { ids: { type: list } }\nsteps:\n  - id: one\n    uses: sql.batch\n    with:\n      sql: DELETE FROM t WHERE id IN (SELECT id FROM t WHERE id IN (:ids) LIMIT :limit)\n      count: SELECT COUNT(*) FROM t WHERE id IN (:ids)\n      bind: { ids: '${{ params.ids }}' }\n      pause: 1ms\n";
    let app = app(database, yaml, TABLES).await;
    let run = app.run_to_end("p", json!({ "ids": [1, 3, 4] })).await;
    assert_eq!(run["steps"][0]["outputs"]["rows_affected"], 2, "{run}");
    assert_eq!(app.numbers("SELECT id FROM t").await, [2]);
    app.finish().await;
}
