//! What several pages need.

use std::future::Future;

use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde_json::Value;
use tokio::time::Instant;

use crate::dashboard::Dashboard;
use crate::forms::{field, parse_form};
use crate::response::{error_page, shared_page};
use crate::viewer::Viewer;
use afterload_core::error::Result;
use afterload_core::text::shorten_text;
use afterload_engine::registry::RefusedFile;

/// How much of a text from outside a page shows.
pub(super) const MAX_TEXT_CHARS: usize = 2_000;
/// How much of it a row of a list shows.
pub(super) const MAX_LINE_CHARS: usize = 200;

/// Shows a page that all with the same scopes share.
pub(super) async fn show_page<F>(
    dashboard: &Dashboard,
    viewer: &Viewer,
    uri: &Uri,
    headers: &HeaderMap,
    render: impl FnOnce() -> F,
) -> Response
where
    F: Future<Output = Result<String>>,
{
    let address = uri.path_and_query().map_or("", PathAndQuery::as_str);
    let key = format!("{}\n{address}", viewer.caller.scope_text());
    match dashboard.pages().get_or_render(key, Instant::now(), render).await {
        Ok(page) => shared_page(page, headers),
        Err(error) => error_page(Some(viewer), error),
    }
}

/// The word about what was just done, from the address.
pub(super) fn notice_of(uri: &Uri) -> Option<String> {
    let query = parse_form(uri.query()?.as_bytes());
    Some(field(&query, "notice").to_owned()).filter(|word| !word.is_empty())
}

/// An error of a run or a step, as a page shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ErrorText {
    pub code: String,
    pub message: String,
    pub hint: Option<String>,
    /// The step that failed.
    pub step: Option<String>,
}

impl ErrorText {
    /// Reads `{code, message, hint, step}`.
    pub(super) fn new(error: &Value, max_chars: usize) -> Self {
        let text = |name: &str| error[name].as_str().map(|text| shorten_text(text, max_chars).into_owned());
        Self {
            code: text("code").unwrap_or_default(),
            message: text("message").unwrap_or_default(),
            hint: text("hint"),
            step: text("step"),
        }
    }
}

/// A refused pipeline file with its faults.
pub(super) struct RefusedRow {
    pub file: String,
    pub faults: Vec<FaultRow>,
}

/// A fault at its place.
pub(super) struct FaultRow {
    pub place: String,
    pub message: String,
    pub hint: Option<String>,
}

/// The refused files for those who may read every pipeline, as in the API.
pub(super) fn refused_rows(dashboard: &Dashboard, viewer: &Viewer) -> Vec<RefusedRow> {
    if viewer.caller.readable_pipelines().is_some() {
        return Vec::new();
    }
    let list = dashboard.api().pipeline_registry().current_list();
    list.refused.iter().map(refused_row).collect()
}

fn refused_row(refused: &RefusedFile) -> RefusedRow {
    let faults = refused.problems.iter().map(|fault| FaultRow {
        place: format!("{}:{}:{}", refused.file, fault.line, fault.col),
        message: shorten_text(&fault.message, MAX_TEXT_CHARS).into_owned(),
        hint: fault.hint.clone(),
    });
    RefusedRow { file: refused.file.clone(), faults: faults.collect() }
}

/// The part of an id that tells runs of a day apart.
pub(super) fn short_id(id: &str) -> String {
    format!("…{}", id.get(id.len().saturating_sub(8)..).unwrap_or(id))
}

#[cfg(test)]
pub(super) mod tests {
    /// HTML, a mark that turns the direction of the text, and no place to wrap.
    pub(crate) fn hostile_text() -> String {
        format!("\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;\u{202e}{}", "x".repeat(10_000))
    }

    /// Checks that a page shows hostile texts as texts.
    pub(crate) fn assert_only_text(html: &str) {
        assert_eq!(html.matches("<script").count(), html.matches("<script src=\"/ui/assets/").count(), "{html}");
        assert!(!html.contains("<img src=x") && html.contains("&#60;script&#62;alert(1)"), "{html}");
        assert!(html.contains("&#38;amp;"), "what looks escaped is escaped once more: {html}");
    }
}
