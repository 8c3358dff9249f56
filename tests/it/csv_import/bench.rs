//! A table in a real database, a source in memory that can fail, and a file store that keeps what is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use afterload::config::{CheckpointMode, ConnectionConfig, Secret};
use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_object_store::codes::OBJECT_STORE_UNAVAILABLE;
use afterload_step_api::{ProgressReporter, ProgressUpdate};
use afterload_table_import::{
    CsvImport, CsvImportOutputs, CsvSource, FileStore, ImportContext, RejectSink, run_import,
};
use afterload_target_db::{Connection, Connections, Fence};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use sqlx::{AssertSqlSafe, Executor, PgPool, SqlitePool};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use crate::support::Database as Db;
use crate::support::Server;

pub const BOTH: [Db; 2] = [Db::Sqlite, Db::Postgres];

enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A new database with its tables.
pub struct Bench {
    pub connection: Connection,
    pub url: String,
    pool: Pool,
    _folder: tempfile::TempDir,
    _server: Option<Server>,
}

impl Bench {
    pub async fn new(db: Db, ddl: &str) -> Self {
        Self::with(db, ddl, CheckpointMode::Table, None).await
    }

    pub async fn with(db: Db, ddl: &str, checkpoints: CheckpointMode, schema: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (url, server) = match db {
            Db::Sqlite => (format!("sqlite://{}", folder.path().join("app.db").display()), None),
            Db::Postgres => {
                let server = Server::start().await;
                (server.url(), Some(server))
            }
        };
        let pool = match db {
            Db::Sqlite => Pool::Sqlite(SqlitePool::connect(&format!("{url}?mode=rwc")).await.unwrap()),
            Db::Postgres => Pool::Postgres(PgPool::connect(&url).await.unwrap()),
        };
        // The tables exist before the import, as in production.
        for sql in ddl.split(";;").filter(|sql| !sql.trim().is_empty()) {
            execute(&pool, sql).await;
        }
        Self { connection: connect(&url, checkpoints, schema).await, url, pool, _folder: folder, _server: server }
    }

    pub async fn execute(&self, sql: &str) {
        execute(&self.pool, sql).await;
    }

    /// Imports over a new connection, which may take another way to the database.
    pub async fn reconnect(&mut self, url: &str) {
        self.connection = connect(url, CheckpointMode::Table, None).await;
    }

    /// Executes statements that `;;` separates.
    pub async fn execute_all(&self, sql: &str) {
        for sql in sql.split(";;").filter(|sql| !sql.trim().is_empty()) {
            execute(&self.pool, sql).await;
        }
    }

    /// Imports as the next run does: the checkpoint of the import before is gone.
    pub async fn import_anew(&self, spec: &CsvImport, source: &Memory) -> Result<Done> {
        if self.connection.describe_table("afterload_checkpoints").await.is_ok() {
            self.execute("DELETE FROM afterload_checkpoints").await;
            self.execute("DELETE FROM afterload_rejects").await;
        }
        self.import(spec, source).await
    }

    /// Returns the text column of a query, row by row.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.pool {
            Pool::Sqlite(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
            Pool::Postgres(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
        }
    }

    /// Returns the columns of a table as text, in the order of the first.
    pub async fn rows(&self, table: &str, columns: &[&str]) -> Vec<String> {
        let shown = columns.iter().map(|column| format!("coalesce(cast({column} AS text), '-')"));
        let shown = shown.collect::<Vec<_>>().join(" || '|' || ");
        self.texts(&format!("SELECT {shown} FROM {table} ORDER BY cast({} AS text)", columns[0])).await
    }

    pub async fn import(&self, spec: &CsvImport, source: &Memory) -> Result<Done> {
        self.attempt(spec, source, 1, CancellationToken::new()).await
    }

    pub async fn attempt(
        &self,
        spec: &CsvImport,
        source: &Memory,
        epoch: i64,
        stop: CancellationToken,
    ) -> Result<Done> {
        let (progress, seen) = ProgressReporter::new_channel();
        let fence = Fence { checkpoint_key: "run1/import".into(), epoch };
        let job = ImportContext { run: "run1".into(), fence, progress, stop };
        let shelf = Drawer::default();
        let outputs = run_import(spec, &job, source, &shelf, &self.connection).await?;
        Ok(Done { outputs, errors: shelf.text(), seen })
    }
}

/// Opens a connection as steps do.
async fn connect(url: &str, checkpoints: CheckpointMode, schema: Option<&str>) -> Connection {
    let (url, schema) = (Secret::new(url.to_owned()), schema.map(str::to_owned));
    let config = ConnectionConfig { url, schema, read_only: false, checkpoints, functions: Vec::new() };
    Connections::new(&BTreeMap::from([("app".to_owned(), config)]), &Clock::system()).get("app").await.unwrap()
}

async fn execute(pool: &Pool, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    match pool {
        Pool::Sqlite(pool) => drop(pool.execute(sql).await.unwrap()),
        Pool::Postgres(pool) => drop(pool.execute(sql).await.unwrap()),
    }
}

/// The result of an import.
pub struct Done {
    pub outputs: CsvImportOutputs,
    /// The error file; empty if there is none.
    pub errors: String,
    seen: watch::Receiver<ProgressUpdate>,
}

impl Done {
    /// Returns the counts of rows, inserted, updated, skipped, rejected.
    pub fn counts(&self) -> [u64; 5] {
        let CsvImportOutputs { rows, inserted, updated, skipped, rejected, .. } = self.outputs;
        assert_eq!(rows, inserted + updated + skipped + rejected);
        [rows, inserted, updated, skipped, rejected]
    }

    pub fn progress(&self) -> ProgressUpdate {
        self.seen.borrow().clone()
    }

    /// Reads the error file, which has the delimiter of the file.
    fn error_rows(&self) -> csv::Reader<&[u8]> {
        let header = self.errors.lines().next().unwrap_or_default();
        let delimiter = if header.contains(';') { b';' } else { b',' };
        csv::ReaderBuilder::new().flexible(true).delimiter(delimiter).from_reader(self.errors.as_bytes())
    }

    /// Returns the messages of the error file.
    pub fn messages(&self) -> Vec<String> {
        let mut reader = self.error_rows();
        reader.records().map(|row| row.unwrap().iter().next_back().unwrap_or_default().to_owned()).collect()
    }

    /// Returns the codes of the error file with their rows and columns. Notes at its end are left out.
    pub fn codes(&self) -> Vec<(u64, String, String)> {
        let mut reader = self.error_rows();
        let row = |row: csv::StringRecord| {
            let at = row.len() - 6;
            (row[at + 1].parse().unwrap(), row[at + 3].to_owned(), row[at + 4].to_owned())
        };
        let rows = reader.records().map(|record| row(record.unwrap()));
        rows.filter(|(_, _, code)| !["csv_errors_omitted", "csv_rows_cut"].contains(&code.as_str())).collect()
    }
}

/// Bytes in memory, delivered in pieces. The stream fails at some offsets.
pub struct Memory {
    bytes: Bytes,
    piece: usize,
    breaks: Mutex<Vec<u64>>,
}

impl Memory {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: Bytes::from(bytes.into()), piece: 8192, breaks: Mutex::default() }
    }

    pub fn pieces(mut self, piece: usize) -> Self {
        self.piece = piece;
        self
    }

    /// Fails the stream once at each of these offsets, in this order.
    pub fn breaking(self, breaks: impl IntoIterator<Item = u64>) -> Self {
        *self.breaks.lock().unwrap() = breaks.into_iter().collect();
        self
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl CsvSource for Memory {
    async fn open(&self, from: u64) -> Result<(u64, BoxStream<'static, Result<Bytes>>)> {
        let rest = self.bytes.slice(from as usize..);
        let next = self.breaks.lock().unwrap().first().copied();
        // The first read, which detects the format, does not fail.
        let cut =
            next.filter(|at| from > 0 && *at >= from).map(|at| (at - from) as usize).filter(|cut| *cut < rest.len());
        if cut.is_some() {
            self.breaks.lock().unwrap().remove(0);
        }
        let whole = rest.slice(..cut.unwrap_or(rest.len()));
        let piece = self.piece;
        let count = whole.len().div_ceil(piece);
        let pieces = (0..count).map(move |at| Ok(whole.slice(at * piece..whole.len().min((at + 1) * piece))));
        let broken = cut.map(|_| Err(Error::new(OBJECT_STORE_UNAVAILABLE, "the connection broke")));
        let stream = futures::stream::iter(pieces.chain(broken).collect::<Vec<_>>());
        Ok((self.bytes.len() as u64, stream.boxed()))
    }
}

/// Keeps one file in memory.
#[derive(Clone, Default)]
pub struct Drawer(Arc<Mutex<Vec<u8>>>);

impl Drawer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl FileStore for Drawer {
    type Sink = Page;

    async fn create(&self, name: &str, _: &str) -> Result<Page> {
        Ok(Page { drawer: self.clone(), name: name.to_owned() })
    }
}

/// A file that is being written.
pub struct Page {
    drawer: Drawer,
    name: String,
}

impl RejectSink for Page {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.drawer.0.lock().unwrap().extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self) -> Result<File> {
        let size = self.drawer.0.lock().unwrap().len() as u64;
        let (artifact_id, version, url) = (None, None, None);
        let (bucket, key, etag, content_type) = (String::new(), String::new(), String::new(), "text/csv".into());
        Ok(File { artifact_id, bucket, key, version, etag, name: self.name, size, content_type, url })
    }
}

/// Returns the `with:` block from JSON. Its source is not used.
pub fn spec(mut with: serde_json::Value) -> CsvImport {
    with["source"] = serde_json::json!({ "bucket": "b", "key": "k", "name": "n" });
    serde_json::from_value(with).unwrap()
}
