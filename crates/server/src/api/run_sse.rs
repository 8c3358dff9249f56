//! A run as server-sent events: the whole run after each change, with its revision as event id, then one `end`.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use schemars::JsonSchema;
use serde_json::json;

use super::run_reader::RunReader;
use afterload_core::error::Result;
use afterload_engine::RunView;

/// The media type that a client accepts to receive events.
pub(super) const SSE_MEDIA_TYPE: &str = "text/event-stream";

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

/// The minimum interval between two events. Changes within it are sent together.
const MIN_EVENT_INTERVAL: Duration = Duration::from_millis(200);
/// When a client should reconnect.
const SSE_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Proxies close connections that are silent for long.
const SSE_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Streams a run until it ends. A client that has already seen the end (`Last-Event-ID`) gets 204, and browsers then
/// stop reconnecting.
///
/// # Errors
/// `run_not_found`
pub(super) async fn stream_run(reader: RunReader, headers: &HeaderMap) -> Result<Response> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse::<i64>().ok());
    let run = reader.read().await?;
    if run.is_final() && last.is_some_and(|last| last >= run.revision) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let stream = run_event_stream(reader, last.unwrap_or(0));
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(SSE_KEEP_ALIVE_INTERVAL)).into_response();
    // Proxies must neither cache nor buffer the events.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn run_event_stream(reader: RunReader, mut last: i64) -> impl Stream<Item = Result<Event, Infallible>> {
    async_stream::stream! {
        let engine = reader.api_state().engine().clone();
        let mut watch = engine.watch_run(reader.run_id());
        yield Ok(Event::default().retry(SSE_RETRY_AFTER));
        loop {
            match reader.read().await {
                Ok(run) if run.revision > last => {
                    last = run.revision;
                    yield Ok(run_event(&run));
                    if run.is_final() {
                        yield Ok(Event::default().event("end").data(json!({ "status": run.status }).to_string()));
                        return;
                    }
                }
                Ok(_) => {}
                // Close the connection: the client reconnects and gets the current state.
                Err(error) => {
                    tracing::warn!(run.id = reader.run_id(), error.code = error.code().name(), "streaming a run failed: {error}");
                    return;
                }
            }
            tokio::select! {
                () = async { tokio::time::sleep(MIN_EVENT_INTERVAL).await; watch.wait_for_change().await; } => {}
                () = engine.shutdown_token().cancelled() => return,
            }
        }
    }
}

fn run_event(run: &RunView) -> Event {
    let data = serde_json::to_string(run).unwrap_or_default();
    Event::default().id(run.revision.to_string()).data(data)
}
