//! Pages for people who follow a link in a mail: plain HTML without styles, scripts or text from the request.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

/// A page that only shows text.
pub(super) const TEXT_PAGE_POLICY: &str = "default-src 'none'";
/// A page with a form, which goes to this service and cannot be framed.
pub(super) const FORM_PAGE_POLICY: &str =
    "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Builds a page. `content` is HTML.
pub(super) fn plain_page(status: StatusCode, title: &str, content: &str, policy: &'static str) -> Response {
    let body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"robots\" content=\"noindex\">\n<title>{title}</title>\n<h1>{title}</h1>\n{content}\n</html>\n"
    );
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, policy),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ];
    (status, headers.map(|(name, value)| (name, HeaderValue::from_static(value))), body).into_response()
}
