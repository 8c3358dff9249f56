//! Download links in mails: `/d/TOKEN` serves a file to anyone with the link until it expires.

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_RANGE, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use ulid::Ulid;

use super::artifacts::serve_file;
use super::auth::Caller;
use super::extract::PathId;
use super::plain_page::{TEXT_PAGE_POLICY, plain_page};
use super::problem::{Problem, WrongCredential};
use super::scopes::{ApiKeyScope, missing_scope};
use super::{ApiState, file_params};
use crate::codes;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_engine::download_link_url;
use afterload_state::DownloadLinkRecord;

/// The title of the page while the service cannot serve a file.
pub(super) const UNAVAILABLE_TITLE: &str = "The file cannot be fetched at the moment";

/// A download link, for keys that may read its run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Link")]
pub(super) struct LinkView {
    /// The id.
    id: String,
    /// The URL of the link.
    url: String,
    /// The id of the file.
    artifact_id: String,
    /// The id of the run that created it.
    run_id: String,
    /// The step that created it.
    step: String,
    /// RFC 3339, UTC.
    created_at: String,
    /// RFC 3339, UTC.
    expires_at: String,
    /// When it was revoked. RFC 3339, UTC.
    revoked_at: Option<String>,
    /// The number of downloads. Link scanners of mail systems count, too.
    downloads: i64,
    /// RFC 3339, UTC.
    last_download_at: Option<String>,
}

impl LinkView {
    fn new(app: &ApiState, link: DownloadLinkRecord) -> Self {
        let id = Ulid::from_string(&link.id).unwrap_or_default();
        Self {
            url: download_link_url(app.base_url(), app.keyring(), id),
            id: link.id,
            artifact_id: link.artifact_id,
            run_id: link.run_id,
            step: link.step_id,
            created_at: clock::format_rfc3339(link.created_at),
            expires_at: clock::format_rfc3339(link.expires_at),
            revoked_at: link.revoked_at.map(clock::format_rfc3339),
            downloads: link.downloads,
            last_download_at: link.last_download_at.map(clock::format_rfc3339),
        }
    }
}

/// A link as the answer to its revocation shows it: whole for keys that may read its run.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RevokedLink {
    /// The whole link.
    Whole(Box<LinkView>),
    /// For keys that may not read its run.
    Receipt(LinkReceipt),
}

/// What confirms a revocation to keys that may not read the run of the link.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LinkReceipt {
    /// The id.
    id: String,
    /// When it was revoked. RFC 3339, UTC.
    revoked_at: Option<String>,
}

/// The links to a file.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LinkList {
    /// Oldest first.
    links: Vec<LinkView>,
}

/// `GET /d/{token}`. Errors are an HTML page for browsers and a problem for programs.
pub(super) async fn open_link(
    State(app): State<ApiState>,
    PathId(token): PathId,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let link = find_valid_link(&app, &token).await?;
        let file =
            file_params::load_artifact(&app, None, &link.artifact_id).await?.ok_or_else(file_params::file_expired)?;
        let response = serve_file(&app, &file, &method, &headers).await?;
        if method == Method::GET
            && begins_download(&response)
            && let Err(error) = app.db().download_links().count_download(&link.id).await
        {
            tracing::warn!(
                link.id = link.id,
                error.code = error.code().name(),
                "a download could not be counted: {error}"
            );
        }
        Ok::<_, Problem>(response)
    };
    answer.await.unwrap_or_else(|problem| error_response(&problem, &headers, UNAVAILABLE_TITLE))
}

/// The response to a link that does not work: a page for browsers and a problem for programs. `unavailable` is the title of
/// the page while the service itself is the reason.
pub(super) fn error_response(problem: &Problem, headers: &HeaderMap, unavailable: &'static str) -> Response {
    let mut response = match accepts_html(headers) {
        true => error_page(problem, unavailable),
        false => problem.clone().into_response(),
    };
    if problem.source_error().code() == codes::LINK_NOT_FOUND {
        response.extensions_mut().insert(WrongCredential);
    }
    response
}

async fn find_valid_link(app: &ApiState, token: &str) -> Result<DownloadLinkRecord> {
    let unknown = || {
        Error::new(codes::LINK_NOT_FOUND, "there is no such link")
            .with_hint("use the link as it came in the mail, whole")
    };
    let id = app.keyring().verify_link_token(token).ok_or_else(unknown)?;
    // A valid signature without a record: the link was deleted with its run.
    let link = app.db().download_links().find(&id.to_string()).await?.ok_or_else(link_expired)?;
    match (link.revoked_at, link.expires_at > app.db().now()) {
        (Some(_), _) => Err(Error::new(codes::LINK_REVOKED, "the link has been taken back")),
        (None, false) => Err(link_expired()),
        (None, true) => Ok(link),
    }
}

fn link_expired() -> Error {
    Error::new(codes::LINK_EXPIRED, "the link has expired")
}

/// A resumed download and parallel ranges count once: only a response from the first byte counts.
fn begins_download(response: &Response) -> bool {
    match response.status() {
        StatusCode::OK => true,
        StatusCode::PARTIAL_CONTENT => {
            response.headers().get(CONTENT_RANGE).is_some_and(|range| range.as_bytes().starts_with(b"bytes 0-"))
        }
        _ => false,
    }
}

fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains("text/html"))
}

/// The error page for people. It contains no text from the request.
pub(super) fn error_page(problem: &Problem, unavailable: &'static str) -> Response {
    let error = problem.source_error();
    let (code, status) = problem.code_and_status();
    let text = match error.code() {
        codes::LINK_NOT_FOUND => "Please use the link as it came in the mail, whole.",
        codes::LINK_EXPIRED => "Please ask whoever sent the mail for a new one.",
        codes::LINK_REVOKED => "Please ask whoever sent the mail.",
        codes::FILE_EXPIRED | codes::ARTIFACT_GONE => {
            "Files are kept for a limited time only. Please ask whoever sent the mail."
        }
        codes::RANGE_NOT_SATISFIABLE => "The file has changed or is complete already. Please download it again.",
        _ => "Please try again in a moment.",
    };
    let (status, title) = match status.is_server_error() {
        true => {
            tracing::error!(error.code = error.code().name(), "a link could not be served: {}", error.message());
            (StatusCode::SERVICE_UNAVAILABLE, unavailable)
        }
        false => (status, code.summary()),
    };
    let mut page = plain_page(status, title, &format!("<p>{text}</p>"), TEXT_PAGE_POLICY);
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        page.headers_mut().insert(RETRY_AFTER, problem.retry_after_secs().into());
    }
    page
}

/// `GET /v1/artifacts/{id}/links`
pub(super) async fn list_links(
    State(app): State<ApiState>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<LinkList>, Problem> {
    caller.require_read()?;
    let known = match Ulid::from_string(&id) {
        Ok(_) => app.db().artifacts().find(&id).await?,
        Err(_) => None,
    };
    let run = match &known {
        Some(artifact) => app.db().runs().find(&artifact.run_id).await?,
        None => None,
    };
    if !run.is_some_and(|run| caller.can_read(&run.pipeline)) {
        return Err(Problem::new(codes::ARTIFACT_NOT_FOUND, format!("there is no file `{id}`")));
    }
    let links = app.db().download_links().list(&id).await?.into_iter().map(|link| LinkView::new(&app, link)).collect();
    Ok(Json(LinkList { links }))
}

/// `POST /v1/links/{id}/revoke`, for keys that may start runs of the pipeline that created the link.
pub(super) async fn revoke_link(
    State(app): State<ApiState>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<RevokedLink>, Problem> {
    if !caller.can_write_any() {
        return Err(missing_scope(&ApiKeyScope::RunsWrite(None)).into());
    }
    let known = match Ulid::from_string(&id) {
        Ok(_) => app.db().download_links().find(&id).await?,
        Err(_) => None,
    };
    let run = match &known {
        Some(link) => app.db().runs().find(&link.run_id).await?,
        None => None,
    };
    let none = || Problem::new(codes::LINK_NOT_FOUND, format!("there is no link `{id}`"));
    let run = run.filter(|run| caller.can_write(&run.pipeline)).ok_or_else(none)?;
    let link = app.db().download_links().revoke(&id).await?.ok_or_else(none)?;
    tracing::info!(link.id = link.id, run.id = link.run_id, "a download link was revoked");
    Ok(Json(match caller.can_read(&run.pipeline) {
        true => RevokedLink::Whole(Box::new(LinkView::new(&app, link))),
        false => {
            RevokedLink::Receipt(LinkReceipt { id: link.id, revoked_at: link.revoked_at.map(clock::format_rfc3339) })
        }
    }))
}
