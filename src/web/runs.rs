//! Reading runs.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ulid::Ulid;

use super::App;
use super::auth::{Caller, Scope, lacks};
use super::extract::{Id, Query};
use super::problem::Problem;
use crate::clock;
use crate::engine::{RunView, artifact_link, run_url};
use crate::error::{Error, Result};
use crate::secrets::Purpose;
use crate::store::{RunFilter, RunRecord, RunStatus};

const PAGE: u32 = 50;
const LARGEST_PAGE: u32 = 200;

/// A run in a list: without its steps, files and parameters.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct RunSummary {
    id: String,
    url: String,
    pipeline: String,
    #[schemars(with = "RunStatus")]
    status: &'static str,
    origin: String,
    error: Option<Value>,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    revision: i64,
}

impl RunSummary {
    /// The short form of a run.
    pub(super) fn new(run: RunRecord, base_url: &str) -> Self {
        Self {
            url: run_url(base_url, &run.id),
            id: run.id,
            pipeline: run.pipeline,
            status: run.status.as_str(),
            origin: run.origin,
            error: run.error,
            created_at: clock::rfc3339(run.created_at),
            started_at: run.started_at.map(clock::rfc3339),
            finished_at: run.finished_at.map(clock::rfc3339),
            revision: run.revision,
        }
    }
}

/// A page of runs, newest first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Page {
    runs: Vec<RunSummary>,
    next_cursor: Option<String>,
}

/// The query of a list of runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Only runs of this pipeline.
    pipeline: Option<String>,
    /// Only runs of this status.
    #[schemars(with = "Option<RunStatus>")]
    status: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// At most so many; default 50.
    #[schemars(with = "Option<u32>", range(min = 1, max = LARGEST_PAGE))]
    limit: Option<String>,
}

/// `GET /v1/runs`
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page>, Problem> {
    caller.must_read()?;
    let mut filter = query.filter()?;
    filter.pipelines = match query.pipeline {
        Some(name) if caller.may_read(&name) => Some(vec![name]),
        Some(name) => return Err(lacks(&Scope::RunsRead(Some(name))).into()),
        None => caller.readable(),
    };
    let limit = filter.limit as usize;
    // One more than asked for tells whether there is a next page.
    filter.limit += 1;
    let mut runs = app.db().runs(&filter).await?;
    let more = runs.len() > limit;
    runs.truncate(limit);
    let next_cursor = runs.last().filter(|_| more).map(|run| run.id.clone());
    let runs = runs.into_iter().map(|run| RunSummary::new(run, app.base_url())).collect();
    Ok(Json(Page { runs, next_cursor }))
}

impl ListQuery {
    fn filter(&self) -> Result<RunFilter> {
        let invalid = |message: String, hint: &str| Error::permanent("query_invalid", message).hint(hint);
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if let Some(name) = self.pipeline.as_deref().filter(|name| !is_name(name)) {
            return Err(invalid(format!("`{name}` is not the name of a pipeline"), "names are lower case"));
        }
        let status = self.status.as_deref().map(|text| {
            let choices = "expected one of `queued`, `running`, `succeeded`, `failed`, `cancelled`";
            RunStatus::parse(text).ok_or_else(|| invalid(format!("`{text}` is not the status of a run"), choices))
        });
        let before = self.cursor.as_deref().map(|text| {
            let hint = "take `next_cursor` from the page before";
            Ulid::from_string(text)
                .map(|id| id.to_string())
                .map_err(|_| invalid(format!("`{text}` is not a cursor"), hint))
        });
        let limit = self.limit.as_deref().map(|text| {
            let fits = text.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
            let hint = format!("expected a whole number from 1 to {LARGEST_PAGE}");
            fits.ok_or_else(|| invalid(format!("`{text}` is not a limit"), &hint))
        });
        Ok(RunFilter {
            pipelines: None,
            status: status.transpose()?,
            before: before.transpose()?,
            limit: limit.transpose()?.unwrap_or(PAGE),
        })
    }
}

/// The query of one run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowQuery {
    token: Option<String>,
}

/// Lets a page of any origin read what the token in the link lets it see, refusals too. No cookie and no stored key
/// takes part, so nobody sees more than they were given; answers to keys stay closed.
pub(super) async fn open_to_pages(request: Request, next: Next) -> Response {
    let tokens = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("token=")));
    let by_token = tokens && !request.headers().contains_key(AUTHORIZATION);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("authorization"));
    if by_token {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}

/// `GET /v1/runs/{id}`, with a key or with the run's own token.
pub(super) async fn show(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<ShowQuery>,
    headers: HeaderMap,
) -> Result<Json<RunView>, Problem> {
    let caller = match &query.token {
        Some(token) if !headers.contains_key(AUTHORIZATION) => {
            if !app.signer().holds(Purpose::Watch, &id, token) {
                return Err(Problem::new("token_invalid", "the token is not the one of this run")
                    .hint("use the `watch_url` that came with the run"));
            }
            None
        }
        _ => {
            let caller = Caller::of(&app, &headers).await?;
            caller.must_read()?;
            Some(caller)
        }
    };
    // What is no id is not asked for: PostgreSQL takes no NUL, for one.
    let run = match Ulid::from_string(&id) {
        Ok(_) => RunView::read(app.db(), &id, app.base_url()).await?,
        Err(_) => None,
    };
    let readable = |run: &RunView| caller.as_ref().is_none_or(|caller| caller.may_read(&run.pipeline));
    let run = run.filter(readable);
    let mut run = run.ok_or_else(|| Problem::new("run_not_found", format!("there is no run `{id}`")))?;
    if caller.is_none() {
        // Who may watch the run may have its files.
        for artifact in &mut run.artifacts {
            artifact.url = artifact_link(app.base_url(), app.signer(), &artifact.id);
        }
    }
    Ok(Json(run))
}
