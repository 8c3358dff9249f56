//! Authenticates callers by their API keys, and says what they may do.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use subtle::ConstantTimeEq;

use super::ApiState;
use super::api_key::{MAX_API_KEY_CHARS, api_key_id, hash_api_key, is_generated_key};
use super::client_address::ClientAddress;
use super::problem::Problem;
use super::scopes::{ApiKeyScope, missing_scope};
use super::session::{find_session, is_session_token};
use crate::codes;
use afterload_core::error::{Error, Result};

/// How much of its hash names a session in logs.
const SESSION_ID_CHARS: usize = 12;

/// The authenticated caller and its permissions.
#[derive(Clone, Debug)]
pub struct Caller {
    key_id: String,
    scopes: Vec<ApiKeyScope>,
    buckets: Vec<String>,
}

impl Caller {
    /// Authenticates a request by its API key.
    ///
    /// # Errors
    /// `key_missing`, `key_invalid`, `too_many_attempts`
    pub(super) async fn from_headers(app: &ApiState, client: ClientAddress, headers: &HeaderMap) -> Result<Self> {
        let Some(header) = headers.get(AUTHORIZATION) else {
            return Err(Error::new(codes::KEY_MISSING, "this call needs an API key")
                .with_hint("send `Authorization: Bearer KEY`; `afterload key new` makes one"));
        };
        let text = header.to_str().ok().and_then(|header| header.split_once(' '));
        let text = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, text)| text.trim());
        let invalid = || Error::new(codes::KEY_INVALID, "the API key is not valid");
        let text = text.filter(|text| !text.is_empty() && text.len() <= MAX_API_KEY_CHARS).ok_or_else(invalid)?;
        if is_session_token(text) {
            return Self::from_session(app, text).await;
        }
        // The random bits of a generated key protect it at any pace. What a person chose might be guessed.
        let is_guessable = !is_generated_key(text);
        if is_guessable {
            app.attempts().wait_for_turn(client, text).await?;
        }
        let stored = app.db().api_keys().find(&api_key_id(text)).await?.ok_or_else(invalid)?;
        if !bool::from(stored.hash.as_bytes().ct_eq(hash_api_key(text).as_bytes())) {
            return Err(invalid());
        }
        if is_guessable {
            app.attempts().remember_key(client, text);
        }
        tracing::debug!(key.id = stored.id, "an API key was accepted");
        // A scope that this version does not support permits nothing.
        let scopes = stored.scopes.iter().filter_map(|scope| scope.parse().ok()).collect();
        Ok(Self { key_id: stored.id, scopes, buckets: stored.buckets })
    }

    /// Authenticates the session of a browser by its token. A session is an API key that ends.
    ///
    /// # Errors
    /// `key_invalid` if the session has ended, or an error of the database.
    pub async fn from_session(app: &ApiState, token: &str) -> Result<Self> {
        let session = find_session(app.db(), token).await?;
        let session = session.ok_or_else(|| Error::new(codes::KEY_INVALID, "the session has ended"))?;
        let scopes = session.scopes.iter().filter_map(|scope| scope.parse().ok()).collect();
        let key_id = format!("session-{}", session.hash.get(..SESSION_ID_CHARS).unwrap_or_default());
        Ok(Self { key_id, scopes, buckets: Vec::new() })
    }

    /// What the caller may do, in the form of the API. Callers with the same text see the same.
    pub fn scope_text(&self) -> String {
        self.scopes.iter().map(ApiKeyScope::to_string).collect::<Vec<_>>().join(" ")
    }

    /// The public part of the key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// True if the key may do everything.
    pub fn is_admin(&self) -> bool {
        self.scopes.contains(&ApiKeyScope::Admin)
    }

    /// True if the key may read the runs of this pipeline.
    pub fn can_read(&self, pipeline: &str) -> bool {
        self.readable_pipelines().is_none_or(|pipelines| pipelines.iter().any(|name| name == pipeline))
    }

    /// The pipelines whose runs the key may read; `None` for all.
    pub fn readable_pipelines(&self) -> Option<Vec<String>> {
        let mut pipelines = Vec::new();
        for scope in &self.scopes {
            match scope {
                ApiKeyScope::Admin | ApiKeyScope::RunsRead(None) => return None,
                ApiKeyScope::RunsRead(Some(name)) => pipelines.push(name.clone()),
                _ => {}
            }
        }
        Some(pipelines)
    }

    /// True if the key may start runs of this pipeline.
    pub fn can_write(&self, pipeline: &str) -> bool {
        self.scopes.iter().any(|scope| match scope {
            ApiKeyScope::Admin | ApiKeyScope::RunsWrite(None) => true,
            ApiKeyScope::RunsWrite(Some(name)) => name == pipeline,
            _ => false,
        })
    }

    /// True if the key may publish the application event of this name; `None`: if it may publish any event.
    pub fn can_publish(&self, event: Option<&str>) -> bool {
        self.scopes.iter().any(|scope| match scope {
            ApiKeyScope::Admin | ApiKeyScope::EventsWrite(None) => true,
            ApiKeyScope::EventsWrite(Some(name)) => event == Some(name),
            _ => false,
        })
    }

    /// True if the key may read metrics.
    pub fn can_read_metrics(&self) -> bool {
        self.scopes.iter().any(|scope| matches!(scope, ApiKeyScope::Admin | ApiKeyScope::MetricsRead))
    }

    /// True if the key may report mails that came back.
    pub fn can_report_bounces(&self) -> bool {
        self.scopes.iter().any(|scope| matches!(scope, ApiKeyScope::Admin | ApiKeyScope::BouncesWrite))
    }

    /// True if the key may read which addresses receive no mails.
    pub fn can_read_suppressions(&self) -> bool {
        self.scopes.iter().any(|scope| matches!(scope, ApiKeyScope::Admin | ApiKeyScope::SuppressionsRead))
    }

    /// True if the key may change which addresses receive no mails.
    pub fn can_write_suppressions(&self) -> bool {
        self.scopes.iter().any(|scope| matches!(scope, ApiKeyScope::Admin | ApiKeyScope::SuppressionsWrite))
    }

    /// True if the key may start runs of some pipeline.
    pub fn can_write_any(&self) -> bool {
        self.scopes.iter().any(|scope| matches!(scope, ApiKeyScope::Admin | ApiKeyScope::RunsWrite(_)))
    }

    /// True if the key may name objects of this bucket in parameters.
    pub fn can_access_bucket(&self, bucket: &str) -> bool {
        self.is_admin() || self.buckets.iter().any(|name| name == bucket)
    }

    /// Rejects a key that may read no runs at all.
    ///
    /// # Errors
    /// `scope_missing`
    pub fn require_read(&self) -> Result<()> {
        match self.readable_pipelines() {
            Some(pipelines) if pipelines.is_empty() => Err(missing_scope(&ApiKeyScope::RunsRead(None))),
            _ => Ok(()),
        }
    }
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &ApiState) -> Result<Self, Problem> {
        Ok(Self::from_headers(app, ClientAddress::of(&parts.extensions), &parts.headers).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_scope_for_one_pipeline_covers_only_that_one() {
        let caller = |scopes: &[&str]| Caller {
            key_id: "key".into(),
            scopes: scopes.iter().map(|scope| scope.parse().unwrap()).collect(),
            buckets: vec!["uploads".into()],
        };
        let one = caller(&["runs:read:a", "runs:write:b"]);
        assert!(one.can_read("a") && !one.can_read("b") && one.can_write("b") && !one.can_write("a"));
        assert!(one.can_access_bucket("uploads") && !one.can_access_bucket("artifacts") && !one.is_admin());
        assert_eq!(caller(&["runs:write"]).require_read().unwrap_err().code(), codes::SCOPE_MISSING);
        let admin = caller(&["admin"]);
        assert!(admin.can_read("a") && admin.can_write("a") && admin.can_access_bucket("artifacts"));
    }
}
