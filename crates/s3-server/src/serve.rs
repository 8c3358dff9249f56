//! Serves requests of sockets, and rejects bodies that need not be read.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::service::service_fn;
use s3s::service::S3Service;
use s3s::{Body, HttpResponse};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::body_fault::{BodyFault, BodyFaultCell};
use super::cors::CorsRequest;
use super::dispatch::call_service;
use super::lock::lock_unpoisoned;
use super::safe_headers;
use afterload_http_listener::{HttpTimeouts, ListenerOptions, RequestBody, SlowBodyError, serve_connections};

/// The time limit for requests in progress during a shutdown.
const S3_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a rejected body is still read, and for how long.
const MAX_DRAINED_BYTES: usize = 16 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The response to a connection for which there is no room. Clients retry after it.
const CONNECTION_REFUSAL: &str = "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nRetry-After: 5\r\n\
    Connection: close\r\nContent-Length: 123\r\n\r\n\
    <?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code>\
    <Message>Too many connections are open.</Message></Error>";

pub(super) async fn serve(
    service: S3Service,
    listener: TcpListener,
    max_connections: usize,
    timeouts: HttpTimeouts,
    stop: CancellationToken,
) {
    let service = service_fn(move |request| handle_request(service.clone(), request));
    let options = ListenerOptions {
        name: "s3",
        max_connections,
        refusal: Bytes::from_static(CONNECTION_REFUSAL.as_bytes()),
        timeouts,
        drain: S3_SHUTDOWN_TIMEOUT,
    };
    serve_connections(listener, service, options, stop).await;
}

async fn handle_request(service: S3Service, request: Request<RequestBody>) -> Result<HttpResponse, Infallible> {
    let page = CorsRequest::from_request(&request);
    if let Some(response) = page.preflight_response(&request) {
        return Ok(response);
    }
    // A client that waits for `100 Continue` has not sent its body yet. A body that is too large is not worth reading.
    let waits = request.headers().contains_key(EXPECT) || request.body().size_hint().lower() > MAX_DRAINED_BYTES as u64;
    let fault = BodyFaultCell::default();
    let body_fault = fault.clone();
    let mut request = request.map(|body| SharedBody { body: Arc::new(Mutex::new(body)), fault });
    let unread = request.body().clone();
    request.extensions_mut().insert(body_fault);
    let (mut response, auth) = call_service(&service, request.map(Body::http_body_unsync)).await;
    safe_headers::add_safe_headers(auth, &mut response);
    page.add_headers(&mut response);
    if (response.status().is_client_error() || response.status().is_server_error()) && !unread.is_end_stream() {
        if !waits {
            let _ = timeout(DRAIN_TIMEOUT, drain_body(&unread)).await;
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
    body: Arc<Mutex<RequestBody>>,
    fault: BodyFaultCell,
}

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = s3s::StdError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut *lock_unpoisoned(&self.body)).poll_frame(cx);
        if let Poll::Ready(Some(Err(error))) = &polled {
            let slow = SlowBodyError::is_cause_of(&**error);
            self.fault.set(if slow { BodyFault::Slow } else { BodyFault::Broken });
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
