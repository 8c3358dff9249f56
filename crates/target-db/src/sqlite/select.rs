//! Reads rows from SQLite through a separate read-only handle. A progress handler interrupts the query.

use crate::codes;
use std::time::Instant;

use rusqlite::ffi;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use sqlx::{Connection as _, SqliteConnection};

use super::bind::SqliteQuery;
use super::{InterruptibleHandle, OPS_PER_STOP_CHECK, SqliteDatabase, map_sqlite_error, with_rusqlite};
use crate::errors::panic_error;
use crate::query::{
    CellType, QueryLimits, RowVisitor, SelectRequest, query_timeout_error, unused_identifier, write_refused_error,
};
use afterload_core::error::Result;
use afterload_core::identifier::quote_identifier;

pub(super) async fn run<R: RowVisitor>(
    database: &SqliteDatabase,
    requests: Vec<SelectRequest>,
    limits: QueryLimits,
    mut receiver: R,
) -> Result<R> {
    let bind = |request: &SelectRequest| -> Result<BoundSelect> {
        let query = request.select.sql.bind_for_sqlite(&request.values)?;
        Ok(BoundSelect { query, group: request.select.group_column().map(str::to_owned) })
    };
    let bound = requests.iter().map(bind).collect::<Result<Vec<_>>>()?;
    let options = (*database.pool.connect_options()).clone().read_only(true).create_if_missing(false);
    let mut connection = SqliteConnection::connect_with(&options.pragma("query_only", "1")).await?;
    let (deadline, stop, asked) = (Instant::now() + limits.timeout, limits.stop.clone(), limits.stop);
    let done = tokio::task::spawn_blocking(move || {
        let mut watched = InterruptibleHandle(futures::executor::block_on(connection.lock_handle())?);
        watched.0.set_progress_handler(OPS_PER_STOP_CHECK, move || !stop.is_cancelled() && Instant::now() < deadline);
        let read = |connection: &mut rusqlite::Connection| read_all(connection, bound, &mut receiver);
        with_rusqlite(&mut watched.0, read).map(|()| receiver)
    });
    let done = done.await.map_err(panic_error)?;
    done.map_err(|error| match error.code() == codes::STEP_STOPPED && !asked.is_cancelled() {
        true => query_timeout_error(limits.timeout),
        false => error,
    })
}

/// A query with its values, and the column by which its rows are grouped.
struct BoundSelect {
    query: SqliteQuery,
    group: Option<String>,
}

fn read_all(
    connection: &rusqlite::Connection,
    selects: Vec<BoundSelect>,
    receiver: &mut impl RowVisitor,
) -> Result<()> {
    // The text must not open another file.
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0).map_err(map_sqlite_error)?;
    // One transaction gives every part of all queries the same snapshot.
    let transaction = connection.unchecked_transaction().map_err(map_sqlite_error)?;
    selects.into_iter().try_for_each(|select| read_rows(&transaction, select, receiver))
}

fn read_rows(transaction: &rusqlite::Connection, select: BoundSelect, receiver: &mut impl RowVisitor) -> Result<()> {
    let BoundSelect { query: bound, group } = select;
    let mut statement = transaction.prepare(&bound.sql).map_err(map_sqlite_error)?;
    if !statement.readonly() {
        return Err(write_refused_error("the statement writes"));
    }
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    receiver.visit_columns(&names, None)?;
    let mut cells = names.len();
    if let Some(column) = group {
        statement = transaction.prepare(&grouped_sql(&bound.sql, &column, &names)).map_err(map_sqlite_error)?;
        // The text of the group stands in front.
        cells += 1;
    }
    let mut digits = NumberBuffers::default();
    let mut rows = statement.query(rusqlite::params_from_iter(bound.values)).map_err(map_read_error)?;
    while let Some(row) = rows.next().map_err(map_read_error)? {
        for index in 0..cells {
            visit_value(row.get_ref(index).map_err(map_sqlite_error)?, &mut digits, receiver);
        }
        receiver.end_row()?;
    }
    Ok(())
}

/// Sorts the rows by the text of a column, and otherwise as the query does. Values of the column that differ in type alone
/// follow one another. A column's own collation must not mix texts that differ.
fn grouped_sql(sql: &str, column: &str, columns: &[String]) -> String {
    let (column, number) = (quote_identifier(column), unused_identifier(columns));
    format!(
        "SELECT {column}, * FROM (SELECT *, row_number() OVER () AS {number} FROM (\n{sql}\n)) \
         ORDER BY CAST({column} AS TEXT) COLLATE BINARY, {column} COLLATE BINARY, {number}"
    )
}

/// Buffers for formatting numbers.
#[derive(Default)]
struct NumberBuffers {
    integer: itoa::Buffer,
    float: zmij::Buffer,
}

fn visit_value(value: ValueRef<'_>, digits: &mut NumberBuffers, receiver: &mut impl RowVisitor) {
    match value {
        ValueRef::Null => receiver.visit_cell(None),
        ValueRef::Integer(number) => {
            receiver.visit_cell(Some((CellType::Number, digits.integer.format(number).as_bytes())));
        }
        ValueRef::Real(number) if number.is_infinite() => {
            let text: &[u8] = if number > 0.0 { b"Infinity" } else { b"-Infinity" };
            receiver.visit_cell(Some((CellType::Text, text)));
        }
        // The shortest text that parses to this number.
        ValueRef::Real(number) => receiver.visit_cell(Some((CellType::Float, digits.float.format(number).as_bytes()))),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(_) => receiver.visit_cell(Some((CellType::Text, text))),
            Err(_) => receiver.visit_cell(Some((CellType::Text, String::from_utf8_lossy(text).as_bytes()))),
        },
        // The format in which PostgreSQL writes bytes.
        ValueRef::Blob(bytes) => {
            receiver.visit_cell(Some((CellType::Text, format!("\\x{}", hex::encode(bytes)).as_bytes())));
        }
    }
}

fn map_read_error(error: rusqlite::Error) -> afterload_core::error::Error {
    match error.sqlite_error().map(|error| error.extended_code & 0xff) {
        Some(ffi::SQLITE_READONLY) => write_refused_error(&error.to_string()),
        _ => map_sqlite_error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Keeps the rows as text.
    #[derive(Default)]
    struct Rows(Vec<String>, String);

    impl RowVisitor for Rows {
        fn visit_columns(&mut self, columns: &[String], _: Option<u64>) -> Result<()> {
            self.0.push(columns.join(" "));
            Ok(())
        }

        fn visit_cell(&mut self, cell: Option<(CellType, &[u8])>) {
            let text = cell.map_or("-", |(_, text)| std::str::from_utf8(text).unwrap());
            self.1.push_str(text);
            self.1.push(' ');
        }

        fn end_row(&mut self) -> Result<()> {
            self.0.push(std::mem::take(&mut self.1).trim_end().to_owned());
            Ok(())
        }
    }

    #[test]
    fn grouped_rows_are_sorted_by_text_and_keep_their_order() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let table = "CREATE TABLE t (id INTEGER, \"the \"\"region\" TEXT COLLATE NOCASE, afterload_row INTEGER);
            INSERT INTO t VALUES (1, 'b', 5), (2, 'a', 3), (3, 'B', 9), (4, 'a', 1), (5, NULL, 7), (6, 'b', 2)";
        connection.execute_batch(table).unwrap();
        let sql = "SELECT * FROM t WHERE id <> ?1 ORDER BY id DESC -- a comment".to_owned();
        let query = SqliteQuery { sql, values: vec![rusqlite::types::Value::Integer(4)] };
        let mut rows = Rows::default();
        let select = BoundSelect { query, group: Some("the \"region".to_owned()) };
        super::read_all(&connection, vec![select], &mut rows).unwrap();
        let expected = ["id the \"region afterload_row", "- 5 - 7", "B 3 B 9", "a 2 a 3", "b 6 b 2", "b 1 b 5"];
        assert_eq!(rows.0, expected);
    }

    #[test]
    fn query_cannot_attach_another_file() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let read = |sql: &str| {
            let query = SqliteQuery { sql: sql.to_owned(), values: Vec::new() };
            super::read_all(&connection, vec![BoundSelect { query, group: None }], &mut Nobody)
        };
        let error = read("ATTACH ':memory:' AS other").unwrap_err();
        assert!(error.message().contains("too many attached databases"), "{error}");
        read("SELECT 1").unwrap();
    }
}
