//! Reads rows from PostgreSQL with `COPY … TO STDOUT` in text format, in a read-only transaction.
//!
//! One thread with its own connection and runtime reads the rows and passes them to the receiver. The server sends
//! 8 KiB at a time. Waking threads of a shared runtime for each piece takes longer than reading it.

use crate::codes;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt, poll};
use memchr::{memchr, memchr_iter};
use sqlx::postgres::PgTypeInfo;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, TypeInfo};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::statement::run_until_stopped;
use super::{PostgresDatabase, sqlstate};
use crate::errors::panic_error;
use crate::query::{
    CellType, QueryLimits, RowVisitor, SelectRequest, query_timeout_error, unused_identifier, write_refused_error,
};
use crate::statement::stopped_error;
use afterload_core::error::{Error, Result, database_error_message};
use afterload_core::identifier::quote_identifier;

/// The approximate size of the rows that are processed together.
const ROW_BUFFER_BYTES: usize = 128 << 10;
/// How long to sleep so that the server can send more rows.
const GATHER_DELAY: Duration = Duration::from_micros(500);
/// How long the server may take to end a stopped query.
const SELECT_STOP_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn run<R: RowVisitor>(
    database: &PostgresDatabase,
    requests: Vec<SelectRequest>,
    limits: QueryLimits,
    receiver: R,
) -> Result<R> {
    let (stop, timeout) = (limits.stop.clone(), limits.timeout);
    let permit = tokio::select! {
        permit = Arc::clone(&database.reader_permits).acquire_owned() => permit,
        () = stop.cancelled() => return Err(stopped_error()),
    };
    let (begun, backend) = oneshot::channel();
    let own = database.clone();
    let work = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| Error::new(codes::CONNECTION_UNAVAILABLE, format!("nothing can wait for it: {error}")))?;
        let reader = PgSelectReader { runtime, limits };
        let read = reader.read_all(&own, &requests, receiver, begun);
        // This does not wait for a DNS lookup that still runs.
        reader.runtime.shutdown_background();
        read
    });
    let work = async { work.await.map_err(panic_error)? };
    let backend: Option<i32> = tokio::select! {
        biased;
        backend = backend => backend.ok(),
        () = stop.cancelled() => return Err(stopped_error()),
    };
    let done = match backend {
        Some(backend) => run_until_stopped(database, backend, &stop, work).await,
        // The work failed before it sent the process id.
        None => work.await,
    };
    done.map_err(|fault| match fault {
        _ if stop.is_cancelled() => stopped_error(),
        PgReadError::Other(error) => error,
        PgReadError::Database(error) => match sqlstate(&error).as_deref() {
            Some("57014") => query_timeout_error(timeout),
            Some("25006") => write_refused_error(&database_error_message(&error)),
            _ => error.into(),
        },
    })
}

/// An error of the database or of another part.
enum PgReadError {
    Database(sqlx::Error),
    Other(Error),
}

impl From<sqlx::Error> for PgReadError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for PgReadError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Reads rows in a thread. The receiver may block, so it is called outside of the runtime.
struct PgSelectReader {
    runtime: Runtime,
    limits: QueryLimits,
}

impl PgSelectReader {
    /// Waits for the server. After a stop, the server has the time `ending` to finish.
    ///
    /// The task that asks the server to cancel may be gone, so the wait has its own limit.
    fn wait_or_stop<T, E: Into<PgReadError>>(
        &self,
        ending: Duration,
        work: impl Future<Output = std::result::Result<T, E>>,
    ) -> std::result::Result<T, PgReadError> {
        self.runtime.block_on(async {
            let ended = async {
                self.limits.stop.cancelled().await;
                sleep(ending).await;
            };
            tokio::select! {
                biased;
                done = work => done.map_err(Into::into),
                () = ended => Err(stopped_error().into()),
            }
        })
    }

    fn read_all<R: RowVisitor>(
        &self,
        database: &PostgresDatabase,
        requests: &[SelectRequest],
        mut receiver: R,
        begun: oneshot::Sender<i32>,
    ) -> std::result::Result<R, PgReadError> {
        let deadline = Instant::now() + self.limits.timeout;
        let mut connection = self.wait_or_stop(Duration::ZERO, database.connect_unpooled())?;
        let backend = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection);
        if begun.send(self.wait_or_stop(Duration::ZERO, backend)?).is_err() {
            return Err(stopped_error().into());
        }
        let begin = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        let mut transaction = self.wait_or_stop(SELECT_STOP_TIMEOUT, begin)?;
        for request in requests {
            let left = deadline.saturating_duration_since(Instant::now());
            self.copy_rows(&mut transaction, request, left, &mut receiver)?;
        }
        drop(transaction);
        // All rows have arrived, so an error while closing does not matter.
        drop(self.wait_or_stop(SELECT_STOP_TIMEOUT, connection.close()));
        Ok(receiver)
    }

    fn copy_rows(
        &self,
        connection: &mut PgConnection,
        request: &SelectRequest,
        timeout: Duration,
        receiver: &mut impl RowVisitor,
    ) -> std::result::Result<(), PgReadError> {
        let PreparedCopy { sql, columns, cell_types: sorts, expected_rows: expected } =
            self.wait_or_stop(SELECT_STOP_TIMEOUT, prepare_copy(connection, request, timeout))?;
        receiver.visit_columns(&columns, expected)?;
        let mut rows = self.wait_or_stop(SELECT_STOP_TIMEOUT, connection.copy_out_raw(&sql))?.fuse();
        let (mut piece, mut scratch) = (Vec::with_capacity(ROW_BUFFER_BYTES), Vec::new());
        while self.wait_or_stop(SELECT_STOP_TIMEOUT, gather_rows(&mut rows, &mut piece))? {
            let mut start = 0;
            for end in memchr_iter(b'\n', &piece) {
                visit_line(&piece[start..end], &sorts, &mut scratch, receiver);
                receiver.end_row()?;
                start = end + 1;
            }
            piece.clear();
            // `wait_or_stop` returns ready rows even after a stop, so the loop checks the stop itself.
            if self.limits.stop.is_cancelled() {
                return Err(stopped_error().into());
            }
        }
        Ok(())
    }
}

/// The `COPY` statement and its columns.
struct PreparedCopy {
    sql: String,
    columns: Vec<String>,
    cell_types: Vec<CellType>,
    expected_rows: Option<u64>,
}

async fn prepare_copy(
    connection: &mut PgConnection,
    request: &SelectRequest,
    timeout: Duration,
) -> std::result::Result<PreparedCopy, PgReadError> {
    connection.execute(AssertSqlSafe(session_settings(timeout))).await?;
    let SelectRequest { select, values } = request;
    let bound = select.sql.bind_for_postgres(connection, values).await?;
    let expected = estimate_rows(connection, bound.inlined_sql()).await?;
    let columns: Vec<String> = bound.columns.iter().map(|(name, _)| name.clone()).collect();
    let mut sorts: Vec<CellType> = bound.columns.iter().map(|(_, kind)| cell_type_from_pg(kind)).collect();
    let sql = match select.group_column() {
        None => bound.inlined_sql().to_owned(),
        Some(column) => {
            sorts.insert(0, CellType::Text);
            grouped_sql(bound.inlined_sql(), column, &columns)
        }
    };
    // The closing bracket is on its own line, so a comment at the end of the SQL cannot hide it.
    let sql = format!("COPY (\n{sql}\n) TO STDOUT (FORMAT text, ENCODING 'UTF8')");
    Ok(PreparedCopy { sql, columns, cell_types: sorts, expected_rows: expected })
}

/// Sorts the rows by the text of a column, and otherwise as the query does. The number of the row is the last column, which
/// nobody reads.
fn grouped_sql(sql: &str, column: &str, columns: &[String]) -> String {
    let (column, number) = (quote_identifier(column), unused_identifier(columns));
    format!(
        "SELECT numbered.{column}::text COLLATE \"C\", numbered.* \
         FROM (SELECT selected.*, row_number() OVER () AS {number} FROM (\n{sql}\n) AS selected) AS numbered \
         ORDER BY 1 NULLS FIRST, numbered.{number}"
    )
}

/// Sets the timeout and all settings that affect how values are written.
fn session_settings(timeout: Duration) -> String {
    let millis = timeout.as_millis().clamp(1, i32::MAX as u128);
    format!(
        "SET LOCAL statement_timeout = {millis}; SET LOCAL standard_conforming_strings = on; \
         SET LOCAL DateStyle = 'ISO, MDY'; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL TimeZone = 'UTC'; \
         SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1"
    )
}

/// The number of rows that the planner estimates.
async fn estimate_rows(connection: &mut PgConnection, sql: &str) -> std::result::Result<Option<u64>, PgReadError> {
    let explain = AssertSqlSafe(format!("EXPLAIN (FORMAT JSON)\n{sql}"));
    let plan: serde_json::Value = sqlx::query_scalar(explain).fetch_one(connection).await?;
    Ok(plan[0]["Plan"]["Plan Rows"].as_u64())
}

/// Gathers the rows that have arrived. Each row is one message. Returns false at the end.
async fn gather_rows(
    rows: &mut (impl Stream<Item = sqlx::Result<Bytes>> + Unpin),
    piece: &mut Vec<u8>,
) -> sqlx::Result<bool> {
    while piece.len() < ROW_BUFFER_BYTES {
        let row = match poll!(rows.next()) {
            Poll::Ready(row) => row,
            // The receiver processes these rows while more arrive.
            Poll::Pending if !piece.is_empty() => break,
            Poll::Pending => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "nothing else runs in this thread, and no timer wakes so little"
                )]
                thread::sleep(GATHER_DELAY);
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

/// Visits the cells of one line of the text format. Tabs separate cells, and a backslash starts an escape.
fn visit_line(line: &[u8], sorts: &[CellType], scratch: &mut Vec<u8>, receiver: &mut impl RowVisitor) {
    let escapes = memchr(b'\\', line).is_some();
    let mut start = 0;
    let ends = memchr_iter(b'\t', line).chain(std::iter::once(line.len()));
    for (sort, end) in sorts.iter().zip(ends) {
        let cell = &line[start..end];
        start = end + 1;
        match escapes && memchr(b'\\', cell).is_some() {
            true if cell == b"\\N" => receiver.visit_cell(None),
            true => {
                scratch.clear();
                unescape_cell(cell, scratch);
                receiver.visit_cell(Some((*sort, scratch)));
            }
            false => receiver.visit_cell(Some(normalize_cell(*sort, cell))),
        }
    }
}

/// Writes booleans as `true` and `false`. `NaN` and infinities become text, because other formats have no such numbers.
fn normalize_cell(sort: CellType, cell: &[u8]) -> (CellType, &[u8]) {
    match sort {
        CellType::Bool => (sort, if cell == b"t" { &b"true"[..] } else { &b"false"[..] }),
        CellType::Number | CellType::Float if !cell.last().is_some_and(u8::is_ascii_digit) => (CellType::Text, cell),
        _ => (sort, cell),
    }
}

fn unescape_cell(cell: &[u8], out: &mut Vec<u8>) {
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

fn cell_type_from_pg(kind: &PgTypeInfo) -> CellType {
    match kind.name() {
        "INT2" | "INT4" | "INT8" | "OID" | "NUMERIC" => CellType::Number,
        "FLOAT4" | "FLOAT8" => CellType::Float,
        "BOOL" => CellType::Bool,
        "DATE" => CellType::Date,
        "TIMESTAMP" | "TIMESTAMPTZ" => CellType::Timestamp,
        "JSON" | "JSONB" => CellType::Json,
        _ => CellType::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<Option<(CellType, String)>>);

    impl RowVisitor for Seen {
        fn visit_columns(&mut self, _: &[String], _: Option<u64>) -> Result<()> {
            Ok(())
        }

        fn visit_cell(&mut self, cell: Option<(CellType, &[u8])>) {
            self.0.push(cell.map(|(sort, text)| (sort, String::from_utf8(text.to_vec()).unwrap())));
        }

        fn end_row(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn copy_text_lines_are_split_and_unescaped() {
        let sorts = [CellType::Text, CellType::Number, CellType::Text, CellType::Bool, CellType::Float, CellType::Text];
        let mut seen = Seen::default();
        visit_line(b"a\\tb\\n\\\\N\t12\t\\N\tt\tNaN\t", &sorts, &mut Vec::new(), &mut seen);
        let cell = |sort, text: &str| Some((sort, text.to_owned()));
        let expected = [
            cell(CellType::Text, "a\tb\n\\N"),
            cell(CellType::Number, "12"),
            None,
            cell(CellType::Bool, "true"),
            cell(CellType::Text, "NaN"),
            cell(CellType::Text, ""),
        ];
        assert_eq!(seen.0, expected);
    }
}
