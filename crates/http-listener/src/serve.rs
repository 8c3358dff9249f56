//! Accepts connections up to a limit, serves them, and shuts down gracefully.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::HttpTimeouts;
use crate::activity::Activity;
use crate::guarded_io::GuardedIo;
use crate::request_body::{RequestBody, ResponseBody};

/// The pause after an accept error, such as too many open files. It doubles up to the maximum while they repeat.
const MIN_ACCEPT_DELAY: Duration = Duration::from_millis(50);
const MAX_ACCEPT_DELAY: Duration = Duration::from_secs(1);

/// The buffer of a connection, and so the maximum size of the head of a request. hyper would let a sender fill 400 KiB.
const MAX_BUFFER_BYTES: usize = 64 << 10;

/// The address of the other end of the connection. Each request carries it as an extension.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub IpAddr);

/// The settings of one listener.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Names the listener in logs.
    pub name: &'static str,
    /// The maximum number of connections. One more closes the one that has waited longest for a request.
    pub max_connections: usize,
    /// The response to a connection for which there is no room, because all others handle requests.
    pub refusal: Bytes,
    /// The limits on slow peers.
    pub timeouts: HttpTimeouts,
    /// How long requests in progress may continue after the stop.
    pub drain: Duration,
}

/// A connection, as the listener sees it.
struct TrackedConnection {
    activity: Activity,
    evicted: CancellationToken,
}

struct ConnectionSet {
    options: ListenerOptions,
    tasks: JoinSet<()>,
    tracked: HashMap<Id, TrackedConnection>,
    /// True since a connection was refused, until one is accepted again.
    refusing: bool,
}

/// Serves connections until `stop`, then waits for requests in progress and aborts those that take too long.
pub async fn serve_connections<S, B>(
    listener: TcpListener,
    service: S,
    options: ListenerOptions,
    stop: CancellationToken,
) where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut connections = ConnectionSet { options, tasks: JoinSet::new(), tracked: HashMap::new(), refusing: false };
    let mut delay = MIN_ACCEPT_DELAY;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.tasks.join_next_with_id() => connections.forget(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    delay = MIN_ACCEPT_DELAY;
                    connections.add((stream, PeerAddress(peer.ip())), service.clone(), &stop);
                }
                // The client disconnected early.
                Err(error) if is_client_error(error.kind()) => {}
                // The same error would come again at once: the connection stays in the queue of the system.
                Err(error) => {
                    tracing::error!(listener = connections.options.name, "a connection cannot be accepted: {error}");
                    connections.evict_oldest();
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(MAX_ACCEPT_DELAY);
                }
            },
        }
    }
    drop(listener);
    connections.drain().await;
}

fn is_client_error(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

impl ConnectionSet {
    fn add<S, B>(&mut self, (stream, peer): (TcpStream, PeerAddress), service: S, stop: &CancellationToken)
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Send + 'static,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended);
        }
        if self.tracked.len() >= self.options.max_connections && !self.evict_oldest() {
            if !std::mem::replace(&mut self.refusing, true) {
                let (listener, connections) = (self.options.name, self.tracked.len());
                tracing::warn!(listener, connections, "connections are refused: all others handle requests");
            }
            return refuse_connection(stream, &self.options.refusal);
        }
        self.refusing = false;
        let tracked = TrackedConnection { activity: Activity::new(), evicted: CancellationToken::new() };
        let (activity, evicted) = (tracked.activity.clone(), tracked.evicted.clone());
        let connection = serve_connection((stream, peer), service, activity, self.options.timeouts, stop.clone());
        let task = self.tasks.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = evicted.cancelled() => {}
            }
        });
        self.tracked.insert(task.id(), tracked);
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!(listener = self.options.name, "a connection failed: {error}");
                error.id()
            }
        };
        self.tracked.remove(&id);
    }

    /// Closes the connection that has waited longest for a request. Returns false if all handle requests.
    fn evict_oldest(&mut self) -> bool {
        let waiting = self.tracked.iter().filter_map(|(id, known)| Some((known.activity.waiting_since()?, *id)));
        let mut waiting: Vec<_> = waiting.collect();
        // A request may begin meanwhile, and then the next one has to go.
        while let Some(at) = (0..waiting.len()).min_by_key(|at| waiting[*at].0) {
            let (_, id) = waiting.swap_remove(at);
            if let Some(oldest) = self.tracked.get(&id).filter(|known| known.activity.try_evict()) {
                oldest.evicted.cancel();
                self.tracked.remove(&id);
                return true;
            }
        }
        false
    }

    async fn drain(mut self) {
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.options.drain, all_ended).await.is_err() {
            let (listener, connections) = (self.options.name, self.tasks.len());
            tracing::warn!(listener, connections, "requests that did not finish in time are aborted");
            self.tasks.shutdown().await;
        }
    }
}

/// Writes the response into the empty send buffer of the system, which never blocks.
fn refuse_connection(stream: TcpStream, refusal: &[u8]) {
    let sent = stream.into_std().and_then(|mut stream| stream.write_all(refusal));
    if let Err(error) = sent {
        tracing::debug!("a refused connection failed: {error}");
    }
}

async fn serve_connection<S, B>(
    (stream, peer): (TcpStream, PeerAddress),
    service: S,
    activity: Activity,
    timeouts: HttpTimeouts,
    stop: CancellationToken,
) where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    // Without it, a small response waits for the client's delayed acknowledgement: 11 ms instead of 0.6 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY cannot be set: {error}");
    }
    let io = TokioIo::new(GuardedIo::new(stream, activity.clone(), timeouts));
    let service = service_fn(move |mut request: Request<Incoming>| {
        let busy = activity.begin_request();
        request.extensions_mut().insert(peer);
        let answer = service.call(request.map(|body| RequestBody::new(body, &timeouts)));
        async move { answer.await.map(|response| response.map(|body| ResponseBody::new(body, busy))) }
    });
    // `GuardedIo` has its own timeouts: those of hyper count the wait between two requests as part of the head.
    let mut http = http1::Builder::new();
    http.header_read_timeout(None).max_buf_size(MAX_BUFFER_BYTES);
    let mut connection = std::pin::pin!(http.serve_connection(io, service));
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
