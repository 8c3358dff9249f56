//! The API calls of the commands, like those of any client.

use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde_json::{Map, Value, json};

use crate::codes;
use afterload_core::error::{Error, Result, Retryability};

/// How long to wait before reconnecting to an event stream.
const FOLLOW_RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long to wait for a connection.
const CLIENT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream that is silent for longer is broken: the service sends at least a comment every 15 s.
const EVENT_STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(45);

pub(super) struct ApiClient {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// A parameter on the command line.
#[derive(Clone, Debug)]
pub(super) enum ParamArg {
    /// A value.
    Text(String),
    /// A file to upload.
    File(std::path::PathBuf),
}

impl ApiClient {
    /// # Errors
    /// `url_invalid`
    pub(super) fn new(url: &str, key: String) -> Result<Self> {
        let invalid = |why: String| Error::new(codes::URL_INVALID, format!("`{url}` is no address: {why}"));
        let parsed: Url = url.parse().map_err(|error: url::ParseError| invalid(error.to_string()))?;
        let mut builder = reqwest::Client::builder().connect_timeout(CLIENT_CONNECT_TIMEOUT);
        if parsed.host_str().is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]") {
            // A service on this machine is not reached through a proxy.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| invalid(error.to_string()))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), key })
    }

    /// Starts a run. Files are streamed from the disk. `wishes` are `run_at`, `priority` and `queue`.
    pub(super) async fn start_run(
        &self,
        pipeline: &str,
        params: &[(String, ParamArg)],
        wishes: &[(&str, String)],
        key: Option<&str>,
    ) -> Result<Value> {
        let request = self.http.post(format!("{}/v1/pipelines/{pipeline}/runs", self.url)).query(wishes);
        let request = match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        if params.is_empty() {
            return self.send(request.json(&json!({}))).await;
        }
        let mut form = Form::new();
        for (name, given) in params {
            form = match given {
                ParamArg::Text(text) => form.text(name.clone(), text.clone()),
                ParamArg::File(path) => form.part(name.clone(), file_part(path).await?),
            };
        }
        self.send(request.multipart(form)).await
    }

    /// Starts a new run with the params of a run. `changes` are those that differ.
    pub(super) async fn replay_run(&self, id: &str, changes: Vec<(String, String)>) -> Result<Value> {
        let params: Map<String, Value> = changes.into_iter().map(|(name, value)| (name, value.into())).collect();
        self.send(self.http.post(format!("{}/v1/runs/{id}/replay", self.url)).json(&json!({ "params": params }))).await
    }

    /// Sends a GET request.
    pub(super) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value> {
        self.send(self.http.get(format!("{}{path}", self.url)).query(query)).await
    }

    pub(super) async fn publish_event(&self, name: &str, body: &Value) -> Result<Value> {
        self.post_json(&format!("/v1/events/{name}"), body).await
    }

    /// Sends a POST request with a JSON body.
    pub(super) async fn post_json(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    /// Sends a DELETE request.
    pub(super) async fn delete(&self, path: &str) -> Result<Value> {
        self.send(self.http.delete(format!("{}{path}", self.url))).await
    }

    /// Sends a POST request without a body.
    pub(super) async fn post_empty(&self, path: &str) -> Result<Value> {
        self.send(self.http.post(format!("{}{path}", self.url))).await
    }

    /// Calls `show` after each change of a run until it ends, and returns its final state. Reconnects if the service
    /// restarts.
    pub(super) async fn follow_run(&self, id: &str, mut show: impl FnMut(&Value)) -> Result<Value> {
        let mut last = json!({ "revision": 0 });
        loop {
            match self.follow_stream(id, &mut last, &mut show).await {
                Ok(true) => return Ok(last),
                Err(error) if !error.is_transient() => return Err(error),
                Ok(false) | Err(_) => tokio::time::sleep(FOLLOW_RETRY_DELAY).await,
            }
        }
    }

    /// Returns true when the run has ended, and false when the connection has.
    async fn follow_stream(&self, id: &str, last: &mut Value, show: &mut impl FnMut(&Value)) -> Result<bool> {
        let request = self.http.get(format!("{}/v1/runs/{id}/events", self.url)).bearer_auth(&self.key);
        let response =
            request.header("last-event-id", last["revision"].to_string()).send().await.map_err(unreachable_error)?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(true);
        }
        let mut body = check_response(response).await?.bytes_stream();
        let mut line = Vec::new();
        while let Ok(Some(bytes)) = tokio::time::timeout(EVENT_STREAM_IDLE_TIMEOUT, body.next()).await {
            for byte in bytes.map_err(unreachable_error)? {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let data = line.strip_prefix(b"data:").and_then(|data| serde_json::from_slice::<Value>(data).ok());
                line.clear();
                // The event `end` carries no run: it follows the final state.
                let Some(run) = data.filter(|run| run["revision"].is_number()) else { continue };
                show(&run);
                *last = run;
                if !last["finished_at"].is_null() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    pub(super) async fn download_file(&self, url: &str, path: &Path) -> Result<()> {
        let response = self.http.get(url).bearer_auth(&self.key).send().await.map_err(unreachable_error)?;
        let body = check_response(response).await?.bytes_stream().map_err(std::io::Error::other);
        let mut file = tokio::fs::File::create(path).await?;
        tokio::io::copy(&mut tokio_util::io::StreamReader::new(body), &mut file).await?;
        Ok(())
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value> {
        let response = request.bearer_auth(&self.key).send().await.map_err(unreachable_error)?;
        check_response(response).await?.json().await.map_err(unreachable_error)
    }
}

async fn file_part(path: &Path) -> Result<Part> {
    let opened = |error: std::io::Error| Error::from(error).context(format!("reading `{}`", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(opened)?;
    let size = file.metadata().await.map_err(opened)?.len();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::new(file));
    Ok(Part::stream_with_length(body, size).file_name(name))
}

/// Converts an error response of the service.
async fn check_response(response: Response) -> Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let problem: Map<String, Value> = response.json().await.unwrap_or_default();
    let text = |name: &str| problem.get(name).and_then(Value::as_str);
    let mut message = text("detail").map_or_else(|| format!("the service answered {status}"), str::to_owned);
    if let Some(code) = text("code") {
        message.push_str(&format!(" [{code}]"));
    }
    let error = match status.is_server_error() {
        true => Error::new(codes::REQUEST_REFUSED, message).with_retryability(Retryability::Transient),
        false => Error::new(codes::REQUEST_REFUSED, message),
    };
    Err(match text("hint") {
        Some(hint) => error.with_hint(hint),
        None => error,
    })
}

/// Converts an error of reqwest; its message includes the innermost cause.
fn unreachable_error(error: reqwest::Error) -> Error {
    let url = error.url().map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let message = format!("the service at {url} cannot be reached: {cause}");
    Error::new(codes::SERVICE_UNREACHABLE, message)
}
