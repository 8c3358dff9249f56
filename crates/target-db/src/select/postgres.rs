//! Rows from PostgreSQL: `COPY … TO STDOUT` in its text format, in a transaction that can only read.
//!
//! They are read and worked on in one thread, with a connection and a runtime of its own: the server sends 8 KiB at a time, and
//! to wake threads of a shared runtime for each of them takes longer than to read it.

use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, poll};
use memchr::{memchr, memchr_iter};
use sqlx::postgres::PgTypeInfo;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, TypeInfo};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::super::postgres::{Postgres, sqlstate};
use super::super::sqlite::panicked;
use super::super::statement;
use super::{Reading, Receiver, Select, Sort, too_long, writes};
use afterload_core::error::{Error, Result, reason};

/// How many bytes of rows are worked on at once, about.
const PIECE: usize = 128 << 10;
/// How long the server is left alone to send some more.
const GATHERING: Duration = Duration::from_micros(500);
/// How long the server has for ending what it is asked to end.
const ENDING: Duration = Duration::from_secs(5);

pub(super) async fn run<R: Receiver>(database: &Postgres, select: &Select, reading: Reading, receiver: R) -> Result<R> {
    let (stop, timeout) = (reading.stop.clone(), reading.timeout);
    let permit = tokio::select! {
        permit = Arc::clone(&database.readers).acquire_owned() => permit,
        () = stop.cancelled() => return Err(statement::stopped()),
    };
    let (begun, backend) = oneshot::channel();
    let (own, select) = (database.clone(), select.clone());
    let work = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| Error::transient("connection_unavailable", format!("nothing can wait for it: {error}")))?;
        let reader = Reader { runtime, reading };
        let read = reader.read(&own, &select, receiver, begun);
        // A name that is still looked up is not waited for.
        reader.runtime.shutdown_background();
        read
    });
    let work = async { work.await.map_err(panicked)? };
    let backend: Option<i32> = tokio::select! {
        biased;
        backend = backend => backend.ok(),
        () = stop.cancelled() => return Err(statement::stopped()),
    };
    let done = match backend {
        Some(backend) => statement::until_stopped(database, backend, &stop, work).await,
        // It has failed before.
        None => work.await,
    };
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

/// Who reads in a thread. The receiver may block, so that it is called outside of the runtime.
struct Reader {
    runtime: Runtime,
    reading: Reading,
}

impl Reader {
    /// Waits for the server, after a stop for as long as it has to end by itself. Whoever asked it to may be gone.
    fn wait<T, E: Into<Fault>>(
        &self,
        ending: Duration,
        work: impl Future<Output = std::result::Result<T, E>>,
    ) -> std::result::Result<T, Fault> {
        self.runtime.block_on(async {
            let ended = async {
                self.reading.stop.cancelled().await;
                sleep(ending).await;
            };
            tokio::select! {
                biased;
                done = work => done.map_err(Into::into),
                () = ended => Err(statement::stopped().into()),
            }
        })
    }

    fn read<R: Receiver>(
        &self,
        database: &Postgres,
        select: &Select,
        receiver: R,
        begun: oneshot::Sender<i32>,
    ) -> std::result::Result<R, Fault> {
        let mut connection = self.wait(Duration::ZERO, database.connect())?;
        let backend = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection);
        if begun.send(self.wait(Duration::ZERO, backend)?).is_err() {
            return Err(statement::stopped().into());
        }
        let receiver = self.copied(&mut connection, select, receiver)?;
        // All rows are here, however the connection ends.
        drop(self.wait(ENDING, connection.close()));
        Ok(receiver)
    }

    fn copied<R: Receiver>(
        &self,
        connection: &mut PgConnection,
        select: &Select,
        mut receiver: R,
    ) -> std::result::Result<R, Fault> {
        let begin = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        let mut transaction = self.wait(ENDING, begin)?;
        let Copy { sql, columns, sorts, expected } =
            self.wait(ENDING, prepared(&mut transaction, select, &self.reading))?;
        receiver.begin(&columns, expected)?;
        let mut rows = self.wait(ENDING, transaction.copy_out_raw(&sql))?.fuse();
        let (mut piece, mut scratch) = (Vec::with_capacity(PIECE), Vec::new());
        while self.wait(ENDING, gather(&mut rows, &mut piece))? {
            let mut start = 0;
            for end in memchr_iter(b'\n', &piece) {
                row(&piece[start..end], &sorts, &mut scratch, &mut receiver);
                receiver.end_row()?;
                start = end + 1;
            }
            piece.clear();
            // As long as there are rows, there is no need to wait for the end of the others.
            if self.reading.stop.is_cancelled() {
                return Err(statement::stopped().into());
            }
        }
        Ok(receiver)
    }
}

/// What is to be copied, and what is known of it.
struct Copy {
    sql: String,
    columns: Vec<String>,
    sorts: Vec<Sort>,
    expected: Option<u64>,
}

async fn prepared(
    connection: &mut PgConnection,
    select: &Select,
    reading: &Reading,
) -> std::result::Result<Copy, Fault> {
    connection.execute(AssertSqlSafe(settings(reading.timeout))).await?;
    let bound = select.statement.for_postgres(connection, &reading.values).await?;
    let expected = expected(connection, bound.inlined()).await?;
    let columns = bound.columns.iter().map(|(name, _)| name.clone()).collect();
    let sorts = bound.columns.iter().map(|(_, kind)| sort(kind)).collect();
    // A line of its own, so that no comment takes the bracket with it.
    let sql = format!("COPY (\n{}\n) TO STDOUT (FORMAT text, ENCODING 'UTF8')", bound.inlined());
    Ok(Copy { sql, columns, sorts, expected })
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

/// Gathers rows that are there, each of which comes in a message of its own. False if there are no more.
async fn gather(
    rows: &mut (impl Stream<Item = sqlx::Result<Bytes>> + Unpin),
    piece: &mut Vec<u8>,
) -> sqlx::Result<bool> {
    while piece.len() < PIECE {
        let row = match poll!(rows.next()) {
            Poll::Ready(row) => row,
            // What is there is worked on while more of them come.
            Poll::Pending if !piece.is_empty() => break,
            Poll::Pending => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "nothing else runs in this thread, and no timer wakes so little"
                )]
                thread::sleep(GATHERING);
                rows.next().await
            }
        };
        match row {
            Some(row) => piece.extend_from_slice(&row?),
            None => break,
        }
    }
    Ok(!piece.is_empty())
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
