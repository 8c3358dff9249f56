//! An HTTP server on loopback that records its calls and answers as a test defines.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A received call.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    pub method: String,
    /// The path with its query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// The number of earlier calls to the same path.
    pub before: usize,
}

/// The server. It stops when it is dropped.
pub struct Receiver {
    pub url: String,
    pub port: u16,
    calls: Arc<Mutex<Vec<Call>>>,
    _task: JoinSet<()>,
}

impl Receiver {
    /// Starts a server that answers each call with `answer`.
    pub async fn start<R: IntoResponse>(answer: impl Fn(&Call) -> R + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, calls) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let (seen, answer) = (calls.clone(), Arc::new(answer));
        let handle = move |request: Request| {
            let (seen, answer) = (seen.clone(), answer.clone());
            async move { receive(request, &seen, answer.as_ref()).await }
        };
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, Router::new().fallback(handle)).await.unwrap() });
        Self { url: format!("http://127.0.0.1:{port}"), port, calls, _task: task }
    }

    /// Returns the calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

async fn receive<R: IntoResponse>(request: Request, seen: &Mutex<Vec<Call>>, answer: &impl Fn(&Call) -> R) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let call = {
        let mut seen = seen.lock().unwrap();
        let path = parts.uri.to_string();
        let before = seen.iter().filter(|call: &&Call| call.path == path).count();
        let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let call = Call { method: parts.method.to_string(), path, headers, body, before };
        seen.push(call.clone());
        call
    };
    answer(&call).into_response()
}

/// Creates a response from a status, headers and a body.
pub fn respond_with(status: u16, headers: &[(&'static str, &str)], body: impl Into<Body>) -> Response {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, value.parse().unwrap());
    }
    (StatusCode::from_u16(status).unwrap(), map, body.into()).into_response()
}
