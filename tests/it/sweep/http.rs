//! A server on the loopback that remembers what it was asked: 201 to what makes something (`POST`), 200 to all else.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use tokio::task::JoinSet;

/// Where it is told of the ends of runs.
pub const TOLD: &str = "/told";

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it asked for, without what differs from run to run.
    pub what: String,
    /// What names it, the same for each of its repetitions.
    pub id: Option<String>,
}

/// The server, until it is dropped.
pub struct Http {
    /// Where it is.
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    _serving: JoinSet<()>,
}

impl Http {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let seen = requests.clone();
        let answer = move |method: Method, uri: Uri, headers: HeaderMap, body: String| {
            let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let id = header("idempotency-key").or_else(|| header("webhook-id"));
            // What is told of a run is looked at in the run itself.
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

    /// What it was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("the requests").clone()
    }
}
