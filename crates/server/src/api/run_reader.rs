//! Reads one run for a caller that may see it.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use schemars::JsonSchema;
use serde::Deserialize;

use super::ApiState;
use super::auth::Caller;
use super::client_address::ClientAddress;
use super::problem::Problem;
use super::visible_run::{RunAccess, VisibleRun, find_run, run_not_found};
use crate::codes;
use afterload_core::error::Result;
use afterload_core::secrets::TokenPurpose;
use afterload_engine::RunView;

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
    access: RunAccess,
}

impl RunReader {
    pub(super) async fn new(
        app: ApiState,
        id: String,
        query: &RunTokenQuery,
        client: ClientAddress,
        headers: &HeaderMap,
    ) -> Result<Self, Problem> {
        let access = match &query.token {
            Some(token) if !headers.contains_key(AUTHORIZATION) => {
                if !app.signer().verify_token(TokenPurpose::Watch, &id, token) {
                    return Err(Problem::new(codes::TOKEN_INVALID, "the token is not the one of this run")
                        .with_hint("use the `watch_url` that came with the run"));
                }
                RunAccess::Token
            }
            _ => {
                let caller = Caller::from_headers(&app, client, headers).await?;
                caller.require_read()?;
                RunAccess::Key(caller)
            }
        };
        Ok(Self { app, id, access })
    }

    /// Reads the run as this reader may see it.
    ///
    /// # Errors
    /// `run_not_found`
    pub(super) async fn read(&self) -> Result<RunView> {
        let run = find_run(&self.app, &self.id).await?.map(|run| self.access.show_run(&self.app, run));
        match run {
            Some(VisibleRun::Whole(run)) => Ok(*run),
            _ => Err(run_not_found(&self.id)),
        }
    }

    pub(super) fn api_state(&self) -> &ApiState {
        &self.app
    }

    pub(super) fn run_id(&self) -> &str {
        &self.id
    }
}
