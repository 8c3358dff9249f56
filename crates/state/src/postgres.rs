//! The connection pools of PostgreSQL.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

use crate::codes;
use afterload_core::error::{Error, Result};

/// Connections of a process for everything but fetches.
const MAX_POOL_CONNECTIONS: u32 = 16;
/// Further connections of a process, to fetch jobs.
const MAX_FETCH_CONNECTIONS: u32 = 4;
const STATE_DB_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The server may have closed a connection that was idle for this long, so it is pinged before use.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// Opens the pool for everything, and the pool with which the queue fetches jobs. Connects once without a pool first,
/// because the error of a pool is only a timeout without a cause.
///
/// # Errors
/// `database_url_invalid` or `database_unavailable`.
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

/// The options of the pool that fetches jobs; see [`Db::fetch_pool`](super::Db::fetch_pool).
pub fn fetch_pool_options() -> PgPoolOptions {
    // Without a generic plan, planning the fetch function takes longer than running it.
    pool_options(MAX_FETCH_CONNECTIONS, "; SET synchronous_commit = off; SET plan_cache_mode = force_generic_plan")
}

/// Every statement has an index. Tables such as the queue's are empty at one moment and long at the next, so a plan
/// for an empty table must not scan a long one.
const PLANNER_SETTINGS: &str = "SET enable_seqscan = off; SET jit = off";

/// The options of a pool; `further` are additional settings. The pool pings a connection only after it was idle: a
/// step takes several connections within a few milliseconds.
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
