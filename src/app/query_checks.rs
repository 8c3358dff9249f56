//! Asks the databases about the SQL of the pipelines.

use std::collections::{BTreeMap, BTreeSet};
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

/// How long the load of a pipeline waits for a database.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);
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
    /// The SQL without an answer, with its connection.
    open: Mutex<BTreeSet<(String, String)>>,
    /// Until when nothing waits for a connection that did not answer.
    away_until: Mutex<BTreeMap<String, Instant>>,
    /// True if a database has refused SQL that was accepted before.
    has_new_refusal: AtomicBool,
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
                tokio::time::timeout(LOAD_TIMEOUT, self.connections.verify_read_only(connection, sql)).await
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
        let mut open = lock_unpoisoned(&self.open);
        if open.len() < MAX_OPEN_QUERIES {
            open.insert((connection.to_owned(), sql.to_owned()));
        }
        Ok(())
    }

    /// Lets the other SQL of the connection not wait for it too.
    fn mark_away(&self, connection: &str) {
        lock_unpoisoned(&self.away_until).insert(connection.to_owned(), Instant::now() + RECHECK_INTERVAL);
    }

    async fn ask_again(&self) {
        let queries = lock_unpoisoned(&self.open).clone();
        for query in queries {
            let (connection, sql) = &query;
            match self.connections.verify_read_only(connection, sql).await {
                Ok(()) => {
                    lock_unpoisoned(&self.open).remove(&query);
                }
                Err(error) if error.code() == codes::SQL_REFUSED => {
                    log_late_refusal(connection, sql, &error);
                    lock_unpoisoned(&self.open).remove(&query);
                    self.has_new_refusal.store(true, Ordering::Relaxed);
                }
                Err(error) => debug!(connection.name = connection, "SQL is still not checked: {error}"),
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
