//! A run as server-sent events: the whole run after each change, with its revision as event id, then one `end`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use schemars::JsonSchema;
use serde_json::json;
use tokio::time::{Instant, interval_at};

use super::run_feed::{RenderedRun, RunWatcher};
use super::run_reader::RunReader;
use afterload_core::error::Result;
use afterload_engine::RunView;

/// The media type that a client accepts to receive events.
pub(super) const SSE_MEDIA_TYPE: &str = "text/event-stream";

/// The first bytes of a stream: when a client should reconnect, in milliseconds.
const SSE_RETRY: &[u8] = b"retry: 1000\n\n";
/// A comment, which clients ignore. Proxies close connections that are silent for long.
const SSE_KEEP_ALIVE: &[u8] = b":\n\n";

/// One event of the stream.
pub(super) struct RunEvent;

impl JsonSchema for RunEvent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RunEvent".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let run = generator.subschema_for::<RunView>();
        schemars::json_schema!({
            "description": "The whole run after a change, with its revision as `id`; at last one `end`.",
            "type": "object",
            "properties": {
                "id": { "type": "string", "pattern": "^[0-9]+$" },
                "event": { "enum": ["message", "end"] },
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": { "anyOf": [run, { "type": "object", "required": ["status"] }] },
                },
            },
            "required": ["data"],
        })
    }
}

const SSE_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Streams a run until it ends. A client that has already seen the end (`Last-Event-ID`) gets 204, and browsers then
/// stop reconnecting.
///
/// # Errors
/// `run_not_found`, `too_many_watchers`, `too_many_run_watchers`
pub(super) async fn stream_run(reader: RunReader, headers: &HeaderMap) -> Result<Response> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse::<i64>().ok());
    let watcher = reader.watch()?;
    let run = reader.next_revision(&watcher, i64::MIN).await?;
    if run.view.is_final() && last.is_some_and(|last| last >= run.view.revision) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let stream = run_event_stream(reader, watcher, last.unwrap_or(i64::MIN));
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(SSE_MEDIA_TYPE));
    // Proxies must neither cache nor buffer the events.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// What an event stream does next.
enum NextEvent {
    Run(Result<Arc<RenderedRun>>),
    KeepAlive,
    Recheck,
    Shutdown,
}

fn run_event_stream(
    mut reader: RunReader,
    watcher: RunWatcher,
    mut seen: i64,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    async_stream::stream! {
        let shutdown = reader.api_state().engine().shutdown_token().clone();
        let recheck = reader.api_state().config().watchers.recheck.0;
        let mut recheck = interval_at(Instant::now() + recheck, recheck);
        let mut keep_alive = interval_at(Instant::now() + SSE_KEEP_ALIVE_INTERVAL, SSE_KEEP_ALIVE_INTERVAL);
        yield Ok(Bytes::from_static(SSE_RETRY));
        loop {
            let next = tokio::select! {
                run = reader.next_revision(&watcher, seen) => NextEvent::Run(run),
                _ = recheck.tick() => NextEvent::Recheck,
                _ = keep_alive.tick() => NextEvent::KeepAlive,
                () = shutdown.cancelled() => NextEvent::Shutdown,
            };
            match next {
                NextEvent::Run(Ok(run)) => {
                    seen = run.view.revision;
                    keep_alive.reset();
                    yield Ok(run.event());
                    if run.view.is_final() {
                        yield Ok(end_event(run.view.status));
                        return;
                    }
                }
                // Close the connection: the client reconnects and gets the current state.
                NextEvent::Run(Err(error)) => {
                    tracing::warn!(run.id = reader.run_id(), error.code = error.code().name(), "streaming a run failed: {error}");
                    return;
                }
                NextEvent::KeepAlive => yield Ok(Bytes::from_static(SSE_KEEP_ALIVE)),
                NextEvent::Recheck => match reader.reauthorize().await {
                    // The database does not answer. The next check decides.
                    Err(error) if error.is_transient() => {}
                    Err(error) => {
                        tracing::info!(run.id = reader.run_id(), error.code = error.code().name(), "an event stream ends: {error}");
                        return;
                    }
                    Ok(()) => {}
                },
                NextEvent::Shutdown => return,
            }
        }
    }
}

fn end_event(status: &str) -> Bytes {
    format!("event: end\ndata: {}\n\n", json!({ "status": status })).into()
}
