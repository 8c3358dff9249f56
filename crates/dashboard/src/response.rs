//! Pages and redirects as responses.

use askama::Template;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::codes;
use crate::page_cache::RenderedPage;
use crate::shell::{Part, Shell};
use crate::viewer::Viewer;
use afterload_core::error::{Error, Result};
use afterload_server::api::Problem;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    shell: Shell,
    title: String,
    detail: String,
    hint: Option<String>,
    code: String,
    faults: Vec<Fault>,
    has_session: bool,
}

/// One of several faults, such as an invalid param.
struct Fault {
    name: String,
    message: String,
}

/// A response in place of the one that was asked for. Boxed, because it is the rare case.
pub(crate) struct Refusal(Box<Response>);

impl From<Response> for Refusal {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
}

/// Renders a template.
///
/// # Errors
/// `internal_error`
pub(crate) fn render(template: &impl Template) -> Result<String> {
    template.render().map_err(|error| Error::new(codes::INTERNAL_ERROR, format!("a page cannot be rendered: {error}")))
}

/// Responds with a page that is made for this request alone.
pub(crate) fn page(status: StatusCode, html: String) -> Response {
    (status, [(CONTENT_TYPE, HTML)], html).into_response()
}

/// Responds with a page that many share, or with 304 if the browser shows it already.
pub(crate) fn shared_page(page: RenderedPage, headers: &HeaderMap) -> Response {
    let known = headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == page.etag.as_bytes());
    let etag = HeaderValue::from_str(&page.etag).unwrap_or(HeaderValue::from_static("\"\""));
    match known {
        true => (StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response(),
        false => (StatusCode::OK, [(CONTENT_TYPE, HTML), (ETAG, etag)], page.html).into_response(),
    }
}

/// Sends the browser to another page, by GET.
pub(crate) fn see_other(location: &str) -> Response {
    match HeaderValue::from_str(location) {
        Ok(location) => (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response(),
        Err(_) => (StatusCode::SEE_OTHER, [(LOCATION, HeaderValue::from_static("/ui/"))]).into_response(),
    }
}

/// Responds with an error as a page.
pub(crate) fn error_page(viewer: Option<&Viewer>, error: Error) -> Response {
    let problem = Problem::from(error);
    let shown = problem.to_json("");
    if shown["status"].as_u64().is_some_and(|status| status >= 500) {
        // The page does not say why, and the outer layers log only problems of the API.
        let error = problem.source_error();
        tracing::error!(error.code = error.code().name(), "a page could not be made: {}", error.message());
    }
    problem_page(viewer, &shown)
}

/// Responds with a problem of the API as a page.
pub(crate) fn problem_page(viewer: Option<&Viewer>, problem: &Value) -> Response {
    match problem["details"]["scope"].as_str().filter(|_| problem["code"] == codes::SCOPE_MISSING.name()) {
        Some(scope) => show_problem(viewer, &session_lacks(scope)),
        None => show_problem(viewer, problem),
    }
}

/// What the API says about a key, for people who have a session and no key.
fn session_lacks(scope: &str) -> Value {
    serde_json::json!({
        "title": "This session may not do this",
        "status": codes::SCOPE_MISSING.status(),
        "code": codes::SCOPE_MISSING,
        "detail": format!("the session lacks the scope `{scope}`"),
        "hint": format!("sign in again with a link of `afterload ui --scope {scope}`, or ask somebody who may"),
    })
}

fn show_problem(viewer: Option<&Viewer>, problem: &Value) -> Response {
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let status = problem["status"].as_u64().and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
    let faults = problem["details"].as_array().into_iter().flatten().filter_map(|fault| {
        let (name, message) = (fault["param"].as_str()?, fault["message"].as_str()?);
        Some(Fault { name: name.to_owned(), message: message.to_owned() })
    });
    let title = text("title");
    let error = ErrorPage {
        shell: Shell::new(title.clone(), viewer, Part::Other),
        title,
        detail: text("detail"),
        hint: problem["hint"].as_str().map(str::to_owned),
        code: text("code"),
        faults: faults.collect(),
        has_session: viewer.is_some(),
    };
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match render(&error) {
        Ok(html) => page(status, html),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "this page cannot be shown\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn hostile_texts_of_an_error_stay_text() {
        let hostile = format!("<script>alert(1)</script>\u{202e}{}\"'&", "x".repeat(10_000));
        let details = json!([{ "param": &hostile, "code": "c", "message": &hostile }]);
        let problem = json!({
            "status": 422, "title": &hostile, "detail": &hostile, "hint": &hostile, "code": &hostile, "details": details,
        });
        let response = problem_page(None, &problem);
        assert_eq!(response.status(), 422);
        let html = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let html = str::from_utf8(&html).unwrap();
        assert!(!html.contains("<script>") && !html.contains("\"'&\""), "{html}");
        assert!(html.contains("&#60;script&#62;alert(1)&#60;/script&#62;"), "{html}");
    }
}
