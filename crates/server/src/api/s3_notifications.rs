//! `POST /v1/hooks/s3`: event notifications of S3 stores.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use super::ApiState;
use super::auth::Caller;
use super::client_address::ClientAddress;
use super::extract::{self, StrictQuery};
use super::problem::Problem;
use super::scopes::{ApiKeyScope, missing_scope};
use crate::codes;
use crate::triggers::NotificationResult;
use afterload_core::error::Result;
use afterload_core::keyring::TokenPurpose;

/// The id from which the token of this webhook is derived.
pub const S3_WEBHOOK: &str = "s3";

/// The query of the webhook.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookTokenQuery {
    /// The token that `afterload key hook` prints, instead of an API key.
    token: Option<String>,
}

/// Responds with 200 once every run that the notification starts is committed. After any other status the sender
/// repeats it.
pub(super) async fn receive_s3_notification(
    State(app): State<ApiState>,
    StrictQuery(query): StrictQuery<WebhookTokenQuery>,
    client: ClientAddress,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<NotificationResult>, Problem> {
    match &query.token {
        Some(token) if app.keyring().verify_token(TokenPurpose::S3Notification, S3_WEBHOOK, token) => {}
        Some(_) => {
            return Err(Problem::new(codes::TOKEN_INVALID, "the token is not the one of this webhook")
                .with_hint("`afterload key hook` prints the address with its token"));
        }
        None => {
            let caller = Caller::from_headers(&app, client, &with_bearer_scheme(headers)).await?;
            if !caller.can_publish(None) {
                return Err(missing_scope(&ApiKeyScope::EventsWrite(None)).into());
            }
        }
    }
    let body = extract::read_body(body, app.config().max_body).await?;
    Ok(Json(app.triggers().receive_notification(&body).await?))
}

/// MinIO sends its `auth_token` without a scheme; this adds `Bearer`.
fn with_bearer_scheme(mut headers: HeaderMap) -> HeaderMap {
    let bare = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).filter(|value| !value.contains(' '));
    if let Some(value) = bare.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok()) {
        headers.insert(AUTHORIZATION, value);
    }
    headers
}
