//! Rows from SQLite: a handle of its own that can only read, whose query others interrupt.

use std::time::Instant;

use rusqlite::ffi;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use sqlx::{Connection as _, SqliteConnection};

use super::super::bind::ForSqlite;
use super::super::sqlite::{OPERATIONS, Sqlite, Watched, failed, on_handle, panicked};
use super::super::statement;
use super::{Reading, Receiver, Select, Sort, too_long, writes};
use afterload_core::error::Result;

pub(super) async fn run<R: Receiver>(
    database: &Sqlite,
    select: &Select,
    reading: Reading,
    mut receiver: R,
) -> Result<R> {
    let bound = select.statement.for_sqlite(&reading.values)?;
    let options = (*database.pool.connect_options()).clone().read_only(true).create_if_missing(false);
    let mut connection = SqliteConnection::connect_with(&options.pragma("query_only", "1")).await?;
    let (deadline, stop, asked) = (Instant::now() + reading.timeout, reading.stop.clone(), reading.stop);
    let done = tokio::task::spawn_blocking(move || {
        let mut watched = Watched(futures::executor::block_on(connection.lock_handle())?);
        watched.0.set_progress_handler(OPERATIONS, move || !stop.is_cancelled() && Instant::now() < deadline);
        on_handle(&mut watched.0, |connection| read(connection, bound, &mut receiver)).map(|()| receiver)
    });
    let done = done.await.map_err(panicked)?;
    done.map_err(|error| match error.code() == statement::STOPPED && !asked.is_cancelled() {
        true => too_long(reading.timeout),
        false => error,
    })
}

fn read(connection: &rusqlite::Connection, bound: ForSqlite, receiver: &mut impl Receiver) -> Result<()> {
    // No other file, whatever the text hides.
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0).map_err(failed)?;
    // One transaction, so that also a query that is read again sees the same.
    let transaction = connection.unchecked_transaction().map_err(failed)?;
    let mut statement = transaction.prepare(&bound.sql).map_err(failed)?;
    if !statement.readonly() {
        return Err(writes("the statement writes"));
    }
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    receiver.begin(&names, None)?;
    let mut digits = Digits::default();
    let mut rows = statement.query(rusqlite::params_from_iter(bound.values)).map_err(refused)?;
    while let Some(row) = rows.next().map_err(refused)? {
        for index in 0..names.len() {
            cell(row.get_ref(index).map_err(failed)?, &mut digits, receiver);
        }
        receiver.end_row()?;
    }
    Ok(())
}

/// Where numbers are written out.
#[derive(Default)]
struct Digits {
    whole: itoa::Buffer,
    real: zmij::Buffer,
}

fn cell(value: ValueRef<'_>, digits: &mut Digits, receiver: &mut impl Receiver) {
    match value {
        ValueRef::Null => receiver.cell(None),
        ValueRef::Integer(number) => receiver.cell(Some((Sort::Exact, digits.whole.format(number).as_bytes()))),
        ValueRef::Real(number) if number.is_infinite() => {
            let text: &[u8] = if number > 0.0 { b"Infinity" } else { b"-Infinity" };
            receiver.cell(Some((Sort::Text, text)));
        }
        // The shortest text that is this number.
        ValueRef::Real(number) => receiver.cell(Some((Sort::Float, digits.real.format(number).as_bytes()))),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(_) => receiver.cell(Some((Sort::Text, text))),
            Err(_) => receiver.cell(Some((Sort::Text, String::from_utf8_lossy(text).as_bytes()))),
        },
        // As PostgreSQL shows bytes.
        ValueRef::Blob(bytes) => receiver.cell(Some((Sort::Text, format!("\\x{}", hex::encode(bytes)).as_bytes()))),
    }
}

fn refused(error: rusqlite::Error) -> afterload_core::error::Error {
    match error.sqlite_error().map(|error| error.extended_code & 0xff) {
        Some(ffi::SQLITE_READONLY) => writes(&error.to_string()),
        _ => failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Receiver for Nobody {
        fn begin(&mut self, _: &[String], _: Option<u64>) -> Result<()> {
            Ok(())
        }

        fn cell(&mut self, _: Option<(Sort, &[u8])>) {}

        fn end_row(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_other_file_is_reached() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let read =
            |sql: &str| super::read(&connection, ForSqlite { sql: sql.to_owned(), values: Vec::new() }, &mut Nobody);
        let error = read("ATTACH ':memory:' AS other").unwrap_err();
        assert!(error.message().contains("too many attached databases"), "{error}");
        read("SELECT 1").unwrap();
    }
}
