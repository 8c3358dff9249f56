//! `POST /v1/hooks/s3`: event notifications of S3 stores.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use super::App;
use super::auth::{Caller, Scope, lacks};
use super::extract::{self, Query};
use super::problem::Problem;
use crate::triggers::Received;
use afterload_core::error::Result;
use afterload_core::secrets::Purpose;

/// What the token of the webhook is derived from.
pub const S3: &str = "s3";

/// The query.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    /// What `afterload key hook` prints, in place of a key.
    token: Option<String>,
}

/// Answers 200 once every run that the notification starts is on disk; whoever gets another answer sends it again.
pub(super) async fn s3(
    State(app): State<App>,
    Query(query): Query<Token>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Received>, Problem> {
    match &query.token {
        Some(token) if app.signer().holds(Purpose::Hook, S3, token) => {}
        Some(_) => {
            return Err(Problem::new("token_invalid", "the token is not the one of this webhook")
                .hint("`afterload key hook` prints the address with its token"));
        }
        None => {
            let caller = Caller::of(&app, &with_scheme(headers)).await?;
            if !caller.may_tell(None) {
                return Err(lacks(&Scope::EventsWrite(None)).into());
            }
        }
    }
    let body = extract::bytes(body, app.config().max_body).await?;
    Ok(Json(app.triggers().receive(&body).await?))
}

/// MinIO sends its `auth_token` as it is, without a scheme.
fn with_scheme(mut headers: HeaderMap) -> HeaderMap {
    let bare = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).filter(|value| !value.contains(' '));
    if let Some(value) = bare.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok()) {
        headers.insert(AUTHORIZATION, value);
    }
    headers
}
