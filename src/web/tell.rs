//! `POST /v1/events/{name}`: events of the application.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::App;
use super::auth::{Caller, Scope, lacks};
use super::extract::{self, Id};
use super::idempotency;
use super::problem::Problem;
use crate::error::Result;
use crate::triggers::Heard;
use crate::units::is_event;

/// Answers 202 once all that the event starts and wakes is on disk.
pub(super) async fn tell(
    State(app): State<App>,
    caller: Caller,
    Id(name): Id,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Heard>), Problem> {
    if !caller.may_tell(Some(&name)) {
        return Err(lacks(&Scope::EventsWrite(Some(name))).into());
    }
    if !is_event(&name) {
        return Err(Problem::new("event_invalid", format!("`{name}` is not a name for an event"))
            .hint("letters, digits, `.`, `_` and `-`, at most 100, such as `order.accepted`"));
    }
    let key = idempotency::key(&headers)?;
    let said: Option<Map<String, Value>> =
        extract::json_body(body, app.config().limits.body, "{\"order_id\": 7}").await?;
    let heard = app.triggers().tell(&name, key, Value::Object(said.unwrap_or_default())).await?;
    Ok((StatusCode::ACCEPTED, Json(heard)))
}
