//! `POST /v1/events/{name}`: application events, published with an API key or as a signed webhook.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::ApiState;
use super::auth::Caller;
use super::client_address::ClientAddress;
use super::extract::{self, PathId};
use super::idempotency;
use super::problem::Problem;
use super::scopes::{ApiKeyScope, missing_scope};
use crate::codes;
use crate::triggers::EventResult;
use afterload_core::error::{Error, Result};
use afterload_core::units::is_event_name;
use afterload_egress::WebhookSigner;

/// The header that identifies a Standard Webhook.
const SIGNATURE_HEADER: &str = "webhook-signature";
/// The maximum length of a webhook id.
const MAX_WEBHOOK_ID_BYTES: usize = 255;

/// Responds with 202, and to a webhook with 200, once everything that the event starts and wakes is committed.
pub(super) async fn publish_event(
    State(app): State<ApiState>,
    PathId(name): PathId,
    client: ClientAddress,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<EventResult>), Problem> {
    let limit = app.config().max_body;
    let (status, key, body) = if headers.contains_key(SIGNATURE_HEADER) && !headers.contains_key(AUTHORIZATION) {
        let bytes = extract::read_body(body, limit).await?;
        (StatusCode::OK, Some(verified_webhook_key(&app, &name, &headers, &bytes)?), Body::from(bytes))
    } else {
        if !Caller::from_headers(&app, client, &headers).await?.can_publish(Some(&name)) {
            return Err(missing_scope(&ApiKeyScope::EventsWrite(Some(name))).into());
        }
        (StatusCode::ACCEPTED, idempotency::idempotency_key(&headers)?, body)
    };
    let hops = extract::chain_hops(&headers)?;
    if !is_event_name(&name) {
        return Err(Problem::new(codes::EVENT_INVALID, format!("`{name}` is not a name for an event")));
    }
    let payload: Option<Map<String, Value>> = extract::read_json_body(body, limit, "{\"order_id\": 7}").await?;
    let result = app.triggers().publish_event(&name, key, Value::Object(payload.unwrap_or_default()), hops).await?;
    Ok((status, Json(result)))
}

/// The dedup key of a Standard Webhook, so that repeated deliveries are one event. Its prefix keeps a sender from using
/// the key of another caller.
fn verified_webhook_key(app: &ApiState, name: &str, headers: &HeaderMap, body: &[u8]) -> Result<String> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (id, signatures) = (header("webhook-id"), header(SIGNATURE_HEADER));
    let (Some(sender), Ok(timestamp), 1..=MAX_WEBHOOK_ID_BYTES) =
        (WebhookSigner::verifier(&app.config().webhooks, name), header("webhook-timestamp").parse(), id.len())
    else {
        return Err(Error::new(codes::WEBHOOK_INVALID, "the webhook is not one that its event takes").with_hint(
            "`webhooks.events` names the event and its secret; `webhook-id` and `webhook-timestamp` are needed",
        ));
    };
    sender.verify_message(id, timestamp, body, signatures, app.db().now())?;
    Ok(format!("webhook:{id}"))
}
