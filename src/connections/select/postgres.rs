//! Rows from PostgreSQL: `COPY … TO STDOUT` in its text format, in a transaction that can only read.

use std::time::Duration;

use futures::StreamExt;
use memchr::{memchr, memchr_iter};
use sqlx::postgres::PgTypeInfo;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, TypeInfo};
use tokio::sync::mpsc;

use super::super::postgres::{Postgres, sqlstate};
use super::super::sqlite::panicked;
use super::super::statement;
use super::{Reading, Receiver, Select, Sort, too_long, writes};
use crate::error::{Error, Result, reason};

/// How many bytes of rows go to the other thread at once.
const PIECE: usize = 128 << 10;
/// How many such pieces may wait.
const WAITING: usize = 4;

pub(super) async fn run<R: Receiver>(database: &Postgres, select: &Select, reading: Reading, receiver: R) -> Result<R> {
    let stop = reading.stop.clone();
    let mut connection = tokio::select! {
        acquired = database.pool.acquire() => acquired?,
        () = stop.cancelled() => return Err(statement::stopped()),
    };
    // Rows that nobody reads, settings and a late request to cancel are not met by anybody else.
    connection.close_on_drop();
    let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await?;
    let timeout = reading.timeout;
    let work = transaction(&mut connection, select, &reading, receiver);
    let done = statement::until_stopped(database, backend, &stop, work).await;
    done.map_err(|fault| match fault {
        _ if stop.is_cancelled() => statement::stopped(),
        Fault::Ours(error) => error,
        Fault::Database(error) => match sqlstate(&error).as_deref() {
            Some("57014") => too_long(timeout),
            Some("25006") => writes(&reason(&error)),
            _ => error.into(),
        },
    })
}

/// What went wrong, and where.
enum Fault {
    Database(sqlx::Error),
    Ours(Error),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

async fn transaction<R: Receiver>(
    connection: &mut PgConnection,
    select: &Select,
    reading: &Reading,
    receiver: R,
) -> std::result::Result<R, Fault> {
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    transaction.execute(AssertSqlSafe(settings(reading.timeout))).await?;
    let bound = select.statement.for_postgres(&mut transaction, &reading.values).await?;
    let expected = expected(&mut transaction, bound.inlined()).await?;
    let columns: Vec<String> = bound.columns.iter().map(|(name, _)| name.clone()).collect();
    let sorts: Vec<Sort> = bound.columns.iter().map(|(_, kind)| sort(kind)).collect();
    // A line of its own, so that no comment takes the bracket with it.
    let copy = format!("COPY (\n{}\n) TO STDOUT (FORMAT text, ENCODING 'UTF8')", bound.inlined());
    let (sender, pieces) = mpsc::channel(WAITING);
    let taking = tokio::task::spawn_blocking(move || take(receiver, &columns, expected, &sorts, pieces));
    let copied = copy_out(&mut transaction, &copy, sender).await;
    let taken = taking.await.map_err(panicked)?;
    match (copied, taken) {
        (Err(error), Ok(_)) => Err(error.into()),
        (_, taken) => Ok(taken?),
    }
}

/// The deadline, and what the look of values depends on, whatever the database or the role have set.
fn settings(timeout: Duration) -> String {
    let millis = timeout.as_millis().clamp(1, i32::MAX as u128);
    format!(
        "SET LOCAL statement_timeout = {millis}; SET LOCAL standard_conforming_strings = on; \
         SET LOCAL DateStyle = 'ISO, MDY'; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL TimeZone = 'UTC'; \
         SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1"
    )
}

/// How many rows the planner expects.
async fn expected(connection: &mut PgConnection, sql: &str) -> std::result::Result<Option<u64>, Fault> {
    let explain = AssertSqlSafe(format!("EXPLAIN (FORMAT JSON)\n{sql}"));
    let plan: serde_json::Value = sqlx::query_scalar(explain).fetch_one(connection).await?;
    Ok(plan[0]["Plan"]["Plan Rows"].as_u64())
}

/// Gathers the rows, each of which comes in a message of its own, into pieces. Ends early if nobody takes them any more.
async fn copy_out(connection: &mut PgConnection, copy: &str, sender: mpsc::Sender<Vec<u8>>) -> sqlx::Result<()> {
    let mut rows = connection.copy_out_raw(copy).await?;
    let mut piece = Vec::with_capacity(PIECE);
    while let Some(row) = rows.next().await {
        piece.extend_from_slice(&row?);
        if piece.len() >= PIECE {
            let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE));
            if sender.send(full).await.is_err() {
                return Ok(());
            }
        }
    }
    drop(sender.send(piece).await);
    Ok(())
}

fn take<R: Receiver>(
    mut receiver: R,
    columns: &[String],
    expected: Option<u64>,
    sorts: &[Sort],
    mut pieces: mpsc::Receiver<Vec<u8>>,
) -> Result<R> {
    receiver.begin(columns, expected)?;
    let mut scratch = Vec::new();
    while let Some(piece) = pieces.blocking_recv() {
        let mut start = 0;
        for end in memchr_iter(b'\n', &piece) {
            row(&piece[start..end], sorts, &mut scratch, &mut receiver);
            receiver.end_row()?;
            start = end + 1;
        }
    }
    Ok(receiver)
}

/// One line of the text format: cells between tabs; a backslash begins whatever could not stand there as it is.
fn row(line: &[u8], sorts: &[Sort], scratch: &mut Vec<u8>, receiver: &mut impl Receiver) {
    let escapes = memchr(b'\\', line).is_some();
    let mut start = 0;
    let ends = memchr_iter(b'\t', line).chain(std::iter::once(line.len()));
    for (sort, end) in sorts.iter().zip(ends) {
        let cell = &line[start..end];
        start = end + 1;
        match escapes && memchr(b'\\', cell).is_some() {
            true if cell == b"\\N" => receiver.cell(None),
            true => {
                scratch.clear();
                unescape(cell, scratch);
                receiver.cell(Some((*sort, scratch)));
            }
            false => receiver.cell(Some(seen(*sort, cell))),
        }
    }
}

/// A cell as it is told: booleans by their names, and `NaN` and the infinities, which are no numbers to others, as text.
fn seen(sort: Sort, cell: &[u8]) -> (Sort, &[u8]) {
    match sort {
        Sort::Bool => (sort, if cell == b"t" { &b"true"[..] } else { &b"false"[..] }),
        Sort::Exact | Sort::Float if !cell.last().is_some_and(u8::is_ascii_digit) => (Sort::Text, cell),
        _ => (sort, cell),
    }
}

fn unescape(cell: &[u8], out: &mut Vec<u8>) {
    let mut rest = cell;
    while let Some(at) = memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let Some(mark) = rest.get(at + 1) else { break };
        out.push(match mark {
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 11,
            b'f' => 12,
            b'r' => b'\r',
            other => *other,
        });
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
}

fn sort(kind: &PgTypeInfo) -> Sort {
    match kind.name() {
        "INT2" | "INT4" | "INT8" | "OID" | "NUMERIC" => Sort::Exact,
        "FLOAT4" | "FLOAT8" => Sort::Float,
        "BOOL" => Sort::Bool,
        "DATE" => Sort::Date,
        "TIMESTAMP" | "TIMESTAMPTZ" => Sort::Moment,
        "JSON" | "JSONB" => Sort::Json,
        _ => Sort::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<Option<(Sort, String)>>);

    impl Receiver for Seen {
        fn begin(&mut self, _: &[String], _: Option<u64>) -> Result<()> {
            Ok(())
        }

        fn cell(&mut self, cell: Option<(Sort, &[u8])>) {
            self.0.push(cell.map(|(sort, text)| (sort, String::from_utf8(text.to_vec()).unwrap())));
        }

        fn end_row(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_cut_into_cells() {
        let sorts = [Sort::Text, Sort::Exact, Sort::Text, Sort::Bool, Sort::Float, Sort::Text];
        let mut seen = Seen::default();
        row(b"a\\tb\\n\\\\N\t12\t\\N\tt\tNaN\t", &sorts, &mut Vec::new(), &mut seen);
        let cell = |sort, text: &str| Some((sort, text.to_owned()));
        let expected = [
            cell(Sort::Text, "a\tb\n\\N"),
            cell(Sort::Exact, "12"),
            None,
            cell(Sort::Bool, "true"),
            cell(Sort::Text, "NaN"),
            cell(Sort::Text, ""),
        ];
        assert_eq!(seen.0, expected);
    }
}
