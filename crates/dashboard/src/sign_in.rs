//! Signing in with a code of `afterload ui`, and signing out.

use askama::Template;
use axum::extract::{Request, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;

use crate::codes;
use crate::cookies;
use crate::dashboard::Dashboard;
use crate::forms::{field, parse_form, read_form};
use crate::origin::can_sign_in;
use crate::response::{error_page, page, render, see_other};
use crate::shell::{Part, Shell};
use afterload_server::api::{end_session, exchange_sign_in_code, mark_wrong_credential};

#[derive(Template)]
#[template(path = "enter.html")]
struct EnterPage {
    shell: Shell,
    next: String,
    can_sign_in: bool,
    fault: Option<String>,
}

/// The address that signs in. What follows `#` stays in the browser, so no log and no proxy sees it.
pub fn sign_in_url(base_url: &str, code: &str) -> String {
    format!("{base_url}/ui/enter#{code}")
}

/// `GET /ui/enter`
pub(crate) async fn show_sign_in(State(dashboard): State<Dashboard>, headers: HeaderMap, uri: Uri) -> Response {
    let query = parse_form(uri.query().unwrap_or_default().as_bytes());
    enter_page(&dashboard, &headers, field(&query, "next"), StatusCode::OK, None)
}

/// `POST /ui/enter`
pub(crate) async fn sign_in(State(dashboard): State<Dashboard>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let form = match read_form(body).await {
        Ok(form) => form,
        Err(error) => return error_page(None, error),
    };
    let next = field(&form, "next");
    match exchange_sign_in_code(dashboard.api().db(), field(&form, "code")).await {
        Ok(token) => {
            let mut response = see_other(own_path(next));
            if let Some(cookie) = cookies::set_session(&token, dashboard.base_url()) {
                response.headers_mut().insert(SET_COOKIE, cookie);
            }
            response
        }
        Err(error) if error.code() == codes::SIGN_IN_INVALID => {
            tracing::warn!(error.code = error.code().name(), "a sign-in to the dashboard failed");
            let fault = Some(error.message().to_owned());
            let mut response = enter_page(&dashboard, &parts.headers, next, StatusCode::UNAUTHORIZED, fault);
            mark_wrong_credential(&mut response);
            response
        }
        Err(error) => error_page(None, error),
    }
}

/// `POST /ui/sign-out`
pub(crate) async fn sign_out(State(dashboard): State<Dashboard>, headers: HeaderMap) -> Response {
    if let Some(token) = cookies::session_token(&headers, dashboard.base_url()) {
        if let Err(error) = end_session(dashboard.api().db(), token).await {
            return error_page(None, error);
        }
        dashboard.sessions().remove(token);
    }
    let mut response = see_other("/ui/enter");
    if let Some(cookie) = cookies::clear_session(dashboard.base_url()) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

fn enter_page(
    dashboard: &Dashboard,
    headers: &HeaderMap,
    next: &str,
    status: StatusCode,
    fault: Option<String>,
) -> Response {
    let enter = EnterPage {
        shell: Shell::new("Sign in", None, Part::Other),
        next: own_path(next).to_owned(),
        can_sign_in: can_sign_in(headers, dashboard.base_url()),
        fault,
    };
    match render(&enter) {
        Ok(html) => page(status, html),
        Err(error) => error_page(None, error),
    }
}

/// The path if it is one of the dashboard, else its first page. A sign-in must not lead to another site.
fn own_path(path: &str) -> &str {
    let is_own = path.starts_with("/ui/") && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_own { path } else { "/ui/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_leads_to_pages_of_the_dashboard_only() {
        for path in ["/ui/", "/ui/runs?status=failed", "/ui/runs/01J"] {
            assert_eq!(own_path(path), path);
        }
        for path in ["", "//evil.example", "https://evil.example/ui/", "/v1/runs", "/ui/\\evil", "/ui/a b", "/ui/\r\nx"]
        {
            assert_eq!(own_path(path), "/ui/", "{path}");
        }
    }
}
