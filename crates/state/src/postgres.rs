//! The connections to PostgreSQL.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

use crate::codes;
use afterload_core::error::{Error, Result};

/// How many connections a process opens at most.
const MAX_POOL_CONNECTIONS: u32 = 16;
/// And how many more to take jobs.
const MAX_FETCH_CONNECTIONS: u32 = 4;
/// How long to wait for a connection.
const STATE_DB_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was not used for so long may have been ended by the server meanwhile.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// The pool for everything, and the one with which the queue takes jobs. Connects once by itself first: a pool would only say
/// that it waited in vain, not why.
///
/// # Errors
/// `database_url_invalid`, `database_unavailable`.
pub(super) async fn open_pools(url: &str) -> Result<(PgPool, PgPool)> {
    let options = PgConnectOptions::from_str(url).map_err(|error| {
        Error::new(codes::DATABASE_URL_INVALID, format!("the address of the database is not valid: {error}"))
    })?;
    let place = format!("PostgreSQL at {}:{}", options.get_host(), options.get_port());
    let connected = tokio::time::timeout(STATE_DB_CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await;
    let connected = connected.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
    let first = connected.map_err(|error| {
        Error::new(
            codes::DATABASE_UNAVAILABLE,
            format!("cannot connect to {place}: {}", afterload_core::error::database_error_message(&error)),
        )
        .with_hint("check the address, the role and its password in `database`, and that the server runs")
    })?;
    drop(first.close().await);
    Ok((
        pool_options(MAX_POOL_CONNECTIONS, "").connect_lazy_with(options.clone()),
        fetch_pool_options().connect_lazy_with(options),
    ))
}

/// The settings of the pool with which the queue takes jobs; see [`Db::takers`](super::Db::takers).
pub fn fetch_pool_options() -> PgPoolOptions {
    // Planned anew each time, its function takes longer to plan than to run.
    pool_options(MAX_FETCH_CONNECTIONS, "; SET synchronous_commit = off; SET plan_cache_mode = force_generic_plan")
}

/// Every statement has its index. The tables that work goes through, such as the queue's, are empty at one moment and long at
/// the next; what was planned for the one must not read all of the other.
const PLANNER_SETTINGS: &str = "SET enable_seqscan = off; SET jit = off";

/// A pool with further settings that asks a connection whether it still lives only after it has rested: a step takes several
/// connections in a few milliseconds.
fn pool_options(connections: u32, further: &str) -> PgPoolOptions {
    let settings = format!("{PLANNER_SETTINGS}{further}");
    PgPoolOptions::new()
        .after_connect(move |connection, _| {
            let settings = AssertSqlSafe(settings.clone());
            Box::pin(async move { connection.execute(settings).await.map(drop) })
        })
        .max_connections(connections)
        .acquire_timeout(STATE_DB_CONNECT_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(async move {
                if about.idle_for > PING_AFTER_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
}
