//! `GET /metrics`: the metrics of this process.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::auth::Caller;
use super::client_address::ClientAddress;
use super::problem::Problem;
use super::scopes::{ApiKeyScope, missing_scope};
use afterload_core::error::Result;
use afterload_metrics::OPENMETRICS_MEDIA_TYPE;

/// How long the database may take to count the jobs of the queues.
const QUEUE_DEPTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Needs an API key if other machines can reach the service, also through a trusted proxy. Without the database it
/// responds without the queue metrics.
pub(super) async fn show_metrics(
    State(app): State<ApiState>,
    client: ClientAddress,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if !(is_loopback(app.config().listen) && client.0.is_loopback()) {
        let caller = Caller::from_headers(&app, client, &headers).await?;
        if !caller.can_read_metrics() {
            return Err(missing_scope(&ApiKeyScope::MetricsRead).into());
        }
    }
    let depths = match tokio::time::timeout(QUEUE_DEPTH_TIMEOUT, app.engine().queue_depths()).await {
        Ok(Ok(depths)) => depths,
        Ok(Err(error)) => {
            tracing::warn!(error.code = error.code().name(), "the queue depths could not be read: {error}");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!("the queue depths could not be read in time");
            Vec::new()
        }
    };
    Ok(([(CONTENT_TYPE, OPENMETRICS_MEDIA_TYPE)], app.engine().metrics().encode_openmetrics(&depths)).into_response())
}

/// True if only programs on this machine can reach the service.
fn is_loopback(listen: SocketAddr) -> bool {
    listen.ip().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn metrics_need_no_key_on_loopback_only() {
        for open in ["127.0.0.1:80", "127.8.8.8:80", "[::1]:80"] {
            assert!(is_loopback(open.parse().unwrap()), "{open}");
        }
        for closed in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "192.168.1.1:80"] {
            assert!(!is_loopback(closed.parse().unwrap()), "{closed}");
        }
    }
}
