//! The cookie of a session.

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};

use afterload_server::api::SESSION_LIFETIME;

/// Browsers take a cookie of this name from HTTPS only, for this host only.
const SECURE_NAME: &str = "__Host-afterload";
/// The name on plain HTTP, which only this machine may use.
const PLAIN_NAME: &str = "afterload";

fn cookie_name(base_url: &str) -> &'static str {
    if base_url.starts_with("https://") { SECURE_NAME } else { PLAIN_NAME }
}

/// The token in the cookie of a request.
pub(crate) fn session_token<'a>(headers: &'a HeaderMap, base_url: &str) -> Option<&'a str> {
    let name = cookie_name(base_url);
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, token)| token)
}

/// The header that keeps the token in the browser.
pub(crate) fn set_session(token: &str, base_url: &str) -> Option<HeaderValue> {
    cookie(token, base_url, SESSION_LIFETIME.as_secs())
}

/// The header that deletes the token from the browser.
pub(crate) fn clear_session(base_url: &str) -> Option<HeaderValue> {
    cookie("", base_url, 0)
}

fn cookie(token: &str, base_url: &str, max_age: u64) -> Option<HeaderValue> {
    let name = cookie_name(base_url);
    let secure = if name == SECURE_NAME { "; Secure" } else { "" };
    let text = format!("{name}={token}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_fits_the_scheme() {
        let secure = set_session("als_1", "https://files.example.org").unwrap();
        assert_eq!(
            secure.to_str().unwrap(),
            "__Host-afterload=als_1; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax; Secure"
        );
        let plain = set_session("als_1", "http://localhost:8080").unwrap();
        assert_eq!(plain.to_str().unwrap(), "afterload=als_1; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax");
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static("a=b; afterload=als_2; __Host-afterload=als_3"));
        assert_eq!(session_token(&headers, "http://localhost:8080"), Some("als_2"));
        // A page of a sibling domain can set the plain name.
        assert_eq!(session_token(&headers, "https://files.example.org"), Some("als_3"));
        headers.insert(COOKIE, HeaderValue::from_static("afterload=als_2"));
        assert_eq!(session_token(&headers, "https://files.example.org"), None);
    }
}
