//! Reads one run for a caller that may see it.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use schemars::JsonSchema;
use serde::Deserialize;
use ulid::Ulid;

use super::ApiState;
use super::auth::Caller;
use super::problem::Problem;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::keyring::TokenPurpose;
use afterload_engine::{RunView, signed_artifact_url};

/// The query of one run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunTokenQuery {
    token: Option<String>,
}

/// An authorized reader of one run, by API key or by the token of the run.
#[derive(Clone)]
pub(super) struct RunReader {
    app: ApiState,
    id: String,
    /// `None` if authorized by the token.
    caller: Option<Caller>,
}

impl RunReader {
    pub(super) async fn new(
        app: ApiState,
        id: String,
        query: &RunTokenQuery,
        headers: &HeaderMap,
    ) -> Result<Self, Problem> {
        let caller = match &query.token {
            Some(token) if !headers.contains_key(AUTHORIZATION) => {
                if !app.keyring().verify_token(TokenPurpose::Watch, &id, token) {
                    return Err(Problem::new(codes::TOKEN_INVALID, "the token is not the one of this run")
                        .with_hint("use the `watch_url` that came with the run"));
                }
                None
            }
            _ => {
                let caller = Caller::from_headers(&app, headers).await?;
                caller.require_read()?;
                Some(caller)
            }
        };
        Ok(Self { app, id, caller })
    }

    /// Reads the run as this reader may see it.
    ///
    /// # Errors
    /// `run_not_found`
    pub(super) async fn read(&self) -> Result<RunView> {
        let Self { app, id, caller } = self;
        // Only valid ids reach the database: PostgreSQL rejects NUL, for example.
        let run = match Ulid::from_string(id) {
            Ok(_) => RunView::read(app.db(), id, app.base_url()).await?,
            Err(_) => None,
        };
        let readable = |run: &RunView| caller.as_ref().is_none_or(|caller| caller.can_read(&run.pipeline));
        let mut run = run.filter(readable).ok_or_else(|| run_not_found(id))?;
        if caller.is_none() {
            // The token of the run also permits its files.
            for artifact in &mut run.artifacts {
                artifact.url = signed_artifact_url(app.base_url(), app.keyring(), &artifact.id);
            }
        }
        Ok(run)
    }

    pub(super) fn api_state(&self) -> &ApiState {
        &self.app
    }

    pub(super) fn run_id(&self) -> &str {
        &self.id
    }
}

pub(super) fn run_not_found(id: &str) -> Error {
    Error::new(codes::RUN_NOT_FOUND, format!("there is no run `{id}`"))
}
