//! `POST /v1/events/{name}`: events of the application, told with a key or as a webhook.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::App;
use super::auth::{Caller, Scope, lacks};
use super::extract::{self, Id};
use super::idempotency;
use super::problem::Problem;
use crate::triggers::Heard;
use afterload_core::error::{Error, Result};
use afterload_core::units::is_event;
use afterload_egress::Webhooks;

/// The header by which a Standard Webhook is known.
const SIGNATURE: &str = "webhook-signature";
/// The longest id of a webhook, in bytes.
const LONGEST_ID: usize = 255;

/// Answers 202, and a webhook 200, once all that the event starts and wakes is on disk.
pub(super) async fn tell(
    State(app): State<App>,
    Id(name): Id,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Heard>), Problem> {
    let limit = app.config().max_body;
    let (status, key, body) = if headers.contains_key(SIGNATURE) && !headers.contains_key(AUTHORIZATION) {
        let bytes = extract::bytes(body, limit).await?;
        (StatusCode::OK, Some(signed(&app, &name, &headers, &bytes)?), Body::from(bytes))
    } else {
        if !Caller::of(&app, &headers).await?.may_tell(Some(&name)) {
            return Err(lacks(&Scope::EventsWrite(Some(name))).into());
        }
        (StatusCode::ACCEPTED, idempotency::key(&headers)?, body)
    };
    if !is_event(&name) {
        return Err(Problem::new("event_invalid", format!("`{name}` is not a name for an event"))
            .hint("letters, digits, `.`, `_` and `-`, at most 100, such as `order.accepted`"));
    }
    let said: Option<Map<String, Value>> = extract::json_body(body, limit, "{\"order_id\": 7}").await?;
    let heard = app.triggers().tell(&name, key, Value::Object(said.unwrap_or_default())).await?;
    Ok((status, Json(heard)))
}

/// The key under which a Standard Webhook is one event however often it is sent. It has a beginning of its own, so that no
/// sender can take the key of another caller.
fn signed(app: &App, name: &str, headers: &HeaderMap, body: &[u8]) -> Result<String> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (id, signatures) = (header("webhook-id"), header(SIGNATURE));
    let (Some(sender), Ok(timestamp), 1..=LONGEST_ID) =
        (Webhooks::verifier(&app.config().webhooks, name), header("webhook-timestamp").parse(), id.len())
    else {
        return Err(Error::permanent("webhook_invalid", "the webhook is not one that its event takes").hint(
            "`webhooks.events` names the event and its secret; `webhook-id` and `webhook-timestamp` are needed",
        ));
    };
    sender.verify(id, timestamp, body, signatures)?;
    Ok(format!("webhook:{id}"))
}
