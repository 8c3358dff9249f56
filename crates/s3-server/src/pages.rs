//! What pages of other origins may do: use presigned addresses, which carry their own right, and read public buckets.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HeaderValue, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, StatusCode};
use s3s::{Body, HttpResponse};

/// What a page may read of an answer.
const EXPOSED: HeaderValue = HeaderValue::from_static("ETag, Content-Range, Accept-Ranges, Content-Disposition");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, PUT");
const ANYBODY: HeaderValue = HeaderValue::from_static("*");
const AN_HOUR: HeaderValue = HeaderValue::from_static("3600");

/// What is known of a request before it is answered.
#[derive(Clone, Copy)]
pub(super) struct Page {
    foreign: bool,
    keyless: bool,
}

impl Page {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        Self { foreign: headers.contains_key(ORIGIN), keyless: !headers.contains_key(AUTHORIZATION) }
    }

    /// Answers a browser that asks whether a page may send what it wants to. The right itself is in the address, so any
    /// page may try; a page that knows a key has to sign on its server.
    pub(super) fn preflight<B>(self, request: &Request<B>) -> Option<HttpResponse> {
        let asks = request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || !self.foreign {
            return None;
        }
        let wanted = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|value| value.to_str().ok());
        let allowed: Vec<&str> = wanted
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("authorization"))
            .collect();
        let mut response = HttpResponse::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANYBODY);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, AN_HOUR);
        headers.insert(VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
        if let Ok(allowed) = HeaderValue::from_str(&allowed.join(", ")) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        Some(response)
    }

    /// Lets the page read the answer, and keeps browsers from guessing at what others have uploaded.
    pub(super) fn open(self, response: &mut HttpResponse) {
        if !self.keyless {
            return;
        }
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.foreign {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANYBODY);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}
