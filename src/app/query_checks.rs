//! Asks the databases about the SQL of the pipelines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_pipeline::QueryVerifier;
use afterload_target_db::Connections;

/// How long the load of a pipeline waits for a database, and how long one question may take later.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a database is asked again about SQL that was accepted without its answer.
const RECHECK_INTERVAL: Duration = Duration::from_secs(30);
/// More SQL without an answer is not asked about again. Its step is refused when it runs.
const MAX_OPEN_QUERIES: usize = 1000;

/// A verifier that asks the databases of these connections. It blocks its thread, so the runtime needs several.
pub fn query_verifier(connections: Connections) -> QueryVerifier {
    let runtime = Handle::current();
    QueryVerifier::new(move |connection, sql| {
        tokio::task::block_in_place(|| runtime.block_on(connections.verify_read_only(connection, sql)))
    })
}

/// Asks about the SQL of pipelines that are loaded. What a database refuses is a problem of the file, as for `check
/// --connect`.
///
/// A database may be away when the service starts, and a table may not exist yet. SQL without an answer is therefore
/// accepted, and asked about again. Its step asks too, before it runs the SQL.
#[derive(Clone)]
pub(super) struct LoadedQueryChecks(Arc<CheckState>);

struct CheckState {
    connections: Connections,
    runtime: Handle,
    open: Mutex<OpenQueries>,
    /// Until when nothing waits for a connection that did not answer.
    away_until: Mutex<BTreeMap<String, Instant>>,
    /// True if a database has refused SQL that was accepted before.
    has_new_refusal: AtomicBool,
}

/// The SQL without an answer, of the files that are in the folder.
#[derive(Debug, Default)]
struct OpenQueries {
    /// The file that is compiled now.
    file: PathBuf,
    queries: BTreeSet<OpenQuery>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OpenQuery {
    file: PathBuf,
    connection: String,
    sql: String,
}

impl OpenQueries {
    /// Removes the SQL that a file had, before it is compiled again.
    fn begin_file(&mut self, file: &Path) {
        self.queries.retain(|query| query.file != file);
        self.file = file.to_owned();
    }

    fn insert(&mut self, connection: &str, sql: &str) {
        if self.queries.len() < MAX_OPEN_QUERIES {
            let (connection, sql) = (connection.to_owned(), sql.to_owned());
            self.queries.insert(OpenQuery { file: self.file.clone(), connection, sql });
        }
    }
}

impl LoadedQueryChecks {
    pub(super) fn new(connections: Connections) -> Self {
        Self(Arc::new(CheckState {
            connections,
            runtime: Handle::current(),
            open: Mutex::default(),
            away_until: Mutex::default(),
            has_new_refusal: AtomicBool::new(false),
        }))
    }

    /// The verifier for the load of pipelines. It blocks its thread, which must not be one of the runtime.
    pub(super) fn verifier(&self) -> QueryVerifier {
        let state = self.0.clone();
        QueryVerifier::new(move |connection, sql| state.verify_at_load(connection, sql))
    }

    /// Is called before a file is compiled. What it had before is not asked about again.
    pub(super) fn begin_file(&self, file: &Path) {
        lock_unpoisoned(&self.0.open).begin_file(file);
    }

    /// Keeps only the SQL of these files.
    pub(super) fn retain_files(&self, is_kept: impl Fn(&Path) -> bool) {
        lock_unpoisoned(&self.0.open).queries.retain(|query| is_kept(&query.file));
    }

    /// True once after a database has refused SQL of a pipeline that is live.
    pub(super) fn take_new_refusal(&self) -> bool {
        self.0.has_new_refusal.swap(false, Ordering::Relaxed)
    }

    /// Asks again about SQL without an answer, until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<()> {
        let checking = async {
            while !stop.is_cancelled() {
                tokio::time::sleep(RECHECK_INTERVAL).await;
                self.0.ask_again().await;
            }
        };
        stop.run_until_cancelled(checking).await;
        Ok(())
    }
}

impl CheckState {
    fn verify_at_load(&self, connection: &str, sql: &str) -> Result<()> {
        let away_until = lock_unpoisoned(&self.away_until).get(connection).copied();
        if away_until.is_none_or(|until| until <= Instant::now()) {
            let answer = self.runtime.block_on(async {
                tokio::time::timeout(QUERY_TIMEOUT, self.connections.verify_read_only(connection, sql)).await
            });
            match answer {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if error.code() == codes::SQL_REFUSED => return Err(error),
                Ok(Err(error)) => {
                    debug!(connection.name = connection, "SQL was not checked at load: {error}");
                    if error.is_transient() {
                        self.mark_away(connection);
                    }
                }
                Err(_) => {
                    debug!(connection.name = connection, "SQL was not checked at load: the database did not answer");
                    self.mark_away(connection);
                }
            }
        }
        lock_unpoisoned(&self.open).insert(connection, sql);
        Ok(())
    }

    /// Lets the other SQL of the connection not wait for it too.
    fn mark_away(&self, connection: &str) {
        lock_unpoisoned(&self.away_until).insert(connection.to_owned(), Instant::now() + RECHECK_INTERVAL);
    }

    async fn ask_again(&self) {
        let queries = lock_unpoisoned(&self.open).queries.clone();
        // A database that hangs costs each pass one timeout, not one for each of its queries.
        let mut hanging = BTreeSet::<String>::new();
        for query in queries {
            let OpenQuery { connection, sql, .. } = &query;
            if hanging.contains(connection) {
                continue;
            }
            let asked = tokio::time::timeout(QUERY_TIMEOUT, self.connections.verify_read_only(connection, sql));
            match asked.await {
                Ok(Ok(())) => {
                    lock_unpoisoned(&self.open).queries.remove(&query);
                }
                Ok(Err(error)) if error.code() == codes::SQL_REFUSED => {
                    log_late_refusal(connection, sql, &error);
                    lock_unpoisoned(&self.open).queries.remove(&query);
                    self.has_new_refusal.store(true, Ordering::Relaxed);
                }
                Ok(Err(error)) => debug!(connection.name = connection, "SQL is still not checked: {error}"),
                Err(_) => {
                    debug!(connection.name = connection, "SQL is still not checked: the database did not answer");
                    hanging.insert(connection.clone());
                }
            }
        }
    }
}

fn log_late_refusal(connection: &str, sql: &str, error: &Error) {
    let sql: String = sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
    warn!(connection.name = connection, sql, "a pipeline has SQL that is refused when it runs: {error}");
}

fn lock_unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sql_that_a_file_has_now_is_open() {
        let mut open = OpenQueries::default();
        for (file, sql) in [("a.yaml", "SELECT 1"), ("b.yaml", "SELECT 1"), ("a.yaml", "SELECT 2")] {
            open.begin_file(Path::new(file));
            open.insert("main", sql);
        }
        let of_a = |query: &OpenQuery| (query.file == Path::new("a.yaml")).then(|| query.sql.clone());
        assert_eq!(open.queries.iter().filter_map(of_a).collect::<Vec<_>>(), ["SELECT 2"]);
        assert_eq!(open.queries.len(), 2);
        for number in 0..2 * MAX_OPEN_QUERIES {
            open.insert("main", &format!("SELECT {number}"));
        }
        assert_eq!(open.queries.len(), MAX_OPEN_QUERIES);
        open.begin_file(Path::new("a.yaml"));
        assert_eq!(open.queries.len(), 1, "many of one file leave room for others once they are gone");
    }
}
