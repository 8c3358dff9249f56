//! Reads one run for a caller that may see it.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use schemars::JsonSchema;
use serde::Deserialize;
use ulid::Ulid;

use super::ApiState;
use super::auth::Caller;
use super::problem::Problem;
use super::run_feed::{RenderedRun, RunWatcher, WatchKind};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::secrets::TokenPurpose;
use afterload_engine::{RunView, signed_artifact_url};

/// The query of one run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunTokenQuery {
    token: Option<String>,
}

/// What a reader of a run presents with its request.
#[derive(Clone)]
enum RunCredential {
    /// The header with the API key, if there is one.
    Key(HeaderMap),
    /// The token of the run.
    Token(String),
}

/// An authorized reader of one run, by API key or by the token of the run.
#[derive(Clone)]
pub(super) struct RunReader {
    app: ApiState,
    id: String,
    credential: RunCredential,
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
        let credential = match &query.token {
            Some(token) if !headers.contains_key(AUTHORIZATION) => RunCredential::Token(token.clone()),
            _ => {
                let header = headers.get(AUTHORIZATION).map(|value| (AUTHORIZATION, value.clone()));
                RunCredential::Key(header.into_iter().collect())
            }
        };
        let caller = credential.authenticate(&app, &id).await?;
        Ok(Self { app, id, credential, caller })
    }

    /// Reads the run as this reader may see it.
    ///
    /// # Errors
    /// `run_not_found`
    pub(super) async fn read(&self) -> Result<RunView> {
        let run = self.read_view().await?;
        self.require_visible(&run)?;
        Ok(run)
    }

    /// Reads the run in the view that all readers of this kind share. It may not be visible to this one.
    async fn read_view(&self) -> Result<RunView> {
        let Self { app, id, caller, .. } = self;
        // Only valid ids reach the database: PostgreSQL rejects NUL, for example.
        let run = match Ulid::from_string(id) {
            Ok(_) => RunView::read(app.db(), id, app.base_url()).await?,
            Err(_) => None,
        };
        let mut run = run.ok_or_else(|| run_not_found(id))?;
        if caller.is_none() {
            // The token of the run also permits its files.
            for artifact in &mut run.artifacts {
                artifact.url = signed_artifact_url(app.base_url(), app.signer(), &artifact.id);
            }
        }
        Ok(run)
    }

    fn require_visible(&self, run: &RunView) -> Result<()> {
        match self.caller.as_ref().is_none_or(|caller| caller.can_read(&run.pipeline)) {
            true => Ok(()),
            false => Err(run_not_found(&self.id)),
        }
    }

    /// Starts to watch the run.
    ///
    /// # Errors
    /// `run_not_found`, `too_many_watchers`, `too_many_run_watchers`
    pub(super) fn watch(&self) -> Result<RunWatcher> {
        if Ulid::from_string(&self.id).is_err() {
            return Err(run_not_found(&self.id));
        }
        let kind = if self.caller.is_some() { WatchKind::KeyEvents } else { WatchKind::TokenEvents };
        self.app.run_feeds().watch(self.app.engine(), &self.id, kind)
    }

    /// Waits for a revision of the run later than `seen`.
    ///
    /// # Errors
    /// `run_not_found`
    pub(super) async fn next_revision(&self, watcher: &RunWatcher, seen: i64) -> Result<Arc<RenderedRun>> {
        let run = watcher.next(seen, || self.read_view()).await?;
        self.require_visible(&run.view)?;
        Ok(run)
    }

    /// Checks again whether the key or the token may read the run.
    ///
    /// # Errors
    /// The error that a new request would get.
    pub(super) async fn reauthorize(&mut self) -> Result<()> {
        self.caller = self.credential.authenticate(&self.app, &self.id).await?;
        Ok(())
    }

    pub(super) fn api_state(&self) -> &ApiState {
        &self.app
    }

    pub(super) fn run_id(&self) -> &str {
        &self.id
    }
}

impl RunCredential {
    /// Returns the caller, or `None` for the token of the run.
    async fn authenticate(&self, app: &ApiState, id: &str) -> Result<Option<Caller>> {
        match self {
            Self::Token(token) if app.signer().verify_token(TokenPurpose::Watch, id, token) => Ok(None),
            Self::Token(_) => Err(Error::new(codes::TOKEN_INVALID, "the token is not the one of this run")
                .with_hint("use the `watch_url` that came with the run")),
            Self::Key(headers) => {
                let caller = Caller::from_headers(app, headers).await?;
                caller.require_read()?;
                Ok(Some(caller))
            }
        }
    }
}

pub(super) fn run_not_found(id: &str) -> Error {
    Error::new(codes::RUN_NOT_FOUND, format!("there is no run `{id}`"))
}
