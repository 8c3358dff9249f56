//! A server on loopback that records its requests. It answers `POST` with 201, and everything else with 200.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use tokio::task::JoinSet;

/// The path that receives the notifications of runs.
pub const TOLD: &str = "/told";

#[derive(Clone, Debug)]
pub struct Request {
    /// The request, without the parts that differ from run to run.
    pub what: String,
    /// The idempotency key, equal for each repetition.
    pub id: Option<String>,
}

/// The server. It stops when it is dropped.
pub struct Http {
    /// The URL.
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    _serving: JoinSet<()>,
}

impl Http {
    /// Starts a server on a free port.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let seen = requests.clone();
        let answer = move |method: Method, uri: Uri, headers: HeaderMap, body: String| {
            let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let id = header("idempotency-key").or_else(|| header("webhook-id"));
            // The body of a notification is the run, which is compared by itself.
            let body = if uri.path() == TOLD { "" } else { &body };
            let what = format!("{method} {} {body}", uri.path());
            seen.lock().expect("the requests").push(Request { what, id });
            let status = if method == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
            async move { (status, r#"{"ok": true}"#) }
        };
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.expect("it serves") });
        Self { url, requests, _serving: serving }
    }

    /// Returns the requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("the requests").clone()
    }
}
