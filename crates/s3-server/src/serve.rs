//! The listener: HTTP/1.1 connections, finished in peace when the process stops.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::service::S3Service;
use s3s::{Body, HttpResponse, S3Error};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::index::lock;
use super::pages::Page;
use super::{access, message};

/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(30);
/// How long requests under way may take once the process stops.
const DRAIN: Duration = Duration::from_secs(10);
/// How much of a refused body is read.
const DRAINED: usize = 16 << 20;
/// The pause after a refused connection, such as when there are too many open files.
const AFTER_ERROR: Duration = Duration::from_millis(100);

pub(super) async fn serve(service: S3Service, listener: TcpListener, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(service.clone(), stream, stop.clone()));
                }
                Err(error) => {
                    tracing::warn!("the embedded object store could not accept a connection: {error}");
                    sleep(AFTER_ERROR).await;
                }
            },
        }
    }
    drop(listener);
    // Whatever is still there after that is cut off with the set.
    let _ = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(service: S3Service, stream: TcpStream, stop: CancellationToken) {
    // Without it a small answer waits for the client's delayed acknowledgement: 11 ms instead of 0.6 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY cannot be set: {error}");
    }
    let service = service_fn(move |request| answer(service.clone(), request));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection to the embedded object store broke: {error}");
    }
}

async fn answer(service: S3Service, request: Request<Incoming>) -> Result<HttpResponse, Infallible> {
    let page = Page::of(&request);
    if let Some(response) = page.preflight(&request) {
        return Ok(response);
    }
    // A client that waits for a `100 Continue` has not begun to send, and need not; too much is not worth reading.
    let waits = request.headers().contains_key(EXPECT) || request.body().size_hint().lower() > DRAINED as u64;
    let refused = access::refused_at_the_door(&request);
    let request = request.map(|body| Shared(Arc::new(Mutex::new(body))));
    let unread = Shared(Arc::clone(&request.body().0));
    let mut response = match refused {
        Some(error) => written(error.to_http_response()),
        None => answered(&service, request.map(Body::http_body_unsync)).await,
    };
    page.open(&mut response);
    if (response.status().is_client_error() || response.status().is_server_error()) && !unread.is_end_stream() {
        if !waits {
            let _ = timeout(HEAD, drain(&unread)).await;
        }
        // What the client sends of this body all the same would be taken for its next request.
        if !unread.is_end_stream() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    Ok(response)
}

/// What the service says to a request, from wherever it came.
pub(super) async fn answered(service: &S3Service, request: Request<Body>) -> HttpResponse {
    let answered = service.call(request).await;
    written(answered.map_err(|error| S3Error::internal_error(Unanswered(error.into()))))
}

fn written(answered: Result<HttpResponse, S3Error>) -> HttpResponse {
    message::explained(answered.unwrap_or_else(|error| {
        tracing::error!("the embedded object store could not write an answer: {error}");
        let mut response = HttpResponse::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    }))
}

/// Reads what is left of a body that was refused, up to a limit: a connection that is closed with bytes unread may
/// take the answer with it, and the client would not learn why.
async fn drain(unread: &Shared) {
    let (mut unread, mut size) = (Shared(Arc::clone(&unread.0)), 0);
    while let Some(Ok(frame)) = unread.frame().await {
        size += frame.data_ref().map_or(0, Bytes::len);
        if size > DRAINED {
            break;
        }
    }
}

/// A body that can still be read after whoever got it has given up on it.
struct Shared(Arc<Mutex<Incoming>>);

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut *lock(&self.0)).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).size_hint()
    }
}

/// An answer that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unanswered(s3s::StdError);
