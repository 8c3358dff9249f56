//! `GET /metrics`: what this process counts, for monitoring systems.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::App;
use super::auth::{Caller, Scope, lacks};
use super::problem::Problem;
use afterload_core::error::Result;
use afterload_metrics::MEDIA_TYPE;

/// How long the database may take to say how long the queues are.
const PATIENCE: Duration = Duration::from_secs(2);

/// Needs a key where others than this machine may ask. Answers also while the database is away, then without the queues.
pub(super) async fn show(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    if !is_open(app.config().listen) {
        let caller = Caller::of(&app, &headers).await?;
        if !caller.may_watch() {
            return Err(lacks(&Scope::MetricsRead).into());
        }
    }
    let depths = match tokio::time::timeout(PATIENCE, app.engine().depths()).await {
        Ok(Ok(depths)) => depths,
        Ok(Err(error)) => {
            tracing::warn!(error.code = error.code(), "the queues could not be counted: {error}");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!("the queues could not be counted in time");
            Vec::new()
        }
    };
    Ok(([(CONTENT_TYPE, MEDIA_TYPE)], app.engine().metrics().text(&depths)).into_response())
}

/// True if only programs of this machine can reach the service.
fn is_open(listen: SocketAddr) -> bool {
    listen.ip().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::is_open;

    #[test]
    fn only_this_machine_asks_without_a_key() {
        for open in ["127.0.0.1:80", "127.8.8.8:80", "[::1]:80"] {
            assert!(is_open(open.parse().unwrap()), "{open}");
        }
        for closed in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "192.168.1.1:80"] {
            assert!(!is_open(closed.parse().unwrap()), "{closed}");
        }
    }
}
