//! Serves the API on a listener.

use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::problem::Problem;
use crate::codes;
use afterload_core::error::Error;
use afterload_http_listener::{HttpTimeouts, ListenerOptions, serve_connections};

/// When a client without a connection should try again.
const CONNECTION_RETRY_AFTER_SECS: u64 = 5;

/// How the API listens.
#[derive(Clone, Copy, Debug)]
pub struct ApiListener {
    /// The maximum number of connections.
    pub max_connections: usize,
    /// The limits on slow clients.
    pub timeouts: HttpTimeouts,
    /// How long requests in progress may continue after the stop.
    pub drain: Duration,
}

/// Serves connections until `stop`, then waits for requests in progress and aborts those that take too long.
pub async fn serve(listener: TcpListener, router: Router, options: ApiListener, stop: CancellationToken) {
    let ApiListener { max_connections, timeouts, drain } = options;
    let refusal = connection_refusal();
    let options = ListenerOptions { name: "api", max_connections, refusal, timeouts, drain };
    serve_connections(listener, TowerToHyperService::new(router), options, stop).await;
}

/// The whole response to a connection for which there is no room. No request has been read.
fn connection_refusal() -> Bytes {
    let problem = Problem::from(Error::new(codes::TOO_MANY_CONNECTIONS, "too many connections are open"));
    let body = problem.to_json(&Ulid::generate().to_string()).to_string();
    let response = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n\
         Retry-After: {CONNECTION_RETRY_AFTER_SECS}\r\nCache-Control: no-store\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    response.into()
}
