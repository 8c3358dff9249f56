//! Accepts connections, applies timeouts, and shuts down gracefully.

use std::io::ErrorKind;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client_address::PeerAddress;

/// How long a client may take to send the request head. An idle connection is closed after the same time.
const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to pause when no connection can be accepted, for example without free file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Serves connections until `stop`, then waits at most `drain` for requests in progress and aborts the rest.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken, drain: Duration) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let peer = PeerAddress(peer.ip());
                    drop(connections.spawn(serve_connection(stream, peer, router.clone(), stop.clone())));
                }
                Err(error) => pause_after_accept_error(&error).await,
            },
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    let ended = tokio::time::timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!(connections = connections.len(), "requests that did not finish in time are aborted");
        connections.shutdown().await;
    }
}

async fn serve_connection(stream: TcpStream, peer: PeerAddress, router: Router, stop: CancellationToken) {
    // Otherwise small responses wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let with_peer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        service.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), with_peer);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection failed: {error}");
    }
}

/// Pauses after an accept error, which would repeat at once. A client that disconnected early needs no pause.
async fn pause_after_accept_error(error: &std::io::Error) {
    let gone = [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset, ErrorKind::ConnectionRefused];
    if !gone.contains(&error.kind()) {
        tracing::error!("a connection could not be accepted: {error}");
        tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
    }
}
