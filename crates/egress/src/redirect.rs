//! The request that follows a redirect, by the rules of RFC 9110.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use url::Url;

use super::http_url::{check_url, display_origin};
use super::request::{EgressRequest, HOPS_HEADER};
use crate::codes;
use afterload_core::error::{Error, Result};

/// Headers that another origin may receive. Every other header may be a secret for the first origin.
const CROSS_ORIGIN_HEADERS: [&str; 7] =
    [HOPS_HEADER, "accept", "accept-language", "content-language", "content-type", "idempotency-key", "user-agent"];

/// The request that follows a redirect with this status and `Location`; `None` if it is not a redirect.
pub(super) fn next_request(
    request: &EgressRequest,
    status: u16,
    location: Option<&str>,
) -> Result<Option<EgressRequest>> {
    let (301 | 302 | 303 | 307 | 308, Some(location)) = (status, location) else { return Ok(None) };
    let leads = |what: &str| format!("`{}` is redirected {what}", request.method_and_origin());
    let url = request.url.join(location).map_err(|_| redirect_refused(leads("to something that is not a URL")))?;
    let url = check_url(url).map_err(|error| error.context(leads("to where we do not go")))?;
    if request.url.scheme() == "https" && url.scheme() == "http" {
        return Err(redirect_refused(leads("to an address without TLS")));
    }
    let mut next = EgressRequest { url, ..request.clone() };
    let becomes_get = match status {
        303 => next.method != Method::HEAD,
        301 | 302 => next.method == Method::POST,
        _ => false,
    };
    if becomes_get {
        (next.method, next.body) = (Method::GET, Bytes::new());
        next.headers.remove(CONTENT_TYPE);
    }
    if next.url.origin() != request.url.origin() {
        let names: Vec<_> =
            next.headers.keys().filter(|name| !CROSS_ORIGIN_HEADERS.contains(&name.as_str())).cloned().collect();
        for name in names {
            next.headers.remove(name);
        }
    }
    Ok(Some(next))
}

pub(super) fn too_many_redirects(first: &EgressRequest, last: &Url) -> Error {
    let followed = first.max_redirects;
    redirect_refused(format!(
        "`{}` was redirected more than {followed} times, last to `{}`",
        first.method_and_origin(),
        display_origin(last)
    ))
}

fn redirect_refused(message: String) -> Error {
    Error::new(codes::HTTP_REDIRECT_REFUSED, message)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderName;

    use super::*;

    fn request(method: Method) -> EgressRequest {
        let request =
            EgressRequest::new(method, "https://a.example/x?token=1").unwrap().with_body("text/plain", "body");
        request.with_header("Authorization", "Bearer canary").unwrap().with_header("X-Api-Key", "canary").unwrap()
    }

    fn after(method: Method, status: u16, location: &str) -> EgressRequest {
        next_request(&request(method), status, Some(location)).unwrap().unwrap()
    }

    #[test]
    fn redirects_change_the_method_by_rfc_9110() {
        for (method, status, then, body) in [
            (Method::POST, 301, Method::GET, ""),
            (Method::POST, 302, Method::GET, ""),
            (Method::POST, 303, Method::GET, ""),
            (Method::PUT, 303, Method::GET, ""),
            (Method::HEAD, 303, Method::HEAD, "body"),
            (Method::PUT, 301, Method::PUT, "body"),
            (Method::DELETE, 302, Method::DELETE, "body"),
            (Method::POST, 307, Method::POST, "body"),
            (Method::POST, 308, Method::POST, "body"),
        ] {
            let next = after(method.clone(), status, "/y");
            let found = (&next.method, next.body.as_ref(), next.headers.contains_key("content-type"));
            assert_eq!(found, (&then, body.as_bytes(), !body.is_empty()), "{method} {status}");
            assert_eq!(next.url.as_str(), "https://a.example/y");
        }
        for status in [200, 300, 304, 305, 306, 404] {
            assert!(next_request(&request(Method::GET), status, Some("/y")).unwrap().is_none(), "{status}");
        }
        assert!(next_request(&request(Method::GET), 302, None).unwrap().is_none());
    }

    #[test]
    fn another_origin_receives_no_secret_headers() {
        let same = after(Method::POST, 307, "https://a.example:443/y");
        assert!(same.headers.contains_key("authorization") && same.headers.contains_key("x-api-key"));
        for other in ["https://b.example/", "https://a.example:8443/", "//c.example/"] {
            let next = after(Method::POST, 307, other);
            let names: Vec<_> = next.headers.keys().map(HeaderName::as_str).collect();
            assert_eq!(names, ["content-type"], "{other}");
        }
    }

    #[test]
    fn unsafe_redirects_are_refused() {
        for (location, code) in [
            ("http://a.example/", "http_redirect_refused"),
            ("https://user:canary@b.example/", "http_url_invalid"),
            ("ftp://b.example/canary", "http_url_invalid"),
            ("https://", "http_redirect_refused"),
            ("file:///etc/canary", "http_url_invalid"),
        ] {
            let error = next_request(&request(Method::GET), 302, Some(location)).unwrap_err();
            assert_eq!((error.code().name(), error.is_transient()), (code, false), "{location}");
            assert!(!error.to_string().contains("canary") && !error.to_string().contains("token"), "{error}");
        }
    }
}
