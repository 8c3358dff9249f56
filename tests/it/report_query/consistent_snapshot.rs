//! A report reads one consistent snapshot, and gets the planner's row estimate before the first row.

use std::sync::mpsc::{Receiver as Answers, Sender};
use std::time::Duration;

use afterload_core::clock::Clock;
use afterload_core::error::{Error, ErrorCode, Result};
use afterload_target_db::{
    BindValues, CellType, Connections, QueryLimits, QueryOptions, RowVisitor, SelectQuery, SelectRequest,
};
use tokio_util::sync::CancellationToken;

use super::app;
use crate::support::{Database, both};

both!(report_reads_a_consistent_snapshot, receiver_error_ends_the_query);

const TEST_FAILED: ErrorCode = ErrorCode::permanent("test_failed", "The test makes it fail");

/// Blocks after the first row until other writers have committed.
struct Slow {
    begun: Option<tokio::sync::oneshot::Sender<Option<u64>>>,
    go_on: Answers<()>,
    expected: Option<u64>,
    rows: Vec<i64>,
    most: usize,
}

impl RowVisitor for Slow {
    fn visit_columns(&mut self, _: &[String], expected: Option<u64>) -> Result<()> {
        self.expected = expected;
        Ok(())
    }

    fn visit_cell(&mut self, cell: Option<(CellType, &[u8])>) {
        if let Some((CellType::Number, number)) = cell {
            self.rows.push(std::str::from_utf8(number).unwrap().parse().unwrap());
        }
    }

    fn end_row(&mut self) -> Result<()> {
        if let Some(begun) = self.begun.take() {
            begun.send(self.expected).unwrap();
            self.go_on.recv().unwrap();
        }
        match self.rows.len() > self.most {
            true => Err(Error::new(TEST_FAILED, "enough")),
            false => Ok(()),
        }
    }
}

fn slow(most: usize) -> (Slow, tokio::sync::oneshot::Receiver<Option<u64>>, Sender<()>) {
    let ((begun, started), (sender, go_on)) = (tokio::sync::oneshot::channel(), std::sync::mpsc::channel());
    (Slow { begun: Some(begun), go_on, expected: None, rows: Vec::new(), most }, started, sender)
}

const ROWS: i64 = 60_000;

const FILL: &str = "CREATE TABLE t (id BIGINT PRIMARY KEY, pad TEXT);
    INSERT INTO t WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 60000)
    SELECT x, 'some text that makes the table larger than what lies between two processes' FROM c";

fn reading() -> QueryOptions {
    QueryOptions { values: BindValues::new(), timeout: Duration::from_secs(600), stop: CancellationToken::new() }
}

async fn report_reads_a_consistent_snapshot(database: Database) {
    let app = app(database, FILL).await;
    if database == Database::Postgres {
        app.sql("ANALYZE t").await;
    }
    let connection = Connections::new(&app.config.connections, &Clock::system()).get("app").await.unwrap();
    let select = SelectQuery::parse("SELECT id, pad FROM t ORDER BY id", connection.dialect()).unwrap();
    let (receiver, started, go_on) = slow(usize::MAX);
    let write = async {
        let expected = started.await.unwrap();
        app.sql("UPDATE t SET id = -id WHERE id % 2 = 0").await;
        app.sql("DELETE FROM t WHERE id > 50000").await;
        app.sql("INSERT INTO t VALUES (1000000, 'late')").await;
        go_on.send(()).unwrap();
        expected
    };
    // The second query begins after the others have committed.
    let requests = vec![SelectRequest { select, values: BindValues::new() }; 2];
    let QueryOptions { timeout, stop, .. } = reading();
    let read = connection.select_snapshot(requests, QueryLimits { timeout, stop }, receiver);
    let (read, expected) = tokio::join!(read, write);
    assert!(read.unwrap().rows.into_iter().eq((1..=ROWS).chain(1..=ROWS)));
    assert_eq!(expected, (database == Database::Postgres).then_some(ROWS as u64));
    assert_eq!(app.numbers("SELECT COUNT(*) FROM t WHERE id < 0").await, [ROWS / 2]);
    app.finish().await;
}

async fn receiver_error_ends_the_query(database: Database) {
    let app = app(database, FILL).await;
    let connection = Connections::new(&app.config.connections, &Clock::system()).get("app").await.unwrap();
    let select = SelectQuery::parse(super::ENDLESS, connection.dialect()).unwrap();
    let (receiver, _started, go_on) = slow(1000);
    go_on.send(()).unwrap();
    // Nobody receives `begun` in this test.
    let receiver = Slow { begun: None, ..receiver };
    let error = connection.select_rows(&select, reading(), receiver).await.map(|_| ()).unwrap_err();
    assert_eq!((error.code(), error.message()), (TEST_FAILED, "enough"));
    app.finish().await;
}
