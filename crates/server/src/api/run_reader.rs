//! Reads one run for a caller that may see it.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use schemars::JsonSchema;
use serde::Deserialize;
use ulid::Ulid;

use super::ApiState;
use super::auth::Caller;
use super::client_address::ClientAddress;
use super::problem::Problem;
use super::run_feed::{RenderedRun, RunWatcher, WatchKind};
use super::visible_run::{RunAccess, find_run, run_not_found};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::keyring::TokenPurpose;
use afterload_engine::RunView;

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
    client: ClientAddress,
    credential: RunCredential,
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
        let credential = match &query.token {
            Some(token) if !headers.contains_key(AUTHORIZATION) => RunCredential::Token(token.clone()),
            _ => {
                let header = headers.get(AUTHORIZATION).map(|value| (AUTHORIZATION, value.clone()));
                RunCredential::Key(header.into_iter().collect())
            }
        };
        let access = credential.authenticate(&app, &id, client).await?;
        Ok(Self { app, id, client, credential, access })
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
        match find_run(&self.app, &self.id).await? {
            Some(run) => Ok(self.access.with_file_urls(&self.app, run)),
            None => Err(run_not_found(&self.id)),
        }
    }

    fn require_visible(&self, run: &RunView) -> Result<()> {
        match self.access.can_read(&run.pipeline) {
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
        let kind = match self.access {
            RunAccess::Key(_) => WatchKind::KeyEvents,
            RunAccess::Token | RunAccess::Creator => WatchKind::TokenEvents,
        };
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
        self.access = self.credential.authenticate(&self.app, &self.id, self.client).await?;
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
    async fn authenticate(&self, app: &ApiState, id: &str, client: ClientAddress) -> Result<RunAccess> {
        match self {
            Self::Token(token) if app.keyring().verify_token(TokenPurpose::Watch, id, token) => Ok(RunAccess::Token),
            Self::Token(_) => Err(Error::new(codes::TOKEN_INVALID, "the token is not the one of this run")
                .with_hint("use the `watch_url` that came with the run")),
            Self::Key(headers) => {
                let caller = Caller::from_headers(app, client, headers).await?;
                caller.require_read()?;
                Ok(RunAccess::Key(caller))
            }
        }
    }
}
