//! A run as server-sent events: the whole run each time that it changes, its revision as the id, one `end`.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde_json::json;

use super::runs::RunReader;
use afterload_core::error::Result;
use afterload_engine::RunView;

/// What a client accepts that wants events.
pub(super) const SSE_MEDIA_TYPE: &str = "text/event-stream";

/// The shortest time between two events: what changes meanwhile is in the next one.
const MIN_EVENT_INTERVAL: Duration = Duration::from_millis(200);
/// When a client should come again after a broken connection.
const SSE_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Proxies close what is silent for long.
const SSE_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Follows a run to its end. Whoever has seen the end already (`Last-Event-ID`) gets 204, upon which browsers stop asking.
///
/// # Errors
/// `run_not_found`, those of the database.
pub(super) async fn stream_run(reader: RunReader, headers: &HeaderMap) -> Result<Response> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse::<i64>().ok());
    let run = reader.read().await?;
    if run.is_final() && last.is_some_and(|last| last >= run.revision) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let stream = run_event_stream(reader, last.unwrap_or(0));
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(SSE_KEEP_ALIVE_INTERVAL)).into_response();
    // Not even for a moment, not even by proxies that gather small pieces.
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
                // The connection ends; the client comes again and is told what there is to tell.
                Err(error) => {
                    tracing::warn!(run.id = reader.run_id(), error.code = error.code().name(), "a run cannot be followed: {error}");
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
