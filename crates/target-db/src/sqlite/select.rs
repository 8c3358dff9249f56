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
use crate::query::{CellType, QueryOptions, RowVisitor, SelectQuery, query_timeout_error, write_refused_error};
use afterload_core::error::Result;

pub(super) async fn run<R: RowVisitor>(
    database: &SqliteDatabase,
    select: &SelectQuery,
    reading: QueryOptions,
    mut receiver: R,
) -> Result<R> {
    let bound = select.sql.bind_for_sqlite(&reading.values)?;
    let options = (*database.pool.connect_options()).clone().read_only(true).create_if_missing(false);
    let mut connection = SqliteConnection::connect_with(&options.pragma("query_only", "1")).await?;
    let (deadline, stop, asked) = (Instant::now() + reading.timeout, reading.stop.clone(), reading.stop);
    let done = tokio::task::spawn_blocking(move || {
        let mut watched = InterruptibleHandle(futures::executor::block_on(connection.lock_handle())?);
        watched.0.set_progress_handler(OPS_PER_STOP_CHECK, move || !stop.is_cancelled() && Instant::now() < deadline);
        with_rusqlite(&mut watched.0, |connection| read_rows(connection, bound, &mut receiver)).map(|()| receiver)
    });
    let done = done.await.map_err(panic_error)?;
    done.map_err(|error| match error.code() == codes::STEP_STOPPED && !asked.is_cancelled() {
        true => query_timeout_error(reading.timeout),
        false => error,
    })
}

fn read_rows(connection: &rusqlite::Connection, bound: SqliteQuery, receiver: &mut impl RowVisitor) -> Result<()> {
    // The text must not open another file.
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0).map_err(map_sqlite_error)?;
    // One transaction gives every part of the query the same snapshot.
    let transaction = connection.unchecked_transaction().map_err(map_sqlite_error)?;
    let mut statement = transaction.prepare(&bound.sql).map_err(map_sqlite_error)?;
    if !statement.readonly() {
        return Err(write_refused_error("the statement writes"));
    }
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    receiver.visit_columns(&names, None)?;
    let mut digits = NumberBuffers::default();
    let mut rows = statement.query(rusqlite::params_from_iter(bound.values)).map_err(map_read_error)?;
    while let Some(row) = rows.next().map_err(map_read_error)? {
        for index in 0..names.len() {
            visit_value(row.get_ref(index).map_err(map_sqlite_error)?, &mut digits, receiver);
        }
        receiver.end_row()?;
    }
    Ok(())
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

    #[test]
    fn query_cannot_attach_another_file() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let read = |sql: &str| {
            super::read_rows(&connection, SqliteQuery { sql: sql.to_owned(), values: Vec::new() }, &mut Nobody)
        };
        let error = read("ATTACH ':memory:' AS other").unwrap_err();
        assert!(error.message().contains("too many attached databases"), "{error}");
        read("SELECT 1").unwrap();
    }
}
