//! Lists, shows, cancels and retries runs.

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

use super::ApiState;
use super::auth::Caller;
use super::client_address::ClientAddress;
use super::extract::{PathId, StrictQuery};
use super::problem::Problem;
use super::run_reader::{RunReader, RunTokenQuery};
use super::run_sse;
use super::scopes::{ApiKeyScope, missing_scope};
use super::visible_run::{RunAccess, find_run, run_not_found};
use crate::codes;
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_engine::{RetryDefinition, run_url};
use afterload_state::{RunFilter, RunRecord, RunStatus};

const DEFAULT_PAGE_SIZE: u32 = 50;
const MAX_PAGE_SIZE: u32 = 200;
const MAX_CODE_BYTES: usize = 63;

/// A run in a list, without its steps, files and parameters.
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
            created_at: clock::format_rfc3339(run.created_at),
            started_at: run.started_at.map(clock::format_rfc3339),
            finished_at: run.finished_at.map(clock::format_rfc3339),
            revision: run.revision,
        }
    }
}

/// A page of runs, newest first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct RunPage {
    runs: Vec<RunSummary>,
    next_cursor: Option<String>,
}

/// The query of a list of runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunPageQuery {
    /// Only runs of this pipeline.
    #[schemars(regex(pattern = r"^[A-Za-z0-9-]*$"))]
    pipeline: Option<String>,
    /// Only runs with this status.
    #[schemars(with = "Option<RunStatus>")]
    status: Option<String>,
    /// Only runs whose error has this code.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9_]{0,62}$"))]
    code: Option<String>,
    /// Only runs that were accepted at this time or later. RFC 3339.
    #[schemars(regex(
        pattern = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$"
    ))]
    since: Option<String>,
    /// `next_cursor` of the previous page.
    #[schemars(regex(pattern = r"^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$"))]
    cursor: Option<String>,
    /// The page size; default 50.
    #[schemars(with = "Option<u32>", range(min = 1, max = MAX_PAGE_SIZE))]
    limit: Option<String>,
}

/// `GET /v1/runs`
pub(super) async fn list_runs(
    State(app): State<ApiState>,
    caller: Caller,
    StrictQuery(query): StrictQuery<RunPageQuery>,
) -> Result<Json<RunPage>, Problem> {
    caller.require_read()?;
    let mut filter = query.to_run_filter()?;
    filter.pipelines = match query.pipeline {
        Some(name) if caller.can_read(&name) => Some(vec![name]),
        Some(name) => return Err(missing_scope(&ApiKeyScope::RunsRead(Some(name))).into()),
        None => caller.readable_pipelines(),
    };
    let limit = filter.limit as usize;
    // One more run than requested shows whether there is a next page.
    filter.limit += 1;
    let mut runs = app.db().runs().list(&filter).await?;
    let more = runs.len() > limit;
    runs.truncate(limit);
    let next_cursor = runs.last().filter(|_| more).map(|run| run.id.clone());
    let runs = runs.into_iter().map(|run| RunSummary::new(run, app.base_url())).collect();
    Ok(Json(RunPage { runs, next_cursor }))
}

impl RunPageQuery {
    fn to_run_filter(&self) -> Result<RunFilter> {
        let invalid = |message: String, hint: &str| Error::new(codes::QUERY_INVALID, message).with_hint(hint);
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if let Some(name) = self.pipeline.as_deref().filter(|name| !is_name(name)) {
            return Err(invalid(format!("`{name}` is not the name of a pipeline"), "names are lower case"));
        }
        let status = self.status.as_deref().map(|text| {
            let choices = "expected one of `queued`, `running`, `succeeded`, `failed`, `cancelled`";
            RunStatus::from_name(text).ok_or_else(|| invalid(format!("`{text}` is not the status of a run"), choices))
        });
        let is_code = |code: &str| {
            code.starts_with(|first: char| first.is_ascii_lowercase())
                && code.len() <= MAX_CODE_BYTES
                && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        if let Some(code) = self.code.as_deref().filter(|code| !is_code(code)) {
            return Err(invalid(format!("`{code}` is not an error code"), "codes look like `run_not_found`"));
        }
        let since = self.since.as_deref().map(|text| {
            clock::parse_rfc3339(text)
                .ok_or_else(|| invalid(format!("`{text}` is not a time"), "write it as `2030-01-31T08:00:00Z`"))
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
            error_code: self.code.clone(),
            from_id: since.transpose()?.map(first_id_at),
            to_id: None,
            before_id: before.transpose()?,
            limit: page_limit(self.limit.as_deref())?,
        })
    }
}

/// The lowest id of a run that was accepted at this time.
pub fn first_id_at(time: UnixMillis) -> String {
    Ulid::from_parts(u64::try_from(time).unwrap_or_default(), 0).to_string()
}

/// Parses the page size.
///
/// # Errors
/// `query_invalid`
pub(super) fn page_limit(limit: Option<&str>) -> Result<u32> {
    let Some(text) = limit else { return Ok(DEFAULT_PAGE_SIZE) };
    let fits = text.parse().ok().filter(|limit| (1..=MAX_PAGE_SIZE).contains(limit));
    fits.ok_or_else(|| {
        Error::new(codes::QUERY_INVALID, format!("`{text}` is not a limit"))
            .with_hint(format!("expected a whole number from 1 to {MAX_PAGE_SIZE}"))
    })
}

/// Allows pages of any origin to read responses to a token in the URL, including errors. Cookies and stored credentials
/// are not used, so a page reads only what its token permits. Responses to API keys stay closed.
pub(super) async fn allow_any_origin(request: Request, next: Next) -> Response {
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

/// `GET /v1/runs/{id}`, with an API key or the token of the run. Streams server-sent events if the client accepts them.
pub(super) async fn show_run(
    State(app): State<ApiState>,
    PathId(id): PathId,
    StrictQuery(query): StrictQuery<RunTokenQuery>,
    client: ClientAddress,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let reader = RunReader::new(app, id, &query, client, &headers).await?;
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match accepted.split(',').any(|media| media.trim().starts_with(run_sse::SSE_MEDIA_TYPE)) {
        true => Ok(run_sse::stream_run(reader, &headers).await?),
        false => Ok(Json(reader.read().await?).into_response()),
    }
}

/// `GET /v1/runs/{id}/events`, with an API key or the token of the run.
pub(super) async fn stream_run_events(
    State(app): State<ApiState>,
    PathId(id): PathId,
    StrictQuery(query): StrictQuery<RunTokenQuery>,
    client: ClientAddress,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let reader = RunReader::new(app, id, &query, client, &headers).await?;
    Ok(run_sse::stream_run(reader, &headers).await?)
}

/// `POST /v1/runs/{id}/cancel`
pub(super) async fn cancel_run(
    State(app): State<ApiState>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Response, Problem> {
    require_run_write(&app, &caller, &id).await?;
    app.engine().cancel_run(&id).await?;
    run_response(&app, caller, &id).await
}

/// The query of a retry.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryQuery {
    /// `live`: go on with the definition that is live now; default: with that of the run.
    definition: Option<DefinitionChoice>,
}

/// The definition with which a run goes on.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum DefinitionChoice {
    /// That of the run.
    #[default]
    Own,
    /// The one that is live now.
    Live,
}

impl From<DefinitionChoice> for RetryDefinition {
    fn from(choice: DefinitionChoice) -> Self {
        match choice {
            DefinitionChoice::Own => Self::Own,
            DefinitionChoice::Live => Self::Live,
        }
    }
}

/// `POST /v1/runs/{id}/retry`
pub(super) async fn retry_run(
    State(app): State<ApiState>,
    caller: Caller,
    PathId(id): PathId,
    StrictQuery(query): StrictQuery<RetryQuery>,
) -> Result<Response, Problem> {
    require_run_write(&app, &caller, &id).await?;
    app.engine().retry_run(&id, query.definition.unwrap_or_default().into()).await?;
    run_response(&app, caller, &id).await
}

/// Checks that the key may read the run. For other keys the run does not exist.
///
/// # Errors
/// `run_not_found`
pub(super) async fn require_run_read(app: &ApiState, caller: &Caller, id: &str) -> Result<()> {
    caller.require_read()?;
    let run = match Ulid::from_string(id) {
        Ok(_) => app.db().runs().find(id).await?,
        Err(_) => None,
    };
    run.filter(|run| caller.can_read(&run.pipeline)).map(drop).ok_or_else(|| run_not_found(id))
}

/// Checks that the key may change the run. For keys that may not read it, the run does not exist.
async fn require_run_write(app: &ApiState, caller: &Caller, id: &str) -> Result<()> {
    let run = match Ulid::from_string(id) {
        Ok(_) => app.db().runs().find(id).await?,
        Err(_) => None,
    };
    match run {
        Some(run) if caller.can_write(&run.pipeline) => Ok(()),
        Some(run) if caller.can_read(&run.pipeline) => Err(missing_scope(&ApiKeyScope::RunsWrite(Some(run.pipeline)))),
        _ => Err(run_not_found(id)),
    }
}

/// Responds with the current state of the run after a committed change.
async fn run_response(app: &ApiState, caller: Caller, id: &str) -> Result<Response, Problem> {
    let run = find_run(app, id).await?.ok_or_else(|| run_not_found(id))?;
    let status = if run.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(RunAccess::Key(caller).show_run(app, run))).into_response())
}
