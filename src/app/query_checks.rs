//! Asks the databases about the SQL of the pipelines.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::codes;
use afterload_core::error::Result;
use afterload_pipeline::QueryVerifier;
use afterload_target_db::Connections;

/// A verifier that asks the databases of these connections. It blocks its thread, so the runtime needs several.
pub fn query_verifier(connections: Connections) -> QueryVerifier {
    let runtime = tokio::runtime::Handle::current();
    QueryVerifier::new(move |connection, sql| {
        tokio::task::block_in_place(|| runtime.block_on(connections.verify_read_only(connection, sql)))
    })
}

/// Asks about the SQL of pipelines that were loaded.
///
/// Nothing waits for it: a database may be away when the service starts, and a table may not exist yet. SQL that a database
/// refuses is only logged here, because its step refuses it too.
pub(super) struct LoadedQueryChecks {
    connections: Connections,
    queries: mpsc::UnboundedReceiver<(String, String)>,
}

impl LoadedQueryChecks {
    /// Returns the checks, and a verifier that hands them the SQL.
    pub(super) fn new(connections: Connections) -> (Self, QueryVerifier) {
        let (sender, queries) = mpsc::unbounded_channel();
        let verifier = QueryVerifier::new(move |connection, sql| {
            drop(sender.send((connection.to_owned(), sql.to_owned())));
            Ok(())
        });
        (Self { connections, queries }, verifier)
    }

    /// Asks the databases until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let checking = async {
            while let Some((connection, sql)) = self.queries.recv().await {
                match self.connections.verify_read_only(&connection, &sql).await {
                    Ok(()) => {}
                    Err(error) if error.code() == codes::SQL_REFUSED => {
                        let sql: String =
                            sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
                        warn!(
                            connection.name = connection,
                            sql, "a pipeline has SQL that is refused when it runs: {error}"
                        );
                    }
                    Err(error) => debug!(connection.name = connection, "SQL was not checked at load: {error}"),
                }
            }
        };
        stop.run_until_cancelled(checking).await;
        Ok(())
    }
}
