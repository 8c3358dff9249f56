//! The HTTP/1.1 listener, with a graceful shutdown.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::service::S3Service;
use s3s::{Body, HttpResponse};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::cors::CorsRequest;
use super::dispatch::{BrokenBody, call_service};
use super::lock::lock_unpoisoned;
use super::safe_headers;

/// The time limit for the head of a request.
const S3_HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit for requests in progress during a shutdown.
const S3_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum number of bytes that are read from a rejected body.
const MAX_DRAINED_BYTES: usize = 16 << 20;
/// The pause after an accept error, such as too many open files.
const ACCEPT_ERROR_DELAY: Duration = Duration::from_millis(100);

pub(super) async fn serve(service: S3Service, listener: TcpListener, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(service.clone(), stream, stop.clone()));
                }
                Err(error) => {
                    tracing::warn!("the embedded object store could not accept a connection: {error}");
                    sleep(ACCEPT_ERROR_DELAY).await;
                }
            },
        }
    }
    drop(listener);
    // Dropping the set closes the connections that remain.
    let _ = timeout(S3_SHUTDOWN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
}

async fn serve_connection(service: S3Service, stream: TcpStream, stop: CancellationToken) {
    // Without it, a small response waits for the client's delayed acknowledgement: 11 ms instead of 0.6 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY cannot be set: {error}");
    }
    let service = service_fn(move |request| handle_request(service.clone(), request));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(S3_HEADER_READ_TIMEOUT);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection to the embedded object store failed: {error}");
    }
}

async fn handle_request(service: S3Service, request: Request<Incoming>) -> Result<HttpResponse, Infallible> {
    let page = CorsRequest::from_request(&request);
    if let Some(response) = page.preflight_response(&request) {
        return Ok(response);
    }
    // A client that waits for `100 Continue` has not sent its body yet. A body that is too large is not worth reading.
    let waits = request.headers().contains_key(EXPECT) || request.body().size_hint().lower() > MAX_DRAINED_BYTES as u64;
    let broken = BrokenBody::default();
    let body_broken = broken.clone();
    let mut request = request.map(|body| SharedBody { body: Arc::new(Mutex::new(body)), broken });
    let unread = request.body().clone();
    request.extensions_mut().insert(body_broken);
    let (mut response, auth) = call_service(&service, request.map(Body::http_body_unsync)).await;
    safe_headers::add_safe_headers(auth, &mut response);
    page.add_headers(&mut response);
    if (response.status().is_client_error() || response.status().is_server_error()) && !unread.is_end_stream() {
        if !waits {
            let _ = timeout(S3_HEADER_READ_TIMEOUT, drain_body(&unread)).await;
        }
        // Close the connection: the rest of this body would be parsed as the next request.
        if !unread.is_end_stream() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    Ok(response)
}

/// Reads the rest of a rejected body, up to a limit. Closing a connection with unread bytes may discard the response,
/// and the client would not see the error.
async fn drain_body(unread: &SharedBody) {
    let (mut unread, mut size) = (unread.clone(), 0);
    while let Some(Ok(frame)) = unread.frame().await {
        size += frame.data_ref().map_or(0, Bytes::len);
        if size > MAX_DRAINED_BYTES {
            break;
        }
    }
}

/// A body that can still be read after the service has dropped it.
#[derive(Clone)]
struct SharedBody {
    body: Arc<Mutex<Incoming>>,
    broken: BrokenBody,
}

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut *lock_unpoisoned(&self.body)).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.broken.set();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock_unpoisoned(&self.body).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock_unpoisoned(&self.body).size_hint()
    }
}
