//! Reading runs.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ulid::Ulid;

use super::App;
use super::auth::{Caller, Scope, lacks};
use super::events;
use super::extract::{Id, Query};
use super::problem::Problem;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_core::secrets::Purpose;
use afterload_engine::{RunView, artifact_link, run_url};
use afterload_state::{RunFilter, RunRecord, RunStatus};

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
        Ok(RunFilter {
            pipelines: None,
            status: status.transpose()?,
            before: before.transpose()?,
            limit: page_limit(self.limit.as_deref())?,
        })
    }
}

/// How many entries a page may have.
///
/// # Errors
/// `query_invalid`
pub(super) fn page_limit(limit: Option<&str>) -> Result<u32> {
    let Some(text) = limit else { return Ok(PAGE) };
    let fits = text.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
    fits.ok_or_else(|| {
        Error::permanent("query_invalid", format!("`{text}` is not a limit"))
            .hint(format!("expected a whole number from 1 to {LARGEST_PAGE}"))
    })
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

/// Somebody who may read one run: by key, or by the run's own token.
#[derive(Clone)]
pub(super) struct Reader {
    app: App,
    id: String,
    /// `None`: by the token.
    caller: Option<Caller>,
}

impl Reader {
    async fn new(app: App, id: String, query: &ShowQuery, headers: &HeaderMap) -> Result<Self, Problem> {
        let caller = match &query.token {
            Some(token) if !headers.contains_key(AUTHORIZATION) => {
                if !app.signer().holds(Purpose::Watch, &id, token) {
                    return Err(Problem::new("token_invalid", "the token is not the one of this run")
                        .hint("use the `watch_url` that came with the run"));
                }
                None
            }
            _ => {
                let caller = Caller::of(&app, headers).await?;
                caller.must_read()?;
                Some(caller)
            }
        };
        Ok(Self { app, id, caller })
    }

    /// The run as this reader may see it.
    ///
    /// # Errors
    /// `run_not_found`, those of the database.
    pub(super) async fn read(&self) -> Result<RunView> {
        let Self { app, id, caller } = self;
        // What is no id is not asked for: PostgreSQL takes no NUL, for one.
        let run = match Ulid::from_string(id) {
            Ok(_) => RunView::read(app.db(), id, app.base_url()).await?,
            Err(_) => None,
        };
        let readable = |run: &RunView| caller.as_ref().is_none_or(|caller| caller.may_read(&run.pipeline));
        let mut run = run.filter(readable).ok_or_else(|| not_found(id))?;
        if caller.is_none() {
            // Who may watch the run may have its files.
            for artifact in &mut run.artifacts {
                artifact.url = artifact_link(app.base_url(), app.signer(), &artifact.id);
            }
        }
        Ok(run)
    }

    pub(super) fn app(&self) -> &App {
        &self.app
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

fn not_found(id: &str) -> Error {
    Error::permanent("run_not_found", format!("there is no run `{id}`"))
}

/// `GET /v1/runs/{id}`, with a key or with the run's own token; as server-sent events for who accepts those.
pub(super) async fn show(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<ShowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let reader = Reader::new(app, id, &query, &headers).await?;
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match accepted.split(',').any(|media| media.trim().starts_with(events::MEDIA_TYPE)) {
        true => Ok(events::follow(reader, &headers).await?),
        false => Ok(Json(reader.read().await?).into_response()),
    }
}

/// `GET /v1/runs/{id}/events`, with a key or with the run's own token.
pub(super) async fn events(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<ShowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let reader = Reader::new(app, id, &query, &headers).await?;
    Ok(events::follow(reader, &headers).await?)
}

/// `POST /v1/runs/{id}/cancel`
pub(super) async fn cancel(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<Response, Problem> {
    may_change(&app, &caller, &id).await?;
    app.engine().cancel(&id).await?;
    changed(&app, &id).await
}

/// `POST /v1/runs/{id}/retry`
pub(super) async fn retry(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<Response, Problem> {
    may_change(&app, &caller, &id).await?;
    app.engine().retry(&id).await?;
    changed(&app, &id).await
}

/// A run that the key may not see is none.
///
/// # Errors
/// `run_not_found`, those of the database.
pub(super) async fn may_read(app: &App, caller: &Caller, id: &str) -> Result<()> {
    caller.must_read()?;
    let run = match Ulid::from_string(id) {
        Ok(_) => app.db().run(id).await?,
        Err(_) => None,
    };
    run.filter(|run| caller.may_read(&run.pipeline)).map(drop).ok_or_else(|| not_found(id))
}

/// A run that the key may not see is none; one that it may only see is not for it to change.
async fn may_change(app: &App, caller: &Caller, id: &str) -> Result<()> {
    let run = match Ulid::from_string(id) {
        Ok(_) => app.db().run(id).await?,
        Err(_) => None,
    };
    match run {
        Some(run) if caller.may_write(&run.pipeline) => Ok(()),
        Some(run) if caller.may_read(&run.pipeline) => Err(lacks(&Scope::RunsWrite(Some(run.pipeline)))),
        _ => Err(not_found(id)),
    }
}

/// What was asked for is on disk; the run as it is now.
async fn changed(app: &App, id: &str) -> Result<Response, Problem> {
    let run = RunView::read(app.db(), id, app.base_url()).await?.ok_or_else(|| not_found(id))?;
    let status = if run.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(run)).into_response())
}
